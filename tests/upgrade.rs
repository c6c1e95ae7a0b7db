//! A simulated upgrade with real engines. What the run reports is compared with what a client observed.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use crate::support::env::{ENDLESS, Running, TestEnv, engine};
use crate::support::logs::parse_stamp;
use crate::support::scripted::{LIMIT, eventually};
use crate::support::upgrade::{NAME, Upgrade};

/// The time from one check to the next.
const INTERVAL: Duration = Duration::from_millis(50);

/// How late a check may be on a busy machine.
const SLACK: Duration = INTERVAL.saturating_mul(2);

/// A client that writes repeatedly to the server to which the name points.
struct Writer {
    writes: JoinHandle<Vec<Wrote>>,
    done: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

/// One write: when it was sent and answered, and whether it was accepted.
struct Wrote {
    sent: Instant,
    answered: Instant,
    accepted: bool,
}

impl Writer {
    fn start(upgrade: Arc<Upgrade>) -> Self {
        let (ended, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (ended.clone(), done.clone());
        let writes = thread::spawn(move || {
            let (mut writes, mut connection) = (Vec::new(), None);
            while !end.load(Ordering::Relaxed) {
                let sent = Instant::now();
                let accepted = write(upgrade.endpoint(), &mut connection).unwrap_or_else(|_| {
                    connection = None;
                    false
                });
                writes.push(Wrote { sent, answered: Instant::now(), accepted });
                count.fetch_add(1, Ordering::Relaxed);
                // Leaves CPU time to the servers and the run.
                thread::sleep(Duration::from_millis(1));
            }
            writes
        });
        Writer { writes, done, ended }
    }

    /// Waits for a random number of writes, each about 1 ms, so that the next step does not depend on the schedule of
    /// checks.
    fn wait(&self) {
        let writes = RandomState::new().hash_one(()) % 60;
        let until = self.done.load(Ordering::Relaxed) + writes;
        assert!(eventually(LIMIT, || self.done.load(Ordering::Relaxed) >= until), "the writer hangs");
    }

    /// How long no write was accepted, at least and at most, and the longest delay of the writer by the machine.
    /// Asserts that there was one outage.
    fn outage(self) -> (Duration, Duration, Duration) {
        self.ended.store(true, Ordering::Relaxed);
        let writes = self.writes.join().unwrap();
        let first = writes.iter().position(|write| !write.accepted).expect("writes failed");
        let last = writes.iter().rposition(|write| !write.accepted).expect("writes failed");
        assert!(writes[first..=last].iter().all(|write| !write.accepted), "more than one outage");
        let held_up = writes.windows(2).map(|pair| pair[1].sent - pair[0].answered).max().unwrap_or_default();
        (writes[last].sent - writes[first].sent, writes[last + 1].answered - writes[first - 1].sent, held_up)
    }
}

/// Writes once, over the open connection unless the name has moved.
fn write(
    endpoint: SocketAddrV4,
    connection: &mut Option<(SocketAddrV4, BufReader<TcpStream>)>,
) -> std::io::Result<bool> {
    let (_, stream) = match connection.take().filter(|(to, _)| *to == endpoint) {
        Some(open) => connection.insert(open),
        None => {
            let stream = TcpStream::connect(endpoint)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LIMIT))?;
            connection.insert((endpoint, BufReader::new(stream)))
        }
    };
    stream.get_mut().write_all(b"SET rehearsal 1 PX 1000\r\n")?;
    let mut line = String::new();

    match stream.read_line(&mut line)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line == "+OK\r\n"),
    }
}

/// The timestamp after this text, up to a comma or the end of the mark.
fn stamp(log: &str, mark: &str) -> DateTime<Utc> {
    let rest = log.split(mark).nth(1).unwrap_or_else(|| panic!("{mark} is missing in\n{log}"));
    let text = &rest[..rest.find([',', '=']).unwrap()];
    parse_stamp(text).and_utc()
}

/// The number of seconds after this text.
fn seconds<'a>(text: &'a str, before: &str) -> &'a str {
    text.split(before).nth(1).unwrap().split(' ').next().unwrap()
}

/// Asserts that a change was marked at the start of the next check, or of the check in progress at that time.
fn assert_marked(log: &str, mark: &str, (before, after): (DateTime<Utc>, DateTime<Utc>), held_up: Duration) {
    let at = stamp(log, mark);
    let late = TimeDelta::from_std(INTERVAL + SLACK + held_up).unwrap();
    let early = TimeDelta::from_std(INTERVAL).unwrap();
    println!("{mark}{at}: {} ms after the event", (at - after).num_milliseconds());
    assert!(before - early <= at && at <= after + late, "{mark}{at}, but the event was from {before} to {after}");
}

/// The longest time that the run marked as not observed. On a busy machine there may be some.
fn longest_gap(log: &str) -> Duration {
    let gaps = log.lines().filter_map(|line| {
        let (from, rest) = line.strip_prefix("=== Not observed from ")?.split_once(" to ")?;
        let (to, _) = rest.split_once(',')?;
        (parse_stamp(to) - parse_stamp(from)).to_std().ok()
    });
    gaps.max().unwrap_or_default()
}

/// Runs `work`, and returns its start and end.
fn timed(work: impl FnOnce()) -> (DateTime<Utc>, DateTime<Utc>) {
    let before = Utc::now();
    work();
    (before, Utc::now())
}

