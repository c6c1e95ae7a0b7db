//! Messages to the user about what does not stop a run: a log file that cannot be written, a password that cannot be
//! fetched.

use std::sync::Arc;

/// Shows a message of one line to the user. It must not block.
pub type Notify = Arc<dyn Fn(&str) + Send + Sync>;
