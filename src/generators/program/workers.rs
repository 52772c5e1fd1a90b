//! The processes of a program, among which requests are divided.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Value;

use super::error::{LastLines, ProgramError};
use super::process::{Failure, Launch, Process};
use super::protocol::{Answer, Hello, Message, Request, request};
use super::stderr::Notes;
use crate::generators::GeneratorError;
use crate::images::shown_text;
use crate::sections::InvalidKey;

/// Description of the message that begins each process.
const FIRST: &str = "the first message";

/// Requests that several processes take batches of.
struct Queue<'a> {
    requests: &'a [Request<'a>],
    /// Requests of a batch.
    size: usize,
    next: AtomicUsize,
    /// A process has failed, so that no further batch is begun.
    stop: AtomicBool,
}

impl<'a> Queue<'a> {
    /// Returns the next batch, with the index of its first request.
    fn take(&self) -> Option<(usize, &'a [Request<'a>])> {
        let begin = self.next.fetch_add(self.size, Ordering::SeqCst);
        if self.stop.load(Ordering::SeqCst) || begin >= self.requests.len() {
            return None;
        }
        let end = (begin + self.size).min(self.requests.len());
        Some((begin, self.requests.get(begin..end)?))
    }
}

/// The processes of a program.
pub(super) struct Workers {
    launch: Launch,
    /// Values of the classes, by condition.
    classes: Vec<Value>,
    batch_size: usize,
    restarts: u32,
    /// One for each process; a process is started with its first batch.
    slots: Vec<Mutex<Option<Process>>>,
    hello: Hello,
    notes: Arc<Notes>,
}

impl Workers {
    /// Starts the first process.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] if it cannot be started, [`GeneratorError::Program`] if it does
    /// not answer the first message as the protocol requires.
    pub(super) fn start(
        launch: Launch,
        classes: Vec<Value>,
        processes: usize,
        batch_size: usize,
        restarts: u32,
    ) -> Result<Self, GeneratorError> {
        let notes = Arc::new(Notes::default());
        let first = Process::start(&launch, &notes).map_err(|(failure, lines)| match failure {
            Failure::Start(error) => {
                let program = launch.command.first().map_or("", String::as_str);
                let message =
                    format!("{program:?} cannot be started ({error}): expected a program");
                InvalidKey::new("command", message).into()
            }
            failure => GeneratorError::from(error(&launch, FIRST, &failure, 1, lines)),
        })?;
        let hello = first.hello;
        let mut slots = vec![Mutex::new(Some(first))];
        slots.resize_with(processes.max(1), || Mutex::new(None));
        Ok(Self {
            launch,
            classes,
            batch_size: batch_size.max(1),
            restarts,
            slots,
            hello,
            notes,
        })
    }

    /// Returns the answer of the first process to the first message.
    pub(super) fn hello(&self) -> Hello {
        self.hello
    }

