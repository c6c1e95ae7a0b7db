//! TLS: trusted certificates, the client certificate, the handshake, and texts for its errors.
//!
//! Roots and keys are read once per process, and only with `--tls`, so that checks without TLS are not slowed down.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::DateTime;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, InvalidMessage,
    OtherError, PeerIncompatible, ProtocolVersion, RootCertStore, SignatureScheme,
};
use rustls_native_certs::CertificateResult;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::auth::blocking::on_thread;
use crate::auth::renewal::Renewal;
use crate::model::endpoint::Endpoint;
use crate::model::failure::{Failure, Kind};
use crate::probe::certificate::{Certificate, common_name};

/// How many names of a certificate a failure lists. A shared certificate may have a hundred.
const NAMES_SHOWN: usize = 4;

const PLAIN_SERVER: &str = "the server does not speak TLS";

/// The TLS options of the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The file or folder with the trusted CA certificates. None for the system's.
    pub ca: Option<PathBuf>,
    /// The client certificate and its private key: both or neither.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The TLS server name, if it is not the host.
    pub name: Option<String>,
    /// Accept any server certificate.
    pub insecure: bool,
}

/// What a handshake needs.
#[derive(Clone)]
pub struct Tls {
    files: Arc<Files>,
    name: ServerName<'static>,
    /// Other names that the server's certificate may have instead.
    others: Vec<ServerName<'static>>,
}

/// The files of the settings. They are read again after a handshake failed, because they may have been replaced.
struct Files {
    settings: Settings,
    loaded: Mutex<Arc<Loaded>>,
    /// The last handshake failed.
    failed: AtomicBool,
    renewal: Renewal,
}

/// What was read from the files.
struct Loaded {
    config: Arc<ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files named in `settings`, for handshakes with `endpoint`.
    ///
    /// # Errors
    /// A file cannot be used, or the host's name is not valid in a certificate. The text names the flag and the remedy.
    pub fn load(settings: &Settings, endpoint: &Endpoint) -> anyhow::Result<Self> {
        let name = server_name(settings.name.as_deref(), endpoint)?;
        let files = Files {
            settings: settings.clone(),
            loaded: Mutex::new(Arc::new(Loaded::read(settings)?)),
            failed: AtomicBool::new(false),
            renewal: Renewal::default(),
        };
        Ok(Tls { files: Arc::new(files), name, others: Vec::new() })
    }

    /// The same for a server that is sent the name `first`, if there is one. Its certificate may be for that name, for
    /// `other`, or for the name that is sent now.
    #[must_use]
    pub fn for_server(&self, first: Option<&str>, other: &str) -> Self {
        let valid = |name: &str| ServerName::try_from(name.to_owned()).ok();
        let name = first.and_then(valid).unwrap_or_else(|| self.name.clone());
        let others = valid(other).into_iter().chain([self.name.clone()]).filter(|other| *other != name).collect();
        Tls { files: self.files.clone(), name, others }
    }

    fn config(&self) -> Arc<ClientConfig> {
        let loaded = self.files.loaded();
        if self.others.is_empty() {
            return loaded.config.clone();
        }
        let any_name = AnyName { inner: loaded.verifier.clone(), others: self.others.clone() };
        let mut config = ClientConfig::clone(&loaded.config);
        config.dangerous().set_certificate_verifier(Arc::new(any_name));
        Arc::new(config)
    }

    /// Must be called when the server rejected this side after the handshake, as it does in TLS 1.3 for a client
    /// certificate.
    pub fn rejected(&self) {
        self.files.failed.store(true, Ordering::Relaxed);
        self.files.read_again();
    }

