//! A report as one HTML page: self-contained, without scripts, with light and dark mode, printable. The template
//! escapes all text.

use std::time::Duration;

use askama::Template;

use super::text::{availability_of, length, overall_availability};
use super::{Incident, Report, Row, change_in_words, latency_cells, name_of_rows, stamp};
use crate::history::outage::Outage;
use crate::log::read::Folder;
use crate::model::change::Changed;
use crate::model::clock::Moment;
use crate::model::duration::seconds;

/// The width of the drawings, in units. The page scales them.
const WIDTH: f64 = 1000.0;

/// The height of the latency plot, in the same units.
const HEIGHT: f64 = 200.0;

/// How many outages the table lists.
const LISTED: usize = 200;

#[derive(Template)]
#[template(path = "page.html", config = "src/report/askama.toml")]
struct Page {
    title: String,
    /// The headline, and whether there was no outage.
    headline: String,
    healthy: bool,
    summary: Vec<String>,
    timeline: Timeline,
    plot: Option<Plot>,
    rows: Vec<TableRow>,
    /// At least one row has latency.
    latencies: bool,
    outages: Vec<OutageRow>,
    unlisted: u64,
    changes: Vec<ChangeRow>,
    version: &'static str,
}

/// The states of all rows over time.
struct Timeline {
    bands: Vec<Band>,
    /// Changes, shown on the time axis.
    flags: Vec<Flag>,
    /// The labels of the time axis.
    ticks: Vec<String>,
}

/// One row of the timeline.
struct Band {
    name: String,
    segments: Vec<Segment>,
}

/// A part of a row that was down or not observed.
struct Segment {
    x: String,
    width: String,
    class: &'static str,
    title: String,
}

struct Flag {
    x: String,
    title: String,
}

struct Plot {
    /// The area below the maxima, and the line of the means, as SVG paths.
    highest: String,
    mean: String,
    lines: Vec<PlotLine>,
}

/// A grid line of the plot.
struct PlotLine {
    y: String,
    /// The distance from the top, in percent.
    top: String,
    label: String,
}

struct TableRow {
    name: String,
    checks: u64,
    failures: u64,
    availability: String,
    latency: Option<[String; 4]>,
}

struct OutageRow {
    name: String,
    from: String,
    to: String,
    at_least: String,
    at_most: String,
    checks: String,
    why: String,
    caveats: String,
}

struct ChangeRow {
    at: String,
    what: String,
}

/// Renders the page.
///
/// # Errors
/// The template cannot be rendered. No report is known to cause this.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let folded = report.folded();
    let scale = Scale::of(report);
    let incidents = report.incidents();
    let page = Page {
        title: match (&report.endpoint, &report.source) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(source)) => format!("Redis health, from the logs in {source}"),
            (None, None) => "Redis health".to_owned(),
        },
        headline: match report.checks {
            0 if report.span.is_some() => "no check could be made".to_owned(),
            0 => "no check".to_owned(),
            failures if report.missing.failures_only => format!("{failures} failures"),
            _ => overall_availability(report),
        },
        healthy: report.outages() == 0,
        summary: summary(report),
        timeline: timeline(report, &folded, &scale),
        plot: plot(report, &scale),
        latencies: report.rows.iter().any(|row| row.latency.is_some()),
        rows: folded.iter().map(|rows| table_row(rows, report.missing.failures_only)).collect(),
        unlisted: incidents.len().saturating_sub(LISTED) as u64
            + folded.iter().map(|rows| rows[0].unlisted.count).sum::<u64>(),
        outages: incidents.iter().take(LISTED).map(outage_row).collect(),
        changes: report
            .changes
            .iter()
            .map(|change| ChangeRow { at: stamp(change.1.at), what: change_in_words(change) })
            .collect(),
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(page.render()?)
}

fn timeline(report: &Report, folded: &[&[Row]], scale: &Scale) -> Timeline {
    let band = |rows: &&[Row]| Band { name: name_of_rows(rows), segments: segments(rows, scale) };
    Timeline { bands: folded.iter().map(band).collect(), flags: flags(report, scale), ticks: scale.ticks() }
}

