//! Benchmarks of operators, networks and searches; `benches/README.md` explains the output.
//!
//! `cargo bench` times everything. `cargo bench --bench speed -- --serve` answers commands from
//! standard input on standard output, for `peers/compare.py`, which times peers in turns with it.

mod cases;

use std::io::{self, BufRead, Write};
use std::time::Instant;

// As in the program.
#[global_allocator]
static ALLOCATOR: dpsyn::internals::kernels::CachingAllocator =
    dpsyn::internals::kernels::CachingAllocator::new();

fn main() -> io::Result<()> {
    if std::env::args().any(|argument| argument == "--serve") {
        serve()
    } else {
        divan::main();
        Ok(())
    }
}

#[divan::bench(args = cases::small(), sample_count = 20, sample_size = 1, max_time = 10)]
fn small(bencher: divan::Bencher<'_, '_>, name: &str) {
    time(bencher, name);
}

#[divan::bench(args = cases::LARGE.map(|case| case.0), sample_count = 1, sample_size = 1, ignore)]
fn large(bencher: divan::Bencher<'_, '_>, name: &str) {
    time(bencher, name);
}

fn time(bencher: divan::Bencher<'_, '_>, name: &str) {
    let mut work = cases::prepare(name).unwrap_or_else(|| panic!("no case {name}"));
    // A round that is not timed packs weights, fills caches and starts threads.
    if name != "quickstart" {
        work();
    }
    bencher.bench_local(work);
}

/// Reads one command per line: `prepare NAME` answers `ready`, `run N` the seconds of N rounds.
fn serve() -> io::Result<()> {
    let mut work = None;
    let mut answers = io::stdout();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match (line.trim().split_once(' '), &mut work) {
            (Some(("prepare", name)), _) => {
                // Frees the memory of the old case before the new one is made.
                drop(work.take());
                work = cases::prepare(name);
                match work {
                    Some(_) => "ready".to_owned(),
                    None => format!("error: no case {name}"),
                }
            }
            (Some(("run", rounds)), Some(work)) if rounds.parse::<u32>().is_ok() => {
                let start = Instant::now();
                (0..rounds.parse().unwrap_or(1)).for_each(|_: u32| work());
                format!("{:.9}", start.elapsed().as_secs_f64())
            }
            _ => format!("error: expected `prepare NAME` or, after that, `run N`, not `{line}`"),
        };
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}
