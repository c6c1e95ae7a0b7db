//! A bar on the terminal for scans that take longer than a second.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// From when on a scan is long.
const LONG: Duration = Duration::from_secs(1);

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Draws how many of `total` databases are settled; never ends. Nothing is drawn where their number is not known, or
/// where standard error is no terminal.
pub async fn show(total: Option<u64>, settled: impl Fn() -> u64) {
    let Some(total) = total.filter(|_| std::io::stderr().is_terminal()) else { return std::future::pending().await };
    tokio::time::sleep(LONG).await;

    let template = "{pos} of {len} databases [{wide_bar}] {elapsed}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
    let bar = ClearedBar(bar);
    loop {
        bar.0.set_position(settled());
        tokio::time::sleep(REDRAW).await;
    }
}

/// A bar that leaves no trace, also when the scan ends while it is drawn.
struct ClearedBar(ProgressBar);

impl Drop for ClearedBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
