//! Every kind of failure, caused by a real fault, with the server's own text.

use std::fs;
use std::time::Duration;

use chrono::{TimeDelta, Utc};

use crate::support::env::{Output, Running, TestEnv};
use crate::support::logs::stamps;
use crate::support::real::{Real, free_port};
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// The failure that `dbs` reports for database 0.
fn verdict(env: &TestEnv, flags: &str) -> String {
    text_of(&env.run(&format!("dbs -n 0 {flags}")))
}

fn text_of(output: &Output) -> String {
    assert_eq!(output.code, Some(1), "{output:?}");
    let line = output.stdout.lines().find_map(|line| line.strip_prefix("DB 0: NOT RUNNING ("));
    line.and_then(|line| line.strip_suffix(')')).unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

/// The failure that `dbs` reports for a server with this behaviour.
fn scripted(behaviour: Behaviour, flags: &str) -> String {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(behaviour);

    let text = verdict(&env, &format!("-p {} {flags}", server.port()));
    text.replace(&server.address().to_string(), "<address>")
}

/// The failure that `dbs` reports in a network namespace that `setup` prepares.
fn in_namespace(setup: &str, flags: &str) -> String {
    let env = TestEnv::new();
    text_of(
        &Running::start(env.in_namespaces("-rnm", &format!("{LOOPBACK}; {setup}"), &format!("dbs -n 0 {flags}")))
            .wait(),
    )
}

/// Shell commands that set this as the only name server.
fn name_server(address: &str) -> String {
    format!(
        "printf 'nameserver {address}\\noptions timeout:30 attempts:1\\n' > resolv; \
         mount --bind resolv /etc/resolv.conf; \
         echo hosts: dns > nsswitch; mount --bind nsswitch /etc/nsswitch.conf"
    )
}

/// Sets up the loopback interface, which is down in a new network namespace.
const LOOPBACK: &str = "ip link set lo up";

/// A network that drops all packets.
const BLACKHOLE: &str = "ip link add v0 type veth peer name v1; ip addr add 10.99.0.1/24 dev v0; ip link set v0 up; \
                    ip link set v1 up; ip neigh add 10.99.0.2 lladdr 02:00:00:00:00:01 dev v0 nud permanent";

#[test]
fn each_network_fault_has_its_kind() {
    let started = b"+O".to_vec();
    for (behaviour, flags, text) in [
        (Behaviour::Refuse, "", "refused: Connection refused"),
        (Behaviour::ResetOnAccept, "", "reset: Connection reset by peer"),
        (Behaviour::ResetAfter(1), "", "reset: Connection reset by peer"),
        (Behaviour::CloseAfter(0), "", "closed: Connection closed by the server"),
        (Behaviour::CloseAfter(1), "", "closed: Connection closed by the server"),
        (Behaviour::OnAccept(started), "", "closed: Connection closed within a reply"),
        (Behaviour::DropPackets, "-t 0.5", "timeout: no connection to <address> within 500ms"),
        (Behaviour::StallAfter(0), "-t 0.5", "timeout: no reply to SELECT within 500ms"),
        (Behaviour::StallAfter(1), "-t 0.5", "timeout: no reply to PING within 500ms"),
        (Behaviour::HalfReply, "-t 0.5", "timeout: no reply to SELECT within 500ms"),
    ] {
        assert_eq!(scripted(behaviour.clone(), flags), text, "{behaviour:?}");
    }

    for (setup, flags, text) in [
        ("ip route add unreachable 10.1.2.3", "-h 10.1.2.3", "unreachable: No route to host"),
        ("true", "-h 10.1.2.3", "unreachable: Network is unreachable"),
        (BLACKHOLE, "-h 10.99.0.2 -t 0.5", "timeout: no connection to 10.99.0.2:6379 within 500ms"),
    ] {
        assert_eq!(in_namespace(setup, flags), text, "{setup}");
    }
}

#[test]
fn unknown_names_and_hanging_name_servers_are_distinguished() {
    let files_only = "echo hosts: files > nsswitch; mount --bind nsswitch /etc/nsswitch.conf".to_owned();
    for (setup, flags, text) in [
        (files_only, "", "dns: cache.example: Name or service not known"),
        (name_server("127.0.0.1"), "", "dns: cache.example: Temporary failure in name resolution"),
        (
            format!("{BLACKHOLE}; {}", name_server("10.99.0.2")),
            "-t 0.5",
            "timeout: no answer to the name look-up of cache.example within 500ms",
        ),
    ] {
        assert_eq!(in_namespace(&setup, &format!("-h cache.example {flags}")), text, "{setup}");
    }
}

#[test]
fn checks_that_hang_in_the_resolver_share_a_lookup_and_end_in_time() {
    let env = TestEnv::new();
    let setup = format!("{LOOPBACK}; {BLACKHOLE}; {}", name_server("10.99.0.2"));
    let run = "cycles -h cache.example --cycles 1 --run-duration 1 --check-interval 50ms -t 500ms";
    let output = Running::start(env.in_namespaces("-rnm", &setup, run)).wait();

    assert_eq!(output.code, Some(1), "{output:?}");

    let errors = env.read("redis_error.log");
    let failures = errors.matches("FAILURE: timeout: no answer to the name look-up").count();
    assert_eq!(failures, 20 - output.missed(), "{errors}");

    // The resolver itself would wait for 30 s.
    assert!(output.elapsed < Duration::from_secs(20), "{:?}", output.elapsed);
}

#[test]
fn a_login_timeout_names_auth() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.become_(|nature| nature.password = Some("secret".into()));
    server.behave(Behaviour::StallAfter(0));
    let port = server.port();

    let output = env.run_with(&[("REDISCLI_AUTH", "secret")], &format!("dbs -n 0 -t 0.5 -p {port}"));
    assert_eq!(text_of(&output), "timeout: no reply to AUTH within 500ms");
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
        ("ERR unknown command 'PING'", "error"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "error"),
    ] {
        // A server that does not know SELECT is no Redis server.
        let hint = if text.contains("unknown command") {
            " (a Sentinel or a proxy? give the server's address, or use --no-select)"
        } else {
            ""
        };
        for (behaviour, hint) in [
            (Behaviour::ErrorFor("PING", text.to_owned()), ""),
            (Behaviour::ErrorFor("SELECT", text.to_owned()), hint),
            (Behaviour::Error(text.to_owned()), hint),
        ] {
            assert_eq!(scripted(behaviour.clone(), ""), format!("{kind}: {text}{hint}"), "{behaviour:?}");
        }
    }
}