fn summary(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("{} checks, {} failed", report.checks, report.failures)];
    if let Some((first, last)) = report.span {
        lines.push(format!("{} to {}", stamp(first.stamp), stamp(last.stamp)));
    }
    if report.missing.failures_only {
        lines.push("only an error log was read, which contains no successful checks".to_owned());
    }

    let worst = report.rows.iter().flat_map(|row| &row.outages);
    let worst = worst.max_by_key(|outage| (outage.at_least(), outage.at_most()));
    if let Some(outage) = worst {
        let at_most = outage.at_most().map(|at_most| format!(", at most {} s", seconds(at_most))).unwrap_or_default();
        lines.push(format!("longest outage: at least {} s{at_most}", seconds(outage.at_least())));
    }

    if !report.unobserved.is_zero() {
        lines.push(format!("not observed: {}", length(report.unobserved)));
    }
    lines.extend(report.not_observed_in_words());
    lines.extend(report.missing.counts().into_iter().map(|(what, count)| format!("{what}: {count}")));
    lines
}

/// Maps moments to positions on the time axis.
struct Scale {
    span: Option<(Moment, Moment)>,
}

impl Scale {
    fn of(report: &Report) -> Self {
        Scale { span: report.span.filter(|(first, last)| last.since > first.since) }
    }

    fn x(&self, at: Duration) -> f64 {
        let Some((first, last)) = self.span else { return 0.0 };
        let offset = at.saturating_sub(first.since).as_secs_f64();
        (offset / (last.since - first.since).as_secs_f64()).min(1.0) * WIDTH
    }

    /// The labels of the axis, at equal distances.
    fn ticks(&self) -> Vec<String> {
        const PARTS: u32 = 4;
        let Some((first, last)) = self.span else { return Vec::new() };
        let length = last.since - first.since;
        let tick = |part| {
            let mut at = last.stamp.earlier(length - length / PARTS * part);
            at.millis = length < Duration::from_secs(10);
            stamp(at)
        };
        (0..=PARTS).map(tick).collect()
    }
}

/// The outages and the unobserved times of folded rows. Those that are too close together to be distinguished are merged.
fn segments(rows: &[Row], scale: &Scale) -> Vec<Segment> {
    let Some((first, last)) = scale.span else { return Vec::new() };
    let row = &rows[0];
    let shared = |index| rows.iter().filter_map(move |row| row.outages.get(index));
    let outages = row.outages.iter().enumerate();
    let mut outages: Vec<_> = outages.map(|(index, outage)| (outage.span(), hover(outage, shared(index)))).collect();
    let unlisted = row.unlisted.spans.iter().map(|span| (span, "outages that are not listed".to_owned()));
    outages.extend(unlisted);
    outages.sort_by_key(|(span, _)| *span);

    let mut gaps: Vec<_> =
        row.unobserved((first.since, last.since)).map(|span| (span, "not observed".to_owned())).collect();
    gaps.sort_by_key(|(span, _)| *span);

    // Even within an outage, unobserved time is not known to be downtime, so it is drawn on top.
    let down = merged(outages, "outages", scale).into_iter().map(|stretch| (stretch, "down"));
    let gap = merged(gaps, "unobserved times", scale).into_iter().map(|stretch| (stretch, "gap"));
    down.chain(gap).map(|(stretch, class)| stretch.drawn(class)).collect()
}

/// A segment before it is drawn.
struct Stretch {
    from: f64,
    to: f64,
    title: String,
    count: u64,
}

impl Stretch {
    fn drawn(self, class: &'static str) -> Segment {
        // An outage that is too short to be visible is drawn wider.
        let width = (self.to - self.from).max(if class == "down" { 3.0 } else { 0.0 });
        Segment { x: figure(self.from.min(WIDTH - width)), width: figure(width), class, title: self.title }
    }
}

fn merged(spans: Vec<((Duration, Duration), String)>, many: &str, scale: &Scale) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for ((from, to), title) in spans {
        let (from, to) = (scale.x(from), scale.x(to));
        match stretches.last_mut() {
            Some(stretch) if from <= stretch.to + 3.0 => {
                stretch.to = stretch.to.max(to);
                stretch.count += 1;
                stretch.title = format!("{} {many}", stretch.count);
            }
            _ => stretches.push(Stretch { from, to, title, count: 1 }),
        }
    }
    stretches
}

