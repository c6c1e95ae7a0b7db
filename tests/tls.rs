//! TLS with real servers: which certificates are accepted, and how each failure is described.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use chrono::Utc;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::certificates::{Certificates, Pair};
use crate::support::env::{Output, TestEnv};
use crate::support::logs::stamps;
use crate::support::real::{Real, free_port};
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// Runs `dbs` against a TLS port, and returns its output and its block in the log.
fn check(port: u16, flags: &str) -> (Output, String) {
    let env = TestEnv::new();
    let output = env.run(&format!("dbs -p {port} {flags}"));
    (output, env.read("redis_db_health.log"))
}

fn assert_healthy(port: u16, flags: &str) {
    let (output, block) = check(port, flags);
    assert_eq!(output.code, Some(0), "{flags}: {output:?}");
    assert_eq!(output.stderr, "", "{flags}");
    assert_eq!(block.matches(": RUNNING").count(), 16, "{flags}: {block}");
}

/// Asserts that all databases fail with exactly this reason.
fn assert_fails(port: u16, flags: &str, reason: &str) {
    let (output, block) = check(port, flags);
    assert_eq!(output.code, Some(1), "{flags}: {output:?}");
    assert_eq!(
        block.matches(&format!(": NOT RUNNING ({reason})\n")).count(),
        16,
        "{flags}, expected {reason}: {block}"
    );
}