#[test]
fn an_error_sent_on_accept_is_reported() {
    for (text, kind) in [
        ("ERR max number of clients reached", "maxclients"),
        ("DENIED Redis is running in protected mode because protected mode is enabled", "error"),
    ] {
        let said = scripted(Behaviour::OnAccept(format!("-{text}\r\n").into_bytes()), "");
        assert_eq!(said, format!("{kind}: {text}"));
        // One connection is enough for all databases.
        let (env, server) = (TestEnv::new(), Server::start());
        server.behave(Behaviour::OnAccept(format!("-{text}\r\n").into_bytes()));
        let output = env.run(&format!("dbs -p {}", server.port()));
        assert_eq!(output.stdout.matches(text).count(), 16, "{output:?}");
        assert_eq!(server.accepted(), 1);
    }
}

#[test]
fn text_that_is_not_the_protocol_is_shown() {
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    for (bytes, text) in [
        (http.as_slice(), "protocol: not a Redis reply: HTTP/1.1 400 Bad Request"),
        (b"+OK\r\n", "protocol: +OK in reply to PING"),
        (b"+PONG\r\n", "protocol: +PONG in reply to SELECT"),
        (b":1\r\n", "protocol: an integer in reply to SELECT"),
        (b"$4\r\nPONG\r\n", "protocol: \"PONG\" in reply to SELECT"),
        (b"*0\r\n", "protocol: an array in reply to SELECT"),
        (b"_\r\n", "protocol: a null in reply to SELECT"),
    ] {
        assert_eq!(scripted(Behaviour::Raw(bytes.to_vec()), ""), text, "{}", bytes.escape_ascii());
    }

    // The alert that a TLS server sends.
    assert_eq!(
        scripted(Behaviour::OnAccept(b"\x15\x03\x03\x00\x02\x02\x46".to_vec()), ""),
        "protocol: not a Redis reply: \\u{15}\\u{3}\\u{3}\\u{0}\\u{2}\\u{2}F"
    );
}

