//! Hostile servers and names: nothing crashes the program, exhausts memory, corrupts the log or shows the password.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::attacks::{MODES, attacks, mutating};
use crate::support::env::{ENDLESS, Output, Running, TestEnv};
use crate::support::scripted::{LIMIT, Server};

/// The maximum length of a failure's text in a line, in bytes.
const MAX_TEXT: usize = 300;

#[test]
fn hostile_replies_are_only_data() {
    let server = Server::start();
    let port = server.port().to_string();
    for attack in attacks() {
        let env = TestEnv::new();
        server.behave(attack.clone());
        let run = env.spawn(&["dbs", "-n", "0", "-t", "0.2", "-p", &port]);
        let peak = peak_memory(run.pid());
        let output = run.wait();
        let name = format!("{attack:?}").chars().take(100).collect::<String>();
        assert!(matches!(output.code, Some(0 | 1)), "{name}: {output:?}");
        assert_eq!(output.stderr, "", "{name}");
        assert!(output.elapsed < LIMIT / 2, "{name}: {:?}", output.elapsed);
        let block = env.read("redis_db_health.log");
        let lines: Vec<_> = block.lines().collect();
        assert!(lines.len() == 3 && lines[1].starts_with("DB 0: ") && lines[2].is_empty(), "{name}: {block:?}");
        assert!(lines[1].len() <= MAX_TEXT + "DB 0: NOT RUNNING ()".len(), "{name}: {block:?}");
        assert!(!block.contains(|c: char| c.is_control() && c != '\n'), "{name}: {block:?}");
        assert!(!block.contains('\u{202e}'), "{name}: {block:?}");
        assert!(peak < 32 << 10, "{name}: {peak} KiB");
    }
}

#[test]
fn mutated_replies_are_only_data() {
    let server = mutating();
    for mode in MODES {
        let (env, before) = (TestEnv::new(), server.mutated());
        for number in 0.. {
            // A few runs of dbs, or one of cycles.
            if server.mutated() - before > 150 || number == 20 {
                break;
            }
            let more = if mode.starts_with("cycles") { "--run-duration 0.4" } else { "" };
            let flags = format!("{mode} {more} -t 0.1 --metrics-file m.prom -p {}", server.port());
            let run = env.spawn_with(&[("REDISCLI_AUTH", "hunter2-s3cret")], &flags);
            let peak = peak_memory(run.pid());
            let output = run.wait();
            assert!(matches!(output.code, Some(0 | 1)), "{mode}: {output:?}");
            assert!(peak < 32 << 10, "{mode}: {peak} KiB");
            let text = everything(&env, &output);
            assert!(!is_raw(&text) && !text.contains("hunter2"), "{mode}: {text}");
        }
    }
    assert!(server.mutated() > 1000, "{}", server.mutated());
}

/// The peak memory of a process in KiB, sampled until it exits.
fn peak_memory(pid: u32) -> u64 {
    let mut peak = 0;
    while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let Some(now) = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()) else { break };
        peak = peak.max(now);
        std::thread::sleep(Duration::from_millis(1));
    }
    peak
}

/// Everything that a run left: both streams, and the text of all files in the test's folder.
fn everything(env: &TestEnv, output: &Output) -> String {
    fn files(folder: &Path) -> Vec<String> {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let text = |path: &Path| vec![String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()];
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { text(&path) }).collect()
    }
    [output.stdout.clone(), output.stderr.clone(), files(env.path()).join("\n")].join("\n")
}

const FORGED: &str = "=== All cycles finished at 2025-01-01 00:00:00 ===";

/// What a hostile server may report about itself.
fn hostile_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "\x1b[2J",
        "\x1b]0;owned\x07",
        "\x1b]52;c;aGk=\x07",
        "\x07",
        "\0",
        "\x08\x08\x08",
        "\t",
        "\x0b",
        "\x7f",
        "\u{85}",
        "\u{9b}31m",
        "\u{202e}",
        "\u{2066}",
        "\u{200f}",
        "\u{61c}",
        "\u{200b}",
        "\u{200d}",
        "\u{feff}",
        "\u{2028}",
    ]
    .map(|text| format!("a{text}b"))
    .into();
    texts.push(format!("a\r{FORGED}\rb"));
    texts.push("a".repeat(15_000));
    texts
}