    /// Negotiates TLS with the server at the other end of `stream`. If the last handshake failed, the files are read
    /// again before, which takes at most `patience`: so the first check after a change of a file passes.
    ///
    /// # Errors
    /// A `tls` failure that says what is wrong with the server or its certificate, or the failure of the connection if
    /// it broke.
    pub async fn handshake(&self, stream: TcpStream, patience: Duration) -> Result<TlsStream<TcpStream>, Failure> {
        if self.files.failed.load(Ordering::Relaxed) {
            self.files.read_again();
            self.files.renewal.wait(patience).await;
        }

        let connector = TlsConnector::from(self.config());
        let done = connector.connect(self.name.clone(), stream).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Failure::new(Kind::Closed, "Connection closed within the TLS handshake"),
            _ => failure_of(error),
        });
        match &done {
            Ok(_) => self.files.failed.store(false, Ordering::Relaxed),
            Err(failure) if failure.kind == Kind::Tls => self.rejected(),
            Err(_) => {}
        }
        done
    }
}

impl Files {
    fn loaded(&self) -> Arc<Loaded> {
        // No code panics while it holds this lock.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again in the background. The old ones stay in use if that fails.
    fn read_again(self: &Arc<Self>) {
        let Settings { ca, certificate, .. } = &self.settings;
        if ca.is_none() && certificate.is_none() {
            return;
        }
        let files = self.clone();
        self.renewal.start(async move {
            let settings = files.settings.clone();
            match on_thread("certificates", move || Loaded::read(&settings)).await {
                Ok(Ok(loaded)) => *files.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded),
                Ok(Err(error)) => debug!("{error:#}; the old certificates stay in use"),
                Err(error) => debug!("cannot read the certificates again: {error}"),
            }
        });
    }
}

impl Loaded {
    fn read(settings: &Settings) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let verifier = verifier(settings, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("--tls: the crypto provider does not support TLS 1.2 and 1.3")?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());

        let mut config = match (&settings.certificate, &settings.key) {
            (Some(certificate), Some(key)) => {
                let identity = identity(certificate, key, &provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
            _ => builder.with_no_client_auth(),
        };

        // With a resumed session the server sends no certificate, so an expiry during a run would go unnoticed.
        config.resumption = Resumption::disabled();
        Ok(Loaded { config: Arc::new(config), verifier })
    }
}

/// Detects a server without TLS, which does not answer a handshake. After `patience`, sends a plain PING over another
/// connection. Returns a failure if the PING is answered, otherwise never returns.
///
/// Redis does not answer a TLS ClientHello: its parser reads it as the beginning of a line, and the null byte in it
/// hides the line end (`processInlineBuffer` in `networking.c`). A plain PING is answered in any state, at least with
/// an error.
pub async fn detect_plaintext_server(peer: SocketAddr, patience: Duration) -> Failure {
    tokio::time::sleep(patience).await;
    let first_byte = async {
        let mut stream = TcpStream::connect(peer).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    };
    match first_byte.await {
        Ok(b'+' | b'-') => Failure::new(Kind::Tls, PLAIN_SERVER),
        _ => std::future::pending().await,
    }
}

/// The negotiated version and cipher suite, for `-v`.
pub fn negotiated(stream: &TlsStream<TcpStream>) -> String {
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS",
    };
    match session.negotiated_cipher_suite() {
        Some(suite) => format!("{version} with {}", suite.suite().as_str().unwrap_or("an unknown cipher suite")),
        None => version.to_owned(),
    }
}

fn server_name(sni: Option<&str>, endpoint: &Endpoint) -> anyhow::Result<ServerName<'static>> {
    let (flag, name) = match (sni, endpoint) {
        (Some(name), _) => ("--sni", name.to_owned()),
        (None, Endpoint::Tcp { host, .. }) => ("--host", host.clone()),
        (None, Endpoint::Unix(_)) => bail!("--tls cannot be combined with a Unix socket; leave one of them out"),
    };
    ServerName::try_from(name.clone()).with_context(|| {
        format!(
            "{flag}: {name} is not a valid name in a certificate; give the name in the server's certificate with --sni"
        )
    })
}

