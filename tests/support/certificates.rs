//! A test CA, and valid and invalid certificates for servers and clients, as files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::real::Real;

/// A folder with a CA and the certificates that it signed.
pub struct Certificates {
    folder: TempDir,
    ca: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (params, key) = (authority(), KeyPair::generate().expect("a key"));
        let certificate = params.self_signed(&key).expect("a CA");
        std::fs::write(folder.path().join("ca.crt"), certificate.pem()).expect("a file");
        Certificates { folder, ca: Issuer::new(params, key) }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of the CA's certificate.
    pub fn ca(&self) -> String {
        text(&self.folder.path().join("ca.crt"))
    }

    /// Starts a redis-server with this certificate. It requires no client certificate unless `more` says so.
    pub fn serve(&self, pair: &Pair, more: &str) -> Real {
        let (ca, certificate, key) = (self.ca(), pair.certificate(), pair.key());
        Real::start_tls(&format!(
            "--tls-cert-file {certificate} --tls-key-file {key} --tls-ca-cert-file {ca} --tls-auth-clients no {more}"
        ))
    }

    /// A certificate for these names, separated by spaces, signed by the CA.
    pub fn leaf(&self, file: &str, names: &str) -> Pair {
        self.signed(file, params(names))
    }

    /// A certificate that is valid from the first day of one year to the first day of another.
    pub fn dated(&self, file: &str, from: i32, to: i32) -> Pair {
        let mut params = params("127.0.0.1");
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        self.signed(file, params)
    }

    /// A self-signed certificate, either of a CA (as from `openssl req -x509`) or of a server.
    pub fn self_signed(&self, file: &str, as_ca: bool) -> Pair {
        let mut params = params("127.0.0.1");
        params.distinguished_name.push(DnType::CommonName, file);
        if as_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        self.written(file, &certificate.pem(), &key)
    }

    fn signed(&self, file: &str, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.ca).expect("a certificate");
        self.written(file, &certificate.pem(), &key)
    }

    fn written(&self, file: &str, certificate: &str, key: &KeyPair) -> Pair {
        let path = |extension| self.folder.path().join(format!("{file}.{extension}"));
        std::fs::write(path("crt"), certificate).expect("a file");
        std::fs::write(path("key"), key.serialize_pem()).expect("a file");
        Pair { certificate: path("crt"), key: path("key") }
    }
}

impl Pair {
    pub fn certificate(&self) -> String {
        text(&self.certificate)
    }

    pub fn key(&self) -> String {
        text(&self.key)
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the tests' CA");
    params
}

fn params(names: &str) -> CertificateParams {
    let names: Vec<_> = names.split_whitespace().map(str::to_owned).collect();
    CertificateParams::new(names).expect("names")
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
