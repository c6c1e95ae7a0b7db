//! `--cluster`: checks of every node of a real cluster, and of the cluster as a whole.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::support::certificates::Certificates;
use crate::support::cluster::{Cluster, SLOTS, alone, node, state, wait_ok};
use crate::support::env::{Running, TestEnv, engine};
use crate::support::logs::{last_success, normalised, without_headers};
use crate::support::real::Real;
use crate::support::scripted::{LIMIT, Server, eventually};

/// Starts a run over all nodes that lasts until it is stopped. A node that hangs fails within a second.
fn endless(env: &TestEnv, port: u16, flags: &str) -> Running {
    env.endless(&format!("-c -p {port} -t 1 --check-interval 100ms {flags}"))
}

/// The lines of all nodes in a block, in their order there.
fn block(cluster: &Cluster, line: impl Fn(usize, &str) -> String) -> String {
    let mut places: Vec<_> = (0..6).collect();
    places.sort_by_key(|place| cluster.nodes[*place].port());
    places.into_iter().map(|place| line(place, &format!("NODE {}", cluster.name(place)))).collect()
}

#[test]
fn a_scan_checks_every_node_once() {
    let (env, cluster) = (TestEnv::new(), Cluster::start());
    let running = block(&cluster, |_, node| format!("{node} DB 0: RUNNING\n"));
    let head = "===== Redis DB Health Check at <time> =====\n";
    let mut blocks = String::new();

    // The result does not depend on which node is asked or how the databases are chosen.
    for (place, flags) in [(0, ""), (4, "--max-db auto"), (2, "-n 0")] {
        let output = env.run(&format!("dbs -c -p {} {flags}", cluster.port(place)));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(output.stdout.contains("6 databases on 6 nodes checked in"), "{output:?}");
        blocks += &format!("{head}{running}CLUSTER: RUNNING\n\n");
    }

    assert_eq!(normalised(&env.read("redis_db_health.log")), blocks);
    assert_eq!(env.read("redis_error.log"), "");

    // A database that does not exist in a cluster.
    let output = env.run(&format!("dbs -c -p {} -n 1 -q", cluster.port(0)));
    assert_eq!(output.code, Some(1), "{output:?}");

    let failure = "no-such-db: ERR SELECT is not allowed in cluster mode";
    let expected = block(&cluster, |_, node| format!("<time> {node} DB 1 FAILURE: {failure}\n"));
    assert_eq!(normalised(&without_headers(&env.read("redis_error.log"))), expected);
    assert!(output.stderr.contains(&format!("NODE {} DB 1: NOT RUNNING ({failure})\n", cluster.name(3))));

    // The JSON output, and the report of the classic log.
    let scan = env.run(&format!("dbs -c -p {} --json", cluster.port(0))).json();
    let checks = scan["databases"].as_array().unwrap();

    for role in ["primary", "replica"] {
        assert_eq!(checks.iter().filter(|check| check["role"] == role).count(), 3, "{role}: {scan}");
    }

    assert_eq!(scan["databases"][6]["cluster"], true, "{scan}");

    let report = env.run("report logs");
    assert!(report.stdout.contains(&format!("NODE {} DB 0", cluster.name(5))), "{report:?}");
}

#[test]
fn a_scan_takes_no_longer_than_its_slowest_node() {
    let (env, cluster) = (TestEnv::new(), Cluster::start());
    let elapsed = |value: &Value| value["elapsed_us"].as_u64().unwrap();

    // First another node is slow, then the endpoint itself.
    for slow in [1, 0] {
        // A busy machine may delay some scans, but not all ten.
        let excess = || {
            cluster.nodes[slow].command("CLIENT PAUSE 600 ALL");
            let scan = env.run(&format!("dbs -c -p {} --json", cluster.port(0))).json();
            let nodes = scan["databases"].as_array().unwrap().iter().filter(|check| check["node"].is_string());
            let slowest = nodes.map(elapsed).max().unwrap();
            assert!(slowest > 100_000, "no node was slow: {scan}");
            elapsed(&scan).saturating_sub(slowest)
        };

        let excesses: Vec<_> = (0..10).map(|_| excess()).take_while(|excess| *excess >= 50_000).collect();
        assert!(excesses.len() < 10, "node {slow}: each scan took {excesses:?} µs longer than its slowest node");
    }
}

