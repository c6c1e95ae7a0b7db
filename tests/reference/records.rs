//! Reads the JSON records of one run of `cycles`, as facts for the reference.

use serde_json::Value;

use super::arithmetic::{Check, Found, Gap, Micros, Mode, Who};
use super::compare::micros;

/// The facts in the records of a run, in any order. Checks began when their timestamps say, or, to the microsecond, when
/// their time since the start of the run says.
pub fn facts(records: &[Value], exact: bool) -> Mode {
    let of_type = |name: &'static str| records.iter().filter(move |record| record["type"] == name);
    let start = of_type("run_started").find_map(|mark| micros(&mark["began"])).filter(|_| exact);
    let mut checks: Vec<_> = of_type("check").collect();
    checks.sort_by_key(|check| check["number"].as_u64());
    let checks: Vec<_> = checks.into_iter().filter_map(|record| check(record, start)).collect();

    let next_check = |from: Micros| checks.iter().map(|(_, _, check)| check.begin).filter(|at| *at >= from).min();
    let mut gaps: Vec<Gap> = Vec::new();
    let mut interrupted = |from: Option<Micros>, until: Option<Micros>| {
        let (Some(from), Some(until)) = (from, until) else { return };
        let Some(to) = next_check(until) else { return };
        match gaps.iter_mut().find(|gap| gap.to == to) {
            // Two reasons for the same gap.
            Some(gap) => gap.from = gap.from.min(from),
            None => gaps.push(Gap { from, to }),
        }
    };
    for mark in of_type("cycle_completed").filter(|mark| mark["pause_s"].as_f64().is_some_and(|pause| pause > 0.0)) {
        let cycle = mark["cycle"].as_u64().map(|cycle| cycle + 1);
        let next = of_type("cycle_started").find(|mark| mark["cycle"].as_u64() == cycle);
        interrupted(micros(&mark["at"]), next.and_then(|next| micros(&next["at"])));
    }
    for mark in of_type("not_observed").chain(of_type("records_lost")) {
        interrupted(micros(&mark["from"]), micros(&mark["to"]));
    }

    let missed = of_type("not_observed").filter_map(|mark| mark["missed"].as_u64()).sum();
    Mode { checks, gaps, missed, ..Mode::default() }
}

fn check(record: &Value, start: Option<Micros>) -> Option<(Who, bool, Check)> {
    let since_start = start.zip(record["since_start_us"].as_i64()).map(|(start, since)| start + since);
    let begin = since_start.or_else(|| micros(&record["at"]))?;
    let took = |name: &str| record[name].as_i64().unwrap_or(0);
    let write = record["write"] == true;
    let db = record["db"].as_u64().and_then(|db| u32::try_from(db).ok());
    let who = Who { held: record["held"] == true, db, write };
    let (kind, detail) = (record["kind"].as_str().unwrap_or(""), record["detail"].as_str().unwrap_or(""));

    // The record of a failed check says how far into it the failing phase began.
    let elapsed = took("elapsed_us");
    let failing = took("onset_us");
    let found = match record["ok"].as_bool() {
        Some(true) => Found::Passed,
        None => Found::NotObserved(detail.into()),
        Some(false) => Found::Failed { kind: kind.into(), reason: format!("{kind}: {detail}") },
    };
    Some((
        who,
        record["wrote"] == true,
        Check {
            begin,
            shown: micros(&record["at"])?,
            failing: begin + failing,
            end: begin + elapsed,
            timed: true,
            found,
        },
    ))
}
