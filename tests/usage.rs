//! Bad input: exit code 2, one line that names the flag and the remedy, and no file written.

use crate::support::env::TestEnv;
use crate::support::scripted::Server;

#[test]
fn bad_input_is_reported_with_a_remedy() {
    for (arguments, flag, remedy) in [
        ("dbs -p 0", "--port", "1 to 65535"),
        ("dbs -p 65536", "--port", "1 to 65535"),
        ("dbs -p redis", "--port", "1 to 65535"),
        ("dbs -n -1", "--db", "0 to 1199999"),
        ("dbs -n 1200000", "--db", "0 to 1199999"),
        ("dbs --max-db many", "--max-db", "or auto"),
        ("dbs -t 0", "--timeout", "more than zero"),
        ("dbs -t soon", "--timeout", "250ms"),
        ("dbs -t 0.5ms", "--timeout", "at least 1 ms"),
        ("cycles -t 0.000001", "--timeout", "at least 1 ms"),
        ("dbs --deadline 0", "--deadline", "more than zero"),
        ("cycles --check-interval 0", "--check-interval", "more than zero"),
        ("cycles --run-duration 0s", "--run-duration", "more than zero"),
        ("cycles --break-duration -1", "--break-duration", "5m"),
        ("cycles --cycles 0", "--cycles", "from 1, such as 4"),
        ("cycles --cycles many", "--cycles", "from 1, such as 4"),
        ("dbs --rotate daily --keep all", "--keep", "from 0, such as 7"),
        ("cycles --cycles 4000000000", "--cycles", "ask for fewer"),
        ("dbs -u http://host", "--uri", "redis://"),
        ("dbs -u host", "--uri", "redis://"),
        ("dbs --pass-file /nowhere/secret", "--pass-file", "readable file"),
        ("dbs --password-command false", "--password-command", "by hand"),
        ("dbs --askpass", "--askpass", "--pass-file"),
        ("dbs --log-dir /proc/nowhere", "--log-dir", "can be written to"),
        ("cycles --log-dir /proc/nowhere", "--log-dir", "can be written to"),
        ("dbs -n 1 --max-db 3", "-n and --max-db", "leave one of them out"),
        ("dbs -h a -s b", "--socket and --host", "leave one of them out"),
        ("dbs -p 1 -s b", "--socket and --port", "leave one of them out"),
        ("dbs -u redis://a -h b", "--uri and --host", "leave one of them out"),
        ("dbs -u redis://a -p 7", "--uri and --port", "into the URI"),
        ("dbs -u redis://a/1 -n 2", "--uri", "leave one of them out"),
        ("dbs -u redis://:x@a --pass-file b", "--uri", "leave one of them out"),
        ("dbs -a x --pass-file b", "-a and --pass-file", "leave one of them out"),
        ("dbs --user x", "--user", "REDISCLI_AUTH"),
        ("dbs -h cache.example:6379", "--host", "--port"),
        ("dbs --cacert ca.crt", "--cacert", "give --tls or a rediss:// URI"),
        ("dbs --cert a.crt --key a.key", "--cert", "give --tls or a rediss:// URI"),
        ("dbs --key a.key", "--key", "give --tls or a rediss:// URI"),
        ("dbs --sni cache.example", "--sni", "give --tls or a rediss:// URI"),
        ("dbs --insecure -u redis://a", "--insecure", "give --tls or a rediss:// URI"),
        ("dbs --tls --cert a.crt", "--cert needs --key", "give both or none"),
        ("dbs -u rediss://a --key a.key", "--key needs --cert", "give both or none"),
        ("dbs --tls -s a", "--tls", "Unix socket"),
        ("dbs --tls -u unix:///a", "--tls", "Unix socket"),
        ("cycles --tls --cacert /nowhere/ca.crt", "--cacert", "readable file or folder"),
        ("dbs --tls --insecure --cacert /nowhere/ca.crt", "--cacert", "readable file or folder"),
        ("dbs --tls --cacert /dev/null", "--cacert", "PEM"),
        ("dbs --tls --insecure --cert /nowhere/a --key /nowhere/b", "--cert", "readable file"),
        ("cycles --tls --insecure --cert /dev/null --key /nowhere/b", "--cert", "PEM"),
        ("dbs --tls --insecure --sni a/b", "--sni", "give the name"),
        ("dbs --tls --insecure -h a..b", "--host", "--sni"),
        ("dbs --keep 3", "--keep", "--rotate"),
        ("dbs --rotate weekly", "--rotate", "daily"),
        ("dbs --rotate 10", "--rotate", "such as 10M"),
        ("dbs --rotate 1023", "--rotate", "at least 1K"),
        ("dbs --nonsense", "--nonsense", "--help"),
        ("dbs --no-select --max-db 3", "--no-select and --max-db", "leave one of them out"),
        ("dbs --no-select -n 3", "--no-select and -n", "leave one of them out"),
        ("dbs --no-select -u redis://h/3", "--no-select and --uri", "leave one of them out"),
        ("scan", "scan", "--help"),
        ("dbs redis://:hunter2@h", "[redacted]", "with -u"),
        ("redis://:hunter2@h dbs", "[redacted]", "with -u"),
        ("cycles ops:hunter2@h", "[redacted]", "with -u"),
        ("dbs --redis://:hunter2@h", "[redacted]", "with -u"),
        ("dbs --tls=redis://:hunter2@h", "--tls", "with -u"),
        ("dbs -p redis://:hunter2@h", "--port", "with -u"),
        ("dbs -h redis://:hunter2@h", "--host", "--uri"),
        ("dbs -h ops:hunter2@h", "--host", "--uri"),
        ("dbs -u hunter2:x@h", "--uri", "redis://"),
        ("dbs -u redis://:hunter2/x@h", "--uri", "must be percent-encoded"),
        ("dbs -u redis://ops:hunter2#x@h", "--uri", "must be percent-encoded"),
        ("dbs -u redis://ops:hunter2?x@h", "--uri", "must be percent-encoded"),
        ("dbs -u redis://hunter2/x@h", "--uri", "must be percent-encoded"),
        ("dbs -u redis://hunter2?x@h", "--uri", "must be percent-encoded"),
        ("report redis://:hunter2@h", "URI", "the folder or the files"),
        #[cfg(not(feature = "iam"))]
        ("dbs --iam --iam-cache a", "--iam", "--features iam"),
        #[cfg(not(feature = "iam"))]
        ("dbs --iam-cache=a", "--iam-cache: this build has no IAM", "--features iam"),
        #[cfg(not(feature = "iam"))]
        ("cycles --iam-serverless", "--iam-serverless", "--features iam"),
        #[cfg(not(feature = "iam"))]
        ("dbs --region eu-central-1", "--region", "--features iam"),
    ] {
        let env = TestEnv::new();
        let output = env.run(arguments);
        env.assert_refused(&output, flag, remedy, arguments);
        assert!(!output.stderr.contains("hunter2"), "{arguments}: {output:?}");
    }
}