fn verifier(settings: &Settings, provider: &Arc<CryptoProvider>) -> anyhow::Result<Arc<dyn ServerCertVerifier>> {
    let (roots, given) = match &settings.ca {
        Some(path) => given_roots(path)?,
        // Reading the system's certificates takes longer than the check, and they would not be used.
        None if settings.insecure => (RootCertStore::empty(), Vec::new()),
        None => (system_roots()?, Vec::new()),
    };

    if settings.insecure {
        return Ok(Arc::new(AnyCertificate {
            schemes: provider.signature_verification_algorithms.supported_schemes(),
        }));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().context(
        "--cacert: these certificates cannot be used; give the certificate of the server's CA in PEM format",
    )?;
    Ok(Arc::new(Verifier { inner, given, provider: provider.clone() }))
}

/// The certificates of `--cacert`. One that cannot be read does not invalidate the others.
fn given_roots(path: &Path) -> anyhow::Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let shown = path.display();
    let metadata = std::fs::metadata(path)
        .with_context(|| format!("--cacert: cannot read {shown}; give a readable file or folder of certificates"))?;
    let loaded = if metadata.is_dir() {
        rustls_native_certs::load_certs_from_paths(None, Some(path))
    } else {
        rustls_native_certs::load_certs_from_paths(Some(path), None)
    };

    let roots = usable("--cacert", &loaded);
    if roots.is_empty() {
        let reason = loaded.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        bail!(
            "--cacert: no usable certificate in {shown}{reason}; give the certificate of the server's CA in PEM format"
        );
    }
    Ok((roots, loaded.certs))
}

/// The CA certificates that the system trusts, or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn system_roots() -> anyhow::Result<RootCertStore> {
    let roots = usable("--tls", &rustls_native_certs::load_native_certs());
    ensure!(
        !roots.is_empty(),
        "--tls: no trusted CA was found in SSL_CERT_FILE, SSL_CERT_DIR or the system; give the server's CA with --cacert"
    );
    Ok(roots)
}

fn usable(flag: &str, loaded: &CertificateResult) -> RootCertStore {
    for error in &loaded.errors {
        debug!("{flag}: {error}");
    }
    let mut roots = RootCertStore::empty();
    let (good, bad) = roots.add_parsable_certificates(loaded.certs.iter().cloned());
    debug!("{flag}: {good} CA certificates are trusted, {bad} cannot be used");
    roots
}

/// Reads the client certificate and its private key.
fn identity(certificate: &Path, key: &Path, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let (shown, key_shown) = (certificate.display(), key.display());
    let pem = std::fs::read(certificate)
        .with_context(|| format!("--cert: cannot read {shown}; give a readable file with the client certificate"))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|chain: &Vec<_>| !chain.is_empty())
        .with_context(|| format!("--cert: no certificate found in {shown}; give one in PEM format"))?;

    let pem = std::fs::read(key)
        .with_context(|| format!("--key: cannot read {key_shown}; give a readable file with the private key"))?;
    let encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
    ensure!(!encrypted, "--key: the key in {key_shown} is encrypted; decrypt it with openssl pkey");
    // The errors' texts are not shown, because they may quote the key.
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .ok()
        .and_then(|key| provider.key_provider.load_private_key(key).ok())
        .with_context(|| {
            format!("--key: there is no usable key in {key_shown}; give an RSA, EC or Ed25519 key in PEM")
        })?;

    let identity = CertifiedKey::new(chain, key);
    // The server decides whether the rest of the certificate is acceptable.
    ensure!(
        identity.keys_match() != Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)),
        "--key: the key in {key_shown} does not belong to the certificate in {shown}; give the matching key"
    );
    Ok(identity)
}

const SELF_SIGNED: &str = "certificate is self-signed (give it with --cacert to trust it)";

/// What is wrong with a certificate, where rustls and webpki do not say it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

fn said_error(text: String) -> Error {
    CertificateError::Other(OtherError(Arc::new(Said(text)))).into()
}

/// ring verifies signatures of longer RSA keys only.
const SHORTEST_RSA: usize = 2048;

