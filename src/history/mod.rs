//! Folds checks into outages, availability and latency, of bounded size however many checks there are.
//!
//! All of it is pure: it knows no clock, no file and no socket. A live run and `report` feed the same folds.

pub mod intervals;
pub mod ledger;
pub mod live;
pub mod outage;
pub mod reorder;
pub mod time_series;
