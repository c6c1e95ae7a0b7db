//! What a certificate says that webpki does not tell: names in words, the size of its key, and when it expires.
//!
//! Only for texts and for the expiry of trusted roots; webpki verifies. A certificate that cannot be read here has none
//! of these properties.

use chrono::NaiveDateTime;
use rustls::pki_types::CertificateDer;

/// The tags of X.690, section 8, that are read here.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The object identifiers of an RSA key (RFC 8017) and of the common name (RFC 5280), encoded.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The fields of a certificate, each without its tag and length (RFC 5280, section 4.1).
pub struct Certificate<'c> {
    pub issuer: &'c [u8],
    pub subject: &'c [u8],
    validity: &'c [u8],
    key: &'c [u8],
}

impl<'c> Certificate<'c> {
    /// None if the certificate cannot be read.
    pub fn read(certificate: &'c CertificateDer<'_>) -> Option<Self> {
        let (outer, _) = expect(certificate, SEQUENCE)?;
        let (mut rest, _) = expect(outer, SEQUENCE)?;
        if let Some((_, after)) = expect(rest, VERSION) {
            rest = after;
        }

        let (_serial, rest) = expect(rest, INTEGER)?;
        let (_signature, rest) = expect(rest, SEQUENCE)?;
        let (issuer, rest) = expect(rest, SEQUENCE)?;
        let (validity, rest) = expect(rest, SEQUENCE)?;
        let (subject, rest) = expect(rest, SEQUENCE)?;
        let (key, _) = expect(rest, SEQUENCE)?;
        Some(Certificate { issuer, subject, validity, key })
    }

    /// The end of its validity, in seconds since 1970.
    pub fn not_after(&self) -> Option<u64> {
        let (_, _, rest) = element(self.validity)?;
        let (tag, text, _) = element(rest)?;
        let text = std::str::from_utf8(text).ok()?;
        // UTCTime has two digits for the year: 50 to 99 are in the last century (RFC 5280, section 4.1.2.5.1).
        let century = match (tag, text.get(..2)?) {
            (UTC_TIME, year) if year < "50" => "20",
            (UTC_TIME, _) => "19",
            _ => "",
        };
        let time = NaiveDateTime::parse_from_str(&format!("{century}{text}"), "%Y%m%d%H%M%SZ").ok()?;
        u64::try_from(time.and_utc().timestamp()).ok()
    }

    /// The length of its key in bits, if that is an RSA key.
    pub fn rsa_bits(&self) -> Option<usize> {
        let (algorithm, rest) = expect(self.key, SEQUENCE)?;
        let (_, identifier, _) = element(algorithm)?;
        let (bits, _) = expect(rest, BIT_STRING)?;
        let (key, _) = expect(bits.get(1..)?, SEQUENCE)?;
        let (modulus, _) = expect(key, INTEGER)?;
        let leading = modulus.iter().take_while(|byte| **byte == 0).count();
        let first = modulus.get(leading)?;
        (identifier == RSA).then(|| (modulus.len() - leading) * 8 - first.leading_zeros() as usize)
    }
}

/// The common name in a distinguished name, or its last text if it has none.
pub fn common_name(name: &[u8]) -> Option<String> {
    let (mut rest, mut found) = (name, None);
    while let Some((_, set, after)) = element(rest) {
        let (pair, _) = expect(set, SEQUENCE)?;
        let (_, kind, value) = element(pair)?;
        let (_, text, _) = element(value)?;
        let text = String::from_utf8_lossy(text).into_owned();
        if kind == COMMON_NAME {
            return Some(text);
        }
        (found, rest) = (Some(text), after);
    }
    found
}

fn expect(bytes: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|(tag, ..)| *tag == expected).map(|(_, content, rest)| (content, rest))
}

/// Reads one element of DER: its tag, its content, and what follows (X.690, sections 8.1 and 10).
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_is_read() {
        for (year, seconds) in [(2030, 1_893_456_000), (2060, 2_840_140_800)] {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::OrganizationName, "Example");
            params.distinguished_name.push(DnType::CommonName, "the CA");
            params.not_after = date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let read = Certificate::read(certificate.der()).unwrap();
            assert_eq!(common_name(read.subject).as_deref(), Some("the CA"));
            assert_eq!((read.not_after(), read.rsa_bits()), (Some(seconds), None));
            assert_eq!(read.issuer, read.subject);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = CertificateDer::from(bytes);
            if let Some(read) = Certificate::read(&bytes) {
                let _ = (read.not_after(), read.rsa_bits(), common_name(read.issuer));
            }
        }
    }
}