/// Verifies as browsers do, but also accepts a CA certificate as the server's own if it was given with `--cacert`:
/// `openssl req -x509` creates such certificates, and redis-cli accepts them.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// The same without roots that expired before `now`. None if no root of `--cacert` expired; Some(None) if all did.
    ///
    /// The system's roots are maintained by the system, which removes expired ones.
    fn unexpired(&self, now: UnixTime) -> Option<Option<Arc<WebPkiServerVerifier>>> {
        let is_valid = |root: &&CertificateDer<'_>| !is_expired(root, now);
        if self.given.iter().all(|root| is_valid(&root)) {
            return None;
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.given.iter().filter(is_valid).cloned());
        Some(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build().ok())
    }

    fn about_expired(&self, now: UnixTime) -> String {
        let expired = self.given.iter().filter(|root| is_expired(root, now)).find_map(Certificate::read);
        let name = expired.as_ref().and_then(|root| common_name(root.subject)).unwrap_or_default();
        let at = expired
            .and_then(|root| root.not_after())
            .map_or(now, |at| UnixTime::since_unix_epoch(Duration::from_secs(at)));
        format!("the CA certificate {name:?} in --cacert expired on {}", utc(at))
    }

    /// A more specific text for an error of a chain.
    fn about_chain(
        &self,
        error: &CertificateError,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<String> {
        let leaf = Certificate::read(end_entity)?;
        let mut above: Vec<_> = intermediates.iter().chain(&self.given).filter_map(Certificate::read).collect();
        match error {
            CertificateError::UnknownIssuer => {
                // Climbs as far as the certificates that the server sent lead.
                let mut top = leaf.issuer;
                above.truncate(intermediates.len());
                for _ in 0..above.len() {
                    let Some(next) = above.iter().find(|above| above.subject == top) else { break };
                    top = next.issuer;
                }
                let name = common_name(top)?;
                Some(format!(
                    "unknown issuer {name:?} (give its CA with --cacert, or let the server send its intermediate certificate)"
                ))
            }
            CertificateError::BadSignature | CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
                let issuers = above.iter().filter(|above| above.subject == leaf.issuer);
                let bits = issuers.filter_map(Certificate::rsa_bits).find(|bits| *bits < SHORTEST_RSA)?;
                Some(weak_key("the CA's key", bits))
            }
            _ => None,
        }
    }
}

fn is_expired(certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
    Certificate::read(certificate).and_then(|root| root.not_after()).is_some_and(|end| end < now.as_secs())
}

fn weak_key(whose: &str, bits: usize) -> String {
    format!("{whose} is RSA with {bits} bits, which is not supported (give it a key of {SHORTEST_RSA} bits or more)")
}

