#![no_main]

use std::panic;

libfuzzer_sys::fuzz_target!(
    init: {
        // The reader makes errors of panics in the crate `parquet`. One that it does not catch ends
        // the run nevertheless, and so does one in this project.
        let abort = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let foreign = |file: &str| file.contains("/registry/") || file.contains("/rustc/");
            if !info.location().is_some_and(|at| foreign(at.file())) {
                abort(info);
            }
        }));
    },
    |data: &[u8]| dpsyn::fuzzing::parquet(data)
);
