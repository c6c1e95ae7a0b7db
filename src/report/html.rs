//! A report as one page: no network, no script, light and dark, and fit for paper. The template escapes all text.

use std::time::Duration;

use askama::Template;

use super::text::availability;
use super::{Incident, Report, Row, name_of_rows, stamp};
use crate::ledger::Gap;
use crate::outage::{Moment, Outage};
use crate::record::seconds;

/// How many units wide the drawings are; the page scales them.
const WIDTH: f64 = 1000.0;

/// How high the latency plot is.
const HEIGHT: f64 = 200.0;

/// How many outages the table lists.
const LISTED: usize = 500;

#[derive(Template)]
#[template(path = "page.html", config = "src/report/askama.toml")]
struct Page {
    title: String,
    /// The headline figure, and whether it is a good one.
    headline: String,
    healthy: bool,
    summary: Vec<String>,
    bands: Vec<Band>,
    /// Changes on the time axis.
    flags: Vec<Flag>,
    ticks: Vec<String>,
    plot: Option<Plot>,
    rows: Vec<TableRow>,
    outages: Vec<OutageRow>,
    unlisted: usize,
    changes: Vec<ChangeRow>,
    version: &'static str,
}

/// One row of the timeline.
struct Band {
    name: String,
    marks: Vec<Mark>,
}

/// A stretch of a row that was not simply up.
struct Mark {
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
    /// The outline of the highest values, and the line of the means, as SVG paths.
    highest: String,
    mean: String,
    lines: Vec<PlotLine>,
}

/// A line of the plot's scale.
struct PlotLine {
    y: String,
    /// From the top, in percent.
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
    who: String,
    what: &'static str,
    from: String,
    to: String,
}

/// The page as text.
///
/// # Errors
/// The template cannot be filled, which no report is known to bring about.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let folded = report.folded();
    let scale = Scale::of(report);
    let incidents = report.incidents();
    let share = 1.0 - report.failures as f64 / report.checks.max(1) as f64;
    let page = Page {
        title: report.endpoint.clone().unwrap_or_else(|| "Redis health".to_owned()),
        headline: if report.checks == 0 { "no check".to_owned() } else { availability(share) },
        healthy: report.outages() == 0,
        summary: summary(report),
        bands: folded.iter().map(|rows| Band { name: name_of_rows(rows), marks: marks(&rows[0], &scale) }).collect(),
        flags: flags(report, &scale),
        ticks: scale.ticks(),
        plot: plot(report, &scale),
        rows: folded.iter().map(|rows| table_row(rows)).collect(),
        unlisted: incidents.len().saturating_sub(LISTED),
        outages: incidents.iter().take(LISTED).map(outage_row).collect(),
        changes: report
            .changes
            .iter()
            .map(|changed| ChangeRow {
                at: stamp(changed.at),
                who: changed.who.to_string(),
                what: changed.change.aspect.as_str(),
                from: changed.change.from.clone(),
                to: changed.change.to.clone(),
            })
            .collect(),
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(page.render()?)
}

fn summary(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("{} checks, {} failed", report.checks, report.failures)];
    if let Some((first, last)) = report.span {
        lines.push(format!("{} to {}", stamp(first.stamp), stamp(last.stamp)));
    }
    let worst = report.rows.iter().flat_map(|row| &row.outages).max_by_key(|outage| outage.at_least());
    if let Some(outage) = worst {
        let at_most = outage.at_most().map(|at_most| format!(", at most {} s", seconds(at_most))).unwrap_or_default();
        lines.push(format!("longest outage: at least {} s{at_most}", seconds(outage.at_least())));
    }
    if !report.unobserved.is_zero() {
        lines.push(format!("not observed in between: {} s", seconds(report.unobserved)));
    }
    for (what, count) in [
        ("checks missed", report.missed),
        ("records that could not be written", report.lost),
        ("lines that could not be read", report.skipped_lines),
    ] {
        if count > 0 {
            lines.push(format!("{what}: {count}"));
        }
    }
    lines
}

