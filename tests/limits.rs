//! Limits on our own side: what this machine does not give is never told as the server's failure, and never ends a run
//! without a word.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use rustix::process::{Pid, Resource, Rlimit, geteuid, prlimit};

use crate::support::env::{BINARY, Output, Running, TestEnv};
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// What holds for every run: it ends by itself, and tells nothing as the server's failure. With exit code 2 it says why in
/// one line, and with 5 the log does.
fn assert_innocent(case: &str, env: &TestEnv, output: &Output, codes: &[i32]) {
    let shown = format!("{case}: {output:?}\n{}", env.read_all());
    assert!(codes.contains(&output.code.unwrap_or(-1)), "{shown}");

    for text in ["panicked", "FAILURE", "NOT RUNNING", "Outage of", "memory allocation", " failed, "] {
        assert!(!output.stdout.contains(text) && !output.stderr.contains(text), "{text} in {shown}");
        assert!(!env.read_all().contains(text), "{text} in {shown}");
    }

    match output.code {
        Some(2) => {
            assert_eq!((output.stdout.as_str(), output.stderr.lines().count()), ("", 1), "{shown}");
            assert!(output.stderr.starts_with("redis-health: "), "{shown}");
        }
        Some(5) => assert!(env.read_all().contains("NOT OBSERVED: local: "), "{shown}"),
        _ => {}
    }
}

const CYCLES: &str = "cycles --cycles 1 --run-duration 150ms --check-interval 50ms";

#[test]
fn a_small_machine_is_told_in_one_line() {
    let server = Server::start();
    let port = server.port();
    let run = |limit: &str, codes: &[i32], arguments: &str| {
        let env = TestEnv::new();
        let output = Running::start(env.wrapped(&format!("prlimit {limit}"), arguments)).wait();
        assert_innocent(&format!("{limit} {arguments}"), &env, &output, codes);
        output
    };
    let dbs = format!("dbs -p {port}");
    let everything = format!("{CYCLES} -h localhost -p {port} --held --trace-dir trace --metrics-file metrics.prom");

    for limit in [4, 5, 6, 7, 8, 9, 10, 12, 14, 16] {
        let said = run(&format!("--nofile={limit}"), &[2], &dbs).stderr;
        assert!(said.contains("cannot open enough files") && said.contains("ulimit -n"), "{limit}: {said}");
    }
    for limit in [18, 19, 20, 24, 32] {
        run(&format!("--nofile={limit}"), &[0, 2, 5], &dbs);
        run(&format!("--nofile={limit}"), &[0, 2, 5], &everything);
    }
    // A limit that this process may raise is raised.
    run("--nofile=6:1024", &[0], &everything);

    for limit in ["--data=8388608", "--data=16777216", "--as=33554432"] {
        let said = run(limit, &[2], &dbs).stderr;
        assert!(said.contains("MiB of memory") && said.contains("ulimit -v"), "{limit}: {said}");
    }
    for limit in ["--data=100663296", "--as=134217728"] {
        run(limit, &[0], &everything);
    }

    // A file that may not grow is a record that could not be written, not the end of the process.
    for limit in [0, 10, 100] {
        for arguments in [&dbs, &everything] {
            let said = run(&format!("--fsize={limit}"), &[4], arguments).stderr;
            assert!(said.contains("cannot write a record: File too large"), "{limit}: {said}");
        }
    }
}

#[test]
fn a_report_is_whole_or_says_why_it_is_not() {
    let (env, server) = (TestEnv::new(), Server::start());
    assert_eq!(env.run(&format!("dbs -p {}", server.port())).code, Some(0));
    assert_eq!(env.run(&format!("{CYCLES} -p {}", server.port())).code, Some(0));
    let report = "report logs --html page.html";
    let whole = env.run(report).stdout;

    for (limit, said) in [
        ("--fsize=100", Some("--html: cannot write page.html")),
        ("--nofile=4", Some("Too many open files")),
        ("--nofile=5", Some("Too many open files")),
        ("--nofile=16", None),
        ("--nproc=1", None),
        ("--as=50331648", None),
        ("--data=8388608", None),
    ] {
        let output = Running::start(env.wrapped(&format!("prlimit {limit}"), report)).wait();
        assert_innocent(limit, &env, &output, &[if said.is_some() { 2 } else { 0 }]);
        match said {
            Some(said) => assert!(output.stderr.contains(said), "{limit}: {output:?}"),
            None => assert_eq!(output.stdout, whole, "{limit}"),
        }
    }
}

