//! One process of a program: its pipes, its threads and its end.

use std::io::{self, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{Frame, Hello, Message, hello};
use super::reader::{MessageReader, ReadFailure};
use super::stderr::{Notes, Tail};

/// Time for a process to end by itself once its standard input is closed.
const GRACE: Duration = Duration::from_secs(2);
/// Time for a process to end once it is killed, and for the rest of its output to be read.
const AFTER_KILL: Duration = Duration::from_secs(1);
/// Interval at which a process is looked at.
const PAUSE: Duration = Duration::from_millis(5);
/// Messages that are read ahead; each has at most one image.
const READ_AHEAD: usize = 2;

/// A program, and how it is started.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// All of its environment variables.
    pub(super) environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    /// Size of the images.
    pub(super) frame: Frame,
    /// The program varies pixels.
    pub(super) pixels: bool,
    /// Time for each message.
    pub(super) timeout: Duration,
}

/// A process cannot go on.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be started.
    Start(io::Error),
    /// It ended, or its pipes failed. Another process may succeed.
    Ended(String),
    /// It did not answer in time. Another process may succeed.
    Late(Duration),
    /// It violated the protocol, which another process would do as well.
    Violation(String),
    /// It answered that it cannot answer a request.
    Refused {
        /// Index of the request in its batch.
        index: usize,
        /// The program's reason.
        message: String,
    },
}

impl Failure {
    /// Returns true if a new process may answer what this one did not.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Late(_))
    }

    /// Describes the failure, as the end of a sentence about the program.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Start(error) => format!("could not be started ({error})"),
            Self::Ended(how) => how.clone(),
            Self::Late(timeout) => format!(
                "did not answer within {} s (model.timeout_seconds)",
                timeout.as_secs_f64()
            ),
            Self::Violation(how) => how.clone(),
            Self::Refused { message, .. } => format!("cannot answer it: {message}"),
        }
    }
}

/// A running process.
pub(super) struct Process {
    child: Child,
    /// Queue of the thread that writes; `None` once standard input is to be closed.
    to: Option<Sender<Vec<u8>>>,
    from: Receiver<Result<Message, ReadFailure>>,
    tail: Arc<Tail>,
    timeout: Duration,
    /// Time at which standard input was closed.
    closed: Option<Instant>,
    /// It has ended and was waited for, so that its number may be that of another process.
    has_ended: bool,
    /// Its answer to the first message.
    pub(super) hello: Hello,
    /// Number of its next request.
    pub(super) next_id: u64,
}

