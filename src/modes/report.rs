//! `report`: reads logs back and reports on them.

use anyhow::{Context as _, ensure};

use crate::cli::plan::ReportPlan;
use crate::exit_code::Exit;
use crate::files::replace::Replaceable;
use crate::log::read::{self, Notice};
use crate::model::text::Printable;
use crate::output::console::Console;
use crate::report::text::Style;
use crate::report::{Report, build, html, json, text};

/// Reads the logs, prints the report, and writes the HTML page if requested.
///
/// # Errors
/// There is nothing to read, or the page cannot be written.
pub fn run(plan: &ReportPlan) -> anyhow::Result<Exit> {
    let console = Console::direct();
    let mut tell = |notice: Notice<'_>| match notice {
        Notice::Line(text) if !plan.verbose => _ = text,
        Notice::Line(text) | Notice::File(text) => console.notice(text),
    };

    // A page that cannot be written is reported before hours of logs are read.
    let page = plan.html.as_ref().map(|path| {
        let unwritable = || format!("--html: cannot write {}; name a file that can be written", Printable::path(path));
        Replaceable::of(path, None).with_context(unwritable).map(|page| (page, unwritable))
    });
    let page = page.transpose()?;

    let folders = read::read(&plan.paths, plan.range, plan.utc, &mut tell)?;
    let names: Vec<_> = plan.paths.iter().map(|path| Printable::path(path).to_string()).collect();
    let report = Report { source: Some(names.join(", ")), ..build::of_logs(folders) };
    ensure!(
        report.span.is_some(),
        "no check was found in {}{}; give other logs, or other times for --since and --until",
        names.join(", "),
        if report.missing.skipped_lines > 0 {
            format!(" (lines that could not be read: {})", report.missing.skipped_lines)
        } else {
            String::new()
        }
    );

    if let Some((page, unwritable)) = page {
        page.write_anyhow(html::render(&report)?.as_bytes()).with_context(unwritable)?;
    }
    if plan.json {
        console.line(json::render(&report));
    } else {
        console.line(text::render(&report, &Style::of_standard_output()));
    }

    if console.has_failed() {
        return Ok(Exit::Lost);
    }
    Ok(if report.outages() > 0 || report.failures > 0 { Exit::Failed } else { Exit::Healthy })
}
