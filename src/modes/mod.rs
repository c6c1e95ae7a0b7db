//! What the tool does when it is called: the only place where all parts meet.

pub mod cycles;
pub mod dbs;
pub mod report;
mod signals;
#[cfg(test)]
mod tests;
