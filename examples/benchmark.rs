//! Measures the time and memory limits that redis-health promises, against real servers on this machine.
//!
//!     cargo build --release && cargo run --release --example benchmark [PART...]
//!
//! It needs redis-server and redis-cli, and takes about three minutes. Results are medians. Commands that are compared
//! run alternately, so that load on the machine affects both.

#[path = "../tests/support/attacks.rs"]
mod attacks;
#[path = "../tests/support/real.rs"]
#[allow(dead_code)]
mod real;
#[path = "../tests/support/scripted.rs"]
#[allow(dead_code)]
mod scripted;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::NaiveDateTime;
use real::Real;
use scripted::{Behaviour, Server, eventually};
use tempfile::TempDir;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A part of the benchmark, which can be run alone.
type Part = fn(&Bench) -> Outcome<()>;

fn main() -> Outcome<()> {
    let binary = std::env::current_exe()?.with_file_name("../redis-health");
    if !binary.exists() {
        return Err("target/release/redis-health is missing; run cargo build --release first".into());
    }
    let bench = Bench { binary, folder: TempDir::new()? };
    let parts: [(&str, Part); 11] = [
        ("small_scan", Bench::small_scan),
        ("large_scan", Bench::large_scan),
        ("large_cycles", Bench::large_cycles),
        ("frozen_server", Bench::frozen_server),
        ("schedule", Bench::schedule),
        ("end_by_signal", Bench::end_by_signal),
        ("fault_bounds", Bench::fault_bounds),
        ("random_outages", Bench::random_outages),
        ("hostile_replies", Bench::hostile_replies),
        ("mutated_replies", Bench::mutated_replies),
        ("large_logs", Bench::large_logs),
    ];
    let chosen: Vec<_> = std::env::args().skip(1).collect();
    for (_, part) in parts.iter().filter(|(name, _)| chosen.is_empty() || chosen.iter().any(|one| one == name)) {
        part(&bench)?;
    }
    Ok(())
}

struct Bench {
    binary: PathBuf,
    folder: TempDir,
}

