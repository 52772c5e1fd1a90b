//! No core dump of a process that holds private images.
//!
//! A core dump is a copy of the memory: of decoded images, of their embeddings and of exact votes.
//! It is written into the current folder of the process, or sent to a service of the system that
//! keeps it, and some services report it to the vendor of the system.

use std::io;

use thiserror::Error;

use crate::exit_code::{self, ExitCode};

/// Core dumps could not be forbidden.
#[derive(Debug, Error)]
#[error(
    "failed to forbid core dumps, which would contain private images ({call}: {cause}): allow this \
     call to the process, for example in the seccomp profile of its container"
)]
pub struct CoreDumpError {
    /// The system call.
    call: &'static str,
    /// The error of the system.
    cause: io::Error,
}

impl ExitCode for CoreDumpError {
    fn exit_code(&self) -> u8 {
        exit_code::PRIVACY
    }
}

/// Forbids core dumps for the rest of the process. To be called before private images are opened.
///
/// On Unix, the limit of the size of a core file becomes 0. Linux does not apply it where a program
/// receives core dumps (`/proc/sys/kernel/core_pattern` begins with `|`), so there the process is
/// made undumpable as well; other processes of the same user can then neither attach a debugger to
/// it nor read its memory. Windows has neither; its error reports are configured by the
/// administrator.
///
/// # Errors
/// [`CoreDumpError`] if the system refuses.
#[cfg(unix)]
pub(super) fn forbid() -> Result<(), CoreDumpError> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(|error| CoreDumpError {
        call: "setrlimit(RLIMIT_CORE, 0)",
        cause: error.into(),
    })?;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};

        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| CoreDumpError {
            call: "prctl(PR_SET_DUMPABLE, 0)",
            cause: error.into(),
        })?;
    }
    Ok(())
}

/// Does nothing, because this platform has no such setting of a process.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub(super) fn forbid() -> Result<(), CoreDumpError> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn the_process_becomes_undumpable_for_good() {
        forbid().unwrap();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        // A second time it is allowed as well.
        forbid().unwrap();
    }
}
