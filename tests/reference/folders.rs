//! Random log folders, written as the documented formats say, and what they mean.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::arithmetic::{Check, Expected, Found, Gap, Micros, Mode, Outage, Who, expected, outages};
use super::compare::{self, Exactness, name};
use super::page;
use super::random::Random;
use super::zone::{ZONES, Zone};
use crate::support::env::TestEnv;

const SECOND: Micros = 1_000_000;
const MILLISECOND: Micros = 1_000;

const SUCCESS: &str = "redis_success.log";
const ERROR: &str = "redis_error.log";
/// From so many scans on, their interval is known.
const FEWEST_SCANS: usize = 6;

const HEALTH: &str = "redis_db_health.log";

/// One check of one database, as it was.
#[derive(Clone, Debug)]
struct Made {
    number: u64,
    who: Who,
    begin: Micros,
    elapsed: Micros,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    Timeout,
    Loading,
    Reset,
    /// Only the write fails.
    ReadOnly,
    /// The check could not be made for a reason on our side.
    Local,
}

impl Fault {
    fn kind(self) -> &'static str {
        match self {
            Fault::Refused => "refused",
            Fault::Timeout => "timeout",
            Fault::Loading => "loading",
            Fault::Reset => "reset",
            Fault::ReadOnly => "readonly",
            Fault::Local => "local",
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Fault::Refused => "Connection refused",
            Fault::Timeout => "no reply to PING within 2s",
            Fault::Loading => "LOADING Redis is loading the dataset in memory",
            Fault::Reset => "Connection reset by peer",
            Fault::ReadOnly => "READONLY You can't write against a read only replica.",
            Fault::Local => "too many open files",
        }
    }

    /// The time until a check fails.
    fn takes(self, random: &mut Random) -> Micros {
        match self {
            Fault::Refused | Fault::Local => random.between(100, 900),
            Fault::Timeout => 2 * SECOND + random.between(0, 900),
            Fault::Loading | Fault::Reset | Fault::ReadOnly => random.between(700, 4_000),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Seconds,
    Millis,
    Json,
}

impl Format {
    /// A time as the lines show it.
    fn cut(self, at: Micros) -> Micros {
        at.div_euclid(self.resolution()) * self.resolution()
    }

    fn resolution(self) -> Micros {
        if self == Format::Seconds { SECOND } else { MILLISECOND }
    }
}

#[derive(Clone, Debug)]
enum Mark {
    CycleStarted(u32),
    CycleCompleted(u32, Micros),
    NotObserved { from: Micros, missed: u64 },
    Finished,
    Stopped,
}

/// One run of `cycles`, or one scan of `dbs`.
#[derive(Clone, Debug)]
struct Run {
    dbs: bool,
    format: Format,
    canary: bool,
    start: Micros,
    interval: Micros,
    checks: Vec<Made>,
    marks: Vec<(Micros, Mark)>,
}

/// How rotated files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// `.log.1` is the newest.
    Numbers,
    /// `.log-20250827`.
    Dates,
    /// `.log.2025-08-27_073501`.
    Stamps,
}

/// A random folder.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    zone: &'static Zone,
    /// The lines and the report are in UTC.
    utc: bool,
    runs: Vec<Run>,
    /// When a file was rotated.
    rotations: BTreeMap<&'static str, Vec<Micros>>,
    names: Names,
    /// The interval of `dbs`.
    every: Micros,
    /// Runs have headers, and the marks of outages say when they began. Older versions wrote neither.
    headers: bool,
    /// The range of the report.
    since: Option<Micros>,
    until: Option<Micros>,
}

// Generation.

