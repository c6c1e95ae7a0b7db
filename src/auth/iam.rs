//! `--iam`: a token created from AWS credentials instead of a password, for ElastiCache users with IAM authentication.
//!
//! The token is a presigned request that is never sent: a GET of `http://<cache>/?Action=connect&User=<id>`, signed
//! with Signature Version 4 and without its scheme (ElastiCache user guide, "Authenticating with IAM").

use std::error::Error;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::auth::fetched::Fetched;
use crate::model::secret::Secret;

/// How long a token is valid. This is the maximum that AWS allows.
const LIFETIME: Duration = Duration::from_secs(900);

/// How long before the expiry of a token or its credentials the next token is created. Metadata services offer new
/// credentials at least this long before the old ones expire.
const MARGIN: Duration = Duration::from_secs(300);

/// The time limit for finding credentials. Without a metadata service, the SDK makes several attempts to reach one.
const LIMIT: Duration = Duration::from_secs(30);

/// The characters that are percent-encoded in a query of Signature Version 4.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Creates tokens for one user of one cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The user id. For users with IAM authentication it equals the user name.
    pub user: String,
    /// The id of the replication group or serverless cache, in lower case.
    pub cache: String,
    pub serverless: bool,
    /// None for the region configured for the AWS tools.
    pub region: Option<String>,
}

impl Signer {
    /// Finds credentials as the AWS tools do, in the environment, profiles and metadata services, and creates a token.
    ///
    /// # Errors
    /// No region or no credentials were found. The text names the remedy.
    pub async fn fetch(&self) -> anyhow::Result<Fetched> {
        let Ok(fetched) = tokio::time::timeout(LIMIT, self.fetch_unbounded()).await else {
            bail!("--iam: no AWS credentials after {}; {REMEDY}", humantime::format_duration(LIMIT));
        };
        fetched
    }

    async fn fetch_unbounded(&self) -> anyhow::Result<Fetched> {
        // Loaded again for each token, because profiles and roles may change during a run.
        let config = configuration(self.region.clone()).await;
        let region = config.region().context("--iam: no AWS region was found; give --region, or set AWS_REGION")?;
        let provider = config.credentials_provider().with_context(|| format!("--iam: no AWS credentials; {REMEDY}"))?;
        let credentials = provider.provide_credentials().await.map_err(|error| not_found(&error))?;

        let now = SystemTime::now();
        Ok(Fetched {
            password: self.token(&credentials, region.as_ref(), now)?,
            good_for: Some(good_for(credentials.expiry(), now)),
        })
    }

    /// The token that AUTH sends as a password.
    ///
    /// # Errors
    /// The request cannot be signed.
    pub fn token(&self, credentials: &Credentials, region: &str, now: SystemTime) -> anyhow::Result<Secret> {
        let mut request = format!("http://{}/?Action=connect&User={}", self.cache, encoded(&self.user));
        if self.serverless {
            request.push_str("&ResourceType=ServerlessCache");
        }

        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(LIFETIME);
        let identity = credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name("elasticache")
            .time(now)
            .settings(settings)
            .build()
            .context("--iam: cannot sign")?
            .into();

        let signable = SignableRequest::new("GET", request.as_str(), std::iter::empty(), SignableBody::empty());
        let signed = sign(signable.context("--iam: cannot sign")?, &parameters).context("--iam: cannot sign")?;
        for (name, value) in signed.output().params() {
            request.push_str(&format!("&{name}={}", encoded(value)));
        }
        Ok(Secret::new(request.trim_start_matches("http://")))
    }
}

const REMEDY: &str =
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run on an instance or container with a role";

async fn configuration(region: Option<String>) -> SdkConfig {
    // ring, as for the other connections: the default provider would make the binary 50 % larger and slower to start.
    let client = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let loader = aws_config::defaults(BehaviorVersion::latest()).http_client(client);
    match region {
        Some(region) => loader.region(Region::new(region)).load().await,
        None => loader.load().await,
    }
}

fn not_found(error: &CredentialsError) -> anyhow::Error {
    let mut reasons = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        reasons.push(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
        cause = error.source();
    }
    anyhow::anyhow!("--iam: no AWS credentials: {}; {REMEDY}", reasons.join(": "))
}

fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, QUERY)
}

/// How long to use a token created `now` from credentials that expire at `expiry`.
fn good_for(expiry: Option<SystemTime>, now: SystemTime) -> Duration {
    let credentials = expiry.map(|expiry| expiry.duration_since(now).unwrap_or_default());
    LIFETIME.min(credentials.unwrap_or(LIFETIME)).saturating_sub(MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");

    /// 2026-01-02 03:04:05 UTC.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
    }

    fn signer(serverless: bool) -> Signer {
        Signer { user: "iam-user".into(), cache: "my-cache".into(), serverless, region: None }
    }

    // The signatures were computed without AWS code, with Python's hmac and hashlib, following the AWS documentation.

    #[test]
    fn a_token_is_a_presigned_request_without_its_scheme() {
        let credentials = Credentials::new(KEYS.0, KEYS.1, None, None, "test");
        let token = signer(false).token(&credentials, "eu-central-1", now()).unwrap();
        assert_eq!(
            token.reveal(),
            "my-cache/?Action=connect&User=iam-user&X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Feu-central-1%2Felasticache%2Faws4_request\
            &X-Amz-Date=20260102T030405Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=35a2925ea7542a04b5053475888ae8e093fe84f3421a16fdd282a2e14d04f95b"
        );
    }

    #[test]
    fn a_token_of_a_role_for_a_serverless_cache_says_so() {
        let session = Some("Fwo+session/token==".to_owned());
        let credentials = Credentials::new(KEYS.0, KEYS.1, session, None, "test");
        let token = signer(true).token(&credentials, "us-east-1", now()).unwrap();
        assert_eq!(
            token.reveal(),
            "my-cache/?Action=connect&User=iam-user&ResourceType=ServerlessCache&X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Fus-east-1%2Felasticache%2Faws4_request\
            &X-Amz-Date=20260102T030405Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=93b95b22db090c095f6d13b18ec09cc933507a1773cc06096f2223794f476bae\
            &X-Amz-Security-Token=Fwo%2Bsession%2Ftoken%3D%3D"
        );
    }

    #[test]
    fn a_token_is_renewed_before_it_or_its_credentials_expire() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        for (left, expected) in [(None, 10), (Some(360), 10), (Some(15), 10), (Some(12), 7), (Some(3), 0)] {
            let expiry = left.map(|left| now() + minutes(left));
            assert_eq!(good_for(expiry, now()), minutes(expected), "{left:?}");
        }
        assert_eq!(good_for(Some(now() - minutes(1)), now()), Duration::ZERO);
    }
}
