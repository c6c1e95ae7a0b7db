//! The arithmetic of outages, written from its definitions in the README and apart from `src`: what a list of checks
//! and of unobserved times says about one target. Times are whole microseconds since 1970.

use std::collections::BTreeMap;

pub type Micros = i64;

/// Whose result it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    pub held: bool,
    pub db: Option<u32>,
    pub write: bool,
}

impl Who {
    pub fn writing(&self, write: bool) -> Who {
        Who { write, ..self.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Passed,
    Failed {
        kind: String,
        reason: String,
    },
    /// The check could not be made, for this reason on our side.
    NotObserved(String),
}

/// One check of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub begin: Micros,
    /// When it began according to its line.
    pub shown: Micros,
    /// Of a failed check: since when the server is known to fail it. It is `begin` if that is not known.
    pub failing: Micros,
    /// It is `begin` if how long the check took is not known.
    pub end: Micros,
    /// How long it took is known.
    pub timed: bool,
    pub found: Found,
}

impl Check {
    fn is_observed(&self) -> bool {
        !matches!(self.found, Found::NotObserved(_))
    }
}

/// Time in which nothing was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    pub from: Micros,
    pub to: Micros,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    pub first_failure: Micros,
    pub last_failure: Micros,
    pub before: Option<Micros>,
    pub after: Option<Micros>,
    pub at_least: Micros,
    pub at_most: Option<Micros>,
    pub spans_gap: bool,
    pub failed_checks: u64,
    pub kinds: BTreeMap<String, u64>,
    pub reason: String,
    /// How much less exact its bounds are than others.
    pub slack: Micros,
}

/// From each check of one target that could not be made to the next check, if there is one.
fn unmade(checks: &[Check]) -> Vec<Gap> {
    let next = checks.iter().skip(1).map(|check| check.begin).chain([Micros::MAX]);
    let pairs = checks.iter().zip(next).filter(|(check, _)| !check.is_observed());
    pairs.map(|(check, next)| Gap { from: check.begin, to: next }).collect()
}

/// The outages in the checks of one target, which are in the order in which they began. `known` is the begin of a
/// success before the first of them.
pub fn outages(checks: &[Check], gaps: &[Gap], known: Option<Micros>) -> Vec<Outage> {
    let gaps = [gaps, &unmade(checks)].concat();
    let observed: Vec<&Check> = checks.iter().filter(|check| check.is_observed()).collect();
    let failed = |check: &&Check| matches!(check.found, Found::Failed { .. });

    let mut found = Vec::new();
    let mut place = 0;
    while place < observed.len() {
        let length = observed[place..].iter().take_while(|check| failed(check)).count();
        if length == 0 {
            place += 1;
            continue;
        }

        let run = &observed[place..place + length];
        let before = if place == 0 { known } else { Some(observed[place - 1].begin) };
        let after = observed.get(place + length);
        let (first, last) = (run[0], run[length - 1]);

        let mut kinds = BTreeMap::new();
        for check in run {
            if let Found::Failed { kind, .. } = &check.found {
                *kinds.entry(kind.clone()).or_default() += 1;
            }
        }
        let Found::Failed { reason, .. } = &first.found else { unreachable!("it failed") };

        // From one of its checks to the next one, or from a success next to it.
        let from = before.unwrap_or(first.begin);
        let to = after.map_or(last.begin, |after| after.begin);

        found.push(Outage {
            first_failure: first.begin,
            last_failure: last.begin,
            before,
            after: after.map(|check| check.begin),
            at_least: (last.begin - first.failing).max(0),
            at_most: before.zip(after).map(|(before, after)| after.end - before),
            // A gap lasts until the next check begins.
            spans_gap: gaps.iter().any(|gap| gap.to > from && gap.to <= to),
            failed_checks: length as u64,
            kinds,
            reason: reason.clone(),
            slack: 0,
        });
        place += length;
    }
    found
}

/// The checks of one command.
#[derive(Clone, Debug, Default)]
pub struct Mode {
    /// Each check once, under the target that was asked; `write` if only its write failed, and whether it wrote.
    pub checks: Vec<(Who, bool, Check)>,
    pub gaps: Vec<Gap>,
    pub missed: u64,
    /// The last success of each target before the checks that count.
    pub known: BTreeMap<Who, Micros>,
}

/// The expected figures of one target.
#[derive(Clone, Debug)]
pub struct Row {
    pub who: Who,
    pub checks: u64,
    pub failures: u64,
    pub latency: Vec<Micros>,
    pub outages: Vec<Outage>,
}

