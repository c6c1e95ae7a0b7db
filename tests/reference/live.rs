//! Random outages of a scripted server, and what runs of `cycles` and their logs say about them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::arithmetic::{Micros, Mode, expected};
use super::compare::{self, Exactness, micros};
use super::page;
use super::random::Random;
use super::records::facts;
use crate::support::env::TestEnv;
use crate::support::scripted::{Behaviour, Server};

/// How the server fails.
#[derive(Clone, Debug)]
enum Fault {
    Behaviour(Behaviour),
    /// The server is demoted: writes fail.
    Replica,
    /// All open connections are reset. The server serves new ones.
    Cut,
}

/// What a fault means for the checks that begin while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Each fresh check fails.
    Down,
    /// Each write fails.
    Unwritable,
    /// Some checks fail.
    Partial,
}

/// A time in which the server failed, by its own clock. Each end is known to lie between two times, because a change
/// takes a moment to come into force.
#[derive(Clone, Copy, Debug)]
struct Window {
    effect: Effect,
    began: (Micros, Micros),
    ended: (Micros, Micros),
}

/// A random run.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    flags: String,
    /// Times to wait, and then a fault and how long it lasts, all in milliseconds.
    faults: Vec<(u64, Fault, u64)>,
}

fn faults() -> Vec<Fault> {
    let error = |text: &str| Fault::Behaviour(Behaviour::Error(text.into()));
    vec![
        Fault::Behaviour(Behaviour::Refuse),
        Fault::Behaviour(Behaviour::Refuse),
        Fault::Behaviour(Behaviour::DropPackets),
        Fault::Behaviour(Behaviour::ResetOnAccept),
        Fault::Behaviour(Behaviour::ResetAfter(1)),
        Fault::Behaviour(Behaviour::CloseAfter(0)),
        Fault::Behaviour(Behaviour::CloseAfter(1)),
        Fault::Behaviour(Behaviour::StallAfter(0)),
        Fault::Behaviour(Behaviour::StallAfter(1)),
        Fault::Behaviour(Behaviour::StallAfter(3)),
        Fault::Behaviour(Behaviour::HalfReply),
        Fault::Behaviour(Behaviour::Raw(b"hello\r\n".to_vec())),
        Fault::Behaviour(Behaviour::Raw(b"+PONG\r\n".to_vec())),
        Fault::Behaviour(Behaviour::OnAccept(b"-ERR max number of clients reached\r\n".to_vec())),
        Fault::Behaviour(Behaviour::ErrorFor("PING", "MASTERDOWN Link with MASTER is down".into())),
        Fault::Behaviour(Behaviour::ErrorFor("SELECT", "NOPERM no permission".into())),
        Fault::Behaviour(Behaviour::ErrorFor("SET", "OOM command not allowed".into())),
        Fault::Behaviour(Behaviour::Slow(Duration::from_millis(40))),
        error("LOADING Redis is loading the dataset in memory"),
        error("BUSY Redis is busy running a script"),
        error("NOAUTH Authentication required."),
        error("MISCONF Errors writing to the AOF file"),
        error("ERR something else"),
        Fault::Replica,
        Fault::Cut,
    ]
}

impl Fault {
    fn effect(&self) -> Effect {
        match self {
            Fault::Replica => Effect::Unwritable,
            Fault::Behaviour(Behaviour::ErrorFor("SET", _)) => Effect::Unwritable,
            Fault::Cut | Fault::Behaviour(Behaviour::Slow(_) | Behaviour::StallAfter(3)) => Effect::Partial,
            Fault::Behaviour(_) => Effect::Down,
        }
    }
}

