//! Shared test helpers: the binary in a temporary folder, a scripted server, real servers.

#![allow(dead_code)]

pub mod attacks;
#[cfg(feature = "iam")]
pub mod aws;
pub mod certificates;
pub mod cluster;
pub mod dns;
pub mod env;
pub mod legacy;
pub mod logs;
pub mod real;
pub mod scripted;
pub mod upgrade;