/// The expected figures of a report.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub from: Option<Micros>,
    pub to: Option<Micros>,
    pub checks: u64,
    pub failures: u64,
    pub unobserved: Micros,
    pub missed: u64,
    /// How many checks could not be made, by their reason.
    pub not_observed: BTreeMap<String, u64>,
    /// How long the checks of one command took that passed.
    pub latency: Vec<Micros>,
    pub rows: Vec<Row>,
}

impl Mode {
    fn begins(&self) -> impl Iterator<Item = Micros> {
        self.checks.iter().map(|(_, _, check)| check.begin)
    }

    fn latency(&self) -> Vec<Micros> {
        sorted(self.checks.iter().filter_map(|(_, _, check)| time_of(check)))
    }

    /// The checks of each target: its reads, and its writes if there were any.
    pub fn targets(&self) -> BTreeMap<Who, Vec<Check>> {
        let mut targets = BTreeMap::<Who, Vec<Check>>::new();
        for (who, wrote, check) in &self.checks {
            let mut read = check.clone();
            if who.write && matches!(check.found, Found::Failed { .. }) {
                // The write failed, so the read before it passed. How long that took is not known.
                read = Check { found: Found::Passed, end: check.failing, timed: false, ..read };
            }
            targets.entry(who.writing(false)).or_default().push(read);
            if *wrote || who.write {
                targets.entry(who.writing(true)).or_default().push(check.clone());
            }
        }
        for checks in targets.values_mut() {
            checks.sort_by_key(|check| check.begin);
        }
        targets
    }

    /// Only the checks whose lines say that they began in this range.
    pub fn within(mut self, since: Option<Micros>, until: Option<Micros>) -> Mode {
        let is_before = |check: &Check| since.is_some_and(|since| check.shown < since);
        let mut before = self.clone();
        before.checks.retain(|(_, _, check)| is_before(check));
        for (who, checks) in before.targets() {
            let passed = checks.iter().rfind(|check| check.found == Found::Passed);
            self.known.extend(passed.map(|check| (who, check.begin)));
        }
        self.checks.retain(|(_, _, check)| !is_before(check) && until.is_none_or(|until| check.shown < until));
        self
    }

    fn rows(&self) -> Vec<Row> {
        let row = |(who, checks): (Who, Vec<Check>)| Row {
            checks: checks.iter().filter(|check| check.is_observed()).count() as u64,
            failures: checks.iter().filter(|check| matches!(check.found, Found::Failed { .. })).count() as u64,
            latency: sorted(checks.iter().filter_map(time_of)),
            outages: outages(&checks, &self.gaps, self.known.get(&who).copied()),
            who,
        };
        self.targets().into_iter().map(row).collect()
    }
}

fn time_of(check: &Check) -> Option<Micros> {
    (check.found == Found::Passed && check.timed).then_some(check.end - check.begin)
}

fn sorted(values: impl Iterator<Item = Micros>) -> Vec<Micros> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values
}

/// The expected figures of the checks of `cycles` and of `dbs` in one report.
pub fn expected(cycles: &Mode, dbs: &Mode) -> Expected {
    let begins = || cycles.begins().chain(dbs.begins());
    let (from, to) = (begins().min(), begins().max());
    let all = || cycles.checks.iter().chain(&dbs.checks).map(|(_, _, check)| check);
    let mut not_observed = BTreeMap::new();
    for check in all() {
        if let Found::NotObserved(reason) = &check.found {
            *not_observed.entry(reason.clone()).or_default() += 1;
        }
    }

    // A time is observed if one target of one command observed it.
    let mut times: Vec<_> = [cycles, dbs].into_iter().flat_map(seen).collect();
    times.sort_unstable();
    let (mut seen, mut end) = (0, Micros::MIN);
    for (from, to) in times {
        seen += (to - from.max(end)).max(0);
        end = end.max(to);
    }

    let latency = Some(cycles.latency()).filter(|latency| !latency.is_empty()).unwrap_or_else(|| dbs.latency());
    Expected {
        from,
        to,
        checks: all().filter(|check| check.is_observed()).count() as u64,
        failures: all().filter(|check| matches!(check.found, Found::Failed { .. })).count() as u64,
        not_observed,
        unobserved: from.zip(to).map_or(0, |(from, to)| to - from - seen),
        missed: cycles.missed + dbs.missed,
        latency,
        rows: cycles.rows().into_iter().chain(dbs.rows()).collect(),
    }
}

