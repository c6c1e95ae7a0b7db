//! The metadata service of an EC2 instance.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

pub const KEY: &str = "AKIDEXAMPLE";
pub const SECRET_KEY: &str = "hunter2/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub const SESSION: &str = "hunter2-session+token==";

/// Starts the metadata service of an EC2 instance with a role (EC2 user guide, "Use IMDSv2"), which runs until the
/// process ends. Returns its address.
pub fn metadata_service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || while serve(&stream).is_some() {});
        }
    });
    address
}

/// Answers one request. Returns none at the end of the connection.
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