impl Bench {
    fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--log-dir").arg(self.folder.path().join("logs"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Compares a scan of 16 databases with one `redis-cli PING` and with the shell script that redis-health replaces.
    fn small_scan(&self) -> Outcome<()> {
        let server = Real::start(&["--databases", "16"]);
        let port = server.port().to_string();
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &port, "PING"]).stdout(Stdio::null());
        let mut scan = self.tool(&["dbs", "-q", "-p", &port]);
        let (mut of_cli, mut of_scan, mut of_script) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..400 {
            of_cli.push(time(&mut cli)?);
            of_scan.push(time(&mut scan)?);
        }
        let mut script = Command::new("bash");
        script.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/legacy/check_redis_dbs.sh"));
        script.env("REDIS_HOST", "127.0.0.1").env("REDIS_PORT", &port).env("MAX_DB", "15");
        script.env("LOG_FILE", self.folder.path().join("legacy.log"));
        for _ in 0..20 {
            of_script.push(time(&mut script)?);
        }
        let (cli, scan, script) = (median(of_cli), median(of_scan), median(of_script));
        say("16 databases, whole process", scan);
        say("one redis-cli PING", cli);
        say("the script, 16 databases", script);
        println!(
            "  scan / redis-cli {:.2} (at most 0.30), script / scan {:.0} (at least 45)",
            ratio(scan, cli),
            ratio(script, scan)
        );
        Ok(())
    }

    /// Compares a scan of 10,000 databases with the same commands sent over a plain socket.
    fn large_scan(&self) -> Outcome<()> {
        let server = Real::start(&["--databases", "10000"]);
        let port = server.port().to_string();
        let commands: Vec<u8> = (0..10_000)
            .flat_map(|db: u32| {
                let db = db.to_string();
                format!("*2\r\n$6\r\nSELECT\r\n${}\r\n{db}\r\n*1\r\n$4\r\nPING\r\n", db.len()).into_bytes()
            })
            .collect();
        let (mut of_bare, mut of_scan, mut peak) = (Vec::new(), Vec::new(), 0);
        let mut scan = self.tool(&["dbs", "-q", "-p", &port, "--max-db", "9999"]);
        for _ in 0..40 {
            of_bare.push(bare(&server, &commands)?);
            of_scan.push(time(&mut scan)?);
            peak = peak.max(peak_memory(&mut scan)?);
        }
        let (bare, scan) = (median(of_bare), median(of_scan));
        say("10,000 databases, whole process", scan);
        say("the same commands over a plain socket", bare);
        println!(
            "  scan / plain socket {:.2} (at most 1.70), peak memory {:.1} MiB (at most 16)",
            ratio(scan, bare),
            peak as f64 / 1024.0
        );
        Ok(())
    }

    /// How long the median of 10,000 databases waits for its result in `cycles`, compared with `dbs`.
    fn large_cycles(&self) -> Outcome<()> {
        let server = Real::start(&["--databases", "10000"]);
        let port = server.port().to_string();
        let scan = ["dbs", "--json", "-p", &port, "--max-db", "9999"];
        let mut of_scan = Vec::new();
        for _ in 0..10 {
            let document = document(self.tool(&scan))?;
            let databases = document["databases"].as_array().ok_or("no databases")?;
            let elapsed = databases.iter().filter_map(|database| database["elapsed_us"].as_u64());
            of_scan.push(median(elapsed.map(Duration::from_micros).collect()));
        }

        let schedule = ["--cycles", "1", "--run-duration", "10", "--check-interval", "1"];
        let run = ["cycles", "--json", "-p", &port, "--max-db", "9999"];
        let document = document(self.tool(&[run.as_slice(), &schedule].concat()))?;
        let of_cycles = Duration::from_micros(document["latency_us"]["p50"].as_u64().ok_or("no latency")?);
        let of_scan = median(of_scan);
        println!(
            "  10,000 databases, p50 of cycles {:.1} ms / of dbs {:.1} ms: {:.2} (at most 1.30)",
            millis(of_cycles),
            millis(of_scan),
            ratio(of_cycles, of_scan)
        );
        Ok(())
    }

    /// A server that hangs: one timeout for any number of databases.
    fn frozen_server(&self) -> Outcome<()> {
        let server = Real::start(&["--databases", "10000"]);
        let port = server.port().to_string();
        server.freeze();
        for last in ["0", "15", "9999"] {
            let took = time(&mut self.tool(&["dbs", "-q", "-p", &port, "-t", "1", "--max-db", last]))?;
            println!("  frozen server, --max-db {last}: {:.0} ms over the timeout (at most 100)", over(took, 1000));
        }
        server.thaw();
        let drops = Server::start();
        drops.behave(Behaviour::DropPackets);
        let took =
            time(&mut self.tool(&["dbs", "-q", "-p", &drops.port().to_string(), "-t", "1", "--max-db", "9999"]))?;
        println!("  dropped packets, --max-db 9999: {:.0} ms over the timeout (at most 100)", over(took, 1000));
        Ok(())
    }

    fn schedule(&self) -> Outcome<()> {
        let server = Real::start(&[]);
        let port = server.port().to_string();
        let schedule = ["--cycles", "2", "--run-duration", "3", "--check-interval", "1", "--break-duration", "1"];
        let took = time(&mut self.tool(&[&["cycles", "-p", &port], schedule.as_slice()].concat()))?;
        println!("  2 cycles of 3 s with a break of 1 s: {:.3} s (7.0 to 7.2)", took.as_secs_f64());
        Ok(())
    }

    fn end_by_signal(&self) -> Outcome<()> {
        let server = Server::start();
        server.behave(Behaviour::StallAfter(0));
        let port = server.port().to_string();
        let mut worst = Duration::ZERO;
        for round in 1..=20 {
            let mut child = self.tool(&["cycles", "-p", &port, "--check-interval", "10ms"]).spawn()?;
            server.wait_accepted(round * 5, Duration::from_secs(5));
            let start = Instant::now();
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            child.wait()?;
            worst = worst.max(start.elapsed());
        }
        println!("  from SIGTERM to exit with checks in progress, worst of 20: {:.1} ms (at most 100)", millis(worst));
        Ok(())
    }

    /// With an interval of 100 ms and a timeout of 600 ms: the time from the start of a fault to the first failed
    /// check, and from its end to the last one.
    fn fault_bounds(&self) -> Outcome<()> {
        let frozen = Real::start(&[]);
        let port = frozen.port();
        self.bounds("server stopped", port, || frozen.freeze(), || frozen.thaw())?;
        let loading = "LOADING Redis is loading the dataset in memory".to_owned();
        for (name, fault) in [
            ("refused", Behaviour::Refuse),
            ("reset", Behaviour::ResetOnAccept),
            ("closed", Behaviour::CloseAfter(0)),
            ("stalled", Behaviour::StallAfter(0)),
            ("half a reply", Behaviour::HalfReply),
            ("LOADING", Behaviour::ErrorFor("PING", loading)),
            ("packets dropped", Behaviour::DropPackets),
        ] {
            let server = Server::start();
            self.bounds(name, server.port(), || server.behave(fault.clone()), || server.behave(Behaviour::Serve))?;
        }
        Ok(())
    }

    fn bounds(&self, name: &str, port: u16, begin: impl Fn(), end: impl Fn()) -> Outcome<()> {
        let logs = TempDir::new()?;
        let port = port.to_string();
        let schedule = ["--cycles", "1", "--run-duration", "5", "--check-interval", "100ms", "-t", "600ms", "--utc"];
        let mut command = Command::new(&self.binary);
        command.args(["cycles", "-p", &port]).args(schedule).arg("--log-dir").arg(logs.path()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let read = |name: &str| std::fs::read_to_string(logs.path().join(name)).unwrap_or_default();
        eventually(Duration::from_secs(5), || read("redis_success.log").contains("SUCCESS 12\n"));
        let began = chrono::Utc::now().naive_utc();
        begin();
        std::thread::sleep(Duration::from_millis(1_730));
        end();
        let ended = chrono::Utc::now().naive_utc();
        child.wait()?;
        let stamps = |file: &str, word: &str| -> Vec<NaiveDateTime> {
            let lines = read(file);
            let stamp = |line: &str| NaiveDateTime::parse_from_str(&line[..23], "%Y-%m-%d %H:%M:%S%.3f").ok();
            let mut stamps: Vec<_> = lines.lines().filter(|line| line.contains(word)).filter_map(stamp).collect();
            stamps.sort();
            stamps
        };
        let (up, down) = (stamps("redis_success.log", " SUCCESS "), stamps("redis_error.log", " FAILURE: "));
        // A check that timed out failed this much later than it began.
        let waited = if read("redis_error.log").contains("FAILURE: timeout") { 600 } else { 0 };
        let (Some(first), Some(last)) = (down.first(), down.last()) else {
            return Err(format!("{name}: nothing failed").into());
        };
        let within = up.iter().filter(|at| *at > first && *at < last).count();
        println!(
            "  {name}: first failed check began {:+} ms after the fault began (within 120), the last one began {:+} ms \
             and failed {:+} ms after the fault ended; {} of 50 ticks, {within} successes inside",
            (*first - began).num_milliseconds(),
            (*last - ended).num_milliseconds(),
            (*last - ended).num_milliseconds() + waited,
            up.len() + down.len()
        );
        Ok(())
    }
}

