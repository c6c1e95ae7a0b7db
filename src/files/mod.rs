//! The one way to open the files that a run writes: logs, lock, metrics, pages, traces.
//!
//! The tool often runs as root, in folders that others may write to. Anything may be planted there in the place of a
//! file. So nothing but a regular file is opened, and a symbolic link is followed only if root or the current user made
//! it. What is opened is checked after opening, because its path may change at any time.

pub mod lock;
mod open;
mod place;
pub mod replace;

pub use open::{Opened, create_folder, open_append, open_read, read_input};
pub use place::beside;
