//! Workers with one queue of work: one thread a device, each with what it needs on its own device.
//!
//! A CUDA device's work is ordered by the thread that asks for it, and its libraries keep a state for each thread;
//! so each worker is made, used and kept by one thread for as long as the crew lives. Whoever is free takes the
//! next job. Results come back in the order of the jobs, so that it cannot be seen who did which.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use thiserror::Error;

type Job<W> = Box<dyn FnOnce(&W) + Send>;

/// What makes a worker, on the worker's own thread.
pub type Maker<W, E> = Box<dyn FnOnce() -> Result<W, E> + Send>;

/// Why a crew could not do its work.
#[derive(Debug, Error)]
pub enum CrewError<E> {
    /// A job failed; the jobs that nobody had begun by then were left undone.
    #[error("{0}")]
    Failed(E),
    /// A worker's thread died.
    #[error("a worker stopped: its thread panicked")]
    Panicked,
}

/// Threads that share a queue of jobs.
pub struct Crew<W> {
    workers: Vec<Arc<W>>,
    queue: Option<Sender<Job<W>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Send + Sync + 'static> Crew<W> {
    /// Makes all workers at once, each on its thread.
    ///
    /// # Errors
    /// The first maker's error, in the order of `makers`; [`CrewError::Panicked`] when one panicked or there are
    /// none.
    pub fn start<E: Send + 'static>(makers: Vec<Maker<W, E>>) -> Result<Self, CrewError<E>> {
        let (queue, jobs) = channel::<Job<W>>();
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Vec::new();
        let mut made = Vec::new();
        for maker in makers {
            let (tell, told) = channel();
            let jobs = Arc::clone(&jobs);
            threads.push(thread::spawn(move || {
                let worker = match maker() {
                    Ok(worker) => Arc::new(worker),
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        return;
                    }
                };
                let _ = tell.send(Ok(Arc::clone(&worker)));
                drop(tell);
                serve::<W>(&worker, &jobs);
            }));
            made.push(told);
        }
        // Dropped with what it holds where a maker has failed: the queue closes, and the threads end.
        let mut crew = Self {
            workers: Vec::new(),
            queue: Some(queue),
            threads,
        };
        for told in made {
            match told.recv() {
                Ok(Ok(worker)) => crew.workers.push(worker),
                Ok(Err(error)) => return Err(CrewError::Failed(error)),
                Err(_) => return Err(CrewError::Panicked),
            }
        }
        if crew.workers.is_empty() {
            return Err(CrewError::Panicked);
        }
        Ok(crew)
    }

    /// The workers. What they have on their devices is for their own threads.
    #[must_use]
    pub fn workers(&self) -> &[Arc<W>] {
        &self.workers
    }

    /// Does every job, each on the first worker that is free; results in the order of the jobs.
    ///
    /// # Errors
    /// [`CrewError::Failed`] with the error of the first job, in their order, that failed;
    /// [`CrewError::Panicked`].
    pub fn run<J, R, E>(
        &self,
        jobs: Vec<J>,
        work: impl Fn(&W, J) -> Result<R, E> + Send + Sync + 'static,
    ) -> Result<Vec<R>, CrewError<E>>
    where
        J: Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let count = jobs.len();
        let work = Arc::new(work);
        let failed = Arc::new(AtomicBool::new(false));
        let (tell, told) = channel();
        for (index, job) in jobs.into_iter().enumerate() {
            let (work, failed, tell) = (Arc::clone(&work), Arc::clone(&failed), tell.clone());
            let job: Job<W> = Box::new(move |worker| {
                if failed.load(Ordering::Relaxed) {
                    return;
                }
                let outcome = catch_unwind(AssertUnwindSafe(|| work(worker, job)));
                if !matches!(outcome, Ok(Ok(_))) {
                    failed.store(true, Ordering::Relaxed);
                }
                let _ = tell.send((index, outcome.ok()));
            });
            let sent = self.queue.as_ref().map(|queue| queue.send(job));
            if !matches!(sent, Some(Ok(()))) {
                return Err(CrewError::Panicked);
            }
        }
        drop(tell);
        let mut outcomes: Vec<(usize, Option<Result<R, E>>)> = told.iter().collect();
        outcomes.sort_by_key(|(index, _)| *index);
        let mut results = Vec::with_capacity(count);
        for (_, outcome) in outcomes {
            match outcome {
                Some(Ok(result)) => results.push(result),
                Some(Err(error)) => return Err(CrewError::Failed(error)),
                None => return Err(CrewError::Panicked),
            }
        }
        if results.len() == count {
            Ok(results)
        } else {
            Err(CrewError::Panicked)
        }
    }
}