/// Waits until a scan reports this text for database 0. The fault takes effect with a delay.
fn wait_for_verdict(server: &Real, text: &str) {
    let (env, port) = (TestEnv::new(), server.port());
    let mut output = env.run(&format!("dbs -n 0 -p {port}"));
    let said = eventually(LIMIT, || {
        output = env.run(&format!("dbs -n 0 -p {port}"));
        output.stdout.contains(text)
    });
    assert!(said, "{text} is not reported: {output:?}");
}

#[test]
fn a_real_server_at_its_connection_limit() {
    let server = Real::start("--maxclients 2");
    let _held = [server.send("PING"), server.send("PING")];
    wait_for_verdict(&server, "(maxclients: ERR max number of clients reached)");
}

#[test]
fn a_real_script_that_blocks() {
    let server = Real::start("--busy-reply-threshold 10");
    let _script = server.send("EVAL 'while true do end' 0");
    wait_for_verdict(&server, "(busy: BUSY Redis is busy running a script.");
}

#[test]
fn a_real_server_that_cannot_save() {
    let (env, server) = (TestEnv::new(), Real::start("--enable-protected-configs yes"));
    server.command("CONFIG SET save '3600 1000000'");
    let folder = server.folder().join("gone");
    fs::create_dir(&folder).unwrap();
    server.command(&format!("CONFIG SET dir {}", folder.to_str().unwrap()));
    fs::remove_dir(&folder).unwrap();
    server.command("BGSAVE");

    assert!(eventually(LIMIT, || server.info("INFO persistence", "rdb_last_bgsave_status") == "err"));

    let said = verdict(&env, &format!("-p {}", server.port()));
    assert!(said.starts_with("misconf: MISCONF Redis is configured to save RDB snapshots"), "{said}");
    assert!(said.len() <= 300);
}

#[test]
fn real_servers_that_refuse_writes() {
    for (settings, text) in [
        ("--maxmemory 1", "oom: OOM command not allowed when used memory > 'maxmemory'."),
        ("--min-replicas-to-write 1", "noreplicas: NOREPLICAS Not enough good replicas to write."),
    ] {
        let (env, server) = (TestEnv::new(), Real::start(settings));
        let output = env.run(&format!("dbs -n 0 --canary -p {}", server.port()));
        assert!(output.stdout.contains(&format!("DB 0 WRITE: NOT RUNNING ({text})\n")), "{output:?}");
    }
}

#[test]
fn a_real_replica_that_lost_its_primary() {
    let env = TestEnv::new();
    let gone = free_port();
    let server = Real::start(&format!("--replicaof 127.0.0.1 {gone} --replica-serve-stale-data no"));
    let said = verdict(&env, &format!("-p {}", server.port()));
    assert!(said.starts_with("masterdown: MASTERDOWN Link with MASTER is down"), "{said}");
}

#[test]
fn a_real_server_that_is_frozen() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    server.freeze();
    let said = verdict(&env, &format!("-p {} -t 0.5", server.port()));
    server.thaw();
    assert_eq!(said, "timeout: no reply to SELECT within 500ms");
}

/// Whether all checks up to the first success after an outage are logged. The number in a success line counts failed
/// checks too.
fn is_complete((success, errors): &(String, String)) -> bool {
    let failures = stamps(errors, "FAILURE");
    let numbers = success.lines().filter_map(|line| line.split_once(" SUCCESS ")?.1.parse::<usize>().ok());
    let successes: Vec<_> = stamps(success, "SUCCESS").into_iter().zip(numbers).collect();

    let after = successes.iter().filter(|(at, _)| failures.iter().all(|failure| failure < at));
    let Some(first_after) = after.map(|(_, number)| *number).min() else { return false };
    let before = successes.iter().filter(|(_, number)| *number < first_after).count();
    before + failures.len() == first_after - 1
}

