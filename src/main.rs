//! The `dpsyn` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    dpsyn::cli::main()
}