#[test]
fn a_scan_fails_if_slots_have_no_primary() {
    let (env, mut cluster) = (TestEnv::new(), Cluster::start());
    cluster.nodes[3].command("CONFIG SET cluster-replica-no-failover yes");
    cluster.nodes[0].kill();

    assert!(eventually(LIMIT, || state(&cluster.nodes[1]) == "fail"));

    let output = env.run(&format!("dbs -c -p {}", cluster.port(1)));
    assert_eq!(output.code, Some(1), "{output:?}");

    let lines = block(&cluster, |place, node| match place {
        0 => format!("{node} DB 0: NOT RUNNING (refused: Connection refused)\n"),
        _ => format!("{node} DB 0: RUNNING\n"),
    });
    let log = normalised(&env.read("redis_db_health.log"));
    assert!(log.contains(&lines), "{log}");
    assert!(log.contains("CLUSTER: NOT RUNNING (clusterdown: 5461 slots without a primary)\n\n"), "{log}");

    let errors = normalised(&without_headers(&env.read("redis_error.log")));
    assert!(errors.contains("<time> CLUSTER FAILURE: clusterdown: 5461 slots without a primary\n"), "{errors}");
}

#[test]
fn without_a_node_list_the_endpoint_is_checked() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let port = server.port();
    let output = env.run(&format!("dbs -c -p {port} --max-db 1 --canary"));

    assert_eq!(output.code, Some(1));

    let failure = "error: ERR This instance has cluster support disabled (not a cluster? leave out --cluster)";
    let lines = format!("DB 0: RUNNING\nDB 1: RUNNING\nCLUSTER: NOT RUNNING ({failure})\n");
    assert!(env.read("redis_db_health.log").contains(&lines), "{output:?}");

    let cycles = "cycles -c --cycles 1 --run-duration 0.3 --check-interval 100ms --canary";
    let output = env.run(&format!("{cycles} -p {port}"));
    assert_eq!(output.code, Some(1), "{output:?}");

    let made = 3 - output.missed();
    let successes = normalised(&env.read("redis_success.log"));
    assert_eq!(successes.matches("<time> SUCCESS ").count(), made, "{successes}");

    let errors = normalised(&without_headers(&env.read("redis_error.log")));
    assert_eq!(errors.matches(&format!("<time> CLUSTER FAILURE: {failure}\n")).count(), 1 + made, "{errors}");

    // A cluster in which the user may not run CLUSTER.
    let (env, cluster) = (TestEnv::new(), Cluster::start());
    for node in &cluster.nodes {
        node.command("ACL SETUSER default -cluster");
    }

    let output = env.run(&format!("{cycles} -p {}", cluster.port(0)));
    assert_eq!(output.code, Some(1), "{output:?}");

    let made = 3 - output.missed();
    let errors = env.read("redis_error.log");
    let refused = errors.lines().filter(|line| line.contains("CLUSTER FAILURE: noperm: NOPERM "));

    assert_eq!(refused.filter(|line| line.ends_with(" (grant +cluster)")).count(), made, "{errors}");
    assert!(!errors.contains("MOVED"), "{errors}");

    let successes = normalised(&env.read("redis_success.log"));
    assert_eq!(successes.matches("<time> SUCCESS ").count(), made, "{successes}");
}

#[test]
fn a_redirected_write_without_cluster_suggests_the_flag() {
    let cluster = Cluster::start();
    let (mut moved, mut passed) = (0, 0);

    // Each run uses one random slot.
    for _ in 0..20 {
        let env = TestEnv::new();
        let run = "cycles --cycles 1 --run-duration 0.25 --check-interval 50ms --canary";
        let output = env.run(&format!("{run} -p {}", cluster.port(0)));
        let errors = env.read("redis_error.log");
        let failures: Vec<_> = errors.lines().filter(|line| line.contains(" WRITE FAILURE: ")).collect();
        assert!([0, 5 - output.missed()].contains(&failures.len()), "{errors}");
        let is_explained =
            |line: &&str| line.contains("error: MOVED ") && line.ends_with(" (a cluster: use --cluster)");
        assert!(failures.iter().all(is_explained), "{errors}");
        *if failures.is_empty() { &mut passed } else { &mut moved } += 1;
        if moved > 0 && passed > 0 {
            return;
        }
    }

    panic!("{moved} of 20 runs were redirected");
}