/// From moments to places on the time axis.
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

    /// The stamps of the axis: its ends, and what lies between at equal distances.
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

/// Outages and gaps of a row. What lies too close together to be told apart is one mark.
fn marks(row: &Row, scale: &Scale) -> Vec<Mark> {
    let mut marks = Vec::new();
    for Gap { from, to } in row.gaps.iter() {
        let title = format!("not observed from {} to {}", stamp(from.stamp), stamp(to.stamp));
        marks.push((scale.x(from.since), scale.x(to.since), "gap", title));
    }
    let mut outages: Vec<(f64, f64, u32, String)> = Vec::new();
    for outage in &row.outages {
        let end = outage.first_success_after.unwrap_or(outage.last_failure);
        let (from, to) = (scale.x(outage.first_failure.since), scale.x(end.since));
        match outages.last_mut() {
            Some((_, until, count, title)) if from <= *until + 2.0 => {
                *until = until.max(to);
                *count += 1;
                *title = format!("{count} outages until {}", stamp(end.stamp));
            }
            _ => outages.push((from, to, 1, hover(outage))),
        }
    }
    marks.extend(outages.into_iter().map(|(from, to, _, title)| (from, to, "down", title)));
    marks
        .into_iter()
        .map(|(from, to, class, title)| {
            // Too short to be seen is still an outage.
            let width = (to - from).max(if class == "down" { 3.0 } else { 0.0 });
            Mark { x: figure(from.min(WIDTH - width)), width: figure(width), class, title }
        })
        .collect()
}

fn hover(outage: &Outage) -> String {
    let to = outage.first_success_after.map_or_else(|| "…".to_owned(), |moment| stamp(moment.stamp));
    let at_most = outage.at_most().map(|at_most| format!(", at most {} s", seconds(at_most))).unwrap_or_default();
    format!(
        "down from {} to {to}: at least {} s{at_most} ({})",
        stamp(outage.first_failure.stamp),
        seconds(outage.at_least()),
        outage.kinds_in_words()
    )
}

fn flags(report: &Report, scale: &Scale) -> Vec<Flag> {
    let Some((first, _)) = scale.span else { return Vec::new() };
    let flag = |changed: &crate::ledger::Changed| {
        let crate::identity::Change { aspect, from, to } = &changed.change;
        let offset = (changed.at.at - first.stamp.at).to_std().unwrap_or_default();
        Flag {
            x: figure(scale.x(first.since + offset)),
            title: format!("{} {}: {from} → {to} at {}", changed.who, aspect.as_str(), stamp(changed.at)),
        }
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
    // A healthy check takes a fraction of a millisecond and a troubled one seconds, so the scale is logarithmic.
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
    // Where nothing was observed there is no line.
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

fn table_row(rows: &[Row]) -> TableRow {
    let row = &rows[0];
    TableRow {
        name: name_of_rows(rows),
        checks: row.checks,
        failures: row.failures,
        availability: availability(row.availability),
        latency: row.latency.map(|latency| {
            [latency.p50, latency.p90, latency.p99, latency.max].map(|figure| format!("{:.1}", millis(figure)))
        }),
    }
}

fn outage_row(incident: &Incident<'_>) -> OutageRow {
    let outage = incident.outage;
    OutageRow {
        name: incident.name(),
        from: stamp(outage.first_failure.stamp),
        to: outage.first_success_after.map_or_else(|| "…".to_owned(), |moment| stamp(moment.stamp)),
        at_least: format!("{} s", seconds(outage.at_least())),
        at_most: incident.at_most.map_or_else(|| "not known".to_owned(), |at_most| format!("{} s", seconds(at_most))),
        checks: format!("{} ({})", outage.failed_checks, outage.kinds_in_words()),
        why: outage.reason.to_string(),
        caveats: outage.caveats().join(", "),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A coordinate: a tenth of a unit is less than anybody sees.
fn figure(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}