#[test]
fn a_limit_of_processes_is_not_a_failure_of_the_server() {
    // Limits of processes do not hold for root, and another user's processes would count.
    if !geteuid().is_root() {
        return;
    }
    let server = Server::start();
    let port = server.port();
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("redis-health");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    fs::copy(BINARY, &binary).unwrap();

    let dbs = format!("dbs -n 0 -h localhost -p {port}");
    let traced = format!("dbs -n 0 -p {port} --trace-dir trace");
    let cycles = format!("{CYCLES} -h localhost -p {port}");
    let everything = format!("{cycles} --held --trace-dir trace --metrics-file metrics.prom");
    // A thread each for the console and the recorder, for the trace, for lookups.
    for (arguments, codes) in
        [(&dbs, &[2, 5, 0][..]), (&traced, &[2, 2, 0]), (&cycles, &[2, 2, 5, 0]), (&everything, &[2, 2, 2, 5, 0])]
    {
        for (limit, code) in (1..).zip(codes) {
            let env = TestEnv::new();
            fs::set_permissions(env.path(), Permissions::from_mode(0o777)).unwrap();
            // No other process may have this user.
            let user = 500_000_000 + std::process::id();
            let words = format!(
                "setpriv --reuid={user} --clear-groups prlimit --nproc={limit} {} {arguments}",
                binary.display()
            );
            let output = Running::start(env.program(&words)).wait();
            assert_innocent(&format!("{limit} processes: {arguments}"), &env, &output, &[*code]);
            if *code == 5 {
                assert!(env.read_all().contains("local: no thread: resource temporarily unavailable"), "{output:?}");
            }
        }
    }
}

/// Starts a server in a network namespace of its own, in which client sockets get one of three ports.
const THREE_PORTS: &str = "ip link set lo up; redis-server --port 6399 --save '' --unixsocket ready >/dev/null & \
    until redis-cli -s ready PING 2>/dev/null | grep -q PONG; do sleep 0.01; done; \
    echo 40000 40002 >/proc/sys/net/ipv4/ip_local_port_range; echo 0 >/proc/sys/net/ipv4/tcp_tw_reuse";

#[test]
fn a_machine_without_ports_or_permission_is_not_an_outage() {
    let in_namespace = |setup: &str, arguments: &str| {
        let env = TestEnv::new();
        // The server ends with the namespace of its processes.
        let output = Running::start(env.in_namespaces("-rnmpf --kill-child", setup, arguments)).wait();
        assert_innocent(arguments, &env, &output, &[5]);
        (env, output)
    };

    // A closed connection keeps its port for a minute.
    let cycles = "cycles -p 6399 --cycles 1 --run-duration 1 --check-interval 50ms";
    let (env, output) = in_namespace(THREE_PORTS, cycles);
    let log = env.read("redis_error.log");
    let refused = "NOT OBSERVED: local: no free local port or address: cannot assign requested address\n";
    let passed = 20 - output.missed() - log.matches(refused).count();
    // Of an odd number of ports, the kernel uses one less.
    assert!((2..=3).contains(&passed), "{log}");
    assert!(output.stdout.contains(&format!("127.0.0.1:6399: {passed} checks, none failed\n")), "{output:?}");

    // Only administrators of this machine prohibit a route.
    let prohibited = "ip link set lo up; ip route add prohibit 10.1.2.3";
    let (_, output) = in_namespace(prohibited, "dbs -n 0 -h 10.1.2.3");
    assert!(output.stdout.contains("DB 0: NOT OBSERVED (local: permission denied)\n"), "{output:?}");
}

