#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dpsyn::fuzzing::webdataset(data));
