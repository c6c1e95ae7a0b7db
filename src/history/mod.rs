//! Folds checks into outages, availability and latency, in bounded memory for any number of checks.
//!
//! It is pure: no clock, file or socket. A live run and `report` use the same folds.

pub mod intervals;
pub mod ledger;
pub mod live;
pub mod outage;
pub mod reorder;
pub mod time_series;
