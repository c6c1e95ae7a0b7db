//! `--cluster` with topologies that are unusual, and with hostile ones.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::cluster::Primaries;
use crate::support::env::{Output, TestEnv, engine};
use crate::support::scripted::{LIMIT, Server, eventually};

/// The largest peak of memory in KiB.
const MAX_PEAK: u64 = 48 << 10;

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn array(items: &[String]) -> String {
    format!("*{}\r\n{}", items.len(), items.concat())
}

fn shard(slots: &[(i64, i64)], nodes: &[String]) -> String {
    let slots: Vec<_> = slots.iter().flat_map(|(from, to)| [format!(":{from}\r\n"), format!(":{to}\r\n")]).collect();
    array(&[bulk("slots"), array(&slots), bulk("nodes"), array(nodes)])
}

fn node(id: &str, host: &str, port: u16, role: &str) -> String {
    let fields = [("id", bulk(id)), ("endpoint", bulk(host)), ("port", format!(":{port}\r\n")), ("role", bulk(role))];
    array(&fields.iter().flat_map(|(name, value)| [bulk(name), value.clone()]).collect::<Vec<_>>())
}

/// Replies to CLUSTER SHARDS. The nodes that they name are at `port`.
fn hostile_shards(port: u16) -> Vec<(&'static str, String)> {
    let all = [(0, 16_383)];
    let primary = |n: usize| node(&format!("id{n}"), &format!("127.0.{}.{}", n / 250, n % 250 + 1), port, "master");
    let many = |count: usize, slots: &dyn Fn(usize) -> Vec<(i64, i64)>| {
        array(&(0..count).map(|n| shard(&slots(n), &[primary(n)])).collect::<Vec<_>>())
    };
    let one = |slots: &[(i64, i64)]| array(&[shard(slots, &[primary(0)])]);
    let named = |host: &str| array(&[shard(&all, &[node("a", host, port, "master")])]);
    let every_other: Vec<_> = (0..8192).map(|n| (n * 2, n * 2)).collect();
    let size = 4 << 20;

    vec![
        ("6,000 shards of the same slots", many(6000, &|_| all.to_vec())),
        ("6,000 shards of one slot each", many(6000, &|n| vec![(n as i64, n as i64)])),
        (
            "2,000 shards of eight slots each",
            many(2000, &|n| (0..8).map(|k| (n as i64 * 8 + k, n as i64 * 8 + k)).collect()),
        ),
        ("200 shards with every other slot", many(200, &|_| every_other.clone())),
        ("400,000 ranges", one(&all.repeat(400_000 / 2))),
        (
            "20,000 replicas",
            array(&[shard(
                &all,
                &(0..20_000).map(|n| node(&n.to_string(), "127.0.0.1", port, "replica")).collect::<Vec<_>>(),
            )]),
        ),
        ("5,000 primaries in one shard", array(&[shard(&all, &(0..5000).map(primary).collect::<Vec<_>>())])),
        (
            "one id for all",
            array(&(0..6000).map(|n| shard(&all, &[node("a", &format!("h{n}"), port, "master")])).collect::<Vec<_>>()),
        ),
        (
            "one address for all",
            array(
                &(0..6000)
                    .map(|n| shard(&all, &[node(&n.to_string(), "127.0.0.1", port, "master")]))
                    .collect::<Vec<_>>(),
            ),
        ),
        ("negative slots", one(&[(-5, -1), (-1, 16_383), (0, 99)])),
        ("huge slots", one(&[(0, i64::MAX), (16_383, 16_384), (1 << 40, 1 << 41)])),
        ("slots backwards", one(&[(16_383, 0), (9, 8)])),
        (
            "an odd number of slots",
            array(&[array(&[bulk("slots"), array(&[":1\r\n".into()]), bulk("nodes"), array(&[primary(0)])])]),
        ),
        ("port 0", array(&[shard(&all, &[node("a", "127.0.0.1", 0, "master")])])),
        ("a host of 4 MiB", named(&"a".repeat(size - 1000))),
        ("a host of 60 KB", named(&"a.".repeat(30_000))),
        ("a host with control characters", named("a\x1b[2J\r\nNODE x: RUNNING\x07")),
        ("a host with spaces", named("a b c")),
        ("an empty host", named("")),
        ("integers", format!("*{}\r\n{}", size / 5, ":1\r\n".repeat(size / 5))),
        ("empty arrays", format!("*{}\r\n{}", size / 5, "*0\r\n".repeat(size / 5))),
        ("nulls", format!("*{}\r\n{}", size / 6, "$-1\r\n".repeat(size / 6))),
        ("empty shards", array(&vec![shard(&[], &[]); 90_000])),
        ("nested arrays", "*1\r\n".repeat(size / 5)),
        ("nested maps", "%1\r\n+a\r\n".repeat(size / 9)),
        ("nested attributes", "|1\r\n+a\r\n".repeat(size / 9)),
        ("an array without an end", format!("*{size}\r\n")),
        ("an array with too large a length", "*9223372036854775807\r\n".into()),
        ("a bulk string with too large a length", "$9223372036854775807\r\n".into()),
        ("more than 4 MiB", format!("*{size}\r\n{}", ":1\r\n".repeat(size))),
        ("push messages", ">1\r\n+a\r\n".repeat(size / 9)),
        ("an endless line", format!("+{}", "a".repeat(size))),
        ("a text", bulk(&"x".repeat(size - 100))),
        ("no shards", "*0\r\n".into()),
    ]
}