#[test]
fn a_discovery_that_times_out_names_the_timeout() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    server.freeze();
    let port = server.port();
    env.run(&format!("dbs -c -p {port} -t 1"));
    let log = env.read("redis_db_health.log");
    server.thaw();

    assert!(log.contains("CLUSTER: NOT RUNNING (timeout: no reply to CLUSTER SHARDS within 1s)\n"), "{log}");

    // If all nodes hang, each of them gets a part of the timeout.
    let (env, cluster) = (TestEnv::new(), Cluster::start());
    let port = cluster.port(0);
    let run = endless(&env, port, "-t 0.5");
    env.wait_for("redis_success.log", |text| last_success(text, "CLUSTER") >= 2);
    cluster.nodes.iter().for_each(Real::freeze);
    let failed = " CLUSTER FAILURE: ";
    env.wait_for("redis_error.log", |text| text.matches(failed).count() >= 5);
    cluster.nodes.iter().for_each(Real::thaw);
    run.stop();
    let errors = env.read("redis_error.log");
    let mut texts: Vec<_> = errors.lines().filter_map(|line| line.split_once(failed)).map(|(_, text)| text).collect();
    texts.sort_unstable();
    texts.dedup();

    assert!(texts.iter().all(|text| text.ends_with(" within 500ms")) && texts.len() <= 2, "{texts:?}");
}

