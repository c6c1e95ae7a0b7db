#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| redis_health::fuzzing::uri(text));
