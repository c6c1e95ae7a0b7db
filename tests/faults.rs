//! Every kind of failure, provoked on the wire, with the server's own text.

use std::fs;
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};

use crate::support::env::{Running, TestEnv};
use crate::support::real::Real;
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// What `dbs` says of one database.
fn verdict(env: &TestEnv, arguments: &[&str]) -> String {
    let output = env.run(&[&["dbs", "-n", "0", "-t", "0.3"], arguments].concat());
    assert_eq!(output.code, Some(1), "{output:?}");
    text_of(&output.stdout)
}

fn text_of(block: &str) -> String {
    let line = block.lines().find_map(|line| line.strip_prefix("DB 0: NOT RUNNING (")).unwrap_or(block);
    line.strip_suffix(')').unwrap_or(line).to_owned()
}

fn scripted(behaviour: Behaviour) -> String {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(behaviour);
    verdict(&env, &["-p", &server.port().to_string()]).replace(&server.address().to_string(), "<address>")
}

/// The same, in a network namespace that `setup` prepares.
fn in_namespace(setup: &str, arguments: &str) -> String {
    let env = TestEnv::new();
    fs::create_dir(env.logs()).unwrap();
    let binary = env!("CARGO_BIN_EXE_redis-health");
    let script = format!("set -e; ip link set lo up; {setup}; exec {binary} dbs -n 0 {arguments}");
    let output = Running::start(env.program(&["unshare", "-rnm", "sh", "-c", &script])).wait();
    assert_eq!(output.code, Some(1), "{output:?}");
    text_of(&output.stdout)
}

/// A network behind which everything vanishes without a word.
const VOID: &str = "ip link add v0 type veth peer name v1; ip addr add 10.99.0.1/24 dev v0; ip link set v0 up; \
                    ip link set v1 up; ip neigh add 10.99.0.2 lladdr 02:00:00:00:00:01 dev v0 nud permanent";

#[test]
fn what_the_network_does_has_a_kind() {
    for (behaviour, text) in [
        (Behaviour::Refuse, "refused: Connection refused"),
        (Behaviour::ResetOnAccept, "reset: Connection reset by peer"),
        (Behaviour::ResetAfter(1), "reset: Connection reset by peer"),
        (Behaviour::CloseAfter(0), "closed: Connection closed by the server"),
        (Behaviour::CloseAfter(1), "closed: Connection closed by the server"),
        (Behaviour::OnAccept(b"+O".to_vec()), "closed: Connection closed within a reply"),
        (Behaviour::DropPackets, "timeout: no connection to <address> within 300ms"),
        (Behaviour::StallAfter(0), "timeout: no reply to SELECT within 300ms"),
        (Behaviour::StallAfter(1), "timeout: no reply to PING within 300ms"),
        (Behaviour::HalfReply, "timeout: no reply to SELECT within 300ms"),
    ] {
        assert_eq!(scripted(behaviour.clone()), text, "{behaviour:?}");
    }
    assert_eq!(in_namespace("ip route add unreachable 10.1.2.3", "-h 10.1.2.3"), "unreachable: No route to host");
    assert_eq!(in_namespace("true", "-h 10.1.2.3"), "unreachable: Network is unreachable");
    assert_eq!(in_namespace(VOID, "-h 10.99.0.2 -t 0.3"), "timeout: no connection to 10.99.0.2:6379 within 300ms");
}

#[test]
fn names_that_cannot_be_resolved_are_told_from_name_servers_that_hang() {
    // Only /etc/hosts is asked, so the name does not exist.
    let files = "echo hosts: files > nsswitch; mount --bind nsswitch /etc/nsswitch.conf";
    assert_eq!(in_namespace(files, "-h cache.example"), "dns: cache.example: Name or service not known");
    let refused = "echo nameserver 127.0.0.1 > resolv; mount --bind resolv /etc/resolv.conf; \
                   echo hosts: dns > nsswitch; mount --bind nsswitch /etc/nsswitch.conf";
    assert_eq!(in_namespace(refused, "-h cache.example"), "dns: cache.example: Temporary failure in name resolution");
    let silent = format!(
        "{VOID}; echo nameserver 10.99.0.2 > resolv; mount --bind resolv /etc/resolv.conf; \
         echo hosts: dns > nsswitch; mount --bind nsswitch /etc/nsswitch.conf"
    );
    assert_eq!(
        in_namespace(&silent, "-h cache.example -t 0.3"),
        "timeout: no answer to the name look-up of cache.example within 300ms"
    );
}

