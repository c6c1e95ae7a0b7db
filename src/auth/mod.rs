//! Credentials: where they come from, and how they are refreshed on rotation or expiry.
//!
//! It does not know the connections that present them.

pub mod blocking;
pub mod credentials;
mod fetched;
#[cfg(feature = "iam")]
pub mod iam;
pub mod password;
pub mod renewal;
