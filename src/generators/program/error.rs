//! Errors of a program.

use std::fmt;

use thiserror::Error;

/// A program failed. Finished images are on disk, and `--resume` continues the run.
#[derive(Debug, Error)]
#[error("program `{program}`: {request}: {problem}{stderr}")]
pub struct ProgramError {
    /// The command.
    pub(super) program: String,
    /// The request that it did not answer.
    pub(super) request: String,
    /// The problem, and what was expected.
    pub(super) problem: String,
    /// The last lines of its standard error.
    pub(super) stderr: LastLines,
}

/// The last lines of standard error, as an error shows them.
#[derive(Debug)]
pub(super) struct LastLines(pub(super) Vec<String>);

impl fmt::Display for LastLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("; it wrote nothing to standard error");
        }
        f.write_str("; the end of its standard error:")?;
        for line in &self.0 {
            write!(f, "\n  | {line}")?;
        }
        Ok(())
    }
}