#[test]
fn a_full_disk_loses_records_and_the_next_one_begins_a_line() {
    let (env, server) = (TestEnv::new(), Server::start());
    // The log ends within a line, and 20 bytes before the end of the only page that is left, which is less than a block.
    let (marks, port) = ("=== Cycle 1 started at 2025-08-27 07:35:01 ===\n", server.port());
    let setup = format!(
        "mount -t tmpfs -o size=8k none logs; yes '{}' | head -c 4076 >logs/redis_db_health.log; \
         head -c 4096 /dev/zero >logs/filler; code=0; {BINARY} dbs -p {port} || code=$?; test $code = 4; rm logs/filler; \
         {BINARY} dbs -p {port}; cp logs/redis_db_health.log kept; umount logs",
        marks.trim_end()
    );
    let output = Running::start(env.in_namespaces("-rm", &setup, "--version")).wait();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_innocent("a full disk", &env, &output, &[0]);
    assert!(output.stderr.contains("cannot write a record: No space left on device"), "{output:?}");

    let kept = fs::read_to_string(env.path().join("kept")).unwrap();
    let (before, block) = kept.rsplit_once("===== Redis DB Health Check at ").unwrap();
    assert!(before.ends_with("\n===== Redis DB Heal\n"), "{before}");
    assert!(block.contains("\nDB 15: RUNNING\n") && block.ends_with("\n\n"), "{block}");
}

#[test]
fn checks_under_way_are_bounded_by_the_limit_of_open_files() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::StallAfter(0));
    let flags = format!("cycles -p {} -t 10m --run-duration 1h --check-interval 5ms", server.port());
    let run = Running::start(env.wrapped("prlimit --nofile=64", &flags));
    let reason = "NOT OBSERVED: local: 16 checks are under way already\n";
    env.wait_for("redis_error.log", |text| text.matches(reason).count() >= 20);
    assert!(eventually(LIMIT, || server.most_open() >= 16));
    let output = run.stop();

    assert_eq!(server.most_open(), 16);
    assert_eq!(output.code, Some(143), "{output:?}");
    assert!(!env.read_all().contains("FAILURE"), "{output:?}");
}

/// The reply to CLUSTER SHARDS of a cluster with this many primaries, each at its own address of the loopback network.
fn shards(count: u32, port: u16) -> String {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let shard = |place: u32| {
        let (first, last) = (place * 16_384 / count, (place + 1) * 16_384 / count - 1);
        let ip = format!("127.0.{}.{}", place / 250, place % 250 + 1);
        let fields = [("id", format!("{place:040x}")), ("ip", ip.clone()), ("endpoint", ip)];
        let fields: String = fields.iter().map(|(name, value)| bulk(name) + &bulk(value)).collect();
        let states = ["role", "master", "health", "online"].map(bulk).concat();
        format!(
            "*4\r\n{}*2\r\n:{first}\r\n:{last}\r\n{}*1\r\n*12\r\n{fields}{}:{port}\r\n{states}",
            bulk("slots"),
            bulk("nodes"),
            bulk("port"),
        )
    };
    format!("*{count}\r\n{}", (0..count).map(shard).collect::<String>())
}

#[test]
fn a_cluster_of_more_nodes_than_descriptors_is_checked() {
    let (env, server) = (TestEnv::new(), Server::start_at(([0, 0, 0, 0], 0).into()));
    let port = server.port();
    let info = "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_fail:0\r\n";
    server.become_(|nature| {
        nature.replies =
            vec![("CLUSTER SHARDS", shards(300, port)), ("CLUSTER INFO", format!("${}\r\n{info}\r\n", info.len()))];
    });

    let output = Running::start(env.wrapped("prlimit --nofile=64", &format!("dbs -c -p {port}"))).wait();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("300 databases on 300 nodes checked"), "{output:?}");

    // The limit is raised if it may be.
    let output = Running::start(env.wrapped("prlimit --nofile=20:1024", &format!("dbs -c -p {port}"))).wait();
    assert_eq!(output.code, Some(0), "{output:?}");

    // Where the nodes hang, those that were never asked are not told as failed.
    let hanging = Server::start_at(([0, 0, 0, 0], 0).into());
    hanging.behave(Behaviour::StallAfter(0));
    server.become_(|nature| nature.replies[0].1 = shards(300, hanging.port()));
    let flags = format!("dbs -c -p {port} -t 0.5 --deadline 1");
    let output = Running::start(TestEnv::new().wrapped("prlimit --nofile=64", &flags)).wait();
    let count = |text: &str| output.stdout.matches(text).count();
    let asked = count("NOT RUNNING (timeout: ");
    assert_eq!(asked + count("NOT OBSERVED (local: 16 checks are under way already)"), 300, "{output:?}");
    assert!((16..=64).contains(&asked), "{output:?}");
}

