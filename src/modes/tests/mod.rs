//! Tests of several parts together that the process boundary does not reach.

#[cfg(feature = "iam")]
mod iam;
mod secrets;
