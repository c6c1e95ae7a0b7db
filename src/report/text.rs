//! A report as text: readable at 80 columns, in a terminal, a mail or a ticket.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::time::Duration;

use super::timeline::{State, bar};
use super::{Report, Row, change_in_words, latency_cells, name_of_rows, stamp};
use crate::model::duration::seconds;

/// The width and colour of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: usize,
    pub colour: bool,
}

/// How many outages the text lists.
const LISTED: usize = 100;

/// The width without a terminal.
const WIDTH: usize = 80;

impl Style {
    /// The width of the terminal on standard output, in colour unless `NO_COLOR` is set (no-color.org).
    pub fn of_standard_output() -> Self {
        let colour =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = terminal_size::terminal_size().filter(|_| std::io::stdout().is_terminal());
        Style { width: width.map_or(WIDTH, |(width, _)| usize::from(width.0).max(40)), colour }
    }

    fn heading(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bad(self, text: &str) -> String {
        if self.colour { format!("\x1b[31m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Renders the report, without the final line end.
pub fn render(report: &Report, style: &Style) -> String {
    let mut text = String::new();
    // Writing to memory does not fail.
    let _ = write(report, *style, &mut text);
    text.truncate(text.trim_end().len());
    text
}

fn write(report: &Report, style: Style, f: &mut String) -> fmt::Result {
    overview(report, style, f)?;
    if report.span.is_none() {
        return Ok(());
    }
    table(report, style, f)?;
    outages(report, style, f)?;
    changes(report, style, f)?;
    timeline(report, style, f)
}

fn overview(report: &Report, style: Style, f: &mut String) -> fmt::Result {
    let name = report.endpoint.as_ref().map(|endpoint| format!("{endpoint}: ")).unwrap_or_default();
    let share = overall_availability(report);
    let outcome = match (report.checks, report.failures) {
        (0, _) if report.span.is_some() => "no check could be made".to_owned(),
        (0, _) => "no check was run".to_owned(),
        (1, 0) => "1 check, which passed".to_owned(),
        (checks, 0) => format!("{checks} checks, none failed"),
        (_, failures) if report.missing.failures_only => format!("{failures} failed checks"),
        (1, _) => "1 check, which failed".to_owned(),
        (checks, failures) => format!("{checks} checks, {failures} failed, availability {share}"),
    };

    writeln!(f, "{}", style.heading(&format!("{name}{outcome}")))?;
    if let Some((first, last)) = report.span {
        let whole = length(last.since.saturating_sub(first.since));
        writeln!(f, "from {} to {} ({whole})", stamp(first.stamp), stamp(last.stamp))?;
    }
    if report.missing.failures_only {
        writeln!(
            f,
            "only an error log was read, which contains no successful checks: the ends of outages are unknown"
        )?;
    }
    if !report.unobserved.is_zero() {
        writeln!(f, "not observed: {}", length(report.unobserved))?;
    }
    if let Some(words) = report.not_observed_in_words() {
        writeln!(f, "{words}")?;
    }
    for (what, count) in report.missing.counts() {
        writeln!(f, "{what}: {count}")?;
    }
    Ok(())
}

fn table(report: &Report, style: Style, f: &mut String) -> fmt::Result {
    const FIGURES: [&str; 4] = ["p50 ms", "p90 ms", "p99 ms", "max ms"];
    let rows = report.folded().into_iter().map(|rows| (name_of_rows(rows), &rows[0], latency_cells(rows)));
    let rows: Vec<_> = rows.collect();

    let mut widths = [0; 4];
    for cells in rows.iter().filter_map(|(_, _, cells)| cells.as_ref()) {
        widths = std::array::from_fn(|column| widths[column].max(cells[column].len()).max(7));
    }
    let of_figures: usize = widths.iter().filter(|width| **width > 0).map(|width| width + 1).sum();
    let name = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    // The columns after the name: checks, failed and available, then the latency.
    let width = name.min(20).min(style.width.saturating_sub(27 + of_figures)).max(8);

    let mut head = format!("{:width$} {:>8} {:>7} {:>9}", "", "checks", "failed", "available");
    for (figure, width) in FIGURES.iter().zip(widths).filter(|(_, width)| *width > 0) {
        write!(head, " {figure:>width$}")?;
    }
    writeln!(f, "\n{}", style.heading(&head))?;

    for (name, row, cells) in rows {
        let share = availability_of(row, report.missing.failures_only);
        let available = format!("{share:>9}");
        let available = if row.failures > 0 { style.bad(&available) } else { available };

        if name.len() > width {
            writeln!(f, "{name}")?;
        }
        let name = if name.len() > width { "" } else { &name };
        write!(f, "{name:width$} {:>8} {:>7} {available}", row.checks, row.failures)?;
        for (cell, width) in cells.iter().flatten().zip(widths) {
            write!(f, " {cell:>width$}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn outages(report: &Report, style: Style, f: &mut String) -> fmt::Result {
    if report.outages() == 0 {
        return Ok(());
    }
    writeln!(f, "\n{}", style.heading("Outages"))?;
    let incidents = report.incidents();
    for incident in incidents.iter().take(LISTED) {
        let outage = incident.outage;
        let to = outage.first_success_after.map_or_else(|| "…".to_owned(), |moment| stamp(moment.stamp));
        writeln!(f, "{}: {} to {to}", style.bad(&incident.name()), stamp(outage.first_failure.stamp))?;

        let mut bounds = format!("at least {}", seconds_and_length(incident.at_least));
        if let Some(at_most) = incident.at_most {
            write!(bounds, ", at most {}", seconds_and_length(at_most))?;
        }
        for caveat in outage.caveats() {
            write!(bounds, ", {caveat}")?;
        }
        write!(bounds, "; failed checks: {} ({})", outage.failed_checks, outage.kinds_in_words())?;

        for line in [bounds, outage.reason.to_string()] {
            wrapped(&line, style.width, f)?;
        }
    }

    let unlisted: u64 = report.folded().iter().map(|rows| rows[0].unlisted.count).sum();
    match incidents.len().saturating_sub(LISTED) as u64 + unlisted {
        0 => Ok(()),
        more => writeln!(f, "and {more} more; --json lists up to 1,000 per database"),
    }
}

fn changes(report: &Report, style: Style, f: &mut String) -> fmt::Result {
    if report.changes.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{}", style.heading("Changes"))?;
    for change in &report.changes {
        let (at, what) = (stamp(change.1.at), change_in_words(change));
        if at.len() + 1 + what.chars().count() <= style.width {
            writeln!(f, "{at} {what}")?;
        } else {
            writeln!(f, "{at}")?;
            wrapped(&what, style.width, f)?;
        }
    }
    Ok(())
}

fn timeline(report: &Report, style: Style, f: &mut String) -> fmt::Result {
    let Some((first, last)) = report.span.filter(|(first, last)| last.since > first.since) else { return Ok(()) };
    let rows = report.folded();
    let width = rows.iter().map(|rows| name_of_rows(rows).len()).max().unwrap_or(0).clamp(8, 20);
    let cells = style.width.saturating_sub(width + 1).max(10);

    writeln!(f, "\n{}", style.heading("Timeline (= up, X down, . not observed)"))?;
    for rows in rows {
        let name = name_of_rows(rows);
        if name.len() > width {
            write!(f, "{name}\n{:width$} ", "")?;
        } else {
            write!(f, "{name:width$} ")?;
        }
        for run in bar(report, &rows[0], cells).chunk_by(|a, b| a == b) {
            match run[0] {
                State::Up => f.push_str(&"=".repeat(run.len())),
                State::Down => f.push_str(&style.bad(&"X".repeat(run.len()))),
                State::Unobserved => f.push_str(&".".repeat(run.len())),
            }
        }
        writeln!(f)?;
    }

    let (from, to) = (stamp(first.stamp), stamp(last.stamp));
    let space = cells.saturating_sub(from.len() + to.len()).max(1);
    writeln!(f, "{:width$} {from}{:space$}{to}", "", "")
}

/// Writes indented lines of at most `width` columns, broken at spaces.
fn wrapped(text: &str, width: usize, f: &mut String) -> fmt::Result {
    const INDENT: &str = "    ";
    let mut line = String::new();
    for word in text.split(' ') {
        let length = INDENT.len() + line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && length > width {
            writeln!(f, "{INDENT}{line}")?;
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(f, "{INDENT}{line}")
}

/// The share of checks that passed, in percent. Rounded down, so that 100 % means all of them.
pub fn availability(checks: u64, failures: u64) -> String {
    let thousandths = u128::from(checks - failures.min(checks)) * 100_000 / u128::from(checks.max(1));
    format!("{}.{:03} %", thousandths / 1000, thousandths % 1000)
}

/// The availability over all rows, with the number of checks that it is of if some do not count, or a dash if none does.
pub fn overall_availability(report: &Report) -> String {
    let alone = report.missing.failures_alone;
    let share = |counted| availability(counted, report.failures.saturating_sub(alone));
    match (report.checks.saturating_sub(alone), alone) {
        (0, _) => "–".to_owned(),
        (counted, 0) => share(counted),
        (1, _) => format!("{} of 1 check", share(1)),
        (counted, _) => format!("{} of {counted} checks", share(counted)),
    }
}

/// The availability of a row, or a dash if it is unknown.
pub fn availability_of(row: &Row, failures_only: bool) -> String {
    if failures_only || row.availability.is_none() {
        "–".to_owned()
    } else {
        availability(row.checks - row.alone, row.failures - row.alone)
    }
}

/// A duration such as `35m`, `1h 2m 3s` or `50d 3h`; in seconds with milliseconds if it is shorter than 5 s.
pub fn length(duration: Duration) -> String {
    if duration < Duration::from_secs(5) {
        return format!("{} s", seconds(duration));
    }
    let whole = (duration.as_millis() + 500) / 1000;
    let parts = [(whole / 86_400, "d"), (whole / 3600 % 24, "h"), (whole / 60 % 60, "m"), (whole % 60, "s")];
    let parts: Vec<_> = parts.iter().filter(|(count, _)| *count > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    parts.join(" ")
}

/// Seconds, followed by hours and minutes in brackets from 120 s on.
pub fn seconds_and_length(duration: Duration) -> String {
    if duration < Duration::from_secs(120) {
        format!("{} s", seconds(duration))
    } else {
        format!("{} s ({})", seconds(duration), length(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn availability_is_never_rounded_up() {
        assert_eq!(availability(10, 0), "100.000 %");
        assert_eq!(availability(10_000_000, 1), "99.999 %");
        assert_eq!(availability(40, 3), "92.500 %");
        assert_eq!(availability(100, 71), "29.000 %");
        assert_eq!(availability(10, 9), "10.000 %");
    }
}
