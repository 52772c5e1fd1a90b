#!/bin/sh
# Builds the library for 64-bit ARM and runs the tests of the kernels and of the resampler, including
# those of the NEON path, under qemu's instruction emulation. For a Debian machine of another
# architecture; on an ARM machine, `cargo test --release` is enough.
#
#   scripts/check-aarch64.sh                  # tests of `kernels` and `images::resize`
#   scripts/check-aarch64.sh kernels::cpu     # tests whose names begin with this
#
# Requires the cross linker, its C library and the emulator,
#   apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
# and a standard library for aarch64-unknown-linux-gnu that matches the compiler, either
#   rustup target add aarch64-unknown-linux-gnu
# or Debian's, which need not be installed and match a compiler from the same packages: unpack
# (`apt-get download`, `dpkg -x`) rustc-web, libstd-rust-web-1.96, libstd-rust-web-dev of this
# architecture and of arm64, and libllvm22 into one folder, and set RUSTC to a script that runs
# FOLDER/usr/bin/rustc with LD_LIBRARY_PATH=FOLDER/usr/lib/x86_64-linux-gnu.
#
# Not part of the gate, because it compiles every dependency again and the emulator is slow. It shows
# that results are right, not that they are fast.
set -eu
cd "$(dirname "$0")/.."

for program in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v "$program" >/dev/null || {
        echo "$0: $program is missing; the comment in this file lists the packages" >&2
        exit 2
    }
done

target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
export CARGO_PROFILE_RELEASE_DEBUG=0

[ $# -gt 0 ] || set -- kernels:: images::resize
cargo test --release --lib --target "$target" -- "$@"
