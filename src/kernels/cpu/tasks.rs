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
