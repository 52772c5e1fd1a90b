//! Threads, and the memory that they share.

use rayon::prelude::*;

/// Multiply-adds, or as much other arithmetic, that take about as long as waking another thread.
const SERIAL: usize = 1 << 20;

/// Runs `f` on every task, on this thread alone if all of it is only a little `work`.
///
/// Which thread runs a task, and when, must not matter for its result.
pub(super) fn each<T: Send>(work: usize, tasks: Vec<T>, f: impl Fn(T) + Send + Sync) {
    if work < SERIAL || tasks.len() < 2 {
        tasks.into_iter().for_each(f);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Runs `f` on one of the threads that share the work, so that each of its operators starts at once
/// instead of being handed over.
pub(in crate::kernels) fn on_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Lets glibc keep what an operator frees for the next one, instead of returning it to the system
/// and asking for zeroed pages again: it does so up to twice the size of the largest block that was
/// ever freed, counting blocks of up to 32 MB. Elsewhere this does nothing.
pub(super) fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(
        (32 << 20) - (1 << 16),
    )));
}
