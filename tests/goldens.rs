//! Checks every golden case in a directory.
//!
//! `DPSYN_GOLDENS` names the directory; the default is `tests/goldens`. A case is `<case>.json`,
//! with `<case>.safetensors` beside it if it has tensors. The program prints `ok <case>`,
//! `FAILED <case>` with the first divergence, or `skipped <case>: <reason>`. Arguments that are not
//! options select cases by substring. The exit status is not zero if a case fails or if none was
//! checked.

mod golden_checks;

use std::process::ExitCode;

fn main() -> ExitCode {
    golden_checks::main()
}
