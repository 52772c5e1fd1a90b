//! Reading of a program's standard output, within a bound of memory.

use std::io::{self, BufRead, Read};

use super::protocol::{Answer, Frame, Message, Parsed, parse};

/// The standard output of a program ended, or cannot be read on.
#[derive(Debug)]
pub(super) enum ReadFailure {
    /// It ended after a complete message.
    Ended,
    /// It ended within a message.
    Truncated,
    /// It could not be read.
    Io(io::Error),
    /// It violates the protocol in this way.
    Violation(String),
}

/// A reader of messages.
pub(super) struct MessageReader<R> {
    input: R,
    frame: Frame,
    line: Vec<u8>,
}

impl<R: BufRead> MessageReader<R> {
    /// Creates a reader of messages with images of one size.
    pub(super) fn new(input: R, frame: Frame) -> Self {
        let line = Vec::new();
        Self { input, frame, line }
    }

    /// Reads the next message, with the bytes that follow its line.
    ///
    /// # Errors
    /// [`ReadFailure`]; afterwards, the reader is at no defined position.
    pub(super) fn read(&mut self) -> Result<Message, ReadFailure> {
        self.read_line()?;
        match parse(&self.line, self.frame).map_err(ReadFailure::Violation)? {
            Parsed::Complete(message) => Ok(message),
            Parsed::Raw { id, parameters } => {
                let mut pixels = vec![0; self.frame.bytes()];
                self.input
                    .read_exact(&mut pixels)
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::UnexpectedEof => ReadFailure::Truncated,
                        _ => ReadFailure::Io(error),
                    })?;
                let answer = Answer { pixels, parameters };
                Ok(Message::Image { id, answer })
            }
        }
    }

    /// Reads a line without its line feed.
    fn read_line(&mut self) -> Result<(), ReadFailure> {
        self.line.clear();
        let limit = self.frame.max_line();
        // One byte more tells a line of the longest length from a longer one.
        let mut limited = (&mut self.input).take(limit as u64 + 1);
        limited
            .read_until(b'\n', &mut self.line)
            .map_err(ReadFailure::Io)?;
        match self.line.pop() {
            None => Err(ReadFailure::Ended),
            Some(b'\n') => Ok(()),
            Some(_) if self.line.len() >= limit => Err(ReadFailure::Violation(format!(
                "wrote a line of more than {limit} bytes to standard output: expected one message \
                 of the protocol in one line of JSON"
            ))),
            Some(_) => Err(ReadFailure::Truncated),
        }
    }
}