impl Expected {
    /// Takes the bounds of outages from facts whose times are more exact than those that the lines show.
    pub fn with_bounds_of(mut self, exact: &Expected, slack: impl Fn(&Outage) -> Micros) -> Expected {
        for (row, exact) in self.rows.iter_mut().zip(&exact.rows) {
            for (outage, exact) in row.outages.iter_mut().zip(&exact.outages) {
                (outage.at_least, outage.at_most) = (exact.at_least, exact.at_most);
                outage.slack = slack(exact);
            }
        }
        self
    }
}

/// When a command observed one of its targets: from each check that was made to the next one, without the gaps. After the
/// last check of a target, its run goes on until the next gap.
fn seen(mode: &Mode) -> Vec<(Micros, Micros)> {
    let mut gaps = mode.gaps.clone();
    gaps.sort_unstable();
    let last = mode.begins().max().unwrap_or(0);

    let mut times = Vec::new();
    for checks in mode.targets().into_values() {
        let end = checks.last().map_or(last, |check| {
            let next = gaps.iter().map(|gap| gap.from).find(|from| *from >= check.begin);
            next.unwrap_or(last).min(last)
        });
        let nexts = checks.iter().skip(1).map(|check| check.begin).chain([end]);
        for (check, to) in checks.iter().zip(nexts).filter(|(check, _)| check.is_observed()) {
            let mut from = check.begin;
            for gap in gaps.iter().filter(|gap| gap.to > check.begin && gap.from < to) {
                times.push((from, gap.from));
                from = from.max(gap.to);
            }
            times.push((from, to));
        }
    }
    times.retain(|(from, to)| from < to);
    times
}

/// The value that this share of the values does not exceed: the smallest whose rank is at least that share.
pub fn percentile(sorted: &[Micros], percent: u64) -> Option<Micros> {
    let rank = (sorted.len() as u64 * percent).div_ceil(100).max(1);
    sorted.get(usize::try_from(rank).ok()? - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(second: Micros, found: Found) -> Check {
        let begin = second * 1_000_000;
        Check { begin, shown: begin, failing: begin + 100_000, end: begin + 200_000, timed: true, found }
    }

    /// One check per second: `.` passed, `x` failed, `-` was not observed, a space is no check.
    fn checks(line: &str) -> Vec<Check> {
        let found = |state| match state {
            '.' => Some(Found::Passed),
            'x' => Some(Found::Failed { kind: "refused".into(), reason: "refused: Connection refused".into() }),
            '-' => Some(Found::NotObserved("too many open files".into())),
            _ => None,
        };
        line.chars().enumerate().filter_map(|(second, state)| Some(check(second as Micros, found(state)?))).collect()
    }

    #[test]
    fn the_reference_agrees_with_figures_worked_out_by_hand() {
        let bounds = |line: &str| -> Vec<_> {
            let found = outages(&checks(line), &[], None);
            found.iter().map(|outage| (outage.at_least, outage.at_most, outage.failed_checks)).collect()
        };
        // The first failed check fails at 2.1 s, and the last one begins at 4 s. The last success before begins at 1 s,
        // and the first one after ends at 5.2 s.
        assert_eq!(bounds("..xxx."), [(1_900_000, Some(4_200_000), 3)]);
        assert_eq!(bounds("..x"), [(0, None, 1)]);
        assert_eq!(bounds("xx."), [(900_000, None, 2)]);
        // A check that could not be made says nothing.
        assert_eq!(bounds(".x-x."), [(1_900_000, Some(4_200_000), 2)]);
        assert_eq!(bounds(".x.x."), [(0, Some(2_200_000), 1), (0, Some(2_200_000), 1)]);
    }

    #[test]
    fn a_gap_is_part_of_the_outage_between_whose_checks_it_lies() {
        let gap = |line: &str, from: Micros, to: Micros| {
            outages(&checks(line), &[Gap { from: from * 1_000_000, to: to * 1_000_000 }], None)[0].spans_gap
        };
        for (line, from, to, spans) in [(". x.", 0, 2, true), (".x x.", 1, 3, true), (". .x.", 0, 2, false)] {
            assert_eq!(gap(line, from, to), spans, "{line}");
        }
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<Micros> = (1..=10).collect();
        assert_eq!([50, 90, 99].map(|percent| percentile(&values, percent)), [Some(5), Some(9), Some(10)]);
        assert_eq!(percentile(&[], 50), None);
    }
}