impl Bench {
    /// 100 outages of random length: whether each is within its reported bounds, and how far apart the bounds are.
    fn random_outages(&self) -> Outcome<()> {
        const INTERVAL: u64 = 20;
        const TIMEOUT: u64 = 100;
        let (server, logs) = (Server::start(), TempDir::new()?);
        let port = server.port().to_string();
        let mut command = Command::new(&self.binary);
        command.args([
            "cycles",
            "-p",
            &port,
            "--run-duration",
            "1h",
            "--check-interval",
            "20ms",
            "-t",
            "100ms",
            "--json",
        ]);
        let mut child = command.arg("--log-dir").arg(logs.path()).stdout(Stdio::piped()).spawn()?;
        let succeeds = || std::fs::read_to_string(logs.path().join("redis_success.log")).unwrap_or_default();
        eventually(Duration::from_secs(5), || succeeds().contains("SUCCESS 5\n"));
        let mut random = Random(20_250_827);
        let faults = [
            Behaviour::Refuse,
            Behaviour::ResetOnAccept,
            Behaviour::CloseAfter(0),
            Behaviour::ErrorFor("PING", "LOADING Redis is loading the dataset in memory".to_owned()),
        ];
        // The shortest and the longest possible length of each outage: a change takes effect a while after the request.
        let mut truth = Vec::new();
        for round in 0..100 {
            std::thread::sleep(Duration::from_millis(100 + random.below(100)));
            let asked = Instant::now();
            server.behave(faults[round % faults.len()].clone());
            let began = Instant::now();
            std::thread::sleep(Duration::from_millis(60 + random.below(240)));
            let ending = Instant::now();
            server.behave(Behaviour::Serve);
            truth.push((ending - began, asked.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(300));
        interrupt(&child)?;
        let mut document = String::new();
        child.stdout.take().ok_or("no output")?.read_to_string(&mut document)?;
        child.wait()?;
        let document: serde_json::Value = serde_json::from_str(&document)?;
        let outages = document["databases"][0]["outages"].as_array().ok_or("no outages")?;
        let bounds = outages.iter().map(|outage| (outage["at_least_s"].as_f64(), outage["at_most_s"].as_f64()));
        let bounds: Vec<_> = bounds.filter_map(|(least, most)| least.zip(most)).collect();
        let held = truth.iter().zip(&bounds).filter(|((shortest, longest), (least, most))| {
            *least <= longest.as_secs_f64() && *most >= shortest.as_secs_f64()
        });
        let apart = bounds.iter().map(|(least, most)| (most - least) * 1000.0).fold(0.0, f64::max);
        println!(
            "  100 random outages: {} reported, {} within their bounds; bounds at most {apart:.0} ms apart (at most {})",
            bounds.len(),
            held.count(),
            2 * INTERVAL + TIMEOUT
        );
        Ok(())
    }

    /// 1,000 hostile replies.
    fn hostile_replies(&self) -> Outcome<()> {
        const TIMEOUT: u64 = 200;
        let server = Server::start();
        let port = server.port().to_string();
        let (mut worst, mut peak, mut panics) = (Duration::ZERO, 0, 0);
        for attack in attacks::attacks().into_iter().cycle().take(1_000) {
            server.behave(attack);
            let mut command = self.tool(&["dbs", "-n", "0", "-t", "0.2", "-p", &port]);
            let start = Instant::now();
            let (status, kib) = watch(&mut command)?;
            worst = worst.max(start.elapsed());
            peak = peak.max(kib);
            panics += u32::from(!matches!(status.code(), Some(0 | 1)));
        }
        println!(
            "  1,000 hostile replies: {panics} panics, worst overrun {:.0} ms (at most 100), peak memory {:.1} MiB (at most 32)",
            over(worst, TIMEOUT),
            peak as f64 / 1024.0
        );
        Ok(())
    }

    /// 20,000 replies with a few changed bytes, over all modes.
    fn mutated_replies(&self) -> Outcome<()> {
        let (mut count, mut runs, mut panics, mut peak, mut unprintable) = (0, 0, 0, 0, 0);
        for mode in attacks::MODES {
            let (server, folder) = (attacks::mutating(), TempDir::new()?);
            let port = server.port().to_string();
            while server.mutated() < 20_000_u64.div_ceil(attacks::MODES.len() as u64) {
                let mut command = Command::new(&self.binary);
                command.args(mode.split(' ')).args(["-p", &port, "-t", "0.1", "--metrics-file", "m.prom"]);
                if mode.starts_with("cycles") {
                    command.args(["--run-duration", "2"]);
                }
                command.env("REDISCLI_AUTH", "hunter2-s3cret").current_dir(folder.path()).stdin(Stdio::null());
                let output = |name: &str| std::fs::File::create(folder.path().join(name));
                command.stdout(output("stdout")?).stderr(output("stderr")?);
                let (status, kib) = watch(&mut command)?;
                runs += 1;
                peak = peak.max(kib);
                panics += u32::from(!matches!(status.code(), Some(0 | 1)));
                unprintable += unprintable_bytes(folder.path())?;
            }
            count += server.mutated();
        }
        println!(
            "  {count} mutated replies in {runs} runs: {panics} panics, {unprintable} unprintable bytes, peak memory {:.1} MiB (at most 32)",
            peak as f64 / 1024.0
        );
        Ok(())
    }

    /// `report` on one million and on ten million lines.
    fn large_logs(&self) -> Outcome<()> {
        let logs = TempDir::new()?;
        for (name, lines, json) in
            [("classic", 1_000_000, false), ("JSON", 1_000_000, true), ("classic", 10_000_000, false)]
        {
            let file = logs.path().join("redis_success.log");
            write_log(&file, lines, json)?;
            let (mut counts, mut times) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                counts.push(time(Command::new("wc").arg("-l").arg(&file).stdout(Stdio::null()))?);
                times.push(time(Command::new(&self.binary).arg("report").arg(&file).stdout(Stdio::null()))?);
            }
            let (_, kib) = watch(Command::new(&self.binary).arg("report").arg(&file).stdout(Stdio::null()))?;
            let (took, count) = (median(times), median(counts));
            println!(
                "  report on {lines} {name} lines: {:.2} s, {:.0} times wc -l (at most 15), peak memory {:.1} MiB",
                took.as_secs_f64(),
                ratio(took, count),
                kib as f64 / 1024.0
            );
        }
        Ok(())
    }
}

/// Pseudo-random numbers, the same in every run (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// One check per second; three of every thousand failed.
fn write_log(path: &Path, lines: i64, json: bool) -> Outcome<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for second in 0..lines {
        let at = chrono::DateTime::from_timestamp(1_756_280_101 + second, 0).ok_or("a time")?;
        match (json, second % 1000 < 3) {
            (false, true) => writeln!(file, "{} FAILURE: refused: Connection refused", at.naive_utc())?,
            (false, false) => writeln!(file, "{} SUCCESS {}", at.naive_utc(), second + 1)?,
            (true, true) => writeln!(
                file,
                r#"{{"at":"{}","type":"check","mode":"cycles","number":{second},"ok":false,"kind":"refused","detail":"Connection refused","elapsed_us":164}}"#,
                at.to_rfc3339()
            )?,
            (true, false) => writeln!(
                file,
                r#"{{"at":"{}","type":"check","mode":"cycles","number":{second},"ok":true,"elapsed_us":412,"connect_us":171,"select_us":138,"ping_us":3,"peer":"10.0.1.5:6379","role":"primary","engine":"valkey","version":"8.1.0","run_id":"8c3ade83d94aeda262f85c81783b4748a6ff30b7"}}"#,
                at.to_rfc3339()
            )?,
        }
    }
    Ok(file.flush()?)
}

