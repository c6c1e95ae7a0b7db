//! What can be typed, and what to do: flags and environment become a plan, once.
//!
//! Behind this module there is no clap type and no environment variable.

pub mod args;
pub mod plan;
pub mod precedence;
mod units;
mod uri;