/// Whether a text drives a terminal, begins a forged line, or shows something else than it contains.
fn is_raw(text: &str) -> bool {
    const HIDDEN: [char; 10] = [
        '\u{202e}', '\u{2066}', '\u{200f}', '\u{61c}', '\u{200b}', '\u{200d}', '\u{feff}', '\u{2028}', '\u{2029}',
        '\u{ad}',
    ];
    text.chars().any(|c| (c.is_control() && c != '\n') || HIDDEN.contains(&c))
        || text.lines().any(|line| line.starts_with(FORGED))
}

#[test]
fn no_output_shows_a_hostile_identity_raw() {
    for (format, flags) in [("classic", ""), ("json", "--json")] {
        let (env, server) = (TestEnv::new(), Server::start());
        let run = env.spawn(&format!(
            "{ENDLESS} -v -p {} --log-format {format} --trace-dir traces --metrics-file metrics.prom {flags}",
            server.port()
        ));
        env.wait_for("redis_success.log", |log| log.contains("SUCCESS 1\n") || log.contains("\"number\":1,"));
        for (number, text) in hostile_texts().iter().enumerate() {
            let line = |name: &str| format!("{name}:{number}{text}x");
            server.become_(|nature| nature.info = ["server_name", "redis_version", "run_id"].map(line).into());
            env.wait_for("redis_success.log", |log| {
                log.matches(" run id ").count() + log.matches(r#""what":"server""#).count() > number
            });
        }

        let output = run.stop();
        for line in env.read("redis_success.log").lines().chain(output.stderr.lines()) {
            assert!(line.len() < 1000, "{line}");
        }
        let text = everything(&env, &output);
        assert!(!is_raw(&text), "{text}");
        assert!(text.matches("u{1b}[2J").count() > 3, "{text}");

        for report in ["report logs", "report --json logs", "report --html page.html logs"] {
            let read = env.run(report);
            assert_eq!(read.code, Some(0), "{read:?}");
            let text = everything(&env, &read);
            assert!(!is_raw(&text) && read.stdout.contains("u{1b}[2J"), "{text}");
        }
    }
}

#[test]
fn no_output_shows_hostile_names_in_logs_files_and_the_environment_raw() {
    for text in hostile_texts().iter().filter(|text| !text.contains('\0')) {
        let (env, at, text) = (TestEnv::new(), "2025-08-27 07:35:01", &text[..text.len().min(200)]);
        env.write(
            "redis_success.log",
            &format!(
                "{at} NODE {text} SUCCESS 1\n{at} SHARD {text} SUCCESS 1\n{at} FAILURE: error: {text}\n\
                 {at} FAILURE: {text}\n=== Endpoint moved from {text} to b{text} at {at} ===\nunreadable {text}\n"
            ),
        );
        let folder = env.path().join(format!("logs {text}"));
        fs::rename(env.logs(), &folder).unwrap();
        let folder = folder.to_str().unwrap();

        let mut outputs = Vec::new();
        for flags in [&["-v"][..], &["-v", "--json"], &["-v", "--html", "page.html"]] {
            let output = env.run(&[&["report", folder], flags].concat());
            assert_eq!(output.code, Some(1), "{output:?}");
            outputs.push(output);
        }
        outputs.push(env.run(&["report", &format!("{folder}/none")]));
        outputs.push(env.run(&["dbs", "-h", text]));
        outputs.push(env.run(&["dbs", "-v", "-s", text]));
        let host = text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        outputs.push(env.run(&["dbs", "-n", "0", "-u", &format!("redis://{host}")]));
        for name in ["PORT", "TIMEOUT", "CACERT", "PASS_FILE", "METRICS_FILE", "HOST"] {
            let variable = (&*format!("REDIS_HEALTH_{name}"), text);
            outputs.push(env.run_with(&[variable], "dbs --help"));
            outputs.push(env.run_with(&[variable], "dbs -n 0 --tls"));
        }
        for output in outputs {
            assert!(!is_raw(&output.stdout) && !is_raw(&output.stderr), "{output:?}");
        }
        let page = fs::read_to_string(env.path().join("page.html")).unwrap();
        assert!(!is_raw(&page), "{page}");
    }
}

/// It has a line end, quotes and a letter outside ASCII, which servers repeat in different forms.
const SECRET: &str = "hun\"ter2\\s3cret ü\r\nend";

/// The forms in which a server or a proxy may repeat it.
fn forms() -> [String; 5] {
    let bytes = |c: char| c.to_string().bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let escaped = SECRET.replace('\\', "\\\\").replace('"', "\\\"");
    [
        SECRET.to_owned(),
        SECRET.replace(['\r', '\n'], " "),
        escaped.clone(),
        escaped.chars().map(|c| if (' '..='~').contains(&c) { c.to_string() } else { bytes(c) }).collect(),
        format!("{SECRET}{SECRET}"),
    ]
}

/// The replies that show `text`, in one place each, with the commands that they answer.
fn places(text: &str) -> Vec<(&'static str, String)> {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let node = |field: &str| {
        let known = [("endpoint", "127.0.0.1"), ("hostname", "a.example"), ("id", "a"), ("role", "master")];
        let fields = known.map(|(name, value)| bulk(name) + &bulk(if name == field { text } else { value })).concat();
        let nodes = format!("*1\r\n*10\r\n{fields}{}:1\r\n", bulk("port"));
        format!("*1\r\n*4\r\n{}*2\r\n:0\r\n:16383\r\n{}{nodes}", bulk("slots"), bulk("nodes"))
    };
    let line = text.replace(['\r', '\n'], " ");
    let errors = ["AUTH *", "SELECT *", "PING", "ROLE", "SET *", "GET *", "DEL *", "CLUSTER SHARDS", "CLUSTER INFO"];
    let mut places: Vec<_> = errors.map(|command| (command, format!("-ERR {line}\r\n"))).into();
    places.extend([
        ("SELECT *", format!("+{line}\r\n")),
        ("PING", bulk(text)),
        ("PING", format!("{line}\r\n")),
        ("PING", format!("-NOPERM {line}\r\n")),
        ("SET *", format!("-MOVED 1 {line}:1\r\n")),
        ("GET *", bulk(text)),
        ("INFO *", bulk(&format!("server_name:{text}\r\nredis_version:7\r\n"))),
        ("INFO *", bulk(&format!("redis_version:{text}\r\n"))),
        ("INFO *", bulk(&format!("redis_version:7\r\nrun_id:{text}\r\n"))),
        ("INFO *", format!("={}\r\ntxt:redis_version:7{text}\r\n", text.len() + 19)),
        ("CLUSTER INFO", bulk(&format!("cluster_state:{text}\r\n"))),
        ("CLUSTER SHARDS", node("endpoint")),
        ("CLUSTER SHARDS", node("hostname")),
        ("CLUSTER SHARDS", node("id")),
        ("CLUSTER SLOTS", format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n{}:1\r\n", bulk(text))),
        ("CLUSTER NODES", bulk(&format!("a {text}:1@1,{text} master - 0 0 1 connected 0-16383\n"))),
    ]);
    places
}

#[test]
fn no_output_shows_the_password_that_a_server_repeats() {
    // Parts of it that are the same in all forms.
    const PARTS: [&str; 2] = ["ter2", "s3cret"];
    let modes = ["dbs --log-format json", "cycles --run-duration 0.05 --check-interval 50ms --cycles 1"];
    let cases: Vec<_> = forms().iter().flat_map(|form| places(form)).zip(modes.into_iter().cycle()).collect();
    let mut redacted = 0;

    for (place, mode) in &cases {
        let (env, server) = (TestEnv::new(), Server::start());
        server.become_(|nature| {
            nature.password = Some(SECRET.to_owned());
            nature.replies = vec![place.clone()];
            if ["CLUSTER SLOTS", "CLUSTER NODES"].contains(&place.0) {
                nature.replies.push(("CLUSTER SHARDS", "-ERR unknown subcommand 'SHARDS'\r\n".to_owned()));
                nature.replies.push(("CLUSTER SLOTS", "*0\r\n".to_owned()));
            }
        });
        let cluster = if place.0.starts_with("CLUSTER") { "-c" } else { "" };
        let flags = format!("-v --canary -n 0 -t 1 --metrics-file m.prom --trace-dir t {cluster} -p {}", server.port());
        let output = env.run_with(&[("REDISCLI_AUTH", SECRET)], &format!("{mode} {flags}"));
        assert!(matches!(output.code, Some(0 | 1)), "{place:?}: {output:?}");
        let text = everything(&env, &output);
        assert!(!PARTS.iter().any(|part| text.contains(part)) && !is_raw(&text), "{place:?}: {text}");
        redacted += usize::from(text.contains("[redacted]"));
    }

    assert!(cases.len() == 125 && redacted > 60, "{redacted} of {}", cases.len());
}

#[test]
fn credentials_go_only_to_nodes_named_by_a_server_that_accepted_them() {
    let (first, other) = (Server::start(), Server::start());
    let port = other.port();
    let node = format!("$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n:{port}\r\n$4\r\nrole\r\n$6\r\nmaster\r\n");
    let shards = format!("*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n*6\r\n{node}");
    let moved = format!("-MOVED 1 127.0.0.1:{port}\r\n");
    for (accepts, reply) in [(false, "-WRONGPASS no\r\n"), (false, &moved), (true, "+OK\r\n")] {
        first.become_(|nature| nature.replies = vec![("AUTH *", reply.to_owned()), ("CLUSTER SHARDS", shards.clone())]);
        let (env, before) = (TestEnv::new(), other.accepted());
        env.run_with(&[("REDISCLI_AUTH", "hunter2")], &format!("dbs -c --canary -p {}", first.port()));
        assert_eq!(other.accepted() > before, accepts, "{reply}");
    }
}

#[test]
fn errors_do_not_repeat_what_may_be_a_password() {
    let env = TestEnv::new();
    let variable = [("REDIS_HEALTH_PASS_FILE", "hunter2")];
    for (variables, arguments) in [
        (&[][..], "dbs --pass-file hunter2"),
        (&[], "dbs --pass-file /hunter2/x"),
        (&variable, "dbs"),
        (&variable, "dbs --help"),
        (&[], "dbs --askpass hunter2"),
        (&[], "dbs --askpass=hunter2"),
        (&[], "dbs hunter2 --askpass"),
    ] {
        let output = env.run_with(variables, arguments);
        assert!(matches!(output.code, Some(0 | 2)), "{arguments}: {output:?}");
        assert!(!format!("{output:?}").contains("hunter2"), "{arguments}: {output:?}");
    }
    assert!(env.run("dbs hunter2").stderr.contains("'hunter2'"), "a word that cannot be a password is named");
}

#[test]
fn a_process_with_a_password_leaves_no_core_dump() {
    let server = Server::start();
    for (password, limit) in [(Some(("REDISCLI_AUTH", "hunter2")), "0"), (None, "1")] {
        let env = TestEnv::new();
        let mut command = env.wrapped("prlimit --core=1:1", &format!("{ENDLESS} -p {}", server.port()));
        command.envs(password);
        let run = Running::start(command);
        run.wait_for_stdout(|text| text.contains("Cycle 1 started"));
        let limits = fs::read_to_string(format!("/proc/{}/limits", run.pid())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some(limit), "{core}");
    }
}