/// Does jobs until the queue closes.
fn serve<W>(worker: &W, jobs: &Mutex<Receiver<Job<W>>>) {
    loop {
        // Whoever waits for a job holds the lock; the others wait for the lock.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(worker),
            Err(_) => return,
        }
    }
}

impl<W> Drop for Crew<W> {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // What a thread had to say, `run` has said.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn crew(size: usize) -> Crew<usize> {
        let maker = |number| Box::new(move || Ok(number)) as Maker<usize, String>;
        Crew::start((0..size).map(maker).collect()).unwrap()
    }

    #[test]
    fn results_stand_in_the_order_of_the_jobs() {
        for size in [1, 2, 5] {
            let crew = crew(size);
            for _ in 0..3 {
                let done = crew.run((0..50).collect(), |_, job: u64| Ok::<_, String>(job * job));
                assert_eq!(
                    done.unwrap(),
                    (0..50).map(|job| job * job).collect::<Vec<_>>()
                );
            }
            let none: Vec<u8> = Vec::new();
            assert!(
                crew.run(none, |_, _| Ok::<u8, String>(0))
                    .unwrap()
                    .is_empty()
            );
        }
    }

    #[test]
    fn everyone_works() {
        let crew = crew(3);
        // Nobody gets through alone.
        let barrier = Arc::new(Barrier::new(3));
        let mut who = crew
            .run(vec![(); 3], move |worker, ()| {
                barrier.wait();
                Ok::<_, String>(*worker)
            })
            .unwrap();
        who.sort_unstable();
        assert_eq!(who, [0, 1, 2]);
    }

    #[test]
    fn a_failure_is_told_and_the_rest_left_undone() {
        let crew = crew(1);
        let begun = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&begun);
        let outcome = crew.run((0..10).collect(), move |_, job: u32| {
            seen.lock().unwrap().push(job);
            if job < 3 {
                Ok(job)
            } else {
                Err(format!("job {job} is too large"))
            }
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.to_string(), "job 3 is too large");
        assert_eq!(*begun.lock().unwrap(), [0, 1, 2, 3]);
        // The crew is still there.
        assert_eq!(
            crew.run(vec![1], |_, job| Ok::<u8, String>(job)).unwrap(),
            [1]
        );
    }

    #[test]
    fn a_panic_is_an_error() {
        let crew = crew(2);
        let outcome = crew.run(vec![0, 1, 2], |_, job: usize| -> Result<u8, String> {
            Ok([1, 2][job])
        });
        assert!(matches!(outcome, Err(CrewError::Panicked)));
        assert_eq!(
            crew.run(vec![1], |_, job| Ok::<u8, String>(job)).unwrap(),
            [1]
        );
    }

    #[test]
    fn a_worker_that_cannot_be_made_is_an_error() {
        let makers: Vec<Maker<u8, String>> = vec![
            Box::new(|| Ok(1)),
            Box::new(|| Err("no such device".to_owned())),
            Box::new(|| Err("another".to_owned())),
        ];
        let error = Crew::start(makers).err().unwrap();
        assert_eq!(error.to_string(), "no such device");
        assert!(Crew::<u8>::start(Vec::<Maker<u8, String>>::new()).is_err());
    }
}
