//! The `dpsyn` binary: everything is in the library.

#[global_allocator]
static ALLOCATOR: dpsyn::internals::kernels::KeepLarge =
    dpsyn::internals::kernels::KeepLarge::new();

fn main() -> std::process::ExitCode {
    dpsyn::main()
}
