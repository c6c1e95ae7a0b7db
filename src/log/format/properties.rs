//! Property tests of the formats: records read back as written, and any text is either read or rejected.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, TimeDelta};
use proptest::prelude::*;

use super::read_line;
use super::timestamp::TimestampReader;
use crate::log::record::{Entry, Format, Mark, Mode, Record, Run};
use crate::model::change::{Aspect, Change};
use crate::model::clock::Stamp;
use crate::model::failure::{Failure, Kind};
use crate::model::outcome::{CheckResult, Details};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

fn stamps() -> impl Strategy<Value = Stamp> {
    // Any four-digit year, with milliseconds.
    (-50_000_000_000_000..200_000_000_000_000_i64).prop_map(|millis| {
        let at = DateTime::UNIX_EPOCH.fixed_offset() + TimeDelta::milliseconds(millis);
        Stamp { at, millis: true }
    })
}

/// Offsets from UTC.
fn zones() -> impl Strategy<Value = FixedOffset> {
    (-12 * 4..14 * 4_i32).prop_map(|quarters| FixedOffset::east_opt(quarters * 15 * 60).unwrap())
}

fn subjects() -> impl Strategy<Value = Subject> {
    let target = prop_oneof![
        Just(Target::Endpoint),
        Just(Target::Held),
        Just(Target::Cluster),
        "[a-z0-9.:-]{1,20}:[0-9]{1,5}".prop_map(|node| Target::Node(node.into())),
        "[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}-[0-9]{1,5}){0,3}(,[.]{3})?[+]?"
            .prop_map(|slots| Target::Shard(slots.into())),
    ];
    (target, proptest::option::of(0..1_200_000_u32), any::<bool>()).prop_map(|(target, db, write)| Subject {
        target,
        db,
        write,
    })
}

fn results() -> impl Strategy<Value = Result<(), Failure>> {
    let failure = (prop::sample::select(&Kind::ALL[..]), any::<String>()).prop_map(|(kind, text)| {
        // As in a log: escaped and truncated. Doing this again changes nothing.
        let printed = Failure::new(kind, text).to_string();
        Failure::new(kind, printed.split_once(": ").unwrap().1)
    });
    prop_oneof![Just(Ok(())), failure.prop_map(Err)]
}

fn durations() -> impl Strategy<Value = Duration> {
    (0..100_000_000_u64).prop_map(Duration::from_millis)
}

fn marks() -> impl Strategy<Value = Mark> {
    let signals = prop::sample::select(vec![Signal::Hup, Signal::Int, Signal::Term]);
    let words = "[a-z0-9.-]{1,12}( [0-9.]{1,8})?";
    prop_oneof![
        (any::<u32>(), stamps()).prop_map(|(cycle, at)| Mark::CycleStarted { cycle, at }),
        stamps().prop_map(|at| Mark::AllFinished { at }),
        (signals, stamps()).prop_map(|(signal, at)| Mark::Stopped { signal, at }),
        stamps().prop_map(|at| Mark::Canary { at }),
        (stamps(), stamps(), any::<u64>()).prop_map(|(from, to, missed)| Mark::NotObserved { from, to, missed }),
        (stamps(), stamps(), any::<u64>()).prop_map(|(from, to, count)| Mark::RecordsLost { from, to, count }),
        (subjects(), stamps(), proptest::option::of(durations())).prop_map(|(subject, at, onset)| Mark::OutageBegan {
            subject,
            at,
            onset
        }),
        (subjects(), stamps(), proptest::option::of(stamps()), durations(), proptest::option::of(durations()))
            .prop_map(|(subject, at, first_failure, at_least, at_most)| {
                Mark::OutageEnded { subject, at, first_failure, at_least, at_most }
            }),
        (any::<bool>(), any::<String>(), stamps(), zones(), stamps(), zones(), 1..1_000_000_000_u64).prop_map(
            |(dbs, host, began, began_zone, at, zone, millis)| {
                let mode = if dbs { Mode::Dbs } else { Mode::Cycles };
                let in_zone = |stamp: Stamp, zone| Stamp { at: stamp.at.with_timezone(&zone), ..stamp };
                let run = Run::new(mode, &host, in_zone(began, began_zone));
                Mark::RunStarted { run, at: in_zone(at, zone), since_start: Duration::from_millis(millis) }
            }
        ),
        (subjects(), stamps(), prop::sample::select(&Aspect::ALL[..]), words, words).prop_map(
            |(subject, at, aspect, from, to)| {
                let (from, to) = match aspect {
                    Aspect::Role => ("primary".to_owned(), "replica".to_owned()),
                    Aspect::Connection => ("open".to_owned(), if from < to { "closed" } else { "silent" }.to_owned()),
                    _ => (from, to),
                };
                let change = Change { aspect, from: from.into(), to: to.into() };
                Mark::Changed { target: subject.target, at, change }
            }
        ),
    ]
}