#[test]
fn an_invalid_value_names_its_variable() {
    for (name, value, arguments, flag) in [
        ("REDIS_HEALTH_CHECK_INTERVAL", "abc", "cycles -p 1", "--check-interval"),
        ("REDIS_HEALTH_PORT", "redis", "dbs", "--port"),
        ("REDIS_HEALTH_TIMEOUT", "0", "dbs -p 6380", "--timeout"),
    ] {
        let env = TestEnv::new();
        let output = env.run_with(&[(name, value)], arguments);
        env.assert_refused(&output, flag, &format!("{name} in the environment"), arguments);
    }

    // The flag overrides the variable.
    for arguments in ["dbs -t 0", "dbs -t0", "dbs --timeout 0", "dbs --timeout=0"] {
        let env = TestEnv::new();
        let output = env.run_with(&[("REDIS_HEALTH_TIMEOUT", "0")], arguments);
        env.assert_refused(&output, "--timeout", "250ms (see --help)", arguments);
    }
}

#[test]
fn flags_override_the_environment() {
    let env = TestEnv::new();
    let server = Server::start();
    let port = server.port().to_string();

    // A host flag overrides the URI in the environment.
    let uri = ("REDIS_HEALTH_URI", "redis://nowhere.invalid:1/3");
    assert_eq!(env.run_with(&[uri], &format!("dbs -h 127.0.0.1 -p {port}")).code, Some(0));
    assert_eq!(env.run_with(&[("REDIS_HEALTH_PORT", &port), ("REDIS_HEALTH_DB", "3")], "dbs").code, Some(0));

    let own = format!("redis://127.0.0.1:{port}/3");
    let output = env.run_with(&[("REDIS_HEALTH_URI", &own)], "dbs");
    assert!(output.stdout.contains("DB 3: RUNNING") && output.stdout.contains("1 database checked"), "{output:?}");
    assert_eq!(env.run_with(&[uri], &format!("dbs -p {port}")).code, Some(2));

    let output = env.run_with(&[("REDIS_HEALTH_HOST", "a"), ("REDIS_HEALTH_SOCKET", "b")], "dbs");
    assert!(output.stderr.contains("REDIS_HEALTH_SOCKET and REDIS_HEALTH_HOST in the environment"), "{output:?}");

    // A switch that is off in the environment has no effect.
    let off = [("REDIS_HEALTH_ASKPASS", "0"), ("REDIS_HEALTH_PORT", &port)];
    assert_eq!(env.run_with(&off, "dbs").code, Some(0));

    // A switch that is on in the environment has its effect.
    assert_eq!(env.run_with(&[("REDIS_HEALTH_QUIET", "1"), ("REDIS_HEALTH_PORT", &port)], "dbs").stdout, "");
}

#[test]
fn help_has_no_short_flag_and_h_is_the_host() {
    let env = TestEnv::new();
    let help = env.run("dbs --help");
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("-h, --host") && help.stdout.contains("REDIS_HEALTH_HOST"));
    assert_eq!(env.run("--version").code, Some(0));

    let bare = env.run("");
    assert_eq!(bare.code, Some(2));
    assert!(bare.stderr.contains("dbs") && bare.stderr.contains("cycles"), "{bare:?}");
}