fn rehearse(old: &str, new: &str) {
    let env = TestEnv::new();
    let mut upgrade = Arc::new(Upgrade::start(&engine(old), &engine(new)));
    let port = upgrade.port();
    let arguments = format!("{ENDLESS} -h {NAME} -p {port} --canary --held");
    let writer = Writer::start(upgrade.clone());
    let run = Running::start(env.wrapped(&upgrade.surroundings(), &arguments));
    let errors = |count: usize| env.wait_for("redis_error.log", |text| text.matches(" FAILURE: ").count() >= count);
    env.wait_for("redis_success.log", |text| text.contains(" SUCCESS 10\n"));

    writer.wait();

    // The replica takes over. The name still points to the old primary, which now rejects writes.
    let demoted = timed(|| {
        upgrade.fail_over();
        upgrade.wait_failed_over();
    });
    errors(20);
    let cut = timed(|| upgrade.cut());
    errors(40);
    writer.wait();
    let moved = timed(|| upgrade.move_name());
    env.wait_for("redis_error.log", |text| text.contains("=== Outage of endpoint WRITE ended at "));
    let (least, most, held_up) = writer.outage();
    eventually(LIMIT, || Arc::get_mut(&mut upgrade).is_some());

    // A check in progress may have started up to one interval earlier.
    let gone = Utc::now() - INTERVAL;
    Arc::get_mut(&mut upgrade).expect("the writer has exited").retire();
    let seen = env.read("redis_success.log").lines().count();
    env.wait_for("redis_success.log", |text| text.lines().count() >= seen + 10);
    let output = run.stop();

    assert_eq!(output.code, Some(143), "{output:?}");

    // The log files.
    let (success, errors) = (env.read("redis_success.log"), env.read("redis_error.log"));
    let held_up = held_up + longest_gap(&success);
    let [was, is] = [old, new].map(|name| name.split_once('-').unwrap());
    assert!(errors.contains(" WRITE FAILURE: readonly: READONLY You can't write against a read only replica."));
    assert_eq!(errors.matches("=== Outage of endpoint WRITE began at ").count(), 1, "{errors}");
    assert_marked(&success, "=== Endpoint changed from primary to replica at ", demoted, held_up);
    assert_marked(&success, "=== Endpoint moved from 127.0.0.1 to 127.0.0.2 at ", moved, held_up);
    assert_marked(&success, "=== Endpoint changed from replica to primary at ", moved, held_up);

    let engines = success.lines().find(|line| line.contains(&format!(" changed from {} {}", was.0, was.1))).unwrap();
    assert!(engines.contains(&format!(" to {} {}", is.0, is.1)), "{engines}");

    let mark = engines.split_inclusive(" at ").next().unwrap();
    assert_marked(&success, mark, moved, held_up);

    for what in ["moved from", "changed from", "restarted"] {
        let count = if what == "changed from" { 3 } else { usize::from(what == "moved from") };
        assert_eq!(success.matches(&format!("=== Endpoint {what} ")).count(), count, "{success}");
    }

    // The bounds include the true duration, and are two intervals apart.
    let ended = errors.lines().find(|line| line.starts_with("=== Outage of endpoint WRITE ended at ")).unwrap();
    let bounds = [seconds(ended, "at least "), seconds(ended, "at most ")];
    let [at_least, at_most] = bounds.map(|text| Duration::from_secs_f64(text.parse().unwrap()));
    println!("{old} to {new}: {least:?} to {most:?} for the writer; {at_least:?} to {at_most:?} in the log");

    assert!(
        at_least <= most && least <= at_most,
        "{least:?} to {most:?} for the writer, but {at_least:?} to {at_most:?} in the log"
    );
    assert!(at_most - at_least <= 2 * INTERVAL + SLACK + held_up, "{at_least:?} to {at_most:?}");

    // The summary.
    let summary = output.stdout.split("=== Stopped by SIGTERM").nth(1).unwrap();
    let failed = errors.lines().filter(|line| line.contains(" WRITE FAILURE: ") && !line.contains(" HELD ")).count();

    // A read can only have failed in a check in progress when the connections were closed.
    let reads = errors.lines().filter(|line| line.contains(" FAILURE: ") && !line.contains(" WRITE "));
    let reads: Vec<_> = reads.filter(|line| !line.contains(" HELD ")).collect();
    let late = TimeDelta::from_std(INTERVAL + SLACK + held_up).unwrap();

    for read in &reads {
        let began = parse_stamp(&read[..23]).and_utc();
        assert!(cut.0 - late <= began && began <= cut.1, "{read}, but connections were closed at {cut:?}");
    }

    let failed_of = |row: &str| output.row(row).1;
    assert_eq!(failed_of("endpoint"), reads.len(), "{summary}");
    assert_eq!(failed_of("endpoint WRITE"), failed + reads.len(), "{summary}");

    for expected in [
        &format!("at least {} s, at most {} s", bounds[0], bounds[1]),
        "readonly: READONLY You can't write against a read only replica.",
        "Endpoint changed from primary to replica",
        "Endpoint moved from 127.0.0.1 to 127.0.0.2",
        "Endpoint changed from replica to primary",
    ] {
        assert!(summary.contains(expected), "{expected} in {summary}");
    }

    // The persistent connection stays on the old primary until that stops, although the name has moved.
    assert!(errors.contains(" HELD WRITE FAILURE: readonly: "), "{errors}");
    assert!(stamp(&success, "=== HELD moved from 127.0.0.1 to 127.0.0.2 at ") >= gone, "{success}");
    assert!(stamp(&errors, "=== Outage of HELD WRITE ended at ") >= gone, "{errors}");

    let engines = format!("Endpoint changed from {} {}", was.0, was.1);
    assert!(summary.lines().any(|line| line.contains(&engines) && line.contains(&format!(" to {} {}", is.0, is.1))));
}

#[test]
fn from_redis_7_0_to_valkey_9_1() {
    rehearse("redis-7.0", "valkey-9.1");
}

#[test]
fn from_redis_6_2_to_valkey_8_1() {
    rehearse("redis-6.2", "valkey-8.1");
}
