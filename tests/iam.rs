//! Logging in with AWS credentials, against a metadata service and a server that are both in this process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use redis_health::connect::Connection;
use redis_health::deadline::Deadline;
use redis_health::iam::Signer;
use redis_health::login::Login;
use redis_health::output::Output;
use redis_health::password::Source;
use redis_health::record::Contact;
use redis_health::resolve::Resolver;
use redis_health::target::{Endpoint, Target};

use crate::support::certificates::Certificates;
use crate::support::env::{self, Running, TestEnv};
use crate::support::scripted::{Behaviour, Server};

const KEY: &str = "AKIDEXAMPLE";
const SECRET_KEY: &str = "hunter2/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "hunter2-session+token==";

/// The environment of somebody who has keys of their own.
const KEYS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", KEY),
    ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ("AWS_REGION", "eu-central-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// Starts the metadata service of an EC2 instance with a role (EC2 user guide, "Use IMDSv2") for as long as this
/// process lives, and returns its address.
fn metadata_service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || while serve(&stream).is_some() {});
        }
    });
    address
}

/// Answers one request; none at the connection's end.
fn serve(mut stream: &TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next()?;
    let headers: Vec<_> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_ascii_lowercase()).collect();
    let request = request.strip_suffix(" HTTP/1.1")?;
    let role = "/latest/meta-data/iam/security-credentials/";
    let body = if request == "PUT /latest/api/token" {
        "session-of-the-service".to_owned()
    } else if !headers.contains(&"x-aws-ec2-metadata-token: session-of-the-service".to_owned()) {
        return respond(stream, "401 Unauthorized", "");
    } else if request == "GET /latest/meta-data/placement/region" {
        "eu-central-1".to_owned()
    } else if request == format!("GET {role}") {
        "ops-role".to_owned()
    } else if request == format!("GET {role}ops-role") {
        format!(
            r#"{{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"{KEY}",
            "SecretAccessKey":"{SECRET_KEY}","Token":"{SESSION}","Expiration":"2100-01-01T00:00:00Z"}}"#
        )
    } else {
        return respond(stream, "404 Not Found", "");
    };
    respond(stream, "200 OK", &body)?;
    stream.flush().ok()
}

fn respond(mut stream: &TcpStream, status: &str, body: &str) -> Option<()> {
    let head = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n{body}").ok()
}

/// Runs the test below in a process of its own, since AWS's libraries read the environment.
fn log_in(port: u16, variables: &[(&str, &str)]) -> env::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", "iam::a_login_in_a_process_of_its_own"]);
    command.env_clear().env("HOME", "/nowhere").env("PORT_OF_TEST", port.to_string()).envs(variables.iter().copied());
    Running::start(command).wait()
}

#[test]
#[ignore = "the tests of this file run it, in another environment"]
fn a_login_in_a_process_of_its_own() {
    let Ok(port) = std::env::var("PORT_OF_TEST") else { return };
    let signer = Signer { user: "iam-user".into(), cache: "my-cache".into(), serverless: true, region: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let source = (Some("iam-user".to_owned()), Source::Iam(signer));
        match Login::fetch(Some(source), Output::direct()).await {
            Ok(login) => {
                let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: port.parse().unwrap() };
                let target = Target { endpoint, tls: None, login };
                let resolver = Resolver::new(Duration::from_secs(10));
                let deadline = Deadline::after(Duration::from_secs(10));
                let opened = Connection::open(&target, &resolver, deadline, &mut Contact::default()).await;
                eprintln!("{target:?} {:?}", opened.map(|_| "logged in"));
            }
            Err(error) => eprintln!("refused: {error:#}"),
        }
    });
}

/// The token that reached the server.
fn received(server: &Server) -> String {
    let commands = server.commands();
    assert_eq!(commands.len(), 1, "{commands:?}");
    commands[0].strip_prefix("AUTH iam-user ").unwrap_or_else(|| panic!("{commands:?}")).to_owned()
}

/// The token that the same credentials give at the same time.
fn expected(token: &str, session: Option<&str>) -> String {
    let (_, rest) = token.split_once("&X-Amz-Date=").unwrap();
    let date = chrono::NaiveDateTime::parse_from_str(&rest[..16], "%Y%m%dT%H%M%SZ").unwrap().and_utc();
    let age = chrono::Utc::now() - date;
    assert!((0..60).contains(&age.num_seconds()), "made {age} ago");
    let signer = Signer { user: "iam-user".into(), cache: "my-cache".into(), serverless: true, region: None };
    let credentials = Credentials::new(KEY, SECRET_KEY, session.map(str::to_owned), None, "test");
    signer.token(&credentials, "eu-central-1", SystemTime::from(date)).unwrap().reveal().to_owned()
}

