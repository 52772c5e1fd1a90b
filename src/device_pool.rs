//! A thread pool with one worker per device and one job queue for all of them.
//!
//! CUDA orders the work of a device by the submitting thread, and its libraries (cuBLAS, cuDNN)
//! keep state per thread. Each worker is therefore built, used and dropped by one thread, which
//! lives as long as the pool; a work-stealing pool such as rayon's gives no such guarantee. The
//! next free worker takes the next job. Results are returned in the order of the jobs, so the
//! assignment of jobs to workers is not observable.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use thiserror::Error;

type Job<W> = Box<dyn FnOnce(&W) + Send>;

/// A constructor of a worker, called on the worker's own thread.
pub type WorkerFactory<W, E> = Box<dyn FnOnce() -> Result<W, E> + Send>;

/// An error of a [`DevicePool`].
#[derive(Debug, Error)]
pub enum DevicePoolError<E> {
    /// A job failed. Jobs that had not started by then were not executed.
    #[error("{0}")]
    Failed(E),
    /// A worker thread panicked, or the pool has no workers.
    #[error("a worker thread panicked")]
    Panicked,
}

/// Worker threads that share a job queue.
pub struct DevicePool<W> {
    workers: Vec<Arc<W>>,
    queue: Option<Sender<Job<W>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Send + Sync + 'static> DevicePool<W> {
    /// Starts one thread per factory and builds all workers concurrently.
    ///
    /// # Errors
    /// [`DevicePoolError::Failed`] with the first error in the order of `factories`;
    /// [`DevicePoolError::Panicked`] if a factory panicked or `factories` is empty.
    pub fn start<E: Send + 'static>(
        factories: Vec<WorkerFactory<W, E>>,
    ) -> Result<Self, DevicePoolError<E>> {
        let (queue, jobs) = channel::<Job<W>>();
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Vec::new();
        let mut pending = Vec::new();
        for factory in factories {
            let (sender, receiver) = channel();
            let jobs = Arc::clone(&jobs);
            threads.push(thread::spawn(move || {
                let worker = match factory() {
                    Ok(worker) => Arc::new(worker),
                    Err(error) => {
                        let _ = sender.send(Err(error));
                        return;
                    }
                };
                let _ = sender.send(Ok(Arc::clone(&worker)));
                drop(sender);
                execute_jobs::<W>(&worker, &jobs);
            }));
            pending.push(receiver);
        }
        // If a factory fails, dropping `pool` closes the queue and joins the other threads.
        let mut pool = Self {
            workers: Vec::new(),
            queue: Some(queue),
            threads,
        };
        for receiver in pending {
            match receiver.recv() {
                Ok(Ok(worker)) => pool.workers.push(worker),
                Ok(Err(error)) => return Err(DevicePoolError::Failed(error)),
                Err(_) => return Err(DevicePoolError::Panicked),
            }
        }
        if pool.workers.is_empty() {
            return Err(DevicePoolError::Panicked);
        }
        Ok(pool)
    }

    /// Returns the workers, at least one. Device memory of a worker must only be used on the
    /// worker's own thread, that is, in [`DevicePool::run`].
    #[must_use]
    pub fn workers(&self) -> &[Arc<W>] {
        &self.workers
    }

    /// Executes every job on the next free worker and returns the results in the order of `jobs`.
    ///
    /// # Errors
    /// [`DevicePoolError::Failed`] with the error of the first job, in the order of `jobs`, that
    /// failed; [`DevicePoolError::Panicked`].
    pub fn run<J, R, E>(
        &self,
        jobs: Vec<J>,
        work: impl Fn(&W, J) -> Result<R, E> + Send + Sync + 'static,
    ) -> Result<Vec<R>, DevicePoolError<E>>
    where
        J: Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let count = jobs.len();
        let work = Arc::new(work);
        let failed = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = channel();
        for (index, job) in jobs.into_iter().enumerate() {
            let (work, failed, sender) = (Arc::clone(&work), Arc::clone(&failed), sender.clone());
            let job: Job<W> = Box::new(move |worker| {
                if failed.load(Ordering::Relaxed) {
                    return;
                }
                // A panic must not end the worker thread: later jobs still need it.
                let outcome = catch_unwind(AssertUnwindSafe(|| work(worker, job)));
                if !matches!(outcome, Ok(Ok(_))) {
                    failed.store(true, Ordering::Relaxed);
                }
                let _ = sender.send((index, outcome.ok()));
            });
            let sent = self.queue.as_ref().map(|queue| queue.send(job));
            if !matches!(sent, Some(Ok(()))) {
                return Err(DevicePoolError::Panicked);
            }
        }
        // The receiver ends when the last job has dropped its sender.
        drop(sender);
        let mut outcomes: Vec<(usize, Option<Result<R, E>>)> = receiver.iter().collect();
        outcomes.sort_by_key(|(index, _)| *index);
        let mut results = Vec::with_capacity(count);
        for (_, outcome) in outcomes {
            match outcome {
                Some(Ok(result)) => results.push(result),
                Some(Err(error)) => return Err(DevicePoolError::Failed(error)),
                None => return Err(DevicePoolError::Panicked),
            }
        }
        if results.len() == count {
            Ok(results)
        } else {
            Err(DevicePoolError::Panicked)
        }
    }
}