/// A leaf with a short key fails only at its own signature, where the key is no longer named.
fn with_key_named<T>(verdict: Result<T, Error>, certificate: &CertificateDer<'_>) -> Result<T, Error> {
    let bits = || Certificate::read(certificate)?.rsa_bits().filter(|bits| *bits < SHORTEST_RSA);
    verdict.map_err(|error| bits().map_or(error, |bits| said_error(weak_key("the certificate's key", bits))))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |roots: &WebPkiServerVerifier| {
            roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        let verdict = verify(&self.inner);
        // A root that expired is trusted by webpki, and by no other client. The certificate may have another one.
        if verdict.is_ok()
            && let Some(unexpired) = self.unexpired(now)
            && unexpired.is_none_or(|unexpired| verify(&unexpired).is_err())
        {
            return Err(said_error(self.about_expired(now)));
        }
        let Err(Error::InvalidCertificate(error)) = &verdict else { return verdict };
        let is_a_ca = webpki_error(error) == Some(&webpki::Error::CaUsedAsEndEntity);
        if is_a_ca && self.given.iter().any(|given| given == end_entity) {
            // Its validity period was checked before.
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let said = if (is_a_ca || *error == CertificateError::UnknownIssuer) && is_self_issued(end_entity) {
            SELF_SIGNED.to_owned()
        } else if let Some(text) = self.about_chain(error, end_entity, intermediates) {
            text
        } else {
            return verdict;
        };
        Err(said_error(said))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        with_key_named(self.inner.verify_tls12_signature(message, cert, dss), cert)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        with_key_named(self.inner.verify_tls13_signature(message, cert, dss), cert)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts a certificate for other names too.
#[derive(Debug)]
struct AnyName {
    inner: Arc<dyn ServerCertVerifier>,
    others: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |name| self.inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        let verdict = verify(server_name);
        let is_name = |error: &CertificateError| {
            matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
        };
        match &verdict {
            Err(Error::InvalidCertificate(error)) if is_name(error) => {
                self.others.iter().find_map(|other| verify(other).ok()).map_or(verdict, Ok)
            }
            _ => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok_and(|cert| cert.issuer() == cert.subject())
}

fn webpki_error(error: &CertificateError) -> Option<&webpki::Error> {
    match error {
        CertificateError::Other(OtherError(inner)) => inner.downcast_ref(),
        _ => None,
    }
}

/// For `--insecure`: accepts any certificate without reading it.
#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// The failure for an I/O error of a stream: a TLS error, or an error of the underlying connection.
pub fn failure_of(error: io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => Failure::new(Kind::Tls, explanation(error)),
        None => error.into(),
    }
}

fn explanation(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => about_certificate(error),
        Error::AlertReceived(alert) => format!("handshake refused: {}{}", alert_name(*alert), remedy(*alert)),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            PLAIN_SERVER.to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "the server speaks neither TLS 1.2 nor 1.3".to_owned(),
        Error::PeerIncompatible(reason) => {
            format!("no common ground with the server: {}", in_words(&format!("{reason:?}")))
        }
        Error::PeerMisbehaved(reason) => {
            format!("the server breaks the protocol: {}", in_words(&format!("{reason:?}")))
        }
        Error::InvalidMessage(reason) => {
            format!("the server sent an invalid message: {}", in_words(&format!("{reason:?}")))
        }
        Error::InappropriateMessage { got_type, .. } => {
            format!("the server sent an unexpected message: {}", in_words(&format!("{got_type:?}")))
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            format!("the server sent an unexpected message: {}", in_words(&format!("{got_type:?}")))
        }
        other => other.to_string(),
    }
}

/// The name of a value of an enum, in words: `NoCipherSuitesInCommon` becomes `no cipher suites in common`.
fn in_words(debug: &str) -> String {
    let name = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let mut words = String::new();
    let mut after_small = false;
    for c in name.chars() {
        if c.is_uppercase() && after_small {
            words.push(' ');
        }
        after_small = !c.is_uppercase();
        words.extend(c.to_lowercase());
    }
    words
}

fn about_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => format!("certificate expired on {}", utc(*not_after)),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", utc(*not_before))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let is_other_type = presented.iter().any(|name| bare(name) == expected);
            let hint = if is_other_type { " as an IP address (it has it as a DNS name)" } else { "" };
            format!("certificate is for {}, not for {expected}{hint}", names(presented))
        }
        CertificateError::UnknownIssuer => "unknown issuer (give its CA with --cacert)".to_owned(),
        CertificateError::BadSignature => {
            "bad signature on the certificate (another CA with the issuer's name is trusted)".to_owned()
        }
        CertificateError::InvalidPurposeContext { presented, .. } => {
            let purposes: Vec<_> = presented.iter().map(ToString::to_string).collect();
            let purposes = if purposes.is_empty() { "nothing".to_owned() } else { purposes.join(", ") };
            format!("certificate is not for servers (its extended key usage allows {purposes})")
        }
        CertificateError::BadEncoding => "certificate cannot be read".to_owned(),
        CertificateError::Other(OtherError(inner)) if inner.is::<Said>() => inner.to_string(),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "certificate is signed with an algorithm that is not supported (such as ECDSA with P-521, or SHA-1)"
                .to_owned()
        }
        other => match webpki_error(other) {
            Some(webpki::Error::CaUsedAsEndEntity) => "certificate is that of a CA, not of a server".to_owned(),
            Some(webpki::Error::UnsupportedCertVersion) => "certificate is not of X.509 version 3".to_owned(),
            Some(error) => format!("certificate is not valid: {}", in_words(&format!("{error:?}"))),
            None => format!("certificate is not valid: {}", in_words(&format!("{other:?}"))),
        },
    }
}

