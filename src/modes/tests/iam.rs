//! Authentication with AWS credentials, against a metadata service and a server in this process. The command line
//! requires TLS for this; without it, the test can see the token that reaches the server.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;

use crate::auth::credentials::CredentialsProvider;
use crate::auth::iam::Signer;
use crate::auth::password::PasswordSource;
use crate::model::endpoint::Endpoint;
use crate::model::outcome::ConnectionInfo;
use crate::probe::connection::{ConnectOptions, Connection};
use crate::probe::deadline::Deadline;
use crate::probe::resolve::Resolver;

#[path = "../../../tests/support/aws.rs"]
mod aws;
#[allow(dead_code)]
#[path = "../../../tests/support/scripted.rs"]
mod scripted;

use aws::{KEY, SECRET_KEY, SESSION, metadata_service};
use scripted::{Behaviour, Server};

/// Runs the test below in a separate process, because the AWS SDK reads the environment.
fn log_in(port: u16, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", "modes::tests::iam::authenticate_in_a_separate_process"]);
    command.env_clear().env("HOME", "/nowhere").env("PORT_OF_TEST", port.to_string()).envs(variables.iter().copied());
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
#[ignore = "the tests of this file run it, in another environment"]
#[allow(clippy::print_stderr, reason = "the tests read it")]
fn authenticate_in_a_separate_process() {
    let Ok(port) = std::env::var("PORT_OF_TEST") else { return };
    let signer = Signer { user: "iam-user".into(), cache: "my-cache".into(), serverless: true, region: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let source = (Some("iam-user".to_owned()), PasswordSource::Iam(signer));
        match CredentialsProvider::fetch(Some(source), Arc::new(|_: &str| {})).await {
            Ok(credentials) => {
                let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: port.parse().unwrap() };
                let connect = ConnectOptions { endpoint, tls: None, credentials };
                let resolver = Resolver::new();
                let deadline = Deadline::after(Duration::from_secs(10));
                let opened = Connection::open(&connect, &resolver, deadline, &mut ConnectionInfo::default()).await;
                eprintln!("{connect:?} {:?}", opened.map(|_| "logged in"));
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

/// The token that the same credentials create at the same time.
fn expected(token: &str, session: Option<&str>) -> String {
    let (_, rest) = token.split_once("&X-Amz-Date=").unwrap();
    let date = chrono::NaiveDateTime::parse_from_str(&rest[..16], "%Y%m%dT%H%M%SZ").unwrap().and_utc();
    let age = chrono::Utc::now() - date;
    assert!((0..60).contains(&age.num_seconds()), "made {age} ago");
    let signer = Signer { user: "iam-user".into(), cache: "my-cache".into(), serverless: true, region: None };
    let credentials = Credentials::new(KEY, SECRET_KEY, session.map(str::to_owned), None, "test");
    signer.token(&credentials, "eu-central-1", SystemTime::from(date)).unwrap().reveal().to_owned()
}

fn assert_secrets_are_nowhere(output: &Output) {
    let text = stderr(output);
    assert!(!text.contains("hunter2") && !text.contains("X-Amz"), "{text}");
}

#[test]
fn the_role_of_an_instance_authenticates() {
    let (server, service) = (Server::start(), metadata_service());
    server.behave(Behaviour::Raw(b"+OK\r\n".to_vec()));
    let output = log_in(server.port(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service)]);
    assert!(stderr(&output).contains(r#"Ok("logged in")"#), "{output:?}");
    assert_secrets_are_nowhere(&output);
    let token = received(&server);
    assert!(token.contains("&ResourceType=ServerlessCache&"), "{token}");
    assert_eq!(token, expected(&token, Some(SESSION)));
}

#[test]
fn keys_in_the_environment_authenticate_without_a_metadata_service() {
    let server = Server::start();
    server.behave(Behaviour::Raw(b"+OK\r\n".to_vec()));
    let keys = [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let output = log_in(server.port(), &keys);
    assert!(stderr(&output).contains(r#"Ok("logged in")"#), "{output:?}");
    assert_secrets_are_nowhere(&output);
    let token = received(&server);
    assert_eq!(token, expected(&token, None));
}

#[test]
fn a_rejected_token_is_not_shown_in_errors() {
    let server = Server::start();
    let keys = [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let echo = "ERR unknown command 'AUTH', with args beginning with: 'iam-user' 'my-cache/?Action=connect&X-Amz-Date";
    for (text, seen) in [("WRONGPASS invalid username-password pair", "WRONGPASS invalid"), (echo, "[redacted]")] {
        server.behave(Behaviour::Error(text.into()));
        let output = log_in(server.port(), &keys);
        assert!(stderr(&output).contains(seen), "{output:?}");
        assert_secrets_are_nowhere(&output);
    }
}