impl Case {
    pub fn random(seed: u64) -> Case {
        let mut random = Random::new(seed);
        let zone = &ZONES[usize::try_from(random.between(0, 6)).expect("not negative")];
        let night = random.chance(60);
        let mut now = match night {
            true => zone.change - random.between(0, 4 * 3600) * SECOND,
            false => zone.change + random.between(10, 90) * 86_400 * SECOND,
        } + random.between(0, 999_999);
        let begin = now;

        let mut runs = Vec::new();
        let modes = random.between(1, 4);
        if modes != 2 {
            for _ in 0..random.between(1, 4) {
                let run = cycles(&mut random, now, night);
                let end = run.checks.iter().map(|check| check.begin + check.elapsed).max().unwrap_or(now);
                now = run.marks.iter().map(|(at, _)| *at).max().unwrap_or(now).max(end);
                now += random.pick(&[3, 40, 700, 5_000]) * SECOND + random.between(0, 999_999);
                runs.push(run);
            }
        }
        let every = random.pick(&[60, 120, 300, 900]) * SECOND;
        if modes == 2 || modes == 4 {
            let end = if modes == 4 { now } else { begin };
            scans(&mut random, zone, (begin, every, (end - begin) / every), &mut runs);
        }

        let end = runs.iter().flat_map(|run| &run.checks).map(|check| check.begin).max().unwrap_or(now);
        let mut rotations = BTreeMap::new();
        let together = random.chance(50);
        let cuts = |random: &mut Random| {
            let mut cuts: Vec<_> = (0..random.between(0, 3)).map(|_| random.between(begin, end)).collect();
            cuts.sort_unstable();
            cuts
        };
        let all = cuts(&mut random);
        for file in [SUCCESS, ERROR, HEALTH] {
            rotations.insert(file, if together { all.clone() } else { cuts(&mut random) });
        }
        if random.chance(40) {
            rotations.clear();
        }
        let names = random.pick(&[Names::Numbers, Names::Dates, Names::Stamps]);
        // Without headers, nothing says which pass of a repeated hour is meant.
        let headers = night || random.chance(80);
        let mut case = Case {
            seed,
            zone,
            utc: random.chance(15),
            runs,
            rotations,
            names,
            every,
            headers,
            since: None,
            until: None,
        };
        // Only one file of a log can have the name of a day.
        let days = |cuts: &Vec<Micros>| {
            let mut days: Vec<_> = cuts.iter().map(|at| case.zone().format(*at, "%Y%m%d")).collect();
            days.dedup();
            days.len() == cuts.len()
        };
        if names == Names::Dates && !case.rotations.values().all(days) {
            case.names = Names::Numbers;
        }
        // Not within a time of missed checks, which counts as a whole.
        let mut bound = |share: i64| {
            let at = random.between(begin, end) / SECOND * SECOND;
            let is_missed = |(to, mark): &(Micros, Mark)| matches!(mark, Mark::NotObserved { from, .. } if *from - 2 * SECOND < at && at < to + 2 * SECOND);
            let is_missed = case.runs.iter().flat_map(|run| &run.marks).any(is_missed);
            (random.chance(share) && !is_missed).then_some(at)
        };
        (case.since, case.until) = (bound(20), bound(20));
        // The scans after the range show how often scans run, those before it do not.
        let scans = case.runs.iter().filter(|run| run.dbs && case.since.is_none_or(|at| run.start > at)).count();
        let is_empty = case.since.zip(case.until).is_some_and(|(since, until)| since >= until);
        // A few scans do not show their interval.
        if is_empty || (1..FEWEST_SCANS).contains(&scans) {
            (case.since, case.until) = (None, None);
        }
        case
    }
}

/// The state of the server over time.
struct Weather {
    until: Micros,
    fault: Option<Fault>,
    scale: Micros,
    canary: bool,
}

impl Weather {
    fn at(&mut self, at: Micros, random: &mut Random) -> Option<Fault> {
        while self.until <= at {
            let down = self.fault.is_some() && random.chance(80) || self.fault.is_none() && random.chance(10);
            let fault = match random.between(1, 11) {
                1..=2 => Fault::Refused,
                3..=4 => Fault::Timeout,
                5..=6 => Fault::Loading,
                7..=8 => Fault::Reset,
                9..=10 => Fault::ReadOnly,
                _ => Fault::Local,
            };
            self.fault = (!down).then_some(fault).filter(|fault| *fault != Fault::ReadOnly || self.canary);
            let longest = if self.fault.is_some() { 6 } else { 15 };
            self.until += random.between(self.scale / 10, self.scale * longest);
        }
        self.fault
    }
}

fn cycles(random: &mut Random, start: Micros, night: bool) -> Run {
    let format = random.pick(&[Format::Seconds, Format::Seconds, Format::Millis, Format::Json]);
    let interval = match (format, night) {
        (Format::Millis, false) => random.pick(&[200, 250, 500]) * MILLISECOND,
        (_, true) => random.pick(&[10, 30, 60]) * SECOND,
        _ => random.pick(&[1, 1, 5, 60]) * SECOND,
    };
    let canary = random.chance(30);
    let databases = if random.chance(30) { random.between(1, 4) } else { 0 };
    let held = databases == 0 && random.chance(25);
    let count = u32::try_from(random.between(1, 3)).expect("small");
    let length = interval * random.between(2, if night { 120 } else { 50 });
    let rest = random.pick(&[0, 7, 60, 300]) * SECOND;
    let started_down = random.chance(25).then_some(Fault::Refused);
    let mut weather = Weather { until: start + interval * 3, fault: started_down, scale: interval, canary };

    let mut run = Run { dbs: false, format, canary, start, interval, checks: Vec::new(), marks: Vec::new() };
    let (mut at, mut number) = (start, 0);
    for cycle in 1..=count {
        run.marks.push((at, Mark::CycleStarted(cycle)));
        let mut suspended: Option<(Micros, u64)> = None;
        let end = at + length;
        let mut tick = at;
        while tick < end {
            let begin = tick + random.between(50, 900);
            let sleeps = number > 0 && (suspended.is_some_and(|(_, missed)| missed < 4) || random.chance(1));
            if sleeps && tick + interval < end {
                suspended = suspended.map(|(from, missed)| (from, missed + 1)).or(Some((tick, 1)));
                tick += interval;
                continue;
            }
            if let Some((from, missed)) = suspended.take() {
                run.marks.push((begin - 10, Mark::NotObserved { from, missed }));
            }
            number += 1;
            let fault = weather.at(tick, random);
            let targets: Vec<Who> = match (databases, held) {
                (0, false) => vec![Who::default()],
                (0, true) => vec![Who::default(), Who { held, ..Who::default() }],
                (last, _) => (0..=last).map(|db| Who { db: u32::try_from(db).ok(), ..Who::default() }).collect(),
            };
            let mut elapsed = fault.map_or(random.between(300, 4_000), |fault| fault.takes(random));
            for who in targets {
                let write = fault == Some(Fault::ReadOnly);
                run.checks.push(Made { number, who: who.writing(write), begin, elapsed, fault });
                if fault != Some(Fault::Timeout) {
                    elapsed += random.between(5, 40);
                }
            }
            tick += interval;
        }
        at = end;
        if cycle < count {
            run.marks.push((at, Mark::CycleCompleted(cycle, rest)));
            at += rest;
        }
    }

    let end = run.checks.iter().map(|check| check.begin + check.elapsed).max().unwrap_or(at).max(at) + 500;
    match random.between(1, 10) {
        1..=6 => run.marks.push((end, Mark::Finished)),
        7..=8 => {
            // A signal interrupts the checks that are running.
            let stopped = random.between(start + interval, end);
            run.end_at(stopped);
            run.marks.retain(|(at, _)| *at < stopped);
            run.marks.push((stopped, Mark::Stopped));
        }
        _ => {
            let killed = random.between(start + interval, end);
            run.end_at(killed);
            run.marks.retain(|(at, _)| *at < killed);
        }
    }
    run
}

