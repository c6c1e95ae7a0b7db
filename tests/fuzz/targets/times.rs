#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| redis_health::fuzzing::times(text));
