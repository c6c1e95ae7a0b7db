//! Runs `cycles` with an interval of 1 ms against a real server, and shows whether memory or file descriptors grow.
//!
//!     cargo build --release && cargo run --release --example soak -- 300
//!
//! The argument is the duration in seconds: 300 s make 300,000 checks. It needs redis-server.

#[path = "../tests/support/real.rs"]
#[allow(dead_code)]
mod real;
#[path = "../tests/support/scripted.rs"]
#[allow(dead_code)]
mod scripted;

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use real::Real;
use tempfile::TempDir;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(30), |text| text.parse())?;
    let binary = std::env::current_exe()?.with_file_name("../redis-health");
    if !binary.exists() {
        return Err("target/release/redis-health is missing; run cargo build --release first".into());
    }
    let (server, logs) = (Real::start(&[]), TempDir::new()?);
    let mut command = Command::new(&binary);
    command.args(["cycles", "-p", &server.port().to_string(), "--cycles", "1", "--check-interval", "1ms"]);
    command.args(["--run-duration", &seconds.to_string(), "--rotate", "50M", "--keep", "1"]);
    let start = Instant::now();
    let child = command.arg("--log-dir").arg(logs.path()).stdout(Stdio::piped()).spawn()?;
    let pid = child.id();

    // One-time allocations are done after the first checks.
    thread::sleep(Duration::from_secs(2));
    let first = usage(pid)?;
    println!("after {:>4} s: {first}", start.elapsed().as_secs());
    let mut last = usage(pid)?;
    while start.elapsed() + Duration::from_secs(1) < Duration::from_secs(seconds) {
        let left = Duration::from_secs(seconds).saturating_sub(start.elapsed() + Duration::from_millis(500));
        thread::sleep(left.min(Duration::from_secs(30)));
        last = usage(pid)?;
        println!("after {:>4} s: {last}", start.elapsed().as_secs());
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!(
        "{}",
        text.lines()
            .rev()
            .take(12)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    );
    let checks = seconds * 1000;
    let missed = text
        .lines()
        .find_map(|line| line.strip_prefix("checks scheduled but not run: ")?.parse::<u64>().ok())
        .unwrap_or(0);
    println!(
        "descriptors {:+}, memory {:+} KiB, CPU {:.0} µs a check, ticks missed {missed} of {checks}, {}",
        last.descriptors as i64 - first.descriptors as i64,
        last.memory as i64 - first.memory as i64,
        (last.cpu - first.cpu).as_micros() as f64
            / ((checks - missed).max(1) as f64 * (seconds - 2) as f64 / seconds as f64),
        output.status
    );
    Ok(())
}

/// Resources that the process uses, and the CPU time it has used.
#[derive(Clone, Copy)]
struct Usage {
    descriptors: usize,
    /// Resident, in KiB.
    memory: u64,
    cpu: Duration,
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Usage { descriptors, memory, cpu } = self;
        write!(f, "{descriptors} descriptors, {memory} KiB, {:.2} s of CPU", cpu.as_secs_f64())
    }
}

fn usage(pid: u32) -> Outcome<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Fields 14 and 15 (utime, stime), in hundredths of a second (proc_pid_stat(5)). Fields are counted from the end of
    // the process name, because the name may contain spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Usage {
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        memory: memory.unwrap_or(0),
        cpu: Duration::from_millis(ticks * 10),
    })
}