#[test]
fn every_check_of_an_outage_is_logged_and_none_succeeds() {
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
        let port = server.port();
        let run = env.endless_until(&format!("-p {port} --check-interval 100ms -t 600ms"), "SUCCESS 4\n");

        let now = || Utc::now().naive_utc();
        let began = now();
        server.behave(fault.clone());
        let in_force = now();
        env.wait_for("redis_error.log", |text| text.matches("FAILURE").count() >= 4);
        let ending = now();
        server.behave(Behaviour::Serve);
        let over = now();

        env.wait_for("redis_error.log", |text| text.contains("=== Outage of endpoint ended at "));
        let logs = || (env.read("redis_success.log"), env.read("redis_error.log"));
        let complete = eventually(LIMIT, || is_complete(&logs()));
        run.stop();

        let (success, errors) = logs();
        let all = format!("{fault:?} from {began} to {over}:\n{success}{errors}");
        assert!(complete, "a check is not logged: {all}");

        let (failures, successes) = (stamps(&errors, "FAILURE"), stamps(&success, "SUCCESS"));
        let (first, last) = (failures.iter().min().unwrap(), failures.iter().max().unwrap());
        assert!(!successes.iter().any(|at| at > first && at < last), "{all}");
        // Only a check in progress at the start or end of the fault may have either result.
        let (timeout, rounding) = (TimeDelta::milliseconds(600), TimeDelta::milliseconds(1));
        assert!(*first + timeout >= began - rounding && *last <= over, "{all}");
        assert!(!successes.iter().any(|at| *at > in_force && *at + timeout < ending), "{all}");
        assert_eq!(errors.matches("=== Outage").count(), 2, "{fault:?}:\n{errors}");
    }
}

#[test]
fn verbose_suggests_tls_when_a_plain_connection_ends_at_once() {
    let server = Server::start();
    let port = server.port();

    for (behaviour, is_suggested) in [(Behaviour::CloseAfter(0), true), (Behaviour::CloseAfter(1), false)] {
        let env = TestEnv::new();
        server.behave(behaviour);
        let output = env.run(&format!("dbs -v -n 0 -p {port}"));
        assert_eq!(output.code, Some(1), "{output:?}");
        assert_eq!(output.stderr.contains("does the server require --tls?"), is_suggested, "{output:?}");
        assert!(!env.read("redis_db_health.log").contains("--tls"), "{output:?}");
    }
}

#[test]
fn a_proxy_or_a_sentinel_that_does_not_know_select() {
    let unknown = "ERR unknown command 'SELECT', with args beginning with: '0' ";
    let hint = "(a Sentinel or a proxy? give the server's address, or use --no-select)";
    let said = scripted(Behaviour::ErrorFor("SELECT", unknown.to_owned()), "");
    assert_eq!(said, format!("error: {unknown} {hint}"));

    // Such as twemproxy.
    let server = Server::start();
    server.behave(Behaviour::CloseOn(&["SELECT", "INFO", "ROLE", "HELLO"]));
    let port = server.port();
    let output = TestEnv::new().run(&format!("dbs -v -n 0 -p {port}"));
    assert!(output.stdout.contains("closed: Connection closed by the server"), "{output:?}");
    assert!(output.stderr.contains("needs --no-select"), "{output:?}");

    for flags in ["", "-n 0", "--canary", "--log-format json"] {
        let (env, output) = no_select(port, &format!("dbs {flags}"));
        assert_eq!(output.code, Some(0), "{flags}: {output:?}");
        assert!(output.stdout.contains("DB 0: RUNNING") && !output.stdout.contains("DB 1"), "{flags}: {output:?}");
        drop(env);
    }
    let (env, output) = no_select(port, "cycles --held --canary --cycles 1 --run-duration 1 --check-interval 200ms");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(env.read("redis_success.log").contains(" SUCCESS 5\n"), "{output:?}");
    assert!(!server.commands().iter().any(|command| command.starts_with("INFO")), "{output:?}");

    // A fault is still one.
    server.behave(Behaviour::ErrorFor("PING", "LOADING Redis is loading the dataset in memory".into()));
    let (_, output) = no_select(port, "dbs");
    assert!(output.stdout.contains("DB 0: NOT RUNNING (loading: "), "{output:?}");
}

fn no_select(port: u16, arguments: &str) -> (TestEnv, Output) {
    let env = TestEnv::new();
    let output = env.run(&format!("{arguments} --no-select -p {port}"));
    (env, output)
}
