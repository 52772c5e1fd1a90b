//! Parallel loops over the tasks of one operator.

use rayon::prelude::*;

/// Work in multiply-adds (or as much other arithmetic) that takes about as long as waking another
/// thread.
const SERIAL_WORK: usize = 1 << 20;

/// Runs `f` on every task, on this thread alone if the total `work` (in multiply-adds) is small.
///
/// The result of a task must not depend on its thread or time.
pub(super) fn for_each<T: Send>(work: usize, tasks: Vec<T>, f: impl Fn(T) + Send + Sync) {
    if work < SERIAL_WORK || tasks.len() < 2 {
        tasks.into_iter().for_each(f);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Runs `f` on a thread of the pool, so that its operators start their tasks directly instead of
/// handing each over from outside the pool.
pub(in crate::kernels) fn on_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
