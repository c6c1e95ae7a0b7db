//! The samples in examples/deploy/ work unchanged: every flag, environment variable and metric that they use exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::env::TestEnv;
use crate::support::scripted::{Behaviour, Server};

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words in `text` that start with `prefix` and continue with characters that `more` accepts.
fn words(text: &str, prefix: &str, more: impl Fn(char) -> bool) -> BTreeSet<String> {
    let word = |at: usize| {
        let rest = &text[at + prefix.len()..];
        format!("{prefix}{}", &rest[..rest.find(|c| !more(c)).unwrap_or(rest.len())])
    };
    text.match_indices(prefix).map(|(at, _)| word(at)).filter(|word| word.len() > prefix.len()).collect()
}

#[test]
fn flags_and_variables_of_the_samples_exist() {
    let env = TestEnv::new();
    let help: String = ["dbs", "cycles"].map(|mode| env.run(&[mode, "--help"]).stdout).concat();
    let (flag, variable) = (|c: char| c.is_ascii_lowercase() || c == '-', |c: char| c.is_ascii_uppercase() || c == '_');
    let (flags, variables) = (words(&help, "--", flag), words(&help, "REDIS_HEALTH_", variable));
    assert!(flags.contains("--max-db") && variables.contains("REDIS_HEALTH_MAX_DB"));
    for name in ["crontab", "nohup.sh", "redis-health.service", "redis-health.timer", "kubernetes-cronjob.yaml"] {
        let text = sample(name);
        // Lines for other programs contain other flags.
        let lines: Vec<_> =
            text.lines().filter(|line| !line.contains("kubectl") && !line.contains("systemctl")).collect();
        let unknown: Vec<_> = words(&lines.join("\n"), "--", flag).difference(&flags).cloned().collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
        let unknown: Vec<_> = words(&text, "REDIS_HEALTH_", variable).difference(&variables).cloned().collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

#[test]
fn metrics_in_the_alerts_exist() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::ErrorFor("SET", "READONLY You can't write against a read only replica.".to_owned()));
    let port = server.port().to_string();
    env.run(&format!("cycles -p {port} --canary --held --cycles 1 --run-duration 0.1 --metrics-file metrics"));
    let metrics = fs::read_to_string(env.path().join("metrics")).unwrap();
    let name = |c: char| c.is_ascii_lowercase() || c == '_';
    let known = words(&metrics, "redis_health_", name);
    let alerts = sample("prometheus-alerts.yml");
    let used = words(&alerts, "redis_health_", name);
    assert!(used.len() >= 4 && used.is_subset(&known), "{used:?} of {known:?}");
    for label in ["probe=\"write\"", "connection=\"held\""] {
        assert!(metrics.contains(label) && alerts.contains(label), "{label}: {metrics}");
    }
}

#[test]
fn logrotate_sample_lists_every_log() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port().to_string();
    server.behave(Behaviour::ErrorFor("PING", "ERR".to_owned()));
    env.run(&["dbs", "-p", &port]);
    server.behave(Behaviour::Serve);
    env.run(&["cycles", "-p", &port, "--cycles", "1", "--run-duration", "0.1"]);
    let rotated = sample("logrotate");
    for name in env.names() {
        assert!(rotated.contains(&format!("/var/log/redis-health/{name}\n")), "{name}");
    }
    assert_eq!(env.names().len(), 3);
}
