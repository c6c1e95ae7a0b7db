//! Logging in with AWS credentials: the binary, over TLS.

use std::process::Command;

use crate::support::aws::metadata_service;
use crate::support::certificates::Certificates;
use crate::support::env::{Output, Running, TestEnv};
use crate::support::real::Real;

fn assert_secrets_are_nowhere(output: &Output) {
    let text = format!("{output:?}");
    assert!(!text.contains("hunter2") && !text.contains("X-Amz"), "{text}");
}

/// The binary, where AWS's tools find nothing but what the variables say.
fn command(env: &TestEnv, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = env.command(&[&["dbs", "--tls", "--iam", "--user", "iam-user"], arguments].concat());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", "/nowhere").envs(variables.iter().copied());
    command
}

#[test]
fn the_command_logs_in_over_tls() {
    let (certificates, service) = (Certificates::new(), metadata_service());
    let (ca, pair) = (certificates.ca(), certificates.leaf("server", &["127.0.0.1"]));
    let server = Real::start_tls(
        &[
            &["--tls-cert-file", &pair.certificate(), "--tls-key-file", &pair.key(), "--tls-ca-cert-file", &ca][..],
            // A server of our own cannot verify a token, so it takes any from this user and nothing from another.
            &["--tls-auth-clients", "no", "--user", "default", "off", "--user", "iam-user", "on", "nopass", "+@all"],
        ]
        .concat(),
    );
    let (env, port) = (TestEnv::new(), server.tls_port().to_string());
    let arguments = ["-v", "-p", &port, "--cacert", &ca, "--iam-cache", "My-Cache"];
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.as_str())];
    let output = Running::start(command(&env, &variables, &arguments)).wait();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("authenticated after"), "{output:?}");
    assert_secrets_are_nowhere(&output);
    let logs: String = env.names().iter().map(|name| env.read(name)).collect();
    assert!(!logs.contains("hunter2") && !logs.contains("X-Amz"), "{logs}");
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let nothing = [("AWS_EC2_METADATA_DISABLED", "true")];
    let region = [("AWS_EC2_METADATA_DISABLED", "true"), ("REDIS_HEALTH_REGION", "eu-central-1")];
    for (variables, missing, remedy) in
        [(&nothing[..], "no AWS region", "give --region"), (&region, "no AWS credentials", "AWS_ACCESS_KEY_ID")]
    {
        let env = TestEnv::new();
        let output = Running::start(command(&env, variables, &["--iam-cache", "my-cache"])).wait();
        assert_eq!(output.code, Some(2), "{output:?}");
        let line = output.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n') && line.starts_with("redis-health: --iam: "), "{output:?}");
        assert!(line.contains(missing) && line.contains(remedy) && line.len() < 300, "{line}");
    }
}

#[test]
fn flags_that_do_not_go_together_are_named() {
    for (arguments, flag, remedy) in [
        ("--iam", "--iam", "--user"),
        ("--iam --user u", "--iam-cache", "replication group"),
        ("--iam --user u --iam-cache c", "--iam requires TLS", "--tls"),
        ("--iam --user u --iam-cache c -u redis://h", "--iam requires TLS", "--tls"),
        ("--iam --user u --iam-cache c.abc.cache.amazonaws.com", "--iam-cache", "endpoint"),
        ("--iam -a x", "-a and --iam", "leave one of them out"),
        ("--iam --pass-file x", "--pass-file and --iam", "leave one of them out"),
        ("--iam --password-command x", "--password-command and --iam", "leave one of them out"),
        ("--iam --askpass", "--askpass and --iam", "leave one of them out"),
        (
            "--iam -u redis://:x@h",
            "--uri has a password and cannot be used together with --iam",
            "leave one of them out",
        ),
        ("--iam-cache c", "--iam-cache", "--iam;"),
        ("--iam-serverless", "--iam-serverless", "--iam;"),
        ("--region r", "--region", "--iam;"),
    ] {
        let env = TestEnv::new();
        let words: Vec<_> = std::iter::once("dbs").chain(arguments.split(' ')).collect();
        let output = env.run(&words);
        assert_eq!(output.code, Some(2), "{arguments}: {output:?}");
        let line = output.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n') && line.contains(flag) && line.contains(remedy), "{arguments}: {line}");
    }
}
