#![no_main]

use std::panic;

libfuzzer_sys::fuzz_target!(
    init: {
        // Panics of the crate `parquet` become errors; others are defects.
        let abort = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.location().is_some_and(|at| at.file().contains("parquet-")) {
                abort(info);
            }
        }));
    },
    |data: &[u8]| dpsyn::fuzzing::parquet(data)
);