/// Scans of `dbs` at a regular interval, with gaps that are clearly longer.
fn scans(random: &mut Random, zone: &Zone, (start, every, least): (Micros, Micros, i64), runs: &mut Vec<Run>) {
    let format = random.pick(&[Format::Seconds, Format::Seconds, Format::Json]);
    let (canary, last) = (random.chance(15), random.between(0, 4));
    let mut weather = Weather { until: start + every * 3, fault: None, scale: every, canary };
    let (mut at, mut since_gap) = (start, 0);
    for _ in 0..random.between(8, 60).max(least.min(150)) {
        let begin = at + random.between(0, 900_000);
        let fault = weather.at(at, random);
        let mut elapsed = fault.map_or(random.between(300, 4_000), |fault| fault.takes(random));
        let mut checks = Vec::new();
        for db in 0..=last {
            let write = fault == Some(Fault::ReadOnly);
            let who = Who { db: u32::try_from(db).ok(), held: false, write };
            checks.push(Made { number: 1, who, begin, elapsed, fault });
            elapsed += if fault == Some(Fault::Timeout) { 0 } else { random.between(5, 40) };
        }
        runs.push(Run { dbs: true, format, canary, start: begin, interval: every, checks, marks: Vec::new() });

        // A scan by hand, which may overlap the next one.
        let by_hand = at + random.pick(&[every / 3, every - 3_500_000, every + 2_500_000]);
        if random.chance(5) && since_gap > 3 {
            let who = Who { db: Some(0), ..Who::default() };
            let slow = random.chance(30).then_some(Fault::Timeout);
            let elapsed = slow.map_or(1_500, |fault| fault.takes(random));
            let checks = vec![Made { number: 1, who, begin: by_hand, elapsed, fault: slow }];
            runs.push(Run { dbs: true, format, canary, start: by_hand, interval: every, checks, marks: Vec::new() });
        }

        since_gap += 1;
        at += every;
        let gap = every * random.between(3, 20);
        // In a repeated hour, nothing in a block tells which pass follows a gap.
        let is_ambiguous =
            zone.repeats() && at < zone.change + 7_200 * SECOND && at + gap > zone.change - 7_200 * SECOND;
        if since_gap > 6 && random.chance(5) && !is_ambiguous {
            at += gap;
            since_gap = 0;
        }
    }
}

// Meaning.

impl Made {
    fn end(&self) -> Micros {
        self.begin + self.elapsed
    }

    /// How long it waited for replies in its last phases.
    fn waited(&self) -> Micros {
        match self.fault {
            Some(Fault::Refused | Fault::Timeout | Fault::Local) => 0,
            _ => self.elapsed / 3,
        }
    }

    fn failing(&self) -> Micros {
        match self.fault {
            Some(Fault::Timeout) => self.begin,
            _ => self.end() - self.waited(),
        }
    }

    fn reason(&self) -> String {
        self.fault.map_or_else(String::new, |fault| format!("{}: {}", fault.kind(), fault.detail()))
    }

    /// The check, with its times as they were, or as the lines of its run show them.
    fn check(&self, line: Format, format: Option<Format>) -> Check {
        let found = match self.fault {
            None => Found::Passed,
            Some(Fault::Local) => Found::NotObserved(Fault::Local.detail().into()),
            Some(fault) => Found::Failed { kind: fault.kind().into(), reason: self.reason() },
        };
        let shown = |at: Micros| format.map_or(at, |format| format.cut(at));
        let begin = shown(self.begin);
        Check {
            begin,
            shown: line.cut(self.begin),
            failing: begin + (self.failing() - self.begin),
            end: begin + self.elapsed,
            timed: format == Some(Format::Json),
            found,
        }
    }
}

impl Run {
    /// Drops the checks that have not finished at this time, and those that began after one of them: what is missing
    /// between two lines looks like lost lines.
    fn end_at(&mut self, end: Micros) {
        let unfinished = self.checks.iter().filter(|check| check.end() >= end).map(|check| check.begin).min();
        self.checks.retain(|check| unfinished.is_none_or(|begin| check.begin < begin));
    }

    fn ended_in_break(&self) -> bool {
        let of_cycle = |(_, mark): &&(Micros, Mark)| !matches!(mark, Mark::Stopped | Mark::Finished);
        let last = self.marks.iter().rfind(of_cycle);
        self.format != Format::Json && matches!(last, Some((_, Mark::CycleCompleted(_, rest))) if *rest > 0)
    }