fn utc(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map_or_else(|| "a day beyond all calendars".to_owned(), |time| time.format("%F %T UTC").to_string())
}

/// A name without its type.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

/// The names in a certificate, without their types: rustls gives `DnsName("cache.example")` and `IpAddress(10.0.0.1)`.
fn names(presented: &[String]) -> String {
    let shown: Vec<_> = presented.iter().take(NAMES_SHOWN).map(|name| bare(name)).collect();
    match presented.len() {
        // Browsers and rustls ignore the common name.
        0 => "no name (it has no subjectAltName)".to_owned(),
        count if count > NAMES_SHOWN => format!("{} and {} more names", shown.join(", "), count - NAMES_SHOWN),
        _ => shown.join(", "),
    }
}

/// The name of an alert, as in RFC 8446, section 6.
fn alert_name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "unknown_ca".to_owned(),
        AlertDescription::UnrecognisedName => "unrecognized_name".to_owned(),
        AlertDescription::UnknownPSKIdentity => "unknown_psk_identity".to_owned(),
        AlertDescription::Unknown(number) => format!("alert {number}"),
        known => {
            let mut name = String::new();
            for c in format!("{known:?}").chars() {
                if c.is_ascii_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(c.to_ascii_lowercase());
            }
            name
        }
    }
}

fn remedy(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired => " (the server wants a client certificate: give --cert and --key)",
        // OpenSSL sends this for both reasons in TLS 1.2.
        AlertDescription::HandshakeFailure => {
            " (no cipher in common, or a client certificate is missing, or the server's key is of an unsupported type, such as P-521)"
        }
        AlertDescription::ProtocolVersion => " (the server speaks neither TLS 1.2 nor 1.3)",
        AlertDescription::UnrecognisedName => " (give the name that the server expects with --sni)",
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => " (the server does not accept the client certificate)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_the_names_of_the_rfc() {
        for (alert, name) in [
            (AlertDescription::HandshakeFailure, "handshake_failure"),
            (AlertDescription::BadRecordMac, "bad_record_mac"),
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::UnrecognisedName, "unrecognized_name"),
            (AlertDescription::Unknown(200), "alert 200"),
        ] {
            assert_eq!(alert_name(alert), name);
        }
    }

    #[test]
    fn names_are_listed_without_types_up_to_a_limit() {
        let shown = |presented: &[&str]| names(&presented.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(shown(&[]), "no name (it has no subjectAltName)");
        assert_eq!(shown(&["DnsName(\"*.cache.example\")", "IpAddress(::1)"]), "*.cache.example, ::1");
        assert_eq!(shown(&["DirectoryName"; 6]), format!("{} and 2 more names", ["DirectoryName"; 4].join(", ")));
    }

    #[test]
    fn any_time_can_be_shown() {
        let shown = |seconds| utc(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(shown(1_735_787_045), "2025-01-02 03:04:05 UTC");
        assert_eq!(shown(u64::MAX), "a day beyond all calendars");
    }

    #[test]
    fn settings_print_no_key() {
        let settings = Settings { insecure: true, ..Settings::default() };
        let endpoint = Endpoint::Tcp { host: "cache.example".into(), port: 6379 };
        let tls = Tls::load(&settings, &endpoint).unwrap();
        assert_eq!(format!("{tls:?}"), "Tls { name: DnsName(\"cache.example\"), .. }");
    }
}
