//! The `dpsyn` binary: everything is in the library.

#[global_allocator]
static ALLOCATOR: dpsyn::kernels::KeepLarge = dpsyn::kernels::KeepLarge::new();

fn main() -> std::process::ExitCode {
    dpsyn::cli::main()
}
