//! Authentication with AWS credentials over TLS, with the real binary.

use crate::support::aws::metadata_service;
use crate::support::certificates::Certificates;
use crate::support::env::{Output, Running, TestEnv};

fn assert_no_secrets(output: &Output) {
    let text = format!("{output:?}");
    assert!(!text.contains("hunter2") && !text.contains("X-Amz"), "{text}");
}

/// Runs `dbs` with these variables as the only AWS configuration.
fn run(env: &TestEnv, variables: &[(&str, &str)], flags: &str) -> Output {
    let mut command = env.command(&format!("dbs --tls --iam --user iam-user {flags}"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", "/nowhere").envs(variables.iter().copied());
    Running::start(command).wait()
}

#[test]
fn the_command_authenticates_over_tls() {
    let (certificates, service) = (Certificates::new(), metadata_service());

    // This server cannot verify tokens, so it accepts any from this user, and rejects other users.
    let users = "--user default off --user iam-user on nopass +@all";
    let server = certificates.serve(&certificates.leaf("server", "127.0.0.1"), users);

    let (env, port, ca) = (TestEnv::new(), server.tls_port(), certificates.ca());
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.as_str())];
    let output = run(&env, &variables, &format!("-v -p {port} --cacert {ca} --iam-cache My-Cache"));

    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("authenticated after"), "{output:?}");
    assert_no_secrets(&output);

    let logs = env.read_all();
    assert!(!logs.contains("hunter2") && !logs.contains("X-Amz"), "{logs}");
}

#[test]
fn missing_settings_are_reported_with_a_remedy() {
    let nothing = [("AWS_EC2_METADATA_DISABLED", "true")];
    let region = [("AWS_EC2_METADATA_DISABLED", "true"), ("REDIS_HEALTH_REGION", "eu-central-1")];
    for (variables, missing, remedy) in
        [(&nothing[..], "no AWS region", "give --region"), (&region, "no AWS credentials", "AWS_ACCESS_KEY_ID")]
    {
        let env = TestEnv::new();
        let output = run(&env, variables, "--iam-cache my-cache");
        env.assert_refused(&output, &format!("redis-health: --iam: {missing}"), remedy, missing);
        assert!(output.stderr.len() < 300, "{output:?}");
    }
}

#[test]
fn contradictory_flags_are_reported() {
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
        let output = env.run(&format!("dbs {arguments}"));
        env.assert_refused(&output, flag, remedy, arguments);
    }
}