impl Case {
    pub fn random(seed: u64) -> Case {
        let mut random = Random::new(seed);
        let interval = random.pick(&[20, 20, 50, 50, 100, 200, 250, 500, 1000]);
        // Timestamps in whole seconds do not tell the order of checks that are closer.
        let cycles = if interval % 1_000 == 0 { 1 } else { random.pick(&[1, 1, 2, 3]) };
        let run = (interval * random.between(4, 40)).clamp(600, 2500) / cycles;
        let rest = random.pick(&[0, 100, 300, 700]);
        let timeout = random.pick(&[300, 500, 1000]);

        let mut flags = format!(
            "cycles --cycles {cycles} --run-duration {run}ms --check-interval {interval}ms --break-duration {rest}ms \
             --timeout {timeout}ms"
        );
        if random.chance(40) {
            flags.push_str(" --canary");
        }
        if random.chance(30) {
            let _ = write!(flags, " --max-db {}", random.between(1, 5));
        } else {
            if random.chance(30) {
                flags.push_str(" -n 3");
            }
            if random.chance(40) {
                flags.push_str(" --held");
            }
        }
        if random.chance(10) {
            flags.push_str(" --expect-role primary");
        }

        let whole = u64::try_from(cycles * run + (cycles - 1) * rest).expect("positive");
        let flapping = random.chance(30);
        let (mut faults, mut used) = (Vec::new(), 0);
        while used < whole {
            let longest = if flapping { interval * 3 } else { 900 };
            let time = |random: &mut Random| u64::try_from(random.between(0, longest)).expect("positive");
            let (wait, fault, lasts) = (time(&mut random), random.pick(&self::faults()), time(&mut random) + 1);
            used += wait + lasts;
            faults.push((wait, fault, lasts));
        }
        Case { seed, flags, faults }
    }

    /// Runs the case, and returns the differences. They name the folder with the logs, which stays.
    pub fn differences(&self) -> Vec<String> {
        let (env, server) = (TestEnv::new(), Server::start());
        let port = server.port();
        let runs = ["json", "classic"].map(|format| {
            let flags = format!("{} -p {port} --log-dir {format} --log-format {format} --json", self.flags);
            env.spawn(&flags)
        });
        let windows = self.play(&server);
        let [json, classic] = runs.map(|run| run.wait());

        let mut found = Vec::new();
        let (json, classic) = match (serde_json::from_str(&json.stdout), serde_json::from_str(&classic.stdout)) {
            (Ok(json), Ok(classic)) => (json, classic),
            _ => return vec![format!("{self:?}: {json:?} {classic:?}")],
        };
        self.compare(&env, (&json, &classic), &windows, &mut found);
        if found.is_empty() {
            return found;
        }

        let kept = keep(env.path(), self.seed);
        let _ = fs::write(kept.join("live-json"), json.to_string());
        let _ = fs::write(kept.join("live-classic"), classic.to_string());
        let _ = fs::write(kept.join("differences"), format!("{self:?}\n{windows:?}\n{}\n", found.join("\n")));
        found.iter().map(|difference| format!("live {}: {difference} ({})", self.seed, kept.display())).collect()
    }

    /// Lets the server fail, and returns when it did.
    fn play(&self, server: &Server) -> Vec<Window> {
        let start = Instant::now();
        let mut due = Duration::ZERO;
        let mut windows = Vec::new();
        for (wait, fault, lasts) in &self.faults {
            due += Duration::from_millis(*wait);
            thread::sleep((start + due).saturating_duration_since(Instant::now()));
            let began = change(|| match fault {
                Fault::Behaviour(behaviour) => server.behave(behaviour.clone()),
                Fault::Replica => server.become_(|nature| nature.role = "slave"),
                Fault::Cut => server.cut(),
            });

            due += Duration::from_millis(*lasts);
            thread::sleep((start + due).saturating_duration_since(Instant::now()));
            let ended = change(|| match fault {
                Fault::Behaviour(_) => server.behave(Behaviour::Serve),
                Fault::Replica => server.become_(|nature| nature.role = "master"),
                Fault::Cut => {}
            });
            // With an expected role, a demotion fails each check.
            let fails_all = matches!(fault, Fault::Replica) && self.flags.contains("--expect-role");
            let effect = if fails_all { Effect::Down } else { fault.effect() };
            windows.push(Window { effect, began, ended });
        }
        windows
    }

