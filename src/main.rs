//! The `dpsyn` binary: everything is in the library.

#[global_allocator]
static ALLOCATOR: dpsyn::internals::kernels::CachingAllocator =
    dpsyn::internals::kernels::CachingAllocator::new();

fn main() -> std::process::ExitCode {
    dpsyn::main()
}
