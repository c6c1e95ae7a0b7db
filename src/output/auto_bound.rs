//! Says that `--max-db auto` stopped although the server accepted every index.

use crate::model::databases::AUTO_COUNT;
use crate::model::event::{Event, Sink};
use crate::model::subject::Subject;
use crate::output::console::Console;

/// Says it once in a run with `--max-db auto`.
pub struct AutoBound {
    console: Console,
    is_said: bool,
}

impl AutoBound {
    pub fn new(console: Console) -> Self {
        AutoBound { console, is_said: false }
    }
}

impl Sink for AutoBound {
    fn take(&mut self, event: &Event) {
        let is_last = |subject: &Subject| subject.db == Some(AUTO_COUNT - 1);
        let is_reached = match event {
            Event::CheckFinished(check) => is_last(&check.subject),
            Event::ScanFinished(scan) => scan.checks.iter().any(|check| is_last(&check.subject)),
            _ => false,
        };
        if is_reached && !self.is_said {
            self.is_said = true;
            self.console.notice(format_args!(
                "--max-db auto stopped after {AUTO_COUNT} databases, and the server may have more; --max-db N checks up \
                 to N"
            ));
        }
    }
}