/// Executes jobs until the queue is closed.
fn execute_jobs<W>(worker: &W, jobs: &Mutex<Receiver<Job<W>>>) {
    loop {
        // `mpsc` receivers cannot be shared, so an idle worker blocks in `recv` while it holds the
        // lock, and the other idle workers block on the lock. The guard is dropped before the job
        // is executed.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(worker),
            Err(_) => return,
        }
    }
}

impl<W> Drop for DevicePool<W> {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // `start` or `run` has already reported a panic of this thread.
            let _ = thread.join();
        }
    }
}

/// Copies of one model, one per device, that split a batch between them.
///
/// The result must not depend on which copy computes an item, nor on the other items of a batch:
/// generators give each image its own random stream, and embedders treat each image by itself.
pub struct Replicated<T: ?Sized> {
    pool: DevicePool<Box<T>>,
    /// One of the copies, for questions that need no device.
    first: Arc<Box<T>>,
}

impl<T: ?Sized + Send + Sync + 'static> Replicated<T> {
    /// Builds all copies concurrently, each on its own thread.
    ///
    /// # Errors
    /// The errors of [`DevicePool::start`].
    pub fn start<E: Send + 'static>(
        factories: Vec<WorkerFactory<Box<T>, E>>,
    ) -> Result<Self, DevicePoolError<E>> {
        let pool = DevicePool::start(factories)?;
        match pool.workers().first().cloned() {
            Some(first) => Ok(Self { pool, first }),
            None => Err(DevicePoolError::Panicked),
        }
    }

    /// Returns one of the copies, for properties that are the same for all and need no device.
    #[must_use]
    pub fn first(&self) -> &T {
        &self.first
    }

    /// Iterates over all copies.
    pub fn copies(&self) -> impl Iterator<Item = &T> {
        self.pool.workers().iter().map(|copy| &***copy)
    }

    /// Returns the largest batch that leaves no copy idle where there are enough of `total` items.
    pub fn even_share(&self, total: usize) -> usize {
        total.div_ceil(self.pool.workers().len())
    }

    /// Splits `0..total` into ranges of `batch_size` items, but for the last, and executes `work`
    /// for each; the results are in the order of the ranges. The ranges do not depend on the number
    /// of copies, and an item that is appended moves no other item to another range.
    ///
    /// # Errors
    /// The errors of [`DevicePool::run`].
    pub fn run_batches<J, R, E>(
        &self,
        total: usize,
        batch_size: usize,
        job: impl Fn(Range<usize>) -> J,
        work: impl Fn(&T, J) -> Result<R, E> + Send + Sync + 'static,
    ) -> Result<Vec<R>, DevicePoolError<E>>
    where
        J: Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let size = batch_size.max(1);
        let starts = (0..total).step_by(size);
        let jobs = starts.map(|start| job(start..total.min(start.saturating_add(size))));
        self.pool
            .run(jobs.collect(), move |copy, job| work(copy, job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn pool(size: usize) -> DevicePool<usize> {
        let factory = |number| Box::new(move || Ok(number)) as WorkerFactory<usize, String>;
        DevicePool::start((0..size).map(factory).collect()).unwrap()
    }

    #[test]
    fn results_are_in_the_order_of_the_jobs() {
        for size in [1, 2, 5] {
            let pool = pool(size);
            for _ in 0..3 {
                let done = pool.run((0..50).collect(), |_, job: u64| Ok::<_, String>(job * job));
                assert_eq!(
                    done.unwrap(),
                    (0..50).map(|job| job * job).collect::<Vec<_>>()
                );
            }
            let none: Vec<u8> = Vec::new();
            assert!(
                pool.run(none, |_, _| Ok::<u8, String>(0))
                    .unwrap()
                    .is_empty()
            );
        }
    }

    #[test]
    fn all_workers_run_concurrently() {
        let pool = pool(3);
        // Each job waits until three jobs run at the same time.
        let barrier = Arc::new(Barrier::new(3));
        let mut workers = pool
            .run(vec![(); 3], move |worker, ()| {
                barrier.wait();
                Ok::<_, String>(*worker)
            })
            .unwrap();
        workers.sort_unstable();
        assert_eq!(workers, [0, 1, 2]);
    }

    #[test]
    fn a_failure_is_reported_and_later_jobs_are_skipped() {
        let pool = pool(1);
        let started = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&started);
        let outcome = pool.run((0..10).collect(), move |_, job: u32| {
            seen.lock().unwrap().push(job);
            if job < 3 {
                Ok(job)
            } else {
                Err(format!("job {job} is too large"))
            }
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.to_string(), "job 3 is too large");
        assert_eq!(*started.lock().unwrap(), [0, 1, 2, 3]);
        // The pool remains usable.
        assert_eq!(
            pool.run(vec![1], |_, job| Ok::<u8, String>(job)).unwrap(),
            [1]
        );
    }

    #[test]
    fn a_panic_is_an_error() {
        let pool = pool(2);
        let outcome = pool.run(vec![0, 1, 2], |_, job: usize| -> Result<u8, String> {
            Ok([1, 2][job])
        });
        assert!(matches!(outcome, Err(DevicePoolError::Panicked)));
        assert_eq!(
            pool.run(vec![1], |_, job| Ok::<u8, String>(job)).unwrap(),
            [1]
        );
    }

    #[test]
    fn a_failed_factory_is_an_error() {
        let factories: Vec<WorkerFactory<u8, String>> = vec![
            Box::new(|| Ok(1)),
            Box::new(|| Err("no such device".to_owned())),
            Box::new(|| Err("another".to_owned())),
        ];
        let error = DevicePool::start(factories).err().unwrap();
        assert_eq!(error.to_string(), "no such device");
        assert!(DevicePool::<u8>::start(Vec::<WorkerFactory<u8, String>>::new()).is_err());
    }

    #[test]
    fn batches_cover_all_items_and_an_even_share_keeps_every_copy_busy() {
        let factory = |_| Box::new(|| Ok(Box::new(0u8))) as WorkerFactory<Box<u8>, String>;
        let replicated = Replicated::start((0..3).map(factory).collect()).unwrap();
        for (total, batch_size, expected) in [
            (0, 4, vec![]),
            (7, 4, vec![0..4, 4..7]),
            (10, 2, vec![0..2, 2..4, 4..6, 6..8, 8..10]),
            (5, 4, vec![0..4, 4..5]),
            (7, replicated.even_share(7), vec![0..3, 3..6, 6..7]),
            (2, replicated.even_share(2), vec![0..1, 1..2]),
        ] {
            let ranges = replicated.run_batches(
                total,
                batch_size,
                |range| range,
                |_, range| Ok::<_, String>(range),
            );
            assert_eq!(ranges.unwrap(), expected);
        }
    }
}