/// Changes the limit of open files of a running process. `None` restores the first one.
fn limit_open_files(pid: u32, limit: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: limit.or(current), maximum }).unwrap();
}

#[test]
fn checks_without_a_descriptor_are_not_observed() {
    let (env, server) = (TestEnv::new(), Server::start());
    let metrics = env.path().join("metrics.prom");
    let flags = format!("-h localhost -p {} --metrics-file {}", server.port(), metrics.display());
    let run = env.endless_until(&flags, "SUCCESS 2\n");

    limit_open_files(run.pid(), Some(3));
    env.wait_for("redis_error.log", |text| {
        text.matches("NOT OBSERVED: local: name look-up: too many open files\n").count() >= 3
    });
    limit_open_files(run.pid(), None);
    let successes = env.count("redis_success.log", "SUCCESS");
    env.wait_for("redis_success.log", |text| text.matches("SUCCESS").count() > successes + 2);
    let reason = r#",reason="name look-up: too many open files"} "#;
    let counted = || fs::read_to_string(&metrics).is_ok_and(|text| text.contains(reason));
    assert!(eventually(LIMIT, counted));
    let output = run.stop();

    let errors = env.read("redis_error.log");
    assert!(!errors.contains("FAILURE") && !errors.contains("Outage"), "{errors}");
    assert!(output.stdout.contains("NOT OBSERVED: local: name look-up: too many open files\n"), "{output:?}");
    assert!(output.stdout.contains(" checks, none failed\n"), "{output:?}");
    assert!(output.stdout.contains(" (name look-up: too many open files "), "{output:?}");
    let bar = output.stdout.lines().find_map(|line| line.strip_prefix("endpoint ")?.split_once('='));
    assert!(bar.is_some_and(|(_, rest)| rest.contains('.') && rest.ends_with('=')), "{output:?}");

    let report = env.run("report logs --html page.html");
    assert_eq!(report.code, Some(0), "{report:?}");
    assert!(report.stdout.contains("checks not observed: "), "{report:?}");
    let page = fs::read_to_string(env.path().join("page.html")).unwrap();
    assert!(page.contains(r#"class="gap""#) && page.contains("checks not observed: "), "{page}");

    let json = env.run("report logs --json").json();
    assert_eq!((&json["failures"], &json["databases"][0]["availability"]), (&0.into(), &1.0.into()), "{json}");
    let not_observed = errors.matches("NOT OBSERVED").count();
    assert_eq!(json["not_observed"]["name look-up: too many open files"], not_observed, "{json}");
}

#[test]
fn the_exit_code_says_that_a_check_could_not_be_made() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let socket = env.path().join("redis.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o000)).unwrap();
    // Without capabilities, root is refused like any other user.
    let user = if geteuid().is_root() { "setpriv --bounding-set=-all --inh-caps=-all" } else { "" };
    let dbs =
        |flags: &str| Running::start(env.wrapped(user, &format!("dbs -n 0 -s {} {flags}", socket.display()))).wait();
    let reason = "local: permission denied";

    let output = dbs("");
    assert_eq!(
        (output.code, output.stdout.contains(&format!("DB 0: NOT OBSERVED ({reason})\n"))),
        (Some(5), true),
        "{output:?}"
    );
    assert!(output.stdout.contains("0 running, 1 not observed (permission denied 1)\n"), "{output:?}");
    assert_eq!(env.count("redis_error.log", &format!("DB 0 NOT OBSERVED: {reason}\n")), 1);

    let output = dbs("-q");
    assert_eq!((output.code, output.stdout.as_str()), (Some(5), ""));
    assert!(output.stderr.starts_with(&format!("redis-health: DB 0: NOT OBSERVED ({reason})\n")), "{output:?}");

    let output = dbs("--json").json();
    assert_eq!(
        (&output["ok"], &output["databases"][0]["kind"]),
        (&serde_json::Value::Null, &"local".into()),
        "{output}"
    );

    // What a check observed stands.
    assert_eq!(env.run(&format!("dbs -n 99 -p {port}")).code, Some(1));
    let report = env.run("report logs");
    assert!(report.stdout.contains("checks not observed: 3 (permission denied 3)\n"), "{report:?}");
}