    /// Returns the lines for the user since the last call.
    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.drain()
    }

    /// Answers all requests, in their order.
    ///
    /// # Errors
    /// [`GeneratorError::Program`] if a process violates the protocol or refuses a request, or if
    /// one request outlasts `restarts` new processes.
    pub(super) fn answer(&self, requests: &[Request<'_>]) -> Result<Vec<Answer>, GeneratorError> {
        let even_share = requests.len().div_ceil(self.slots.len());
        let queue = Queue {
            requests,
            size: self.batch_size.min(even_share).max(1),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        };
        let mut finished = Vec::new();
        thread::scope(|scope| {
            // A process that has no batch is not started.
            let batches = requests.len().div_ceil(queue.size);
            let threads = self.slots.iter().take(batches);
            let threads: Vec<_> = threads
                .map(|slot| scope.spawn(|| self.work(slot, &queue)))
                .collect();
            for thread in threads {
                let panicked = || candle_core::Error::Msg("a thread panicked".to_owned()).into();
                finished.extend(thread.join().unwrap_or_else(|_| Err(panicked()))?);
            }
            Ok::<(), GeneratorError>(())
        })?;
        finished.sort_by_key(|(begin, _)| *begin);
        let answers = finished.into_iter().flat_map(|(_, answers)| answers);
        Ok(answers.collect())
    }

    /// Answers batches by the process of a slot until there are none left.
    fn work(
        &self,
        slot: &Mutex<Option<Process>>,
        queue: &Queue<'_>,
    ) -> Result<Vec<(usize, Vec<Answer>)>, GeneratorError> {
        let mut slot = slot.lock().unwrap_or_else(|poisoned| {
            // A thread has panicked and left the process within a batch.
            let mut slot = poisoned.into_inner();
            *slot = None;
            slot
        });
        let mut finished = Vec::new();
        while let Some((begin, batch)) = queue.take() {
            let answers = self.answer_batch(&mut slot, batch);
            let answers = answers.inspect_err(|_| queue.stop.store(true, Ordering::SeqCst))?;
            finished.push((begin, answers));
        }
        Ok(finished)
    }

    /// Answers one batch by the process of a slot, which is started again if it fails.
    fn answer_batch(
        &self,
        slot: &mut Option<Process>,
        requests: &[Request<'_>],
    ) -> Result<Vec<Answer>, GeneratorError> {
        let mut answers: Vec<Option<Answer>> = vec![None; requests.len()];
        // Failures since the last answer.
        let mut failures = 0;
        loop {
            let (unanswered, positions) = unanswered(requests, &answers);
            if unanswered.is_empty() {
                return Ok(answers.into_iter().flatten().collect());
            }
            let (failure, lines) =
                match self.exchange(slot, &unanswered, &positions, &mut answers)? {
                    Ok(()) => continue,
                    Err(failed) => failed,
                };
            *slot = None;
            let concerned = match &failure {
                Failure::Refused { index, .. } => unanswered.get(*index),
                _ => unanswered.iter().zip(&positions).find_map(|(request, at)| {
                    let is_open = matches!(answers.get(*at), Some(None));
                    is_open.then_some(request)
                }),
            };
            let description = concerned.map_or_else(|| FIRST.to_owned(), Request::describe);
            let answered = positions
                .iter()
                .any(|at| matches!(answers.get(*at), Some(Some(_))));
            failures = if answered { 1 } else { failures + 1 };
            if !failure.is_transient() || failures > self.restarts {
                return Err(error(&self.launch, &description, &failure, failures, lines).into());
            }
            self.notes.add(format!(
                "program: {} at {description}; it is started again",
                failure.describe()
            ));
        }
    }

    /// Sends requests to the process of a slot and stores its answers; starts it if there is none.
    fn exchange(
        &self,
        slot: &mut Option<Process>,
        requests: &[Request<'_>],
        positions: &[usize],
        answers: &mut [Option<Answer>],
    ) -> Result<Result<(), (Failure, Vec<String>)>, GeneratorError> {
        if slot.is_none() {
            match Process::start(&self.launch, &self.notes) {
                Ok(process) if process.hello == self.hello => *slot = Some(process),
                Ok(mut process) => {
                    let how = "answered the first message differently than its first process";
                    let lines = process.kill();
                    return Ok(Err((Failure::Violation(how.to_owned()), lines)));
                }
                Err(failed) => return Ok(Err(failed)),
            }
        }
        let Some(process) = slot else {
            return Ok(Ok(()));
        };
        let first_id = process.next_id;
        let mut lines = Vec::with_capacity(requests.len());
        for (at, entry) in requests.iter().enumerate() {
            lines.push(self.line(entry, first_id + at as u64, requests.len() - 1 - at)?);
        }
        lines.into_iter().for_each(|line| process.send(line));
        process.next_id += requests.len() as u64;
        let result = receive(process, first_id, positions, answers);
        Ok(result.map_err(|failure| (failure, process.kill())))
    }

    /// Writes one request.
    fn line(
        &self,
        entry: &Request<'_>,
        id: u64,
        remaining: usize,
    ) -> Result<Vec<u8>, GeneratorError> {
        let condition = entry.sample.condition.0 as usize;
        let class = self.classes.get(condition).ok_or_else(|| {
            GeneratorError::Input(format!(
                "condition {condition} for a program with {} classes",
                self.classes.len()
            ))
        })?;
        let frame = self.launch.frame;
        request(entry, id, class, remaining, frame, self.hello.pixels)
    }
}

/// Receives the answers to the requests from `first_id` on, in any order.
fn receive(
    process: &mut Process,
    first_id: u64,
    positions: &[usize],
    answers: &mut [Option<Answer>],
) -> Result<(), Failure> {
    for _ in positions {
        let message = process.receive()?;
        let id = match &message {
            Message::Image { id, .. } | Message::Error { id, .. } => *id,
            Message::Hello(_) => {
                let how = "repeated its first message: expected an answer to a request";
                return Err(Failure::Violation(how.to_owned()));
            }
        };
        let index = id.checked_sub(first_id);
        let index = index.and_then(|index| usize::try_from(index).ok());
        let position = index.and_then(|index| positions.get(index));
        match (position.and_then(|at| answers.get_mut(*at)), message) {
            (Some(slot @ None), Message::Image { answer, .. }) => *slot = Some(answer),
            (Some(None), Message::Error { message, .. }) => {
                let index = index.unwrap_or_default();
                return Err(Failure::Refused { index, message });
            }
            _ => {
                return Err(Failure::Violation(format!(
                    "answered request {id}, which is answered already or was never sent: expected \
                     one answer to each of {first_id} to {}",
                    first_id + positions.len() as u64 - 1
                )));
            }
        }
    }
    Ok(())
}

/// Returns the requests without an answer, and their positions.
fn unanswered<'a>(
    requests: &[Request<'a>],
    answers: &[Option<Answer>],
) -> (Vec<Request<'a>>, Vec<usize>) {
    let pairs = requests.iter().zip(answers).enumerate();
    pairs
        .filter(|(_, (_, answer))| answer.is_none())
        .map(|(at, (request, _))| (*request, at))
        .unzip()
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Closes all inputs before waiting for one process, so that they end at the same time.
        for slot in &self.slots {
            if let Some(process) = lock(slot).as_mut() {
                process.close_input();
            }
        }
    }
}

fn error(
    launch: &Launch,
    request: &str,
    failure: &Failure,
    attempts: u32,
    lines: Vec<String>,
) -> ProgramError {
    let mut problem = failure.describe();
    if attempts > 1 {
        problem.push_str(&format!(", {attempts} times in succession"));
    }
    ProgramError {
        program: shown_text(&launch.command.join(" ")),
        request: request.to_owned(),
        problem,
        stderr: LastLines(lines),
    }
}

/// Locks a mutex; a process is closed in whatever state it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