    fn facts(&self, shown: bool) -> Mode {
        let format = shown.then_some(self.format);
        let checks = self.checks.iter().map(|made| (made.who.clone(), self.canary, made.check(self.format, format)));
        Mode { checks: checks.collect(), ..Mode::default() }
    }

    /// The outages that ended in this run, or not, as the run itself saw them.
    fn outages(&self) -> Vec<(Who, Outage)> {
        let facts = self.facts(false);
        let all = facts.targets().into_iter();
        all.flat_map(|(who, checks)| outages(&checks, &[], None).into_iter().map(move |outage| (who.clone(), outage)))
            .collect()
    }
}

impl Case {
    /// What a report of the folder must say.
    fn expected(&self) -> Expected {
        let mode = |dbs: bool, shown: bool| {
            let mut mode = Mode::default();
            for run in self.runs.iter().filter(|run| run.dbs == dbs) {
                mode.checks.extend(run.facts(shown).checks);
            }
            mode.checks.sort_by_key(|(_, _, check)| check.begin);
            mode.gaps = if dbs { self.gaps_of_scans(shown) } else { self.gaps_of_cycles(shown) };
            let missed = |(_, mark): &(Micros, Mark)| match mark {
                Mark::NotObserved { missed, .. } => *missed,
                _ => 0,
            };
            let is_within = |(at, _): &&(Micros, Mark)| {
                self.since.is_none_or(|since| *at >= since) && self.until.is_none_or(|until| *at < until)
            };
            let marks = self.runs.iter().filter(|run| run.dbs == dbs).flat_map(|run| &run.marks);
            mode.missed = marks.filter(is_within).map(missed).sum();
            mode.within(self.since, self.until)
        };
        // Moments and counts are those of the lines; bounds are those of the run, as far as the lines contain them.
        let exact = expected(&mode(false, false), &mode(true, false));
        expected(&mode(false, true), &mode(true, true)).with_bounds_of(&exact, |outage| self.slack(outage))
    }

    /// How exact the bounds of an outage can be known from the lines.
    fn slack(&self, outage: &Outage) -> Micros {
        let run_of = |at: Micros| {
            self.runs
                .iter()
                .position(|run| run.checks.iter().any(|check| check.begin == at))
                .map(|place| &self.runs[place])
        };
        let involved: Vec<&Run> = [outage.before, Some(outage.first_failure), Some(outage.last_failure), outage.after]
            .into_iter()
            .flatten()
            .filter_map(run_of)
            .collect();
        let is_one = involved.iter().all(|run| run.start == involved[0].start) && !involved[0].dbs;
        // A run's mark tells of the whole outage.
        let is_whole = self.since.is_none_or(|since| involved.iter().all(|run| run.start > since));
        if is_one && is_whole && outage.after.is_some() {
            // The mark at its end has milliseconds.
            return MILLISECOND / 2 + 1;
        }
        let coarsest = involved.iter().map(|run| run.format.resolution()).max().unwrap_or(0);
        let is_timed = involved.iter().all(|run| run.format == Format::Json);
        coarsest + if is_timed { 1 } else { 10 * MILLISECOND }
    }

    fn gaps_of_cycles(&self, shown: bool) -> Vec<Gap> {
        let runs: Vec<_> = self.runs.iter().filter(|run| !run.dbs && !run.checks.is_empty()).collect();
        let mut gaps: Vec<Gap> = Vec::new();
        let begins = |run: &&Run| -> Vec<Micros> { run.checks.iter().map(|check| check.begin).collect() };
        let all: Vec<(Micros, Format)> =
            runs.iter().flat_map(|run| begins(run).into_iter().map(|at| (at, run.format))).collect();
        let mut add = |from: Micros, until: Micros, format: Format| {
            let Some((to, later)) = all.iter().filter(|(at, _)| *at >= until).min_by_key(|(at, _)| *at) else { return };
            let (from, to) = if shown { (format.cut(from), later.cut(*to)) } else { (from, *to) };
            match gaps.iter_mut().find(|gap| gap.to == to) {
                Some(gap) => gap.from = gap.from.min(from),
                None => gaps.push(Gap { from, to }),
            }
        };
        for run in &runs {
            let (mut ended, mut in_break, mut missing) = (None, None, None);
            for (at, mark) in &run.marks {
                match mark {
                    Mark::CycleCompleted(_, rest) if *rest > 0 => {
                        add(*at, *at, run.format);
                        in_break = Some(*at);
                    }
                    Mark::CycleStarted(_) => in_break = None,
                    Mark::NotObserved { from, .. } => {
                        add(*from, *at, run.format);
                        missing = Some(*from);
                    }
                    Mark::Finished | Mark::Stopped => ended = Some(*at),
                    _ => {}
                }
            }
            // A killed run observes nothing after its last check.
            let last = run.checks.iter().map(|check| check.begin).max().unwrap_or(run.start);
            let ended = ended.or(in_break).or(missing.filter(|from| *from > last)).unwrap_or(last);
            add(ended, ended + 1, run.format);
        }
        gaps
    }

