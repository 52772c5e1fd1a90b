//! The command line: arguments, progress, exit codes.

mod args;
mod audit;
mod budget;
mod classes;
mod core_dumps;
mod device;
mod error;
mod eval;
mod evaluation;
mod extend;
mod extend_error;
mod fetch;
mod missing;
mod output;
mod privacy;
mod progress;
mod run;
mod units;

pub use device::DeviceChoice;

use std::process::ExitCode;

use clap::Parser;
use tracing::{error, info};

use crate::exit_code::ExitCode as _;
use crate::logging::PRIVATE;

/// Runs the program with the arguments of the process and returns its exit code, one of
/// [`exit_code`](crate::exit_code).
pub fn main() -> ExitCode {
    hide_panic_messages();
    let arguments = args::Arguments::parse();
    output::init(arguments.log_format);
    if arguments.offline {
        crate::net::disable();
    }
    info!(target: PRIVATE, "dpsyn {}: {:?}", env!("CARGO_PKG_VERSION"), arguments.command);
    let result = match arguments.command {
        args::Command::Run(arguments) => run::run(&arguments),
        args::Command::Extend(arguments) => extend::run(&arguments),
        args::Command::Eval(arguments) => eval::run(&arguments),
        args::Command::Fetch(arguments) => fetch::run(&arguments),
        args::Command::Privacy(arguments) => privacy::run(&arguments),
        args::Command::Budget(arguments) => budget::run(&arguments),
        args::Command::Audit(arguments) => audit::run(&arguments),
        args::Command::Classes(arguments) => classes::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::report_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Replaces the message of a panic by its location. A panic is a defect, and its message may
/// contain data of a private image; it is written to `private/log.txt` only.
fn hide_panic_messages() {
    std::panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map_or("an unknown location".to_owned(), |at| {
                format!("{}:{}", at.file(), at.line())
            });
        // `payload_as_str` is younger than the oldest Rust that is supported.
        let payload = info.payload();
        let message = payload.downcast_ref::<&str>().copied();
        let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        if let Some(message) = message {
            error!(target: PRIVATE, "panic at {place}: {message}");
        }
        output::report_error(&format_args!(
            "internal error at {place}: please report this defect"
        ));
    }));
}