/// Stops a run as Ctrl-C does.
fn interrupt(child: &std::process::Child) -> Outcome<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("a process id")?;
    Ok(kill_process(pid, Signal::INT)?)
}

/// Pipelines the commands over a plain socket and reads all replies.
fn bare(server: &Real, commands: &[u8]) -> Outcome<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
    let mut reader = stream.try_clone()?;
    let expected = 10_000 * b"+OK\r\n+PONG\r\n".len();
    let reading = std::thread::spawn(move || {
        let (mut buffer, mut read) = (vec![0; 1 << 16], 0);
        while read < expected {
            match reader.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(more) => read += more,
            }
        }
        read
    });
    stream.write_all(commands)?;
    let read = reading.join().map_err(|_| "the reader panicked")?;
    assert_eq!(read, expected);
    Ok(start.elapsed())
}

fn time(command: &mut Command) -> Outcome<Duration> {
    let start = Instant::now();
    command.spawn()?.wait()?;
    Ok(start.elapsed())
}

/// The peak memory of the command in KiB, sampled every 0.1 ms.
fn peak_memory(command: &mut Command) -> Outcome<u64> {
    Ok(watch(command)?.1)
}

fn watch(command: &mut Command) -> Outcome<(std::process::ExitStatus, u64)> {
    let mut child = command.spawn()?;
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = peak.max(line.and_then(|kib| kib.parse().ok()).unwrap_or(0));
        std::thread::sleep(Duration::from_micros(100));
    };
    Ok((status, peak))
}

/// How many bytes of the files in a folder are control characters other than line ends, or not UTF-8.
fn unprintable_bytes(folder: &Path) -> Outcome<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        count += if path.is_dir() {
            unprintable_bytes(&path)?
        } else {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            text.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').count()
        };
    }
    Ok(count)
}

/// What a command prints, which is one JSON document.
fn document(mut command: Command) -> Outcome<serde_json::Value> {
    Ok(serde_json::from_slice(&command.stdout(Stdio::piped()).output()?.stdout)?)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn over(took: Duration, timeout: u64) -> f64 {
    millis(took) - timeout as f64
}

fn say(what: &str, time: Duration) {
    println!("  {what}: {:.2} ms", millis(time));
}
