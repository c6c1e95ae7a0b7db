//! TLS with real servers: what is accepted, and that each failure says which it is.

use crate::support::certificates::{Certificates, Pair};
use crate::support::env::{Output, Running, TestEnv};
use crate::support::real::Real;
use crate::support::scripted::{Behaviour, Server};

/// A server that shows `pair`, and asks clients for no certificate unless `more` says so.
fn server(certificates: &Certificates, pair: &Pair, more: &[&str]) -> Real {
    let (ca, certificate, key) = (certificates.ca(), pair.certificate(), pair.key());
    let own = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    Real::start_tls(&[&own[..], &["--tls-auth-clients", "no"], more].concat())
}

/// `dbs` against the TLS port: its output and its block.
fn check(port: u16, more: &[&str]) -> (Output, String) {
    let env = TestEnv::new();
    let port = port.to_string();
    let output = env.run(&[&["dbs", "-p", &port], more].concat());
    (output, env.read("redis_db_health.log"))
}

fn assert_healthy(port: u16, more: &[&str]) {
    let (output, block) = check(port, more);
    assert_eq!(output.code, Some(0), "{more:?}: {output:?}");
    assert_eq!(output.stderr, "", "{more:?}");
    assert_eq!(block.matches(": RUNNING").count(), 16, "{more:?}: {block}");
}

/// All databases fail for this reason, word for word.
fn assert_fails(port: u16, more: &[&str], reason: &str) {
    let (output, block) = check(port, more);
    assert_eq!(output.code, Some(1), "{more:?}: {output:?}");
    assert_eq!(block.matches(&format!(": NOT RUNNING ({reason})\n")).count(), 16, "{more:?}, not {reason}: {block}");
}

#[test]
fn each_bad_certificate_is_named_and_insecure_accepts_it() {
    let certificates = Certificates::new();
    let ca = certificates.ca();
    let strangers = Certificates::new();
    let other = certificates.self_signed("other", false);
    let many: Vec<String> = (1..=7).map(|number| format!("{number}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (name, pair, reason) in [
        ("valid", certificates.leaf("valid", &["127.0.0.1"]), None),
        ("expired", certificates.dated("expired", 2020, 2025), Some("certificate expired on 2025-01-01 00:00:00 UTC")),
        (
            "not yet valid",
            certificates.dated("early", 2999, 3000),
            Some("certificate is not valid before 2999-01-01 00:00:00 UTC"),
        ),
        (
            "wrong name",
            certificates.leaf("wrong", &["cache.example", "*.cache.example", "10.0.0.1"]),
            Some("certificate is for cache.example, *.cache.example, 10.0.0.1, not for 127.0.0.1"),
        ),
        (
            "many names",
            certificates.leaf("many", &many),
            Some("certificate is for 1.example, 2.example, 3.example, 4.example and 3 more names, not for 127.0.0.1"),
        ),
        (
            "no name",
            certificates.leaf("nameless", &[]),
            Some("certificate is for no name (it has no subjectAltName), not for 127.0.0.1"),
        ),
        (
            "self-signed",
            certificates.self_signed("own", false),
            Some("certificate is self-signed (give it with --cacert to trust it)"),
        ),
        (
            "self-signed as openssl req -x509 does",
            certificates.self_signed("own-ca", true),
            Some("certificate is self-signed (give it with --cacert to trust it)"),
        ),
    ] {
        let server = server(&certificates, &pair, &[]);
        let port = server.tls_port();
        match reason {
            None => assert_healthy(port, &["--tls", "--cacert", &ca]),
            Some(reason) => assert_fails(port, &["--tls", "--cacert", &ca], &format!("tls: {reason}")),
        }
        eprintln!("{name}: as expected");
        assert_healthy(port, &["--tls", "--insecure"]);
        assert_healthy(port, &["--tls", "--insecure", "--cacert", &ca]);
        if name.starts_with("self-signed") {
            // Given itself, it is trusted, and so it is when any name but its own is asked for.
            assert_healthy(port, &["--tls", "--cacert", &pair.certificate()]);
            let more = ["--tls", "--cacert", &pair.certificate(), "--sni", "cache.example"];
            assert_fails(port, &more, "tls: certificate is for 127.0.0.1, not for cache.example");
        }
        if name == "valid" {
            assert_fails(
                port,
                &["--tls", "--cacert", &other.certificate()],
                "tls: unknown issuer (give its CA with --cacert)",
            );
            assert_fails(
                port,
                &["--tls", "--cacert", &strangers.ca()],
                "tls: bad signature on the certificate (another CA with the issuer's name is trusted)",
            );
        }
    }
}
