//! The modes `dbs`, `cycles` and `report`: the only folder that uses all others.

pub mod cycles;
pub mod dbs;
pub mod limits;
mod lock;
mod prober;
mod queue;
mod recorder;
pub mod report;
mod session;
mod signals;
#[cfg(test)]
mod tests;

pub use prober::TASKS_PER_YIELD;