    /// A time between two scans that is clearly longer than usual is not observed.
    fn gaps_of_scans(&self, shown: bool) -> Vec<Gap> {
        let mut scans: Vec<_> = self.runs.iter().filter(|run| run.dbs && !run.checks.is_empty()).collect();
        scans.sort_by_key(|run| run.start);
        let cut = |run: &Run| if shown { run.format.cut(run.start) } else { run.start };
        let pairs = scans.windows(2).map(|pair| Gap { from: cut(pair[0]), to: cut(pair[1]) });
        pairs.filter(|gap| gap.to - gap.from > self.every * 3 / 2 + SECOND).collect()
    }
}

// Writing.

/// A line or a block of one file.
struct Line {
    file: &'static str,
    /// The place of its run.
    run: usize,
    /// When it was written.
    at: Micros,
    /// The time that it shows.
    shown: Micros,
    text: String,
}

impl Case {
    fn lines(&self) -> Vec<Line> {
        let of_run = |(place, run): (usize, &Run)| match run.dbs {
            true => self.scan(place, run),
            false => self.run(place, run),
        };
        let mut lines: Vec<Line> = self.runs.iter().enumerate().flat_map(of_run).collect();
        lines.sort_by_key(|line| line.at);
        lines
    }

    fn zone(&self) -> &'static Zone {
        if self.utc { &ZONES[6] } else { self.zone }
    }

    fn subject(who: &Who) -> String {
        let name = name(who);
        name.strip_prefix("endpoint").map_or(name.clone(), |rest| rest.trim().to_owned())
    }

    fn fields(who: &Who) -> String {
        let mut fields = String::new();
        if let Some(db) = who.db {
            let _ = write!(fields, ",\"db\":{db}");
        }
        if who.held {
            fields.push_str(",\"held\":true");
        }
        if who.write {
            fields.push_str(",\"write\":true");
        }
        fields
    }

    /// The fields of a result, in the order in which they are written.
    fn result(made: &Made) -> String {
        let mut fields = match made.fault {
            None => ",\"ok\":true".to_owned(),
            Some(Fault::Local) => format!(",\"kind\":\"local\",\"detail\":\"{}\"", Fault::Local.detail()),
            Some(fault) => format!(",\"ok\":false,\"kind\":\"{}\",\"detail\":\"{}\"", fault.kind(), fault.detail()),
        };
        let _ = write!(fields, ",\"elapsed_us\":{}", made.elapsed);
        let waited = made.waited();
        if waited > 0 {
            match made.who.write {
                true => drop(write!(fields, ",\"write_us\":{waited}")),
                false => drop(write!(fields, ",\"select_us\":{},\"ping_us\":{}", waited - waited / 2, waited / 2)),
            }
        }
        fields
    }

    fn run(&self, place: usize, run: &Run) -> Vec<Line> {
        let (zone, json, millis) = (self.zone(), run.format == Format::Json, run.format == Format::Millis);
        let mut lines = Vec::new();
        let mut add = |file, at, shown, text: String| lines.push(Line { file, run: place, at, shown, text });
        let mark = |at: Micros, classic: String, of_json: &str| match json {
            true => format!("{{\"at\":\"{}\",\"type\":{of_json}}}", zone.rfc3339(at)),
            false => format!("=== {classic} ==="),
        };

        for (at, what) in &run.marks {
            let stamp = zone.stamp(*at, millis);
            match what {
                Mark::CycleStarted(cycle) => {
                    let text = format!("Cycle {cycle} started at {stamp}");
                    add(SUCCESS, *at, *at, mark(*at, text, &format!("\"cycle_started\",\"cycle\":{cycle}")));
                    if run.canary {
                        add(
                            SUCCESS,
                            *at,
                            *at,
                            mark(*at, format!("Each check writes a canary key from {stamp}"), "\"canary\""),
                        );
                    }
                }
                Mark::CycleCompleted(cycle, rest) => {
                    let seconds = rest / SECOND;
                    let text = format!("Cycle {cycle} completed, sleeping for {seconds} seconds");
                    let fields = format!("\"cycle_completed\",\"cycle\":{cycle},\"pause_s\":{seconds}.0");
                    add(SUCCESS, *at, *at, mark(*at, text, &fields));
                }
                Mark::NotObserved { from, missed } => {
                    // A line has one offset from UTC.
                    let from_local = zone.stamp_as_at(*at, *from, millis);
                    let text = format!("Not observed from {from_local} to {stamp}, checks missed: {missed}");
                    let (from, to) = (zone.rfc3339(*from), zone.rfc3339(*at));
                    let fields = format!("\"not_observed\",\"from\":\"{from}\",\"to\":\"{to}\",\"missed\":{missed}");
                    add(SUCCESS, *at, *at, mark(*at, text, &fields));
                }
                Mark::Finished => {
                    add(SUCCESS, *at, *at, mark(*at, format!("All cycles finished at {stamp}"), "\"all_finished\""))
                }
                Mark::Stopped => {
                    let text = format!("Stopped by SIGTERM at {stamp}");
                    add(SUCCESS, *at, *at, mark(*at, text, "\"stopped\",\"signal\":\"SIGTERM\""));
                }
            }
        }
        for made in &run.checks {
            let file = if made.fault.is_none() { SUCCESS } else { ERROR };
            add(file, made.end(), made.begin, self.check_line(run, made));
        }

        // A check is folded when all checks before it have ended.
        let folded = |begin: Micros| {
            let before = run.checks.iter().filter(|check| check.begin <= begin);
            before.map(Made::end).max().unwrap_or(begin)
        };
        for (who, outage) in run.outages() {
            let first = run.checks.iter().find(|check| check.begin == outage.first_failure && check.fault.is_some());
            let onset = first.map_or(0, |first| {
                let of_who = run
                    .checks
                    .iter()
                    .find(|check| check.begin == first.begin && check.who.writing(false) == who.writing(false));
                of_who.unwrap_or(first).failing() - first.begin
            });
            let (name, at) = (name(&who), outage.first_failure);
            let mut text = format!("Outage of {name} began at {}", zone.stamp(at, millis));
            if self.headers {
                let _ = write!(text, ", {} s into the check of {}", seconds(onset), zone.exact(at));
            }
            let fields = format!("\"outage_began\"{},\"onset_s\":{}", Case::fields(&who), exact_seconds(onset));
            add(ERROR, folded(at), at, mark(at, text, &fields));

            let Some(after) = outage.after else { continue };
            let of_who = |check: &&Made| check.begin == after && check.who.writing(false) == who.writing(false);
            let recovered = run
                .checks
                .iter()
                .find(of_who)
                .map_or(after, |check| if check.fault.is_some() { check.failing() } else { check.end() });
            let at_most = outage.at_most.map_or(", its beginning was not observed".to_owned(), |at_most| {
                format!(", at most {} s", seconds(at_most))
            });
            let mut text = format!(
                "Outage of {name} ended at {}, lasted at least {} s{at_most}",
                zone.stamp(recovered, millis),
                seconds(outage.at_least)
            );
            if self.headers {
                let _ = write!(text, ", first failure at {}", zone.exact(at));
            }
            let at_most =
                outage.at_most.map_or(String::new(), |at_most| format!(",\"at_most_s\":{}", exact_seconds(at_most)));
            let fields = format!(
                "\"outage_ended\"{},\"first_failure\":\"{}\",\"at_least_s\":{}{at_most}",
                Case::fields(&who),
                zone.rfc3339(at),
                exact_seconds(outage.at_least)
            );
            add(ERROR, folded(after), recovered, mark(recovered, text, &fields));
        }
        lines
    }

    fn check_line(&self, run: &Run, made: &Made) -> String {
        let (zone, millis) = (self.zone(), run.format == Format::Millis);
        if run.format != Format::Json {
            let subject = Case::subject(&made.who);
            let space = if subject.is_empty() { "" } else { " " };
            let result = match made.fault {
                None => format!("SUCCESS {}", made.number),
                Some(Fault::Local) => format!("NOT OBSERVED: {}", made.reason()),
                Some(_) => format!("FAILURE: {}", made.reason()),
            };
            return format!("{} {subject}{space}{result}", zone.stamp(made.begin, millis));
        }
        let mode = if run.dbs { "dbs" } else { "cycles" };
        let (at, who, result) = (zone.rfc3339(made.begin), Case::fields(&made.who), Case::result(made));
        let since = if run.dbs { String::new() } else { format!(",\"since_start_us\":{}", made.begin - run.start) };
        format!(
            "{{\"at\":\"{at}\",\"type\":\"check\",\"mode\":\"{mode}\"{since},\"wrote\":{}{who},\"number\":{}{result}}}",
            run.canary, made.number
        )
    }

    /// The block of a scan, and its failures in the error log.
    fn scan(&self, place: usize, run: &Run) -> Vec<Line> {
        let (zone, at) = (self.zone(), run.checks.iter().map(Made::end).max().unwrap_or(run.start));
        let mut block = String::new();
        if run.format == Format::Json {
            let failed = run.checks.iter().any(|check| !matches!(check.fault, None | Some(Fault::Local)));
            let ok = match run.checks.iter().all(|check| check.fault.is_none()) {
                true => ",\"ok\":true",
                false if failed => ",\"ok\":false",
                false => "",
            };
            let results: Vec<_> = run
                .checks
                .iter()
                .map(|made| format!("{{{}{}}}", &Case::fields(&made.who)[1..], Case::result(made)))
                .collect();
            let canary = if run.canary { ",\"canary\":true" } else { "" };
            block = format!(
                "{{\"at\":\"{}\",\"type\":\"scan\"{ok},\"elapsed_us\":{},\"databases\":[{}]{canary}}}",
                zone.rfc3339(run.start),
                at - run.start,
                results.join(",")
            );
        } else {
            let _ = writeln!(block, "===== Redis DB Health Check at {} =====", zone.stamp(run.start, false));
            if run.canary {
                block.push_str("=== Each check writes a canary key ===\n");
            }
            for made in &run.checks {
                let subject = Case::subject(&made.who);
                match made.fault {
                    None => drop(writeln!(block, "{subject}: RUNNING")),
                    Some(Fault::Local) => drop(writeln!(block, "{subject}: NOT OBSERVED ({})", made.reason())),
                    Some(_) => drop(writeln!(block, "{subject}: NOT RUNNING ({})", made.reason())),
                }
            }
        }
        let failed = run.checks.iter().filter(|made| made.fault.is_some());
        let errors = failed.map(|made| Line {
            file: ERROR,
            run: place,
            at,
            shown: made.begin,
            text: self.check_line(run, made),
        });
        [Line { file: HEALTH, run: place, at, shown: run.start, text: block }].into_iter().chain(errors).collect()
    }

    /// The header of a run before a record that shows this time: the lines of a file follow it that the run writes.
    fn header(&self, run: &Run, at: Micros) -> String {
        let (zone, mode) = (self.zone(), if run.dbs { "dbs" } else { "cycles" });
        // A header at the beginning of a run is the same in both files.
        let is_beginning = at - run.start < SECOND && zone.is_same(at, run.start);
        let (at, since) = if is_beginning { (run.start, 0) } else { (at, at - run.start) };
        let began = zone.exact(run.start);

        let mut header = match (run.format, since) {
            (Format::Json, _) => format!(
                "{{\"at\":\"{}\",\"type\":\"run_started\",\"mode\":\"{mode}\",\"host\":\"checker-1\",\"began\":\"{}\",\"since_start_us\":{since}}}\n",
                zone.rfc3339(at),
                zone.rfc3339(run.start)
            ),
            (_, 0) => format!("=== Run of {mode} on checker-1 began at {began} ===\n"),
            _ => format!(
                "=== Run of {mode} on checker-1 began at {began}, continues {} s later at {} ===\n",
                seconds(since),
                zone.exact(at)
            ),
        };
        if run.canary && !run.dbs {
            match run.format {
                Format::Json => drop(writeln!(header, "{{\"at\":\"{}\",\"type\":\"canary\"}}", zone.rfc3339(at))),
                format => {
                    let stamp = zone.stamp(at, format == Format::Millis);
                    let _ = writeln!(header, "=== Each check writes a canary key from {stamp} ===");
                }
            }
        }
        header
    }

    /// Writes the files into a folder.
    fn write(&self, folder: &Path) {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).expect("a folder");
        let lines = self.lines();
        for file in [SUCCESS, ERROR, HEALTH] {
            let cuts = self.rotations.get(file).cloned().unwrap_or_default();
            let mut parts: Vec<(Option<Micros>, String)> = Vec::new();
            let (mut part, mut headed) = (String::new(), BTreeMap::new());
            let mut cuts = cuts.into_iter().peekable();
            for line in lines.iter().filter(|line| line.file == file) {
                while let Some(cut) = cuts.next_if(|cut| *cut < line.at) {
                    if !part.is_empty() {
                        parts.push((Some(cut), std::mem::take(&mut part)));
                        headed.clear();
                    }
                }
                let run = &self.runs[line.run];
                // The last time of a line of this run in this file.
                let last = headed.insert(line.run, line.shown);
                let is_headed = last.is_some_and(|last| self.zone().is_same(last, line.shown));
                // A block has a header only where its local time occurs twice.
                let has_header = file != HEALTH || !self.utc && self.zone.occurs_twice(run.start);
                if self.headers && has_header && !is_headed {
                    part.push_str(&self.header(run, line.shown));
                }
                part.push_str(&line.text);
                part.push('\n');
            }
            if !part.is_empty() {
                parts.push((None, part));
            }
            let last = parts.len();
            let mut used = Vec::new();
            for (index, (cut, text)) in parts.into_iter().enumerate() {
                let name = match (cut, self.names) {
                    (None, _) => file.to_owned(),
                    (Some(_), Names::Numbers) => format!("{file}.{}", last - 1 - index),
                    (Some(cut), Names::Dates) => format!("{file}-{}", self.zone().format(cut, "%Y%m%d")),
                    (Some(cut), Names::Stamps) => {
                        let name = format!("{file}.{}", self.zone().format(cut, "%Y-%m-%d_%H%M%S"));
                        let same = used.iter().filter(|other| **other == name).count();
                        used.push(name.clone());
                        if same == 0 { name } else { format!("{name}.{same}") }
                    }
                };
                fs::write(folder.join(name), text).expect("a log file");
            }
        }
    }
}

