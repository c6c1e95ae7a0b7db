//! The `redis-health` command. The library does the work.

use std::io::{self, Write as _};
use std::process::ExitCode;

use redis_health::Exit;

fn main() -> ExitCode {
    let exit = redis_health::run(std::env::args_os()).unwrap_or_else(|error| {
        // Not `eprintln!`, which panics when standard error is closed.
        let _ = writeln!(io::stderr(), "redis-health: {}", redis_health::error_line(&error));
        Exit::of_error(&error)
    });
    exit.into()
}
