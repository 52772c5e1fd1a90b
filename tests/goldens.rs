//! Walks a directory of golden cases and checks every one it knows.
//!
//! `DPSYN_GOLDENS` names the directory, `tests/goldens` otherwise. A case is `<case>.json`, with
//! `<case>.safetensors` beside it where there are tensors. Prints `ok <case>`, `FAILED <case>` with
//! the first divergence, or `skipped <case>: <why>`; arguments that are no options select cases by
//! substring. Exits non-zero when a case fails or when none was checked.

mod golden_checks;

use std::process::ExitCode;

fn main() -> ExitCode {
    golden_checks::main()
}