#[test]
fn each_shard_has_a_canary_in_its_own_slots() {
    let (env, cluster) = (TestEnv::new(), Cluster::start());
    let written = |place: usize| {
        // `calls=1,usec=20,…`
        let calls = cluster.nodes[place].info("INFO commandstats", "cmdstat_set");
        calls.strip_prefix("calls=").and_then(|rest| rest.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let before: Vec<_> = (0..6).map(written).collect();
    let output = env.run(&format!("dbs -c --canary -p {}", cluster.port(0)));

    assert_eq!(output.code, Some(0), "{output:?}");

    let shards: String = SLOTS.iter().map(|(from, to)| format!("SHARD {from}-{to}: RUNNING\n")).collect();
    assert!(output.stdout.contains(&format!("DB 0: RUNNING\n{shards}CLUSTER: RUNNING\n")), "{output:?}");
    assert!(output.stdout.contains("6 databases on 6 nodes checked in"), "{output:?}");
    assert!(output.stdout.contains("; 3 of 3 shards take writes\n"), "{output:?}");

    // Replicas count the replicated write too, a little later.
    let reached = || (0..6).all(|place| written(place) == before[place] + 1);
    assert!(eventually(LIMIT, reached), "{:?}", (0..6).map(written).collect::<Vec<_>>());

    // A write to a slot of another shard would have been rejected with MOVED, which the node would have counted.
    for (place, (from, to)) in SLOTS.iter().enumerate() {
        let errors = cluster.nodes[place].command("INFO errorstats");
        assert!(!errors.contains("MOVED"), "slots {from} to {to}: {errors}");
    }

    // If a primary rejects writes, only its shard fails.
    cluster.nodes[1].command("CONFIG SET min-replicas-to-write 5");
    let output = env.run(&format!("dbs -c --canary -p {} --metrics-file metrics.prom", cluster.port(0)));
    assert_eq!(output.code, Some(1), "{output:?}");

    let (from, to) = SLOTS[1];
    let failure = format!("<time> SHARD {from}-{to} FAILURE: noreplicas: NOREPLICAS Not enough");
    let errors = normalised(&without_headers(&env.read("redis_error.log")));

    assert!(errors.starts_with(&failure) && errors.lines().count() == 1, "{errors}");

    let metrics = std::fs::read_to_string(env.path().join("metrics.prom")).unwrap();
    assert!(metrics.contains(&format!("shard=\"{from}-{to}\"}} 0\n")) && !metrics.contains("probe"), "{metrics}");
}

#[test]
fn a_plain_scan_of_a_cluster_suggests_the_flag() {
    let (env, node) = (TestEnv::new(), alone(&engine("redis-7.0"), ""));
    let output = env.run(&format!("dbs -p {} --max-db 2", node.port()));
    assert_eq!(output.code, Some(1), "{output:?}");

    let failure = "no-such-db: ERR SELECT is not allowed in cluster mode (a cluster: use --cluster)";
    let lines = format!("DB 0: RUNNING\nDB 1: NOT RUNNING ({failure})\nDB 2: NOT RUNNING ({failure})\n");
    assert!(output.stdout.contains(&lines), "{output:?}");

    let output = env.run(&format!("dbs -c -p {} --max-db 2", node.port()));
    assert!(output.code == Some(1) && !output.stdout.contains("use --cluster"), "{output:?}");
}

/// An external observer saw a change between these two times.
struct Observed {
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
}

/// Polls until a condition holds.
fn observe(condition: impl Fn() -> bool) -> Observed {
    let end = Instant::now() + LIMIT;
    let mut not_before = Utc::now();

    loop {
        let looked = Utc::now();
        if condition() {
            return Observed { not_before, not_after: Utc::now() };
        }
        not_before = looked;
        assert!(Instant::now() < end, "the condition did not become true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The checks of a run that `is` selects, with their start and end.
fn checks(env: &TestEnv, is: impl Fn(&Value) -> bool) -> Vec<(DateTime<Utc>, DateTime<Utc>, Value)> {
    let records = [env.records("redis_success.log"), env.records("redis_error.log")].concat();
    let mut checks: Vec<_> = records
        .into_iter()
        .filter(|record| record["type"] == "check" && is(record))
        .map(|record| {
            let at: DateTime<Utc> = record["at"].as_str().unwrap().parse::<DateTime<_>>().unwrap();
            let took = Duration::from_micros(record["elapsed_us"].as_u64().unwrap());
            // Timestamps are truncated to milliseconds.
            (at, at + took + Duration::from_millis(1), record)
        })
        .collect();
    checks.sort_by_key(|(at, ..)| *at);
    checks
}

/// Asserts that the first check with a new result is consistent with the time at which an observer saw the change.
fn assert_consistent(
    what: &str,
    checks: &[(DateTime<Utc>, DateTime<Utc>, Value)],
    turned: impl Fn(&Value) -> bool,
    seen: &Observed,
) {
    let turn = checks
        .iter()
        .position(|(.., check)| turned(check))
        .unwrap_or_else(|| panic!("no check changed its result: {what}"));
    assert!(turn > 0, "{what}: no check before the change");

    let ((before, ..), (_, after, _)) = (&checks[turn - 1], &checks[turn]);
    eprintln!(
        "{what}: observed {} to {} ({:?}), reported {} to {} ({:?})",
        seen.not_before.time(),
        seen.not_after.time(),
        (seen.not_after - seen.not_before).to_std().unwrap(),
        before.time(),
        after.time(),
        (*after - *before).to_std().unwrap(),
    );
    assert!(*before <= seen.not_after && *after >= seen.not_before, "{what}");
}

#[test]
fn a_killed_primary_causes_outages_of_its_node_and_the_cluster_and_a_promotion() {
    let (env, mut cluster) = (TestEnv::new(), Cluster::start());
    let port = cluster.port(1);
    let run = endless(&env, port, "--log-format json");
    let (dead, promoted) = (cluster.name(0), cluster.name(3));
    let wait_until_checked = |name: &str, times: usize| {
        env.wait_for("redis_success.log", |text| text.matches(&format!("\"node\":\"{name}\"")).count() >= times);
    };
    wait_until_checked(&dead, 3);
    wait_until_checked(&promoted, 3);

    let not_before = Utc::now();
    cluster.nodes[0].kill();
    let killed = Observed { not_before, not_after: Utc::now() };
    let (cluster_fails, replica_is_promoted, cluster_serves) = std::thread::scope(|scope| {
        let promotion = scope.spawn(|| observe(|| cluster.nodes[3].info("INFO replication", "role") == "master"));
        let fails = observe(|| state(&cluster.nodes[1]) == "fail");
        let serves = observe(|| state(&cluster.nodes[1]) == "ok");
        (fails, promotion.join().unwrap(), serves)
    });
    run.wait_for_stdout(|text| text.contains("=== Outage of CLUSTER ended at "));
    run.wait_for_stdout(|text| text.contains(&format!("=== NODE {promoted} changed from replica to primary at ")));
    let launched = Utc::now();
    cluster.nodes[0].restart();
    let restarted = Observed { not_before: launched, not_after: Utc::now() };
    let stdout = run.wait_for_stdout(|text| {
        text.contains(&format!("=== Outage of NODE {dead} ended at "))
            && text.contains(&format!("=== NODE {dead} changed from primary to replica at "))
    });
    run.stop();

    assert!(!stdout.contains("absent"), "a failed node is not absent: {stdout}");
    assert!(stdout.contains("CLUSTER FAILURE: clusterdown: 5461 slots without a primary"), "{stdout}");

    let of = |name: &str| {
        let name = name.to_owned();
        checks(&env, move |record| record["node"] == name.as_str())
    };
    let whole = checks(&env, |record| record["cluster"] == true);
    let fails = |check: &Value| check["ok"] == false;
    assert_consistent("the node's outage began", &of(&dead), fails, &killed);
    let since: Vec<_> = of(&dead).into_iter().skip_while(|(.., check)| check["ok"] == true).collect();
    assert_consistent("the node's outage ended", &since, |check| check["ok"] == true, &restarted);
    assert_consistent("the promotion", &of(&promoted), |check| check["role"] == "primary", &replica_is_promoted);
    assert_consistent("the cluster's outage began", &whole, fails, &cluster_fails);
    let since: Vec<_> = whole.into_iter().skip_while(|(.., check)| check["ok"] == true).collect();
    let marks = env.records("redis_error.log");
    let ended = marks.iter().rfind(|mark| mark["node"] == dead.as_str() && mark["at_most_s"].is_number());
    let ended = ended.expect("a mark");
    let seconds = |length: chrono::TimeDelta| length.num_microseconds().unwrap() as f64 / 1e6;
    let (shortest, longest) = (restarted.not_before - killed.not_after, restarted.not_after - killed.not_before);
    let (at_least, at_most) = (ended["at_least_s"].as_f64().unwrap(), ended["at_most_s"].as_f64().unwrap());
    eprintln!("the node was down for {} s, reported at least {at_least} s, at most {at_most} s", seconds(longest));

    assert!(at_least <= seconds(longest) && at_most >= seconds(shortest), "{ended}");

    assert_consistent("the cluster's outage ended", &since, |check| check["ok"] == true, &cluster_serves);
}

#[test]
fn other_nodes_are_checked_while_the_endpoint_is_down() {
    let (env, mut cluster) = (TestEnv::new(), Cluster::start());
    let port = cluster.port(3);
    let run = endless(&env, port, "");
    let names: Vec<_> = (0..6).map(|place| format!("NODE {}", cluster.name(place))).collect();
    let all = |text: &str, count| names.iter().all(|name| last_success(text, name) >= count);
    env.wait_for("redis_success.log", |text| all(text, 2));
    cluster.nodes[3].kill();
    let failed = format!("{} FAILURE: refused: Connection refused\n", names[3]);
    env.wait_for("redis_error.log", |text| text.matches(&failed).count() >= 2);
    let seen = last_success(&env.read("redis_success.log"), "CLUSTER");

    // The other nodes are still checked, and one of them reports the cluster state.
    env.wait_for("redis_success.log", |text| {
        let others = names.iter().filter(|name| **name != names[3]);
        others.chain([&"CLUSTER".to_owned()]).all(|name| last_success(text, name) > seen + 3)
    });
    assert!(!env.read("redis_error.log").contains("CLUSTER FAILURE"), "{}", env.read("redis_error.log"));

    run.stop();
}

#[test]
fn added_and_removed_nodes_are_marked() {
    let (env, cluster) = (TestEnv::new(), Cluster::start());
    let mut seventh = node("");
    let port = cluster.port(0);
    let run = endless(&env, port, "");
    env.wait_for("redis_success.log", |text| text.contains("CLUSTER SUCCESS 2\n"));
    let name = format!("NODE 127.0.0.1:{}", seventh.port());
    let id = seventh.command("CLUSTER MYID");
    cluster.meet(&seventh);
    let marked = format!("=== {name} was absent and is present at ");
    let text = env.wait_for("redis_success.log", |text| text.contains(&marked) && last_success(text, &name) > 0);

    // Nodes that were known from the start have no such mark.
    assert_eq!(text.matches("absent").count(), 1, "{text}");

    cluster.all_know(7);

    // A failed node is still present.
    seventh.kill();
    let failure = format!("{name} FAILURE: refused: Connection refused\n");
    env.wait_for("redis_error.log", |text| text.matches(&failure).count() >= 3);

    assert!(!env.read("redis_success.log").contains(&format!("{name} was present")));
    for node in &cluster.nodes {
        assert_eq!(node.command(&format!("CLUSTER FORGET {id}")), "+OK");
    }

    let marked = format!("=== {name} was present and is absent at ");
    let text = env.wait_for("redis_success.log", |text| text.contains(&marked));
    let seen = last_success(&text, "CLUSTER");
    env.wait_for("redis_success.log", |text| last_success(text, "CLUSTER") > seen + 2);
    let failures = env.read("redis_error.log").matches(&failure).count();
    env.wait_for("redis_success.log", |text| last_success(text, "CLUSTER") > seen + 5);

    assert_eq!(env.read("redis_error.log").matches(&failure).count(), failures);

    let output = run.stop();
    assert!(output.stdout.contains(&marked), "{output:?}");
}

/// The writes of a client that follows redirections: start, end, and whether a node accepted it.
type Written = Vec<(DateTime<Utc>, DateTime<Utc>, bool)>;

/// Writes to the first shard repeatedly until `stop` is set.
fn write_repeatedly(ports: &[u16], patience: Duration, stop: &AtomicBool, count: &AtomicUsize) -> Written {
    // The slot of this key is 5061 (redis.io, cluster specification: SET bar).
    let key = "bar";
    let mut written = Written::new();
    let mut known = ports[0];

    while !stop.load(Ordering::Relaxed) {
        let began = Utc::now();
        let mut accepted = false;
        // The node that accepted the last write is tried first, then all others.
        for first in [known].into_iter().chain(ports.iter().copied()) {
            let mut port = first;
            for _ in 0..2 {
                let reply = try_set(port, key, patience);
                accepted = reply.as_deref() == Some("+OK");
                if accepted {
                    known = port;
                    break;
                }
                let moved = reply.filter(|reply| reply.starts_with("-MOVED "));
                match moved.and_then(|reply| reply.rsplit_once(':')?.1.parse().ok()) {
                    Some(to) if to != port => port = to,
                    _ => break,
                }
            }
            if accepted {
                break;
            }
        }
        written.push((began, Utc::now(), accepted));
        count.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }

    written
}

/// The reply to one SET. None if there is no reply.
fn try_set(port: u16, key: &str, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(format!("SET {key} 1\r\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line.trim_end().to_owned())
}

/// The rows of shards and nodes in a JSON document, without the values that only a live run has.
fn comparable_rows(mut document: Value) -> Vec<Value> {
    let rows = document["databases"].as_array_mut().unwrap();
    for row in rows.iter_mut() {
        row.as_object_mut().unwrap().remove("latency_us");
        for outage in row["outages"].as_array_mut().unwrap() {
            // Logs have whole milliseconds, and do not contain the moment within a check at which it failed.
            outage.as_object_mut().unwrap().retain(|name, _| !name.ends_with("_s"));
        }
    }

    std::mem::take(rows)
}

/// Runs with a canary, in parallel with a client that writes, while `event` affects the first shard. Asserts that the
/// JSON document of the run equals the report of its logs. Returns the client's writes, the row of the first shard, and
/// the output of the run.
fn client_writes_during(patience: Duration, event: impl FnOnce(&mut Cluster, &TestEnv)) -> (Written, Value, String) {
    let (env, mut cluster) = (TestEnv::new(), Cluster::start());
    let ports: Vec<_> = cluster.nodes.iter().map(Real::port).collect();
    let port = cluster.port(1);
    let run = endless(&env, port, "--canary --log-format json --json");
    env.wait_for("redis_success.log", |text| text.matches("\"shard\":\"0-5460\"").count() >= 3);
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_repeatedly(&ports, patience, &stop, &count));
        // The client must write before and after the event.
        let wait_for_progress = || {
            let seen = count.load(Ordering::Relaxed);
            assert!(eventually(LIMIT, || count.load(Ordering::Relaxed) > seen + 10), "the writer hangs");
        };
        wait_for_progress();
        event(&mut cluster, &env);
        wait_for_progress();
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    let output = run.stop();
    let report = env.run("report --json logs");
    let (live, read) = (comparable_rows(output.json()), comparable_rows(report.json()));

    assert_eq!(live, read);
    assert!(live.iter().all(|row| row["write"] != true), "{live:?}");
    assert_eq!(live.iter().filter(|row| row["shard"].is_string()).count(), 3, "{live:?}");

    let document = output.json();
    let is_first = |row: &&Value| row["shard"] == "0-5460";
    let shard = document["databases"].as_array().unwrap().iter().find(is_first).unwrap().clone();
    (written, shard, output.stdout + &env.read("redis_error.log"))
}

#[test]
fn the_outage_of_a_shard_is_its_write_outage() {
    outage_of_a_shard(LIMIT, |primary| primary.kill());
}

#[test]
fn a_new_primary_is_found_while_the_old_one_hangs() {
    outage_of_a_shard(Duration::from_millis(100), |primary| primary.freeze());
}

fn outage_of_a_shard(patience: Duration, ends: impl FnOnce(&mut Real)) {
    let mut replica = String::new();
    let (written, shard, text) = client_writes_during(patience, |cluster, env| {
        replica = cluster.name(3);
        let shard = "\"shard\":\"0-5460\"";
        ends(&mut cluster.nodes[0]);
        env.wait_for("redis_error.log", |text| {
            text.lines().any(|line| line.contains("\"outage_ended\"") && line.contains(shard))
        });
        let at = env.read("redis_success.log").matches(shard).count();
        env.wait_for("redis_success.log", |text| text.matches(shard).count() >= at + 5);
    });
    let outages = shard["outages"].as_array().unwrap();

    assert_eq!(outages.len(), 1, "{shard}");

    let outage = &outages[0];

    // For the client, the outage lasted at most from the last accepted write before it to the first one after it, and
    // at least from the first failed write to the last one.
    let first = written.iter().position(|(.., accepted)| !accepted).expect("an outage");
    let last = written.iter().rposition(|(.., accepted)| !accepted).expect("an outage");
    let seconds = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).num_microseconds().unwrap() as f64 / 1e6;
    let longest = seconds(written[first - 1].0, written[last + 1].1);
    let shortest = seconds(written[first].1, written[last].0);
    let (at_least, at_most) = (outage["at_least_s"].as_f64().unwrap(), outage["at_most_s"].as_f64().unwrap());
    eprintln!("the write outage: {shortest} to {longest} s for the client, {at_least} to {at_most} s reported");

    assert!(at_least <= longest && at_most >= shortest, "{outage}");

    let time = |name: &str| outage[name].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert!(time("last_success_before") <= written[first].1, "{outage}");
    assert!(time("last_failure") <= written[last + 1].1, "{outage}");
    assert!(text.contains("\"what\":\"address\""), "{text}");
    assert!(text.contains(&replica), "{text}");
}

#[test]
fn a_graceful_failover_fails_no_check_if_clients_see_no_error() {
    let (written, shard, text) = client_writes_during(LIMIT, |cluster, env| {
        assert_eq!(cluster.nodes[3].command("CLUSTER FAILOVER"), "+OK");
        env.wait_for("redis_success.log", |text| {
            text.lines().any(|line| line.contains("\"what\":\"address\"") && line.contains("\"shard\":\"0-5460\""))
        });
        let at = last_number(&env.read("redis_success.log"));
        env.wait_for("redis_success.log", |text| last_number(text) > at + 5);
    });
    let seen = written.iter().filter(|(.., accepted)| !accepted).count();
    eprintln!(
        "a graceful failover: {seen} of {} writes of the client failed, and {} checks",
        written.len(),
        shard["failures"]
    );

    if seen == 0 {
        assert_eq!(shard["failures"], 0, "{shard} {text}");
        assert!(!text.contains("\"ok\":false"), "{text}");
    }
}

/// The number of the last check in a JSON log.
fn last_number(text: &str) -> u64 {
    let records = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter_map(|record| record["number"].as_u64()).max().unwrap_or(0)
}

#[test]
fn a_restarted_node_without_a_node_list_removes_no_other_node() {
    let (env, nodes) = (TestEnv::new(), old_cluster());
    let mut replies = Vec::new();
    nodes[0].become_(|nature| replies.clone_from(&nature.replies));
    nodes[1].become_(|nature| nature.replies = replies);
    let port = nodes[0].port();
    let run = endless(&env, port, "");
    let other = format!("NODE 127.0.0.1:{}", nodes[1].port());
    env.wait_for("redis_success.log", |text| last_success(text, &other) >= 2);
    let wait_for_progress = || {
        let seen = last_success(&env.read("redis_success.log"), "CLUSTER");
        let more = |text: &str| ["CLUSTER", &other].iter().all(|who| last_success(text, who) > seen + 3);
        env.wait_for("redis_success.log", more)
    };

    // First only the slots, so that a discovery in between gets consistent replies.
    nodes[0].become_(|nature| nature.replies[1].1 = "*0\r\n".into());
    wait_for_progress();
    nodes[0].become_(|nature| nature.replies[2].1 = "$0\r\n\r\n".into());
    let text = wait_for_progress();

    assert!(!text.contains("absent"), "{text}");
    assert_eq!(env.read("redis_error.log"), "");

    run.stop();
}

/// Two scripted nodes that answer like engines before 7.0. The second one is a replica that CLUSTER SLOTS leaves out.
fn old_cluster() -> [Server; 2] {
    let nodes = [Server::start(), Server::start()];
    let [primary, replica] = [0, 1].map(|place: usize| nodes[place].port());
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let slots = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n{}:{primary}\r\n{}", bulk("127.0.0.1"), bulk("a"));

    // Longer than the limit of other replies.
    let many: String = (0..1000).map(|n| format!("{n} :0@0 master,noaddr {}\n", "-".repeat(100))).collect();
    let listed = format!(
        "a 127.0.0.1:{primary}@1 myself,master - 0 0 1 connected 0-16383\n{many}b 127.0.0.1:{replica}@1 slave a 0 0 1 connected\n"
    );
    let replies = [
        (
            "CLUSTER SHARDS",
            "-ERR Unknown subcommand or wrong number of arguments for 'SHARDS'. Try CLUSTER HELP.\r\n".to_owned(),
        ),
        ("CLUSTER SLOTS", slots),
        ("CLUSTER NODES", bulk(&listed)),
        ("CLUSTER INFO", bulk("cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_fail:0\r\n")),
    ];
    nodes[0].become_(|nature| nature.replies = replies.into());
    nodes
}

#[test]
fn engines_before_7_0_are_asked_for_cluster_slots() {
    let (env, nodes) = (TestEnv::new(), old_cluster());
    let port = nodes[0].port();

    // Clusters of Valkey 9 may have several databases.
    let output = env.run(&format!("dbs -c -p {port} --max-db auto"));
    assert_eq!(output.code, Some(0), "{output:?}");

    for (node, db) in nodes.iter().flat_map(|node| [(node, 0), (node, 15)]) {
        let line = format!("NODE 127.0.0.1:{} DB {db}: RUNNING\n", node.port());
        assert!(output.stdout.contains(&line), "{output:?}");
    }

    assert!(output.stdout.contains("32 databases on 2 nodes checked"), "{output:?}");

    let count_of = |command: &str| nodes[0].commands().iter().filter(|known| *known == command).count();
    let before = count_of("CLUSTER SHARDS");
    let output = env.run(&format!("cycles -c -p {port} --cycles 1 --run-duration 0.25 --check-interval 50ms"));

    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(env.count("redis_success.log", "CLUSTER SUCCESS "), 5 - output.missed());

    // A command that the server does not know is not sent again.
    assert_eq!(count_of("CLUSTER SHARDS"), before + 1);
}

#[test]
fn nodes_are_checked_on_their_tls_port_with_their_announced_name() {
    let (env, certificates) = (TestEnv::new(), Certificates::new());
    let ca = certificates.ca();
    let node = certificates.serve(&certificates.leaf("server", "127.0.0.1"), "--tls-cluster yes --cluster-enabled yes");

    assert_eq!(node.command("CLUSTER ADDSLOTSRANGE 0 16383"), "+OK");

    wait_ok(&node);
    let port = node.tls_port();
    let scan = format!("dbs -c -p {port} --tls --cacert {ca}");
    let output = env.run(&scan);

    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains(&format!("NODE 127.0.0.1:{port} DB 0: RUNNING\nCLUSTER: RUNNING\n")), "{output:?}");

    // The certificate is not for the announced name, but for the address.
    assert_eq!(node.command("CONFIG SET cluster-announce-hostname node.example"), "+OK");

    let output = env.run(&scan);
    assert_eq!(output.code, Some(0), "{output:?}");

    // The certificate is only for another name; --sni gives it.
    let node =
        certificates.serve(&certificates.leaf("other", "cache.example"), "--tls-cluster yes --cluster-enabled yes");
    assert_eq!(node.command("CLUSTER ADDSLOTSRANGE 0 16383"), "+OK");
    assert_eq!(node.command("CONFIG SET cluster-announce-hostname node.example"), "+OK");
    wait_ok(&node);
    let scan = format!("dbs -c -p {} --tls --cacert {ca}", node.tls_port());
    let output = env.run(&scan);
    assert!(output.code == Some(1) && output.stdout.contains("certificate is for cache.example"), "{output:?}");
    let output = env.run(&format!("{scan} --sni cache.example"));
    assert_eq!(output.code, Some(0), "{output:?}");
}

#[test]
fn every_engine_lists_its_nodes_and_databases() {
    // Valkey 9 has several databases in cluster mode. Engines before 7.0 do not have CLUSTER SHARDS.
    for (name, more, databases) in [
        ("redis-6.2", "", 1),
        ("redis-7.0", "", 1),
        ("valkey-8.1", "", 1),
        ("valkey-9.1", "--cluster-databases 16", 16),
    ] {
        let (env, server) = (TestEnv::new(), alone(&engine(name), more));
        let port = server.port();
        let nodes: String = (0..databases).map(|db| format!("NODE 127.0.0.1:{port} DB {db}: RUNNING\n")).collect();
        let shards: String = (0..databases).map(|db| format!("SHARD 0-16383 DB {db}: RUNNING\n")).collect();

        for (canary, shards) in [("", ""), ("--canary", &shards)] {
            let output = env.run(&format!("dbs -c -p {port} --max-db auto {canary}"));
            assert_eq!(output.code, Some(0), "{name}: {output:?}");
            assert!(output.stdout.contains(&format!("{nodes}{shards}CLUSTER: RUNNING\n")), "{name}: {output:?}");
        }
        assert_eq!(env.read("redis_error.log"), "");
    }
}