fn assert_secrets_are_nowhere(output: &env::Output) {
    let text = format!("{output:?}");
    assert!(!text.contains("hunter2") && !text.contains("X-Amz"), "{text}");
}

#[test]
fn an_instances_role_logs_in() {
    let (server, service) = (Server::start(), metadata_service());
    server.behave(Behaviour::Raw(b"+OK\r\n".to_vec()));
    let output = log_in(server.port(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service)]);

    assert!(output.stderr.contains(r#"Ok("logged in")"#), "{output:?}");
    assert_secrets_are_nowhere(&output);

    let token = received(&server);
    assert!(token.contains("&ResourceType=ServerlessCache&"), "{token}");
    assert_eq!(token, expected(&token, Some(SESSION)));
}

#[test]
fn keys_in_the_environment_log_in_without_a_metadata_service() {
    let server = Server::start();
    server.behave(Behaviour::Raw(b"+OK\r\n".to_vec()));
    let output = log_in(server.port(), &KEYS);
    assert!(output.stderr.contains(r#"Ok("logged in")"#), "{output:?}");
    assert_secrets_are_nowhere(&output);
    let token = received(&server);
    assert_eq!(token, expected(&token, None));
}

#[test]
fn a_token_that_is_refused_shows_in_no_error() {
    let server = Server::start();
    let echo = "ERR unknown command 'AUTH', with args beginning with: 'iam-user' 'my-cache/?Action=connect&X-Amz-Date";

    for (text, seen) in [("WRONGPASS invalid username-password pair", "WRONGPASS invalid"), (echo, "[redacted]")] {
        server.behave(Behaviour::Error(text.into()));
        let output = log_in(server.port(), &KEYS);
        assert!(output.stderr.contains(seen), "{output:?}");
        assert_secrets_are_nowhere(&output);
    }
}

/// Runs `dbs` where AWS's tools find nothing but what the variables say.
fn run(env: &TestEnv, variables: &[(&str, &str)], flags: &str) -> env::Output {
    let mut command = env.command(&format!("dbs --tls --iam --user iam-user {flags}"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", "/nowhere").envs(variables.iter().copied());
    Running::start(command).wait()
}

#[test]
fn the_command_logs_in_over_tls() {
    let (certificates, service) = (Certificates::new(), metadata_service());

    // A server of our own cannot verify a token, so it takes any from this user and nothing from another.
    let users = "--user default off --user iam-user on nopass +@all";
    let server = certificates.serve(&certificates.leaf("server", "127.0.0.1"), users);

    let (env, port, ca) = (TestEnv::new(), server.tls_port(), certificates.ca());
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.as_str())];
    let output = run(&env, &variables, &format!("-v -p {port} --cacert {ca} --iam-cache My-Cache"));

    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("authenticated after"), "{output:?}");
    assert_secrets_are_nowhere(&output);

    let logs = env.read_all();
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
        let output = run(&env, variables, "--iam-cache my-cache");
        env.assert_refused(&output, &format!("redis-health: --iam: {missing}"), remedy, missing);
        assert!(output.stderr.len() < 300, "{output:?}");
    }
}

#[test]
fn contradictory_flags_are_named() {
    for (arguments, flag, remedy) in [
        ("--iam", "--iam", "--user"),
        ("--iam --user u", "--iam-cache", "replication group"),
        ("--iam --user u --iam-cache c", "--iam needs TLS", "--tls"),
        ("--iam --user u --iam-cache c -u redis://h", "--iam needs TLS", "--tls"),
        ("--iam --user u --iam-cache c.abc.cache.amazonaws.com", "--iam-cache", "endpoint"),
        ("--iam -a x", "-a and --iam", "leave one of them out"),
        ("--iam --pass-file x", "--pass-file and --iam", "leave one of them out"),
        ("--iam --password-command x", "--password-command and --iam", "leave one of them out"),
        ("--iam --askpass", "--askpass and --iam", "leave one of them out"),
        ("--iam -u redis://:x@h", "--uri has a password and contradicts --iam", "leave one of them out"),
        ("--iam-cache c", "--iam-cache", "--iam;"),
        ("--iam-serverless", "--iam-serverless", "--iam;"),
        ("--region r", "--region", "--iam;"),
    ] {
        let env = TestEnv::new();
        let output = env.run(&format!("dbs {arguments}"));
        env.assert_refused(&output, flag, remedy, arguments);
    }
}
