#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redis_health::fuzzing::topology(bytes));