impl Process {
    /// Starts a process and exchanges the first messages.
    ///
    /// # Errors
    /// [`Failure`] with the last lines of standard error.
    pub(super) fn start(
        launch: &Launch,
        notes: &Arc<Notes>,
    ) -> Result<Self, (Failure, Vec<String>)> {
        let mut child = spawn(launch).map_err(|error| (Failure::Start(error), Vec::new()))?;
        let tail = Arc::new(Tail::default());
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            let error = io::Error::other("its pipes are missing");
            return Err((Failure::Start(error), Vec::new()));
        };
        let (lines, shared) = (Arc::clone(&tail), Arc::clone(notes));
        thread::spawn(move || lines.read(BufReader::new(stderr), &shared));
        let mut process = Self {
            child,
            to: Some(write_on_thread(stdin)),
            from: read_on_thread(stdout, launch.frame),
            tail,
            timeout: launch.timeout,
            closed: None,
            has_ended: false,
            hello: Hello {
                pixels: None,
                degrees: None,
            },
            // 0 stands for the first message.
            next_id: 1,
        };
        match process.greet(launch) {
            Ok(()) => Ok(process),
            Err(failure) => {
                let lines = process.kill();
                Err((failure, lines))
            }
        }
    }

    fn greet(&mut self, launch: &Launch) -> Result<(), Failure> {
        self.send(hello(launch.frame, launch.pixels));
        let hello = match self.receive()? {
            Message::Hello(hello) => hello,
            Message::Error { message, .. } => return Err(Failure::Refused { index: 0, message }),
            Message::Image { .. } => {
                let how = "began with an image: expected {\"type\":\"hello\",\"version\":1}";
                return Err(Failure::Violation(how.to_owned()));
            }
        };
        match (launch.pixels, hello.pixels.is_some()) {
            (true, false) => Err(Failure::Violation(
                "takes no pixels, but model.pixels is true: expected the key `pixels` in its first \
                 message, \"png\" or \"raw\", or model.pixels = false"
                    .to_owned(),
            )),
            (false, true) => Err(Failure::Violation(
                "takes the pixels of parents: expected model.pixels = true, or no key `pixels` in \
                 its first message"
                    .to_owned(),
            )),
            _ => {
                self.hello = hello;
                Ok(())
            }
        }
    }

    /// Queues bytes for standard input. A process that does not read them is noticed when it does
    /// not answer.
    pub(super) fn send(&self, bytes: Vec<u8>) {
        if let Some(to) = &self.to {
            // The thread is gone if the process does not read any more.
            let _ = to.send(bytes);
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`Failure`]; the process is then of no further use.
    pub(super) fn receive(&mut self) -> Result<Message, Failure> {
        match self.from.recv_timeout(self.timeout) {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(ReadFailure::Violation(how))) => Err(Failure::Violation(how)),
            Ok(Err(failure)) => Err(Failure::Ended(self.describe_end(&failure))),
            Err(RecvTimeoutError::Timeout) => Err(Failure::Late(self.timeout)),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Failure::Ended(self.describe_end(&ReadFailure::Ended)))
            }
        }
    }

    fn describe_end(&mut self, failure: &ReadFailure) -> String {
        let within = match failure {
            ReadFailure::Truncated => " in the middle of an answer",
            _ => "",
        };
        match self.wait(AFTER_KILL) {
            Some(status) => format!("ended{within} ({status})"),
            None => match failure {
                ReadFailure::Io(error) => format!("cannot be read from ({error})"),
                _ => format!("closed its standard output{within}"),
            },
        }
    }

    /// Waits for the end of the process, at most for `patience`.
    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.has_ended = true;
                return Some(status);
            }
            if begun.elapsed() >= patience {
                return None;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Closes standard input, by which the program knows that there are no further requests.
    pub(super) fn close_input(&mut self) {
        if self.to.take().is_some() {
            self.closed = Some(Instant::now());
        }
    }

    /// Ends the process, with the processes that it started where the system has groups of them,
    /// and returns the last lines of its standard error.
    pub(super) fn kill(&mut self) -> Vec<String> {
        self.close_input();
        if !self.has_ended {
            kill_group(&self.child);
        }
        // It fails for a process that has ended, and for one of another user.
        let _ = self.child.kill();
        self.wait(AFTER_KILL);
        self.tail.last_lines(AFTER_KILL)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.close_input();
        // Processes that were told to end at the same time are waited for at the same time.
        let since = self.closed.map(|closed| closed.elapsed());
        if self
            .wait(GRACE.saturating_sub(since.unwrap_or_default()))
            .is_none()
        {
            self.kill();
        }
    }
}

fn spawn(launch: &Launch) -> io::Result<Child> {
    let (program, arguments) = launch
        .command
        .split_first()
        .ok_or_else(|| io::Error::other("the command is empty"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    in_own_group(&mut command);
    command.spawn()
}

/// Starts the process in a group of its own, so that Ctrl-C reaches dpsyn alone, which finishes its
/// work with the program and then ends it.
#[cfg(unix)]
fn in_own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    command.process_group(0);
}

#[cfg(windows)]
fn in_own_group(command: &mut Command) {
    use std::os::windows::process::CommandExt;

    const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

#[cfg(not(any(unix, windows)))]
fn in_own_group(_: &mut Command) {}

#[cfg(unix)]
fn kill_group(child: &Child) {
    use rustix::process::{Pid, Signal, kill_process_group};

    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // It fails if all of them have ended.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(not(unix))]
fn kill_group(_: &Child) {}

/// Writes on a thread of its own, so that a process that does not read blocks nothing else. The
/// pipe is closed when the queue is.
fn write_on_thread(mut stdin: ChildStdin) -> Sender<Vec<u8>> {
    let (to, queue) = channel::<Vec<u8>>();
    thread::spawn(move || {
        for bytes in queue {
            let written = stdin.write_all(&bytes).and_then(|()| stdin.flush());
            // The process has ended or has closed its input; the reader notices that.
            if written.is_err() {
                break;
            }
        }
    });
    to
}

/// Reads and decodes on a thread of its own. The thread ends with the pipe, or when the receiver is
/// dropped.
fn read_on_thread(stdout: ChildStdout, frame: Frame) -> Receiver<Result<Message, ReadFailure>> {
    let (messages, from): (SyncSender<Result<Message, ReadFailure>>, _) = sync_channel(READ_AHEAD);
    thread::spawn(move || {
        let mut reader = MessageReader::new(BufReader::with_capacity(1 << 16, stdout), frame);
        loop {
            let message = reader.read();
            let is_last = message.is_err();
            if messages.send(message).is_err() || is_last {
                break;
            }
        }
    });
    from
}