/// An outage that several databases share, in words: `all` are their own bounds.
fn hover<'r>(outage: &Outage, all: impl Iterator<Item = &'r Outage> + Clone) -> String {
    let to = outage.first_success_after.map_or_else(|| "…".to_owned(), |moment| stamp(moment.stamp));
    let at_least = all.clone().map(Outage::at_least).min().unwrap_or_default();
    let at_most = all
        .map(Outage::at_most)
        .max()
        .flatten()
        .map(|at_most| format!(", at most {} s", seconds(at_most)))
        .unwrap_or_default();
    format!(
        "down from {} to {to}: at least {} s{at_most} ({})",
        stamp(outage.first_failure.stamp),
        seconds(at_least),
        outage.kinds_in_words()
    )
}

fn flags(report: &Report, scale: &Scale) -> Vec<Flag> {
    let Some((first, _)) = scale.span else { return Vec::new() };
    let flag = |change: &(Folder, Changed)| {
        let at = change.1.at;
        let offset = (at.at - first.stamp.at).to_std().unwrap_or_default();
        let title = format!("{} at {}", change_in_words(change), stamp(at));
        Flag { x: figure(scale.x(first.since + offset)), title }
    };
    report.changes.iter().map(flag).collect()
}

fn plot(report: &Report, scale: &Scale) -> Option<Plot> {
    scale.span?;
    let values: Vec<_> = report
        .points
        .iter()
        .filter_map(|(at, span)| Some((scale.x(*at), millis(span.mean()?), millis(span.max))))
        .collect();
    let lowest = values.iter().map(|(_, mean, _)| *mean).fold(f64::INFINITY, f64::min).max(0.001);
    let highest = values.iter().map(|(_, _, max)| *max).fold(0.0, f64::max);
    if values.len() < 2 {
        return None;
    }

    // Checks take from a fraction of a millisecond to seconds, so the scale is logarithmic.
    let bottom = lowest.log10().floor();
    let top = highest.log10().ceil().max(bottom + 1.0);
    let lowest = 10f64.powf(bottom);
    let y = |value: f64| (top - value.max(lowest).log10()) / (top - bottom) * HEIGHT;

    let path = |points: &[(f64, f64)]| -> String {
        let step = |(index, (x, value)): (usize, &(f64, f64))| {
            format!("{}{} {}", if index == 0 { "M" } else { "L" }, figure(*x), figure(y(*value)))
        };
        points.iter().enumerate().map(step).collect()
    };

    let (mut outline, mut mean) = (String::new(), String::new());
    // No line is drawn where nothing was observed.
    let apart = median_distance(&values) * 3.0;
    for run in values.chunk_by(|a, b| b.0 - a.0 <= apart) {
        let (Some((first, ..)), Some((last, ..))) = (run.first(), run.last()) else { continue };
        let (first, last) = (figure(*first), figure(*last));
        outline += &path(&run.iter().map(|(x, _, max)| (*x, *max)).collect::<Vec<_>>());
        outline += &format!("L{last} {HEIGHT}L{first} {HEIGHT}Z");
        mean += &path(&run.iter().map(|(x, mean, _)| (*x, *mean)).collect::<Vec<_>>());
    }

    let lines = (bottom as i32..=top as i32).map(|power| {
        let value = 10f64.powi(power);
        PlotLine { y: figure(y(value)), top: figure(y(value) / HEIGHT * 100.0), label: format!("{value} ms") }
    });
    Some(Plot { highest: outline, mean, lines: lines.collect() })
}

fn median_distance(values: &[(f64, f64, f64)]) -> f64 {
    let mut distances: Vec<_> = values.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(WIDTH)
}

fn table_row(rows: &[Row], failures_only: bool) -> TableRow {
    let row = &rows[0];
    TableRow {
        name: name_of_rows(rows),
        checks: row.checks,
        failures: row.failures,
        availability: availability_of(row, failures_only),
        latency: latency_cells(rows),
    }
}

fn outage_row(incident: &Incident<'_>) -> OutageRow {
    let outage = incident.outage;
    OutageRow {
        name: incident.name(),
        from: stamp(outage.first_failure.stamp),
        to: outage.first_success_after.map_or_else(|| "…".to_owned(), |moment| stamp(moment.stamp)),
        at_least: format!("{} s", seconds(incident.at_least)),
        at_most: incident.at_most.map_or_else(|| "not known".to_owned(), |at_most| format!("{} s", seconds(at_most))),
        checks: format!("{} ({})", outage.failed_checks, outage.kinds_in_words()),
        why: outage.reason.to_string(),
        caveats: outage.caveats().join(", "),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A coordinate, to a tenth of a unit.
fn figure(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}
