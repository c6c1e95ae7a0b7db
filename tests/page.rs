//! The page of `report --html`, in a real browser.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::env::TestEnv;
use crate::support::logs::second;

/// A page that inspects the report in a frame of 400 px. The report itself contains no scripts.
const PROBE: &str = "<!doctype html><link rel=icon href='data:,'><body><iframe src='/page' style='width:400px;height:800px;border:0'></iframe><script>
    addEventListener('load', () => {
        const frame = document.querySelector('iframe').contentWindow, page = frame.document;
        const found = {
            wide: page.documentElement.scrollWidth, bands: page.querySelectorAll('.band svg').length,
            marks: page.querySelectorAll('rect.down').length, hover: page.querySelectorAll('rect.down title').length,
            rows: page.querySelectorAll('tbody tr').length, scripts: page.scripts.length, text: page.body.innerText.length,
            loaded: frame.performance.getEntriesByType('resource').length,
        };
        document.title = JSON.stringify(found);
        document.body.innerHTML = '<pre>' + document.title + '</pre>';
    });
</script></body>";

/// Serves the probe and the report, and records every requested path.
fn serve(page: String) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let requested = Arc::<Mutex<Vec<String>>>::default();
    let recorded = requested.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let mut lines = BufReader::new(&stream).lines();
            let path = lines.next().and_then(Result::ok).unwrap_or_default();
            let path = path.split(' ').nth(1).unwrap_or_default().to_owned();
            while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
            let body = if path == "/page" { &page } else { PROBE };
            recorded.lock().unwrap().push(path);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close";
            let _ = write!(&stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    (port, requested)
}

/// What the probe found in the report of these logs.
fn inspect(env: &TestEnv) -> serde_json::Value {
    env.run("report --html page.html");
    let page = fs::read_to_string(env.path().join("page.html")).unwrap();
    let (port, requested) = serve(page);
    let profile = env.path().join("profile");
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--timeout=20000"])
        .args(["--enable-logging=stderr", "--log-level=0", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .unwrap_or_else(|error| panic!("chromium: {error}; tests/run installs it"));
    let (dom, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found = dom.split("<pre>").nth(1).and_then(|rest| rest.split("</pre>").next());
    let found = found.unwrap_or_else(|| panic!("the probe returned nothing:\n{dom}\n{stderr}"));

    assert!(!stderr.contains("CONSOLE"), "{stderr}");

    let mut requested = requested.lock().unwrap().clone();

    // A browser may open a connection in advance and send nothing over it.
    requested.retain(|path| !path.is_empty());
    assert_eq!(requested, ["/", "/page"]);

    serde_json::from_str(found).unwrap()
}

#[test]
fn a_page_is_complete_fits_narrow_screens_and_loads_nothing() {
    let env = TestEnv::new();
    let (mut success, mut errors) = (String::new(), String::new());

    for tick in 0..600 {
        let at = second(tick);
        match tick {
            100..140 | 400..403 => {
                writeln!(errors, "{at} FAILURE: error: <script>alert('{}')</script>", "x".repeat(200)).unwrap();
            }
            _ => writeln!(success, "{at} SUCCESS {}", tick + 1).unwrap(),
        }
    }

    writeln!(success, "=== Endpoint moved from <b>10.0.1.5 to 10.0.2.9 at {} ===", second(141)).unwrap();
    env.write("redis_success.log", &success);
    env.write("redis_error.log", &errors);
    let found = inspect(&env);

    assert!(found["wide"].as_u64().unwrap() <= 400, "{found}");
    assert_eq!((found["scripts"].as_u64(), found["loaded"].as_u64()), (Some(0), Some(0)), "{found}");

    // Two bands: changes, endpoint. Four rows: two outages, a change, the endpoint. Both outages have a title.
    assert_eq!((found["bands"].as_u64(), found["rows"].as_u64()), (Some(2), Some(4)), "{found}");
    assert_eq!((found["marks"].as_u64(), found["hover"].as_u64()), (Some(2), Some(2)), "{found}");
}

#[test]
fn pages_of_a_single_check_and_of_many_checks() {
    let env = TestEnv::new();
    env.write("redis_success.log", &format!("{} SUCCESS 1\n", second(0)));
    let found = inspect(&env);

    assert!(found["wide"].as_u64().unwrap() <= 400 && found["text"].as_u64().unwrap() > 50, "{found}");

    let mut blocks = String::new();
    for block in 0..2_000 {
        writeln!(blocks, "===== Redis DB Health Check at {} =====", second(block * 300)).unwrap();
        for db in 0..16 {
            match (block + db * 7) % 31 {
                0 => writeln!(blocks, "DB {db}: NOT RUNNING (timeout: no reply to PING within 2s)").unwrap(),
                _ => writeln!(blocks, "DB {db}: RUNNING").unwrap(),
            }
        }
        blocks.push('\n');
    }

    env.write("redis_db_health.log", &blocks);
    let found = inspect(&env);
    assert!(found["wide"].as_u64().unwrap() <= 400, "{found}");
    assert_eq!(found["bands"], 17);
}