#[test]
fn checks_that_hang_in_the_resolver_share_a_look_up_and_end_in_time() {
    let env = TestEnv::new();
    fs::create_dir(env.logs()).unwrap();
    let binary = env!("CARGO_BIN_EXE_redis-health");
    let script = format!(
        "set -e; ip link set lo up; {VOID}; echo nameserver 10.99.0.2 > resolv; mount --bind resolv /etc/resolv.conf; \
         echo hosts: dns > nsswitch; mount --bind nsswitch /etc/nsswitch.conf; \
         exec {binary} cycles -h cache.example --cycles 1 --run-duration 1 --check-interval 50ms -t 500ms"
    );
    let output = Running::start(env.program(&["unshare", "-rnm", "sh", "-c", &script])).wait();
    assert_eq!(output.code, Some(1), "{output:?}");
    let errors = env.read("redis_error.log");
    assert_eq!(errors.matches("FAILURE: timeout: no answer to the name look-up").count(), 20, "{errors}");
    // libc itself would wait for ten seconds.
    assert!(output.elapsed < Duration::from_secs(5), "{:?}", output.elapsed);
}

#[test]
fn a_login_that_hangs_is_named() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.become_(|nature| nature.password = Some("secret".into()));
    server.behave(Behaviour::StallAfter(0));
    let port = server.port().to_string();
    let mut command = env.command(&["dbs", "-n", "0", "-t", "0.3", "-p", &port]);
    command.env("REDISCLI_AUTH", "secret");
    let output = Running::start(command).wait();
    assert_eq!(text_of(&output.stdout), "timeout: no reply to AUTH within 300ms");
}

#[test]
fn error_replies_keep_the_servers_text() {
    for (text, kind) in [
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("READONLY You can't write against a read only replica.", "readonly"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "masterdown"),
        ("CLUSTERDOWN The cluster is down", "clusterdown"),
        ("NOAUTH Authentication required.", "auth"),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", "busy"),
        ("ERR DB index is out of range", "no-such-db"),
        ("ERR SELECT is not allowed in cluster mode", "no-such-db"),
        ("ERR unknown command 'PING'", "error"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "error"),
    ] {
        for command in ["PING", "SELECT"] {
            let said = scripted(Behaviour::ErrorFor(command, text.to_owned()));
            assert_eq!(said, format!("{kind}: {text}"), "{command}");
        }
        assert_eq!(scripted(Behaviour::Error(text.to_owned())), format!("{kind}: {text}"));
    }
}

#[test]
fn an_error_sent_on_accept_is_reported_as_itself() {
    for (text, kind) in [
        ("ERR max number of clients reached", "maxclients"),
        ("DENIED Redis is running in protected mode because protected mode is enabled", "error"),
    ] {
        let said = scripted(Behaviour::OnAccept(format!("-{text}\r\n").into_bytes()));
        assert_eq!(said, format!("{kind}: {text}"));
        // All databases at the price of one connection.
        let (env, server) = (TestEnv::new(), Server::start());
        server.behave(Behaviour::OnAccept(format!("-{text}\r\n").into_bytes()));
        let output = env.run(&["dbs", "-p", &server.port().to_string()]);
        assert_eq!(output.stdout.matches(text).count(), 16, "{output:?}");
        assert_eq!(server.accepted(), 1);
    }
}

#[test]
fn what_is_not_the_protocol_is_shown() {
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec();
    assert_eq!(scripted(Behaviour::Raw(http)), "protocol: not a Redis reply: HTTP/1.1 400 Bad Request");
    for (bytes, text) in [
        (b"+OK\r\n".as_slice(), "protocol: +OK in reply to PING"),
        (b"+PONG\r\n", "protocol: +PONG in reply to SELECT"),
        (b":1\r\n", "protocol: an integer in reply to SELECT"),
        (b"$4\r\nPONG\r\n", "protocol: \"PONG\" in reply to SELECT"),
        (b"*0\r\n", "protocol: an array in reply to SELECT"),
        (b"_\r\n", "protocol: a null in reply to SELECT"),
    ] {
        assert_eq!(scripted(Behaviour::Raw(bytes.to_vec())), text);
    }
    // The alert of a server that expects TLS.
    assert_eq!(
        scripted(Behaviour::OnAccept(b"\x15\x03\x03\x00\x02\x02\x46".to_vec())),
        "protocol: not a Redis reply: \\u{15}\\u{3}\\u{3}\\u{0}\\u{2}\\u{2}F"
    );
}

#[test]
fn a_real_server_without_a_free_connection() {
    let (env, server) = (TestEnv::new(), Real::start(&["--maxclients", "2"]));
    let _held = [server.send(&["PING"]), server.send(&["PING"])];
    let port = server.port().to_string();
    assert!(eventually(LIMIT, || {
        env.run(&["dbs", "-n", "0", "-p", &port]).stdout.contains("(maxclients: ERR max number of clients reached)")
    }));
}

#[test]
fn a_real_script_that_blocks() {
    let (env, server) = (TestEnv::new(), Real::start(&["--busy-reply-threshold", "10"]));
    let _script = server.send(&["EVAL", "while true do end", "0"]);
    let port = server.port().to_string();
    assert!(eventually(LIMIT, || {
        env.run(&["dbs", "-n", "0", "-p", &port]).stdout.contains("(busy: BUSY Redis is busy running a script.")
    }));
}

