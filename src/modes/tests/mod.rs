//! Tests of several parts together that cannot be done at the process boundary.

#[cfg(feature = "iam")]
mod iam;
mod secrets;