/// Replies to CLUSTER SLOTS, CLUSTER NODES and CLUSTER INFO.
fn hostile_slots(port: u16) -> Vec<(&'static str, [String; 3])> {
    let server = |n: usize| {
        array(&[bulk(&format!("127.0.{}.{}", n / 250, n % 250 + 1)), format!(":{port}\r\n"), bulk(&n.to_string())])
    };
    let entry = |n: usize| array(&[":0\r\n".into(), ":16383\r\n".into(), server(n)]);
    let line =
        |n: usize| format!("{n} 127.0.{}.{}:{port}@1 slave,fail 0 0 0 1 connected\n", n / 250 % 250, n % 250 + 1);
    let one = || array(&[entry(0)]);
    vec![
        ("50,000 entries", [array(&(0..50_000).map(entry).collect::<Vec<_>>()), bulk(""), bulk("")]),
        ("50,000 lines", [one(), bulk(&(0..50_000).map(line).collect::<String>()), bulk("")]),
        ("a state of 4 MiB", [one(), bulk(""), bulk(&format!("cluster_state:{}", "x".repeat(4_000_000)))]),
    ]
}

/// A server that answers like a cluster node.
fn answering(replies: Vec<(&'static str, String)>) -> Server {
    let server = Server::start();
    server.become_(|nature| nature.replies = replies);
    server
}

/// The peak memory of a process so far, in KiB. None if it has exited.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Scans once. Returns the output and the peak memory.
fn scanned(env: &TestEnv, server: &Server, flags: &str) -> (Output, u64) {
    let run = env.spawn(&format!("dbs -c --canary -t 1 --deadline 4 -p {} {flags}", server.port()));
    let mut last = 0;
    while let Some(now) = peak(run.pid()) {
        last = now;
        std::thread::sleep(Duration::from_millis(1));
    }
    (run.wait(), last)
}

#[test]
fn hostile_topologies_take_bounded_time_and_memory() {
    let nodes = Server::start();
    let unknown = "-ERR Unknown subcommand\r\n".to_owned();
    let shards = hostile_shards(nodes.port())
        .into_iter()
        .map(|(name, shards)| (name, vec![("CLUSTER SHARDS", shards), ("CLUSTER INFO", bulk("cluster_state:ok\r\n"))]));
    let slots = hostile_slots(nodes.port()).into_iter().map(|(name, [slots, nodes, info])| {
        let replies = vec![
            ("CLUSTER SHARDS", unknown.clone()),
            ("CLUSTER SLOTS", slots),
            ("CLUSTER NODES", nodes),
            ("CLUSTER INFO", info),
        ];
        (name, replies)
    });

    for (name, replies) in shards.chain(slots) {
        let (env, server) = (TestEnv::new(), answering(replies));
        let (output, peak) = scanned(&env, &server, "");
        eprintln!("{name}: {:?}, {} MiB", output.elapsed, peak >> 10);
        assert!(matches!(output.code, Some(0 | 1)), "{name}: {output:?}");
        // The limit of the scan is 4 s. The rest is for a busy machine.
        assert!(output.elapsed < Duration::from_secs(10), "{name}: {:?}", output.elapsed);
        assert!(peak < MAX_PEAK, "{name}: {peak} KiB");
        let log = env.read("redis_db_health.log");
        assert!(log.contains("CLUSTER: "), "{name}: {log}");
        assert!(!log.contains(|c: char| c.is_control() && c != '\n'), "{name}: {log}");
    }
}

/// The server names other nodes at each look, and each of them passes its check.
#[test]
fn new_nodes_at_each_look_do_not_grow_memory_without_end() {
    let (env, nodes) = (TestEnv::new(), Server::start_at((std::net::Ipv4Addr::UNSPECIFIED, 0).into()));
    let port = nodes.port();
    let replies = |look: usize| {
        let node = |n: usize| {
            node(&format!("{look}-{n}"), &format!("127.{}.{}.{}", look % 250, n / 250, n % 250 + 1), port, "master")
        };
        let slots = |n: usize| (n as i64 * 16, n as i64 * 16 + if n == 999 { 399 } else { 15 });
        let shards: Vec<_> = (0..1000).map(|n| shard(&[slots(n)], &[node(n)])).collect();
        vec![("CLUSTER SHARDS", array(&shards)), ("CLUSTER INFO", bulk("cluster_state:ok\r\n"))]
    };
    let server = answering(replies(0));
    let mut run = env.endless(&format!("-c --canary -t 2 --check-interval 1 -p {}", server.port()));
    let pid = run.pid();

    let looks = || server.commands().iter().filter(|command| *command == "CLUSTER SHARDS").count();
    let mut next_look = |look: usize| {
        let before = looks();
        server.become_(|nature| nature.replies = replies(look));
        assert!(eventually(LIMIT, || looks() > before + 1 || run.has_ended()), "look {look}");
    };
    (1..5).for_each(&mut next_look);
    let limited = peak(pid).expect("it runs");
    (5..9).for_each(&mut next_look);
    let last = peak(pid).expect("it runs");
    let output = run.stop();
    assert!(output.stderr.contains("more than 4000 different nodes and shards in this run"), "{}", output.stderr);

    // Without the limit, each look would add 10 MiB.
    eprintln!("{} MiB, and later {} MiB", limited >> 10, last >> 10);
    assert!(last < limited + (24 << 10) && last < 2 * MAX_PEAK, "{limited} and {last} KiB");
}

#[test]
fn a_second_signal_ends_a_run_at_any_instant() {
    let nodes = Server::start();
    for (name, shards) in hostile_shards(nodes.port()).into_iter().take(4) {
        let server = answering(vec![("CLUSTER SHARDS", shards), ("CLUSTER INFO", bulk("cluster_state:ok\r\n"))]);
        for step in 0..4 {
            let env = TestEnv::new();
            let run = env.endless(&format!("-c --canary -t 2 --check-interval 20ms -p {}", server.port()));
            assert!(server.wait_accepted(server.accepted() + 1, LIMIT));
            std::thread::sleep(Duration::from_millis(step * 37));
            run.signal(Signal::TERM);
            std::thread::sleep(Duration::from_millis(20));
            let mut run = run;
            let second = Instant::now();
            if !run.has_ended() {
                run.signal(Signal::TERM);
            }
            let output = run.wait();
            eprintln!("{name}, {step}: {:?}", second.elapsed());
            assert!(second.elapsed() < Duration::from_secs(3), "{name}, {step}: {:?}, {output:?}", second.elapsed());
            assert!(output.code.is_some_and(|code| code == 143 || code == 4), "{name}, {step}: {output:?}");
        }
    }
}

#[test]
fn all_nodes_are_checked_whatever_they_announce() {
    let running = |env: &TestEnv, cluster: &Primaries, flags: &str, case: &str| {
        let (address, port) = (cluster.nodes[0].address(), cluster.nodes[0].port());
        let output = env.run(&format!("dbs -c -h {address} -p {port} {flags}"));
        assert_eq!(output.code, Some(0), "{case}: {output:?}");
        for node in &cluster.nodes {
            let line = format!("NODE {}:{} DB 0: RUNNING\n", node.address(), node.port());
            assert!(output.stdout.contains(&line), "{case}: {output:?}");
        }
        assert!(output.stdout.contains("CLUSTER: RUNNING\n") && output.stdout.contains("3 of 3 shards"), "{case}");
    };

    for name in ["redis-7.0", "valkey-9.1"] {
        let env = TestEnv::new();
        for cluster in [Primaries::start_on_one_port(&engine(name), 3), Primaries::start(&engine(name), 3)] {
            // Without host names, the nodes announce `?` and then null.
            for kind in ["hostname", "unknown-endpoint"] {
                for node in &cluster.nodes {
                    let set = format!("CONFIG SET cluster-preferred-endpoint-type {kind}");
                    assert_eq!(node.command(&set), "+OK");
                }
                running(&env, &cluster, "--canary", &format!("{name}, {kind}"));
            }
        }

        // Different ports of one address.
        let cluster = Primaries::start(&engine(name), 3);
        for node in &cluster.nodes {
            assert_eq!(node.command("CONFIG SET cluster-announce-ip 127.0.0.1"), "+OK");
        }
        running(&env, &cluster, "--canary", name);
    }
}