    fn compare(&self, env: &TestEnv, live: (&Value, &Value), windows: &[Window], found: &mut Vec<String>) {
        let records: Vec<Value> = ["redis_success.log", "redis_error.log"]
            .into_iter()
            .flat_map(|name| {
                fs::read_to_string(env.path().join("json").join(name))
                    .unwrap_or_default()
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter_map(|line| serde_json::from_str(&line).ok())
            .collect();
        let mode = facts(&records, false);
        let exact = expected(&facts(&records, true), &Mode::default());
        let reference = expected(&mode, &Mode::default()).with_bounds_of(&exact, |_| 0);
        // Timestamps are cut to milliseconds, and the durations of each phase to microseconds.
        let exactness = Exactness { stamps: 0, bounds: 6, gaps: 1_001 * (mode.gaps.len() as i64 + 1) };
        let mut add = |what: &str, differences: Vec<String>| {
            found.extend(differences.into_iter().map(|difference| format!("{what}: {difference}")));
        };
        add("live", compare::document(&reference, live.0, exactness));

        let report = |folder: &str| -> Value {
            let output = env.run(&format!("report {folder} --json --html {folder}.html"));
            serde_json::from_str(&output.stdout).unwrap_or(Value::Null)
        };
        let (of_json, of_classic) = (report("json"), report("classic"));
        add("report", compare::document(&reference, &of_json, exactness));
        add("report of classic lines", same(live.1, &of_classic, mode.gaps.len()));
        for (folder, document) in [("json", &of_json), ("classic", &of_classic)] {
            let page = fs::read_to_string(env.path().join(format!("{folder}.html"))).unwrap_or_default();
            add(folder, page::differences(&page, document));
            add(folder, page::headline(&page, document).into_iter().collect());
        }
        for (what, document) in [("json run", live.0), ("classic run", live.1)] {
            add(what, self.windows_outside(document, windows));
        }
    }

    /// Faults of the server that lie outside the bounds told for them.
    fn windows_outside(&self, document: &Value, windows: &[Window]) -> Vec<String> {
        let mut found = Vec::new();
        let none = Vec::new();
        for row in document["databases"].as_array().unwrap_or(&none) {
            // A persistent connection is not affected by faults of new ones.
            if row["held"] == true {
                continue;
            }
            let write = row["write"] == true;
            let matters = |effect: Effect| effect != Effect::Unwritable || write;
            for outage in row["outages"].as_array().unwrap_or(&none) {
                let (Some(before), Some(after)) =
                    (micros(&outage["last_success_before"]), micros(&outage["first_success_after"]))
                else {
                    continue;
                };
                let Some(at_most) = compare::seconds(&outage["at_most_s"]) else { continue };
                let at_least = compare::seconds(&outage["at_least_s"]).unwrap_or(0);
                let during: Vec<_> = windows
                    .iter()
                    .filter(|window| {
                        matters(window.effect) && window.began.0 < before + at_most + 2_000 && window.ended.1 > before
                    })
                    .collect();
                let [window] = during.as_slice() else { continue };
                if window.effect == Effect::Partial || outage["spans_gap"] == true {
                    continue;
                }
                // A check that began before the fault and passed after it saw nothing of it.
                let inside = window.began.0 >= before && window.ended.1 <= after + at_most;
                let (longest, shortest) = (window.ended.1 - window.began.0, window.ended.0 - window.began.1);
                if at_least > longest + 2_000 {
                    found.push(format!("at least {at_least} us for a fault of {longest} us: {outage}"));
                }
                if inside && at_most + 2_000 < shortest {
                    found.push(format!("at most {at_most} us for a fault of {shortest} us: {outage}"));
                }
            }
        }
        found
    }
}

/// Makes a change, and returns the times right before and after it.
fn change(change: impl FnOnce()) -> (Micros, Micros) {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Micros::try_from(since.as_micros()).unwrap_or(0)
    };
    let before = now();
    change();
    (before, now())
}

/// The differences between what a run said and what its classic log says. Bounds and timestamps have milliseconds, or
/// whole seconds if the interval has.
fn same(live: &Value, read: &Value, gaps: usize) -> Vec<String> {
    let mut found = Vec::new();
    for field in ["checks", "failures", "missed_checks"] {
        if live[field] != read[field] {
            found.push(format!("{field}: {} instead of {}", read[field], live[field]));
        }
    }
    let near = |a: &Value, b: &Value, exactness: f64| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= exactness,
        _ => a == b,
    };
    // Live timestamps always have milliseconds in documents.
    let is_coarse = read["from"].as_str().is_some_and(|from| from.contains(".000"))
        && read["to"].as_str().is_some_and(|to| to.contains(".000"));
    let resolution = if is_coarse { 1.001 } else { 0.001_1 };
    // A classic line does not say when a break began. It may have been late.
    let late = 0.11;
    if !near(&live["unobserved_s"], &read["unobserved_s"], (resolution + late) * (gaps as f64 + 1.0)) {
        found.push(format!("unobserved_s: {} instead of {}", read["unobserved_s"], live["unobserved_s"]));
    }