/// A duration as marks show it.
fn seconds(micros: Micros) -> String {
    let millis = (micros + 500) / 1000;
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn exact_seconds(micros: Micros) -> String {
    format!("{}.{:06}", micros / SECOND, micros % SECOND)
}

// Comparison.

impl Case {
    /// The differences between the report of the folder and the reference, in a minimal version of the case.
    pub fn differences(&self) -> Vec<String> {
        let env = TestEnv::new();
        let found = self.compare(&env);
        if found.is_empty() {
            return found;
        }
        let (case, found) = self.clone().shrunk(&env, found);
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reference-folder-{}", self.seed));
        case.write(&kept);
        let _ = fs::write(kept.join("differences"), format!("{}\n{}\n", case.command(&kept), found.join("\n")));
        let _ = fs::write(kept.join("case"), format!("{case:#?}\n{:#?}\n", case.expected()));
        found.iter().map(|difference| format!("folder {}: {difference} ({})", self.seed, case.command(&kept))).collect()
    }

    fn command(&self, folder: &Path) -> String {
        format!("TZ={} redis-health report --json{} {}", self.zone.name, self.flags(), folder.display())
    }

    fn flags(&self) -> String {
        let mut flags = if self.utc { " --utc".to_owned() } else { String::new() };
        for (flag, at) in [("since", self.since), ("until", self.until)] {
            if let Some(at) = at {
                let _ = write!(flags, " --{flag} {}", self.zone.rfc3339(at));
            }
        }
        flags
    }

    fn compare(&self, env: &TestEnv) -> Vec<String> {
        let reference = self.expected();
        // A report of nothing is an error.
        if reference.from.is_none() {
            return Vec::new();
        }
        self.write(&env.logs());
        let flags = format!("report --json --html page.html{}", self.flags());
        let output = env.run_with(&[("TZ", self.zone.name)], &flags);
        let Ok(document) = serde_json::from_str::<Value>(&output.stdout) else { return vec![format!("{output:?}")] };

        let gaps = self.gaps_of_cycles(false).len() + self.gaps_of_scans(false).len();
        let coarsest = self.runs.iter().map(|run| run.format.resolution()).max().unwrap_or(0);
        // Classic lines do not say when a break began in which a run ended: after its last check.
        let within_interval: Micros = self.runs.iter().filter(|run| run.ended_in_break()).map(|run| run.interval).sum();
        let gaps = (gaps as Micros + 2) * coarsest + within_interval;
        let exactness = Exactness { stamps: 0, bounds: 1, gaps };
        let mut found = compare::document(&reference, &document, exactness);
        if document["skipped_lines"] != 0 {
            found.push(format!("skipped_lines: {}", document["skipped_lines"]));
        }
        let page = fs::read_to_string(env.path().join("page.html")).unwrap_or_default();
        found.extend(page::differences(&page, &document));
        found.extend(page::headline(&page, &document));
        found
    }

    /// Drops what is not needed for a difference of the same kind.
    fn shrunk(mut self, env: &TestEnv, mut found: Vec<String>) -> (Case, Vec<String>) {
        let kind = |found: &[String]| found[0].split(": ").next().map(|what| what.replace(char::is_numeric, ""));
        let wanted = kind(&found);
        let mut tries = 0;
        'again: loop {
            for smaller in self.smaller() {
                tries += 1;
                if tries > 400 {
                    return (self, found);
                }
                let differences = smaller.compare(env);
                if !differences.is_empty() && kind(&differences) == wanted {
                    (self, found) = (smaller, differences);
                    continue 'again;
                }
            }
            return (self, found);
        }
    }

    /// Versions of the case without some of it, the smallest first.
    fn smaller(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut add = |change: &mut dyn FnMut(&mut Case)| {
            let mut case = self.clone();
            change(&mut case);
            cases.push(case);
        };
        if !self.rotations.is_empty() {
            add(&mut |case| case.rotations.clear());
            for file in self.rotations.keys() {
                add(&mut |case| drop(case.rotations.remove(file)));
            }
        }
        if self.since.is_some() {
            add(&mut |case| case.since = None);
        }
        if self.until.is_some() {
            add(&mut |case| case.until = None);
        }
        // Whole runs of `cycles`, and scans at either end, because their interval must stay regular.
        let is_scan = |run: &Run| run.dbs;
        let scans: Vec<Micros> = self.runs.iter().filter(|run| is_scan(run)).map(|run| run.start).collect();
        if !scans.is_empty() {
            add(&mut |case| case.runs.retain(|run| !run.dbs));
            for from in [scans.len() / 2, 1] {
                let is_regular = |scans: &[Micros]| {
                    let begin = &scans[..scans.len().min(FEWEST_SCANS)];
                    begin.windows(2).all(|pair| (pair[1] - pair[0]).abs_diff(self.every) < SECOND.unsigned_abs())
                };
                if scans.len() - from >= FEWEST_SCANS && is_regular(&scans[from..]) {
                    add(&mut |case| case.runs.retain(|run| !run.dbs || run.start >= scans[from]));
                    add(&mut |case| case.runs.retain(|run| !run.dbs || run.start < scans[scans.len() - from]));
                }
            }
        }
        for place in (0..self.runs.len()).filter(|place| !self.runs[*place].dbs) {
            add(&mut |case| drop(case.runs.remove(place)));
        }
        for (place, run) in self.runs.iter().enumerate() {
            // A run that is killed earlier, and a server that fails less.
            let ends: Vec<Micros> = run.checks.iter().map(Made::end).collect();
            if !run.dbs && ends.len() > 1 {
                for end in [ends[ends.len() / 2], ends[ends.len() - 1]] {
                    add(&mut |case| {
                        case.runs[place].checks.retain(|check| check.end() < end);
                        case.runs[place].marks.retain(|(at, _)| *at < end);
                    });
                }
            }
            let failed: Vec<usize> = (0..run.checks.len()).filter(|check| run.checks[*check].fault.is_some()).collect();
            let mut size = failed.len() / 2;
            while size > 0 {
                for some in failed.chunks(size) {
                    add(&mut |case| {
                        for check in some {
                            let check = &mut case.runs[place].checks[*check];
                            (check.fault, check.elapsed, check.who.write) = (None, 1_000, false);
                        }
                    });
                }
                size /= 2;
            }
            if run.canary {
                add(&mut |case| {
                    let run = &mut case.runs[place];
                    run.canary = false;
                    for check in &mut run.checks {
                        if std::mem::take(&mut check.who.write) {
                            check.fault = None;
                        }
                    }
                });
            }
            if run.checks.iter().any(|check| check.who.db.is_some_and(|db| db > 0)) {
                add(&mut |case| case.runs[place].checks.retain(|check| check.who.db == Some(0)));
            }
            if run.checks.iter().any(|check| check.who.held) {
                add(&mut |case| case.runs[place].checks.retain(|check| !check.who.held));
            }
        }
        cases
    }
}
