//! Name look-ups while the name server is silent or slow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::dns::NameServer;
use crate::support::env::{Running, TestEnv};
use crate::support::scripted::{LIMIT, Server, eventually};

/// A node that reports a cluster of `count` nodes with host names, all of which are this server.
fn many_names(count: usize) -> Server {
    let server = Server::start();
    let port = server.port();
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let node = |n: usize| {
        let role = if n == 0 { "master" } else { "replica" };
        let fields = [
            ("id", format!("id-{n}")),
            ("endpoint", format!("node-{n}.example")),
            ("role", role.into()),
            ("health", "online".into()),
        ];
        let fields: String = fields.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
        format!("*10\r\n{fields}{}:{port}\r\n", bulk("port"))
    };
    let nodes: String = (0..count).map(node).collect();
    let shards = format!("*1\r\n*4\r\n{}*2\r\n:0\r\n:16383\r\n{}*{count}\r\n{nodes}", bulk("slots"), bulk("nodes"));
    let replies = [("CLUSTER SHARDS", shards), ("CLUSTER INFO", bulk("cluster_state:ok\r\n"))];
    server.become_(|nature| nature.replies = replies.into());
    server
}

/// The number of the last success of each node.
fn successes(log: &str) -> BTreeMap<&str, u64> {
    let success = |line: &'_ str| -> Option<u64> { line.rsplit_once(" SUCCESS ")?.1.parse().ok() };
    let node = |line: &'_ str| line.split(' ').skip_while(|word| *word != "NODE").nth(1).map(|_| ());
    log.lines()
        .filter(|line| node(line).is_some())
        .filter_map(|line| Some((line.split(' ').nth(3)?, success(line)?)))
        .collect()
}

#[test]
fn all_nodes_recover_when_the_name_server_is_back() {
    const NODES: usize = 200;
    let Some(names) = NameServer::start() else { return eprintln!("only root may listen on port 53") };
    let (env, server) = (TestEnv::new(), many_names(NODES));
    let arguments = format!(
        "cycles -c -p {} -t 2 --run-duration 1h --check-interval 1 --log-dir {}",
        server.port(),
        env.logs().display()
    );
    let run = Running::start(env.in_namespaces("-rm", &names.setup(), &arguments));
    env.wait_for("redis_success.log", |log| successes(log).len() == NODES);

    // Longer than the first attempt of libc, which repeats a lost query after 5 s and gives up after 10 s.
    names.be_silent(true);
    std::thread::sleep(Duration::from_secs(8));
    let last = successes(&env.read("redis_success.log")).into_values().max().unwrap();

    // As few packets as the name server of an AWS VPC answers.
    names.limit(1024);
    names.be_silent(false);
    let back = Instant::now();
    let recovered = || successes(&env.read("redis_success.log")).values().filter(|number| **number > last).count();
    assert!(eventually(LIMIT, || recovered() == NODES), "{} of {NODES} nodes recovered", recovered());
    eprintln!("recovered after {:?}", back.elapsed());

    // With a look-up for each check, the second attempts of all of them would have to time out first.
    assert!(back.elapsed() < LIMIT / 2, "{:?}", back.elapsed());
    run.stop();
}

#[test]
fn a_text_that_is_no_host_name_is_not_looked_up() {
    let Some(names) = NameServer::start() else { return eprintln!("only root may listen on port 53") };
    for (host, text) in
        [("a..b", "dns: a..b: not a host name or an address"), ("a*b", "dns: a*b: not a host name or an address")]
    {
        let env = TestEnv::new();
        let output = Running::start(env.in_namespaces("-rm", &names.setup(), &format!("dbs -n 0 -h '{host}'"))).wait();
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stdout.contains(&format!("DB 0: NOT RUNNING ({text})\n")), "{output:?}");
    }
    assert_eq!(names.queries(), 0);

    let env = TestEnv::new();
    let output = Running::start(env.in_namespaces("-rm", &names.setup(), "dbs -n 0 -h a.example -p 1")).wait();
    assert!(output.stdout.contains("DB 0: NOT RUNNING (refused: Connection refused)\n"), "{output:?}");
    assert!(names.queries() > 0);
}