    let none = Vec::new();
    let rows = |document: &Value| document["databases"].as_array().cloned().unwrap_or_default();
    let (live_rows, read_rows) = (rows(live), rows(read));
    if live_rows.len() != read_rows.len() {
        found.push(format!("{} rows instead of {}", read_rows.len(), live_rows.len()));
    }
    for (live, read) in live_rows.iter().zip(&read_rows) {
        let row = format!("db {} held {} write {}", live["db"], live["held"], live["write"]);
        for field in ["db", "held", "write", "checks", "failures", "availability"] {
            if live[field] != read[field] {
                found.push(format!("{row}: {field}: {} instead of {}", read[field], live[field]));
            }
        }
        let (live, read) = (live["outages"].as_array().unwrap_or(&none), read["outages"].as_array().unwrap_or(&none));
        if live.len() != read.len() {
            found.push(format!("{row}: {} outages instead of {}", read.len(), live.len()));
            continue;
        }
        for (live, read) in live.iter().zip(read) {
            for field in ["failed_checks", "kinds", "reason", "spans_gap"] {
                if live[field] != read[field] {
                    found.push(format!("{row}: {field}: {} instead of {}", read[field], live[field]));
                }
            }
            for field in ["first_failure", "last_failure", "last_success_before", "first_success_after"] {
                let cut = |stamp: &Value| micros(stamp).map(|at| if is_coarse { at / 1_000_000 } else { at });
                if cut(&live[field]) != cut(&read[field]) {
                    found.push(format!("{row}: {field}: {} instead of {}", read[field], live[field]));
                }
            }
            // An ended outage has the bounds of its run, and an unfinished one those of its lines.
            let ended = !live["first_success_after"].is_null();
            let exactness = if ended { 0.000_501 } else { resolution + 0.5 };
            for field in ["at_least_s", "at_most_s"] {
                if !near(&live[field], &read[field], exactness) {
                    found.push(format!(
                        "{row}: {field}: {} instead of {}: {}",
                        read[field], live[field], live["first_failure"]
                    ));
                }
            }
        }
    }
    found
}

/// Copies the files of a failed case to where they stay.
fn keep(folder: &Path, seed: u64) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reference-live-{seed}"));
    let _ = fs::remove_dir_all(&kept);
    copy(folder, &kept);
    kept
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::create_dir_all(to);
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            let _ = fs::copy(path, target);
        }
    }
}
