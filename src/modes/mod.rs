//! What the tool does when it is called: the only place where all parts meet.

pub mod cycles;
pub mod dbs;
mod lock;
mod prober;
mod queue;
mod recorder;
pub mod report;
mod session;
mod signals;
#[cfg(test)]
mod tests;
