//! The command line: arguments, progress, exit codes.

mod args;
mod device;
mod error;
mod eval;
mod evaluation;
mod fetch;
mod missing;
mod privacy;
mod progress;
mod run;
mod units;

pub use args::{Arguments, Command};
pub use device::{DeviceChoice, DeviceError, Devices};
pub use error::CliError;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::exit_code::ExitCode as _;

/// Runs the program on the process' arguments and returns its exit code (see [`exit_code`](crate::exit_code)).
pub fn main() -> ExitCode {
    keep_panics_silent();
    let arguments = Arguments::parse();
    if arguments.offline {
        crate::net::forbid();
    }
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Privacy(arguments) => privacy::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint_line(&format!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// A panic is a defect, and its message may quote what a private image led to: only its place is shown.
fn keep_panics_silent() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or("an unknown place".to_owned(), |at| {
            format!("{}:{}", at.file(), at.line())
        });
        eprint_line(&format!("error: a defect in {place}: please report it"));
    }));
}

/// A line on standard output. A reader that has gone away is no reason to fail.
fn print(text: &dyn Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line on standard error. A run that nobody watches any more goes on.
fn eprint_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
