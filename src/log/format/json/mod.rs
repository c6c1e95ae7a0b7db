//! Records as JSON, one object per line. Fields that do not apply are left out. The README explains the fields.

mod fields;
mod read;
mod write;

pub use read::read;
pub use write::write;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use chrono::DateTime;

    use super::write;
    use crate::log::record::{Mark, Mode, Record, Run};
    use crate::model::change::{Aspect, Change};
    use crate::model::clock::Stamp;
    use crate::model::failure::{Failure, Kind};
    use crate::model::outcome::{CheckResult, ConnectionInfo, Details, Timings};
    use crate::model::server::{Identity, Role};
    use crate::model::signal::Signal;
    use crate::model::subject::{Subject, Target};

    fn at(second: u32) -> Stamp {
        let text = format!("2025-08-27T07:35:{second:02}.250+02:00");
        Stamp { at: DateTime::parse_from_rfc3339(&text).unwrap(), millis: false }
    }

    fn line(record: &Record) -> String {
        let mut line = String::new();
        write(record, &mut line).unwrap();
        line
    }

    fn details() -> Details {
        let micros = Duration::from_micros;
        let identity = Identity {
            role: Some(Role::Primary),
            engine: Some("valkey".into()),
            version: Some("8.1.0".into()),
            run_id: Some("9f4e".into()),
            uptime: Some(Duration::from_secs(7)),
        };
        let connection = ConnectionInfo {
            timings: Timings { resolve: micros(1), connect: micros(2), tls: micros(3), auth: micros(4) },
            peer: Some("10.0.1.5:6379".parse().unwrap()),
            addresses: vec![],
            identity,
            replaced: None,
        };
        let (select, ping, write) = (micros(5), micros(6), micros(7));
        Details { elapsed: micros(412), onset: micros(0), select, ping, write, connection: Arc::new(connection) }
    }

    fn reset() -> Result<(), Failure> {
        Err(Failure::new(Kind::Reset, "Connection reset by \x1b peer"))
    }

    #[test]
    fn a_check_is_one_object() {
        let check = |subject, result, details| Record::Check {
            at: at(1),
            mode: Mode::Cycles,
            since_start: Some(Duration::from_micros(1_250)),
            subject,
            number: 7,
            result,
            details,
            wrote: false,
        };
        let details_of = |micros| Details { elapsed: Duration::from_micros(micros), ..Details::default() };
        for (record, expected) in [
            (
                check(Subject::db(3), reset(), details_of(412)),
                r#""db":3,"number":7,"ok":false,"kind":"reset","detail":"Connection reset by \\u{1b} peer","elapsed_us":412,"onset_us":0"#,
            ),
            (
                check(Subject { target: Target::Held, ..Subject::default() }, Ok(()), details_of(0)),
                r#""held":true,"number":7,"ok":true,"elapsed_us":0"#,
            ),
            (
                check(Subject { target: Target::Node("a:1".into()), db: Some(0), write: true }, Ok(()), details()),
                r#""node":"a:1","db":0,"write":true,"number":7,"ok":true,"elapsed_us":412,"resolve_us":1,"connect_us":2,"tls_us":3,"auth_us":4,"select_us":5,"ping_us":6,"write_us":7,"peer":"10.0.1.5:6379","role":"primary","engine":"valkey","version":"8.1.0","run_id":"9f4e","uptime_s":7"#,
            ),
        ] {
            let before = r#"{"at":"2025-08-27T07:35:01.250+02:00","type":"check","mode":"cycles","since_start_us":1250,"wrote":false,"#;
            assert_eq!(line(&record), format!("{before}{expected}}}"));
        }
    }

    #[test]
    fn a_scan_is_one_object() {
        let check = |db, result, details| CheckResult { subject: Subject::db(db), result, details, writes: false };
        let checks = vec![check(0, Ok(()), details()), check(2, reset(), Details::default())];
        let took = Duration::from_millis(1);
        assert_eq!(
            line(&Record::Scan { at: at(1), checks, took, canary: true, stopped: Some((Signal::Term, at(2))) }),
            r#"{"at":"2025-08-27T07:35:01.250+02:00","type":"scan","ok":false,"elapsed_us":1000,"databases":[{"db":0,"ok":true,"elapsed_us":412,"resolve_us":1,"connect_us":2,"tls_us":3,"auth_us":4,"select_us":5,"ping_us":6,"write_us":7,"peer":"10.0.1.5:6379","role":"primary","engine":"valkey","version":"8.1.0","run_id":"9f4e","uptime_s":7},{"db":2,"ok":false,"kind":"reset","detail":"Connection reset by \\u{1b} peer","elapsed_us":0,"onset_us":0}],"canary":true,"signal":"SIGTERM","stopped_at":"2025-08-27T07:35:02.250+02:00"}"#
        );
        assert_eq!(
            line(&Record::Scan { at: at(1), checks: vec![], took, canary: false, stopped: None }),
            r#"{"at":"2025-08-27T07:35:01.250+02:00","type":"scan","ok":true,"elapsed_us":1000,"databases":[]}"#
        );
    }

    #[test]
    fn a_mark_is_one_object() {
        let seconds = Duration::from_secs;
        let change = Change { aspect: Aspect::RunId, from: "a".into(), to: "b".into() };
        let (subject, shard) = (Subject::db(0), Target::Shard("0-5460".into()));
        for (mark, expected) in [
            (
                Mark::RunStarted { run: Run::new(Mode::Dbs, "a b", at(0)), at: at(1), since_start: seconds(1) },
                r#""run_started","mode":"dbs","host":"a?b","began":"2025-08-27T07:35:00.250+02:00","since_start_us":1000000"#,
            ),
            (Mark::CycleStarted { cycle: 1, at: at(1) }, r#""cycle_started","cycle":1"#),
            (
                Mark::CycleCompleted { cycle: 1, break_duration: seconds(300), at: at(1), is_exact: true },
                r#""cycle_completed","cycle":1,"pause_s":300.0"#,
            ),
            (Mark::AllFinished { at: at(1) }, r#""all_finished""#),
            (Mark::Stopped { signal: Signal::Term, at: at(1) }, r#""stopped","signal":"SIGTERM""#),
            (Mark::Canary { at: at(1) }, r#""canary""#),
            (
                Mark::NotObserved { from: at(0), to: at(1), missed: 0 },
                r#""not_observed","from":"2025-08-27T07:35:00.250+02:00","to":"2025-08-27T07:35:01.250+02:00","missed":0"#,
            ),
            (
                Mark::RecordsLost { from: at(0), to: at(1), count: 12 },
                r#""records_lost","from":"2025-08-27T07:35:00.250+02:00","to":"2025-08-27T07:35:01.250+02:00","count":12"#,
            ),
            (
                Mark::Changed { target: shard, at: at(1), change },
                r#""change","shard":"0-5460","what":"run_id","from":"a","to":"b""#,
            ),
            (
                Mark::OutageBegan { subject: subject.clone(), at: at(1), onset: Some(seconds(1)) },
                r#""outage_began","db":0,"onset_s":1.0"#,
            ),
            (
                Mark::OutageEnded {
                    subject,
                    at: at(1),
                    first_failure: Some(at(0)),
                    at_least: seconds(1),
                    at_most: None,
                },
                r#""outage_ended","db":0,"first_failure":"2025-08-27T07:35:00.250+02:00","at_least_s":1.0"#,
            ),
            (
                Mark::OutageEnded {
                    subject: Subject { target: Target::Cluster, ..Subject::default() },
                    at: at(1),
                    first_failure: None,
                    at_least: seconds(1),
                    at_most: Some(seconds(2)),
                },
                r#""outage_ended","cluster":true,"at_least_s":1.0,"at_most_s":2.0"#,
            ),
        ] {
            let before = r#"{"at":"2025-08-27T07:35:01.250+02:00","type":"#;
            assert_eq!(line(&Record::Mark(mark)), format!("{before}{expected}}}"));
        }
    }
}