fn read(text: &str) -> Vec<Entry> {
    let mut timestamps = TimestampReader::new(true);
    let mut entries = Vec::new();
    for line in text.split('\n') {
        read_line(line, &mut timestamps, &mut |entry| entries.push(entry))
            .unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn checks_read_back_as_they_were_written(
        at in stamps(), subject in subjects(), number in any::<u64>(), result in results(), elapsed in any::<u32>(),
        since_start in proptest::option::of(durations()), wrote in any::<bool>(),
    ) {
        // Only a failure can be of the write alone.
        let subject = subject.writing(subject.write && result.is_err());
        let (elapsed_us, onset) = (Duration::from_micros(elapsed.into()), Duration::from_micros(7));
        let details = Details { elapsed: elapsed_us, onset, ..Details::default() };
        let record = Record::Check {
            at,
            mode: Mode::Cycles,
            since_start,
            subject: subject.clone(),
            number,
            result: result.clone(),
            details,
            wrote,
        };
        for format in [Format::Classic, Format::Json] {
            let read = read(&record.in_format(format).to_string());
            let is_json = format == Format::Json;
            let entry = Entry::Check {
                at,
                mode: is_json.then_some(Mode::Cycles),
                since_start: since_start.filter(|_| is_json),
                subject: subject.clone(),
                result: result.clone(),
                took: is_json.then_some(Duration::from_micros(if result.is_ok() { elapsed.into() } else { 7 })),
                wrote: is_json.then_some(wrote),
            };
            prop_assert_eq!(read, vec![entry]);
        }
    }

    #[test]
    fn marks_read_back_as_they_were_written(mark in marks()) {
        for format in [Format::Classic, Format::Json] {
            let text = Record::Mark(mark.clone()).in_format(format).to_string();
            prop_assert_eq!(read(&text), vec![Entry::Mark(mark.clone())], "{}", text);
        }
    }

    #[test]
    fn scans_read_back_as_they_were_written(
        at in stamps(), canary in any::<bool>(),
        checks in proptest::collection::vec((0..100_u32, any::<bool>(), results()), 0..20),
    ) {
        let results: Vec<_> = checks
            .iter()
            .map(|(db, write, result)| {
                let subject = Subject::db(*db).writing(*write && result.is_err());
                CheckResult { subject, result: result.clone(), details: Details::default(), writes: canary }
            })
            .collect();
        let record = Record::Scan { at, checks: results.clone(), took: Duration::ZERO, canary, stopped: None };
        for (format, took) in [(Format::Classic, None), (Format::Json, Some(Duration::ZERO))] {
            let mut entries = vec![Entry::BlockBegan(at)];
            entries.extend(canary.then_some(Entry::BlockWrites));
            entries.extend(results.iter().map(|check| Entry::CheckResult {
                subject: check.subject.clone(),
                result: check.result.clone(),
                took,
                connection: None,
            }));
            entries.push(Entry::BlockEnded);
            let text = record.in_format(format).to_string();
            prop_assert_eq!(read(&text), entries, "{}", text);
        }
    }
}

/// Lines written by this tool and by the scripts.
static CAPTURES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/logs");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
});

#[test]
fn every_captured_line_is_read() {
    let mut timestamps = TimestampReader::new(true);
    for line in &*CAPTURES {
        assert!(read_line(line, &mut timestamps, &mut |_| {}).is_ok(), "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Lines that were truncated, joined or overwritten, or were never log lines, are either read or rejected.
    #[test]
    fn any_line_is_read_or_refused(
        which in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0..4u8), 0..6),
        utc in any::<bool>(),
    ) {
        let captures = &*CAPTURES;
        let mut line: Vec<char> = which.get(captures).chars().collect();
        for (place, with, how) in changes {
            let place = place.index(line.len() + 1);
            match how {
                0 if place < line.len() => line[place] = with,
                1 => line.truncate(place),
                2 => line.insert(place, with),
                _ => line.extend(other.get(captures).chars().skip(place)),
            }
        }
        let line: String = line.into_iter().collect();
        let mut entries = 0;
        let read = read_line(&line, &mut TimestampReader::new(utc), &mut |_| entries += 1);
        prop_assert_eq!(read.is_err(), entries == 0, "{}", line);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let mut entries = 0;
        let read = read_line(&text, &mut TimestampReader::new(true), &mut |_| entries += 1);
        prop_assert_eq!(read.is_err(), entries == 0);
    }
}
