//! Random outages and random log folders, compared with a reference of the arithmetic that is written apart from `src`.
//!
//! A sample runs with the other tests. This runs all of it, and takes about ten minutes:
//!
//!     REFERENCE_LIVE=500 REFERENCE_FOLDERS=2000 cargo test --locked --test tests reference -- --ignored --nocapture
//!
//! A failure prints the seed of its case. `REFERENCE_SEED=7` begins with that seed.

mod arithmetic;
mod compare;
mod folders;
mod live;
mod page;
mod random;
mod records;
mod zone;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the sample of each kind takes in the suite.
const SAMPLE: Duration = Duration::from_secs(10);

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// Runs cases from the first seed on, until there were `count`, or until `limit` is over. Returns how many were run.
fn run_all(workers: usize, first: u64, count: u64, limit: Duration, case: impl Fn(u64) -> Vec<String> + Sync) -> u64 {
    let (next, begin, found) = (AtomicU64::new(0), Instant::now(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while begin.elapsed() < limit {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let differences = case(first + index);
                    for difference in &differences {
                        println!("{difference}");
                    }
                    found.lock().unwrap().extend(differences);
                }
            });
        }
    });

    let (found, run) = (found.into_inner().unwrap(), next.into_inner().min(count));
    println!("cases: {run}, differences: {}", found.len());
    assert!(found.is_empty(), "{} differences, such as {}", found.len(), found[0]);
    run
}

#[test]
fn a_sample_of_random_outages_agrees_with_the_reference() {
    run_all(3, 1, 100, SAMPLE, |seed| live::Case::random(seed).differences());
}

#[test]
#[ignore = "takes several minutes"]
fn all_random_outages_agree_with_the_reference() {
    let (first, count) = (number("REFERENCE_SEED", 1), number("REFERENCE_LIVE", 500));
    run_all(6, first, count, Duration::MAX, |seed| live::Case::random(seed).differences());
}

#[test]
fn a_sample_of_random_log_folders_agrees_with_the_reference() {
    run_all(2, 1, 400, SAMPLE, |seed| folders::Case::random(seed).differences());
}

#[test]
#[ignore = "takes several minutes"]
fn all_random_log_folders_agree_with_the_reference() {
    let (first, count) = (number("REFERENCE_SEED", 1), number("REFERENCE_FOLDERS", 2_000));
    run_all(3, first, count, Duration::MAX, |seed| folders::Case::random(seed).differences());
}