#[test]
fn each_bad_certificate_is_described_and_insecure_accepts_it() {
    let certificates = Certificates::new();
    let ca = certificates.ca();
    let many = (1..=7).map(|number| format!("{number}.example")).collect::<Vec<_>>().join(" ");
    for (name, pair, reason) in [
        ("valid", certificates.leaf("valid", "127.0.0.1"), None),
        ("expired", certificates.dated("expired", 2020, 2025), Some("certificate expired on 2025-01-01 00:00:00 UTC")),
        (
            "not yet valid",
            certificates.dated("early", 2999, 3000),
            Some("certificate is not valid before 2999-01-01 00:00:00 UTC"),
        ),
        (
            "wrong name",
            certificates.leaf("wrong", "cache.example *.cache.example 10.0.0.1"),
            Some("certificate is for cache.example, *.cache.example, 10.0.0.1, not for 127.0.0.1"),
        ),
        (
            "many names",
            certificates.leaf("many", &many),
            Some("certificate is for 1.example, 2.example, 3.example, 4.example and 3 more names, not for 127.0.0.1"),
        ),
        (
            "no name",
            certificates.leaf("nameless", ""),
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
        let server = certificates.serve(&pair, "");
        let port = server.tls_port();
        match reason {
            None => assert_healthy(port, &format!("--tls --cacert {ca}")),
            Some(reason) => assert_fails(port, &format!("--tls --cacert {ca}"), &format!("tls: {reason}")),
        }
        assert_healthy(port, "--tls --insecure");
        assert_healthy(port, &format!("--tls --insecure --cacert {ca}"));
        if name.starts_with("self-signed") {
            // With --cacert it is trusted, but only for its own name.
            assert_healthy(port, &format!("--tls --cacert {}", pair.certificate()));
            let flags = format!("--tls --cacert {} --sni cache.example", pair.certificate());
            assert_fails(port, &flags, "tls: certificate is for 127.0.0.1, not for cache.example");
        }
    }
}

#[test]
fn a_certificate_from_an_unknown_issuer_is_reported() {
    let certificates = Certificates::new();
    let server = certificates.serve(&certificates.leaf("valid", "127.0.0.1"), "");
    let unknown = "tls: unknown issuer \"the tests' CA\" (give its CA with --cacert, or let the server send its intermediate certificate)";
    let other = certificates.self_signed("other", true);

    assert_fails(server.tls_port(), &format!("--tls --cacert {}", other.certificate()), unknown);

    // The system's CAs do not include it either.
    assert_fails(server.tls_port(), "--tls", unknown);
    assert_healthy(server.tls_port(), "--tls --insecure");

    // Another CA with the same name, as after recreating a CA.
    let namesake = Certificates::new();
    assert_fails(
        server.tls_port(),
        &format!("--tls --cacert {}", namesake.ca()),
        "tls: bad signature on the certificate (another CA with the issuer's name is trusted)",
    );
}

#[test]
fn a_client_certificate_is_presented_or_reported_missing() {
    let certificates = Certificates::new();
    let ca = certificates.ca();
    let own = certificates.leaf("server", "127.0.0.1");
    let client = certificates.leaf("client", "client");
    let foreign = certificates.self_signed("foreign", false);
    let (certificate, key) = (client.certificate(), client.key());
    let (foreign_certificate, foreign_key) = (foreign.certificate(), foreign.key());
    for (versions, missing) in [
        (
            "TLSv1.3",
            "tls: handshake refused: certificate_required (the server wants a client certificate: give --cert and --key)",
        ),
        (
            "TLSv1.2",
            "tls: handshake refused: handshake_failure (no cipher in common, or a client certificate is missing, or the server's key is of an unsupported type, such as P-521)",
        ),
    ] {
        let server = certificates.serve(&own, &format!("--tls-auth-clients yes --tls-protocols {versions}"));
        let port = server.tls_port();
        for trust in [&format!("--tls --cacert {ca}"), "--tls --insecure"] {
            assert_fails(port, trust, missing);
            assert_healthy(port, &format!("{trust} --cert {certificate} --key {key}"));
            assert_fails(
                port,
                &format!("{trust} --cert {foreign_certificate} --key {foreign_key}"),
                "tls: handshake refused: unknown_ca (the server does not accept the client certificate)",
            );
        }
    }
}

#[test]
fn only_tls_1_2_and_1_3_are_supported() {
    let certificates = Certificates::new();
    let ca = certificates.ca();
    let own = certificates.leaf("server", "127.0.0.1");
    for (versions, spoken) in
        [("TLSv1.2", "TLS 1.2 with "), ("TLSv1.3", "TLS 1.3 with "), ("'TLSv1.2 TLSv1.3'", "TLS 1.3")]
    {
        let server = certificates.serve(&own, &format!("--tls-protocols {versions} --databases 5000"));
        for trust in [&format!("--tls --cacert {ca}"), "--tls --insecure"] {
            assert_healthy(server.tls_port(), trust);
            let (output, _) = check(server.tls_port(), &format!("{trust} -v --max-db auto"));
            assert!(output.stderr.contains(spoken), "{output:?}");
            assert!(output.stdout.contains(" 5000 databases checked") && output.code == Some(0), "{output:?}");
        }
    }
    let old = certificates.serve(&own, "--tls-protocols TLSv1.1 --tls-ciphers DEFAULT@SECLEVEL=0");
    let reason = "tls: handshake refused: protocol_version (the server speaks neither TLS 1.2 nor 1.3)";

    assert_fails(old.tls_port(), &format!("--tls --cacert {ca}"), reason);
    assert_fails(old.tls_port(), "--tls --insecure", reason);
}

#[test]
fn a_server_without_tls_is_reported() {
    let certificates = Certificates::new();
    let ca = certificates.ca();
    let reason = "tls: the server does not speak TLS";
    let http = Server::start();
    http.behave(Behaviour::OnAccept(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    let (open, protected) = (Real::start(""), Real::start("--requirepass x"));

    for trust in [&format!("--tls --cacert {ca}"), "--tls --insecure"] {
        assert_fails(http.port(), trust, reason);
        for server in [&open, &protected] {
            assert_fails(server.port(), &format!("{trust} -t 2"), reason);
        }
    }
}

#[test]
fn handshakes_that_hang_or_break_are_not_tls_failures() {
    let certificates = Certificates::new();
    let server = certificates.serve(&certificates.leaf("server", "127.0.0.1"), "");
    server.freeze();

    for timeout in ["500ms", "1s"] {
        let reason = format!("timeout: no TLS handshake with 127.0.0.1:{} within {timeout}", server.tls_port());
        assert_fails(server.tls_port(), &format!("--tls --insecure -t {timeout}"), &reason);
    }

    server.thaw();
    let scripted = Server::start();
    for (behaviour, reason) in [
        (Behaviour::CloseAfter(0), "closed: Connection closed within the TLS handshake"),
        (Behaviour::ResetOnAccept, "reset: Connection reset by peer"),
        (Behaviour::Refuse, "refused: Connection refused"),
    ] {
        scripted.behave(behaviour);
        assert_fails(scripted.port(), "--tls --insecure", reason);
    }
}

#[test]
fn the_server_name_is_the_host_or_the_sni_flag() {
    let certificates = Certificates::new();
    let ca = certificates.ca();
    let pair = certificates.leaf("named", "*.cache.example localhost");
    let server = certificates.serve(&pair, "");
    let trust = format!("--tls --cacert {ca}");

    assert_healthy(server.tls_port(), &format!("{trust} -h localhost"));
    assert_healthy(server.tls_port(), &format!("{trust} --sni a.cache.example"));
    assert_fails(
        server.tls_port(),
        &format!("{trust} -h localhost --sni other.example"),
        "tls: certificate is for *.cache.example, localhost, not for other.example",
    );

    // The server name that the client sends, with and without verification.
    for (flags, name) in [
        ("-h localhost --insecure", Some("localhost")),
        (&format!("-h localhost --cacert {ca}"), Some("localhost")),
        ("--sni a.cache.example --insecure", Some("a.cache.example")),
        ("--insecure", None),
    ] {
        let listener = Listener::start(&pair);
        let (_, block) = check(listener.port, &format!("--tls {flags}"));
        assert_eq!(listener.requested_name().as_deref(), name, "{flags}: {block}");
        // The server closes the connection without a TLS alert, like a killed process.
        let closed = "NOT RUNNING (closed: Connection closed by the server)";
        assert_eq!(block.matches(closed).count(), 16, "{flags}: {block}");
    }
}

/// A server that completes one handshake, reads one request, and exits.
struct Listener {
    port: u16,
    thread: JoinHandle<Option<String>>,
}

impl Listener {
    fn start(pair: &Pair) -> Self {
        let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
            assert!(tls.read(&mut [0; 4096]).unwrap() > 0);
            tls.conn.server_name().map(str::to_owned)
        });
        Listener { port, thread }
    }

    fn requested_name(self) -> Option<String> {
        self.thread.join().unwrap()
    }
}

#[test]
fn cacert_is_a_file_or_folder_and_skips_bad_certificates() {
    let certificates = Certificates::new();
    let server = certificates.serve(&certificates.leaf("server", "127.0.0.1"), "");
    let port = server.tls_port();
    let good = std::fs::read_to_string(certificates.ca()).unwrap();
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let bad = format!("{begin}\nAAAA\n{end}\n");
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let bundle = path("bundle.pem");
    std::fs::write(&bundle, format!("# a comment\n{bad}{good}{bad}")).unwrap();
    std::fs::write(path("README"), "no certificate").unwrap();
    std::fs::create_dir(path("inner")).unwrap();
    std::os::unix::fs::symlink("bundle.pem", path("abcdef.0")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();

    assert_healthy(port, &format!("--tls --cacert {bundle}"));
    assert_healthy(port, &format!("--tls --cacert {}", folder.path().to_str().unwrap()));

    // The system's CA bundle is read in the same way.
    let folder = folder.path().to_str().unwrap();
    for variable in [("SSL_CERT_FILE", bundle.as_str()), ("SSL_CERT_DIR", folder)] {
        let output = TestEnv::new().run_with(&[variable], &format!("dbs -p {port} --tls"));
        assert_eq!(output.code, Some(0), "{variable:?}: {output:?}");
    }

    // If there is no usable certificate, nothing is checked or written.
    std::fs::write(&bundle, &bad).unwrap();
    for (flags, flag, remedy) in [
        (format!("--cacert {bundle}"), "redis-health: --cacert", "PEM"),
        (format!("--cacert {folder}"), "redis-health: --cacert", "PEM"),
        (String::new(), "redis-health: --tls", "--cacert"),
    ] {
        let env = TestEnv::new();
        let output = env.run_with(&[("SSL_CERT_FILE", &bundle)], &format!("dbs --tls {flags}"));
        env.assert_refused(&output, flag, remedy, &flags);
    }
}

#[test]
fn an_unusable_key_is_reported_but_not_shown() {
    let certificates = Certificates::new();
    let (pair, other) = (certificates.leaf("client", "client"), certificates.leaf("other", "other"));
    let path = |name: &str| certificates.folder().join(name).to_str().unwrap().to_owned();
    let encrypted = path("encrypted.key");
    std::fs::write(&encrypted, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
        .unwrap();
    let broken = path("broken.key");
    let key = std::fs::read_to_string(pair.key()).unwrap();
    std::fs::write(&broken, key.replacen('M', "N", 1)).unwrap();
    for (key, remedy) in [
        (other.key(), "give the matching key"),
        (pair.certificate(), "in PEM"),
        (broken, "in PEM"),
        (encrypted, "openssl pkey"),
        (path("missing"), "readable file"),
    ] {
        let env = TestEnv::new();
        let output = env.run(&format!("dbs --tls --insecure --cert {} --key {key}", pair.certificate()));
        env.assert_refused(&output, "redis-health: --key", remedy, remedy);
        assert!(!output.stderr.contains("MIG"), "{output:?}");
    }
}

#[test]
fn uris_and_the_environment_enable_tls() {
    let certificates = Certificates::new();
    let ca = certificates.ca();
    let server = certificates.serve(&certificates.leaf("server", "127.0.0.1"), "--requirepass secret");
    let (plain, port) = (server.port(), server.tls_port());
    let run = |variables: &[(&str, &str)], arguments: &str| {
        TestEnv::new().run_with(&[&[("REDISCLI_AUTH", "secret")], variables].concat(), arguments)
    };

    for scheme in ["rediss", "valkeys"] {
        let uri = format!("{scheme}://:secret@127.0.0.1:{port}/3");
        let output = run(&[("REDIS_HEALTH_URI", &uri)], &format!("dbs --cacert {ca}"));
        assert!(output.code == Some(0) && output.stdout.contains("DB 3: RUNNING"), "{output:?}");
    }

    let uri = format!("redis://127.0.0.1:{port}");
    assert_eq!(run(&[], &format!("dbs --tls --cacert {ca} -u {uri}")).code, Some(0));

    let tls = ("REDIS_HEALTH_TLS", "1");
    assert_eq!(run(&[tls, ("REDIS_HEALTH_CACERT", &ca)], &format!("dbs -p {port}")).code, Some(0));
    assert_eq!(run(&[tls, ("REDIS_HEALTH_INSECURE", "1")], &format!("dbs -p {port}")).code, Some(0));

    // Without TLS, TLS variables are ignored.
    let around = [
        ("REDIS_HEALTH_TLS", "0"),
        ("REDIS_HEALTH_CACERT", "/nowhere"),
        ("REDIS_HEALTH_CERT", "/nowhere"),
        ("REDIS_HEALTH_SNI", "cache.example"),
        ("REDIS_HEALTH_INSECURE", "1"),
    ];
    assert_eq!(run(&around, &format!("dbs -p {plain}")).code, Some(0));

    let lonely = run(&around, &format!("dbs -p {port} --tls --cacert {ca}"));
    assert!(lonely.code == Some(2) && lonely.stderr.contains("REDIS_HEALTH_CERT needs --key"), "{lonely:?}");

    // A socket flag overrides TLS in the environment; with a socket variable this is a contradiction.
    let socket = server.socket().to_str().unwrap().to_owned();
    assert_eq!(run(&[tls], &format!("dbs -s {socket}")).code, Some(0));

    let both = run(&[tls, ("REDIS_HEALTH_SOCKET", &socket)], "dbs");
    assert!(both.code == Some(2) && both.stderr.contains("REDIS_HEALTH_TLS in the environment"), "{both:?}");
}

#[test]
fn cycles_report_a_certificate_that_becomes_invalid() {
    let certificates = Certificates::new();
    let ca = certificates.ca();
    let pair = certificates.leaf("server", "127.0.0.1");
    let bad = certificates.dated("bad", 2020, 2021);
    let server = certificates.serve(&pair, "");
    let env = TestEnv::new();
    let port = server.tls_port();
    let run = env.endless_until(&format!("-p {port} --tls --cacert {ca}"), "SUCCESS 3");
    let set = format!("CONFIG SET tls-cert-file {} tls-key-file {}", bad.certificate(), bad.key());

    assert_eq!(server.command(&set), "+OK");

    env.wait_for("redis_error.log", |text| {
        text.contains("FAILURE: tls: certificate expired on 2021-01-01 00:00:00 UTC")
    });
    run.signal(Signal::INT);
    assert_eq!(run.wait().code, Some(130));
}

/// Makes certificates with openssl, which supports keys that rcgen does not. Each line is a command.
fn openssl(folder: &Path, commands: &str) {
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = shlex::split(line).unwrap();
        let output = Command::new(&words[0]).args(&words[1..]).current_dir(folder).output().expect("openssl");
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

/// A root `ca` with a given key, and a leaf with another. `at` sets the time before the command that makes the root.
fn chain(folder: &Path, at: &str, ca_key: &str, leaf_key: &str, extensions: &str) {
    std::fs::write(folder.join("leaf.ext"), format!("{extensions}\n")).unwrap();
    openssl(
        folder,
        &format!(
            "{at} openssl req -x509 -newkey {ca_key} -nodes -keyout ca.key -out ca.crt -subj '/CN=Test Root' -days 30
            openssl req -newkey {leaf_key} -nodes -keyout leaf.key -out leaf.csr -subj /CN=leaf
            openssl x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out leaf.crt -days 30 -extfile leaf.ext"
        ),
    );
}

#[test]
fn unusual_certificates_are_named_as_such() {
    const P256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";
    const P521: &str = "ec -pkeyopt ec_paramgen_curve:P-521";
    const SAN: &str = "subjectAltName=IP:127.0.0.1";
    let short = "RSA with 1024 bits, which is not supported (give it a key of 2048 bits or more)";
    for (at, ca_key, leaf_key, extensions, flags, reason) in [
        ("", P256, "rsa:1024", SAN, "-tls1_2", format!("the certificate's key is {short}")),
        ("", "rsa:1024", P256, SAN, "", format!("the CA's key is {short}")),
        ("", P256, P521, SAN, "", "the server's key is of an unsupported type, such as P-521".to_owned()),
        ("", P521, P256, SAN, "", "an algorithm that is not supported (such as ECDSA with P-521".to_owned()),
        (
            "faketime '2020-01-01 12:00:00'",
            P256,
            P256,
            SAN,
            "",
            "the CA certificate \"Test Root\" in --cacert expired on 2020-01-".to_owned(),
        ),
        (
            "",
            P256,
            P256,
            "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=clientAuth",
            "",
            "certificate is not for servers (its extended key usage allows client authentication)".to_owned(),
        ),
        (
            "",
            P256,
            P256,
            "subjectAltName=DNS:127.0.0.1",
            "",
            "certificate is for 127.0.0.1, not for 127.0.0.1 as an IP address (it has it as a DNS name)".to_owned(),
        ),
    ] {
        let folder = tempfile::TempDir::new().unwrap();
        chain(folder.path(), at, ca_key, leaf_key, extensions);
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let port = free_port();
        // redis-server refuses certificates with short keys.
        let server =
            format!("s_server -www -accept {port} -cert leaf.crt -key leaf.key -cipher DEFAULT@SECLEVEL=0 {flags}");
        let mut command = Command::new("openssl");
        command.args(shlex::split(&server).unwrap()).current_dir(folder.path()).stdin(Stdio::null());
        let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("openssl");
        assert!(eventually(LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok()), "{reason}");

        let (output, block) = check(port, &format!("-n 0 --tls --cacert {}", path("ca.crt")));
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(block.contains("(tls: ") && block.contains(&reason), "{reason}: {output:?}");
    }
}

#[test]
fn a_missing_intermediate_names_its_issuer() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("ca.ext"), "basicConstraints=critical,CA:TRUE\n").unwrap();
    std::fs::write(path("leaf.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        folder.path(),
        &format!(
            "openssl req -x509 {key} -keyout root.key -out root.crt -subj '/CN=Test Root' -days 30
            openssl req {key} -keyout mid.key -out mid.csr -subj '/O=Example/CN=Test Intermediate'
            openssl x509 -req -in mid.csr -CA root.crt -CAkey root.key -CAcreateserial -out mid.crt -days 30 -extfile ca.ext
            openssl req {key} -keyout leaf.key -out leaf.csr -subj /CN=leaf
            openssl x509 -req -in leaf.csr -CA mid.crt -CAkey mid.key -CAcreateserial -out leaf.crt -days 30 -extfile leaf.ext"
        ),
    );
    let [leaf, mid, root] =
        ["leaf.crt", "mid.crt", "root.crt"].map(|name| std::fs::read_to_string(path(name)).unwrap());
    std::fs::write(path("chain.crt"), format!("{leaf}{mid}")).unwrap();
    for (sent, trusted, name) in [
        (&leaf, &root, Some("Test Intermediate")),
        (&format!("{leaf}{mid}"), &leaf, Some("Test Root")),
        (&format!("{leaf}{mid}"), &root, None),
        (&leaf, &mid, None),
    ] {
        std::fs::write(path("sent.crt"), sent).unwrap();
        std::fs::write(path("trusted.crt"), trusted).unwrap();
        let server = Real::start_tls(&format!(
            "--tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {} --tls-auth-clients no",
            path("sent.crt"),
            path("leaf.key"),
            path("root.crt"),
        ));
        let flags = format!("--tls --cacert {}", path("trusted.crt"));
        match name {
            Some(name) => assert_fails(
                server.tls_port(),
                &flags,
                &format!(
                    "tls: unknown issuer {name:?} (give its CA with --cacert, or let the server send its intermediate certificate)"
                ),
            ),
            None => assert_healthy(server.tls_port(), &flags),
        }
    }
}

#[test]
fn changed_files_are_read_again_after_a_failed_handshake() {
    let (old, new) = (Certificates::new(), Certificates::new());
    let env = TestEnv::new();
    let copy = |from: &str, to: &str| {
        std::fs::copy(from, env.path().join("new")).unwrap();
        std::fs::rename(env.path().join("new"), env.path().join(to)).unwrap();
    };
    let (client, new_client) = (old.leaf("client", "client"), new.leaf("client", "client"));
    copy(&old.ca(), "ca.crt");
    copy(&client.certificate(), "client.crt");
    copy(&client.key(), "client.key");

    let server = old.serve(&old.leaf("server", "127.0.0.1"), "--tls-auth-clients yes");
    let flags = "--tls --cacert ca.crt --cert client.crt --key client.key --utc --check-interval 300ms";
    let run = env.endless_until(&format!("-p {} {flags}", server.tls_port()), " SUCCESS 2\n");

    // The server changes first: its own certificate, and the CA of client certificates.
    let pair = new.leaf("server", "127.0.0.1");
    let (certificate, key, ca) = (pair.certificate(), pair.key(), new.ca());
    let set = format!("CONFIG SET tls-cert-file {certificate} tls-key-file {key} tls-ca-cert-file {ca}");
    assert_eq!(server.command(&set), "+OK");
    env.wait_for("redis_error.log", |text| text.matches(" FAILURE: tls: ").count() >= 2);

    copy(&new_client.certificate(), "client.crt");
    copy(&new_client.key(), "client.key");
    copy(&new.ca(), "ca.crt");
    let changed = Utc::now().naive_utc();
    env.wait_for("redis_error.log", |text| text.contains("=== Outage of endpoint ended at "));
    run.stop();

    let errors = env.read("redis_error.log");
    let last = stamps(&errors, " FAILURE: ").into_iter().max().unwrap();
    assert!(last <= changed, "the files were changed at {changed}, but {errors}");
}
