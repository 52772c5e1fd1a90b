//! The command line: arguments, progress, exit codes.

mod args;
mod device;
mod exit;
mod privacy;
mod progress;
mod run;

pub use args::{Arguments, Command};
pub use device::{DeviceChoice, DeviceError};
pub use exit::{CliError, codes};

use std::process::ExitCode;

use clap::Parser;

/// Runs the program on the process' arguments and returns its exit code (see [`codes`]).
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Privacy(arguments) => privacy::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.code())
        }
    }
}