#[test]
fn a_real_server_that_cannot_save() {
    let (env, server) = (TestEnv::new(), Real::start(&["--enable-protected-configs", "yes"]));
    server.command(&["CONFIG", "SET", "save", "3600 1000000"]);
    let folder = server.folder().join("gone");
    fs::create_dir(&folder).unwrap();
    server.command(&["CONFIG", "SET", "dir", folder.to_str().unwrap()]);
    fs::remove_dir(&folder).unwrap();
    server.command(&["BGSAVE"]);
    assert!(eventually(LIMIT, || server.command(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")));
    let said = verdict(&env, &["-p", &server.port().to_string()]);
    assert!(said.starts_with("misconf: MISCONF Redis is configured to save RDB snapshots"), "{said}");
    assert!(said.len() <= 300);
}

#[test]
fn a_real_replica_that_lost_its_primary() {
    let env = TestEnv::new();
    let gone = crate::support::real::free_port().to_string();
    let server = Real::start(&["--replicaof", "127.0.0.1", &gone, "--replica-serve-stale-data", "no"]);
    let said = verdict(&env, &["-p", &server.port().to_string()]);
    assert!(said.starts_with("masterdown: MASTERDOWN Link with MASTER is down"), "{said}");
}

#[test]
fn a_real_server_that_is_frozen() {
    let (env, server) = (TestEnv::new(), Real::start(&[]));
    server.freeze();
    let said = verdict(&env, &["-p", &server.port().to_string()]);
    server.thaw();
    assert_eq!(said, "timeout: no reply to SELECT within 300ms");
}

#[test]
fn every_tick_of_an_outage_is_logged_and_none_succeeds_within() {
    for fault in [
        Behaviour::Refuse,
        Behaviour::ResetOnAccept,
        Behaviour::CloseAfter(0),
        Behaviour::StallAfter(0),
        Behaviour::HalfReply,
        Behaviour::DropPackets,
        Behaviour::ErrorFor("PING", "LOADING Redis is loading the dataset in memory".into()),
    ] {
        let (env, server) = (TestEnv::new(), Server::start());
        let port = server.port().to_string();
        let run = env.spawn(&[
            "cycles",
            "-p",
            &port,
            "--cycles",
            "1",
            "--run-duration",
            "2",
            "--check-interval",
            "100ms",
            "-t",
            "600ms",
        ]);
        env.wait_for("redis_success.log", |text| text.contains("SUCCESS 4\n"));
        let now = || chrono::Utc::now().naive_utc();
        let began = now();
        server.behave(fault.clone());
        let in_force = now();
        env.wait_for("redis_error.log", |text| text.matches("FAILURE").count() >= 4);
        let ending = now();
        server.behave(Behaviour::Serve);
        let over = now();
        let output = run.wait();
        assert_eq!(output.code, Some(1), "{output:?}");
        let (success, errors) = (env.read("redis_success.log"), env.read("redis_error.log"));
        let stamps = |text: &str, word: &str| -> Vec<NaiveDateTime> {
            let lines = text.lines().filter(|line| line.contains(word));
            lines.map(|line| NaiveDateTime::parse_from_str(&line[..23], "%Y-%m-%d %H:%M:%S%.3f").unwrap()).collect()
        };
        let (failures, successes) = (stamps(&errors, "FAILURE"), stamps(&success, "SUCCESS"));
        let all = format!("{fault:?} from {began} to {over}:\n{success}{errors}");
        // A machine that stands still for a while misses checks, which is told.
        let missed: usize =
            output.stdout.lines().find_map(|line| line.strip_prefix("checks missed: ")?.parse().ok()).unwrap_or(0);
        assert_eq!(successes.len() + failures.len() + missed, 20, "{all}");
        let (first, last) = (failures.iter().min().unwrap(), failures.iter().max().unwrap());
        assert!(!successes.iter().any(|at| at > first && at < last), "{all}");
        // A check may begin before the fault and meet it, or begin in it and outlast it; nothing else crosses its ends.
        let (timeout, rounding) = (TimeDelta::milliseconds(600), TimeDelta::milliseconds(1));
        assert!(*first + timeout >= began - rounding && *last <= over, "{all}");
        assert!(!successes.iter().any(|at| *at > in_force && *at + timeout < ending), "{all}");
        assert_eq!(errors.matches("=== Outage").count(), 2, "{fault:?}:\n{errors}");
    }
}

#[test]
fn a_plain_connection_that_ends_at_once_makes_one_think_of_tls() {
    let server = Server::start();
    let port = server.port().to_string();
    for (behaviour, asked) in [(Behaviour::ResetOnAccept, true), (Behaviour::CloseAfter(1), false)] {
        let env = TestEnv::new();
        server.behave(behaviour);
        let output = env.run(&["dbs", "-v", "-n", "0", "-p", &port]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert_eq!(output.stderr.contains("does the server want --tls?"), asked, "{output:?}");
        assert!(!env.read("redis_db_health.log").contains("--tls"), "{output:?}");
    }
}
