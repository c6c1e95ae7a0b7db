//! Credentials: where they come from, and how they are refreshed on rotation or expiry.
//!
//! It knows nothing of the connection that presents them.

pub mod credentials;
#[cfg(feature = "iam")]
pub mod iam;
pub mod password;
