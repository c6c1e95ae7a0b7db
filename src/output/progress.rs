//! A progress bar on the terminal for scans that take longer than a second.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bar appears after this time.
const LONG: Duration = Duration::from_secs(1);

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows how many of `total` databases have a result. Never returns. Shows nothing if their number is unknown or
/// standard error is not a terminal.
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

/// A bar that is removed when it is dropped, even if the scan ends while it is being drawn.
struct ClearedBar(ProgressBar);

impl Drop for ClearedBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
