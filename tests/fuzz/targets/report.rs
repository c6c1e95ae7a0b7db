#![no_main]

use std::sync::LazyLock;

use tempfile::TempDir;

/// In memory where that is possible, because each input is written to a file.
static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redis_health::fuzzing::report(bytes, FOLDER.path()));
