#!/bin/sh
# Runs the kernels' and the resampler's tests under AddressSanitizer: a read or write outside a buffer, or of
# freed memory, in any `unsafe` block ends the run with a report. The tests take every path that the
# machine has (AVX-512, AVX2, scalar), so one run checks them all.
#
#   scripts/sanitize.sh                       # tests of `kernels` and `images::resize`
#   scripts/sanitize.sh kernels::cpu::micro   # tests whose names begin so
#
# Needs Linux on x86-64 and any compiler of rustup's: the sanitizer's runtime comes with it. The flag is
# not stable yet; RUSTC_BOOTSTRAP lets a stable compiler take it. The standard library is not rebuilt, so
# what goes wrong inside it is seen only where it calls malloc, free or memcpy.
#
# It is not part of the gate, for it compiles every dependency again. Its
# files go to target/sanitize unless CARGO_TARGET_DIR says otherwise.
set -eu
cd "$(dirname "$0")/.."

export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/sanitize}"
# Little optimisation: it compiles sooner, and fewer accesses are optimised away before they are checked.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1
# rayon's threads and caches live as long as the process; a test asks for more memory than there can be.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0:allocator_may_return_null=1}"

[ $# -gt 0 ] || set -- kernels:: images::resize
# A target makes the flags apply to the program only, not to build scripts and macros.
cargo test --release --lib --target x86_64-unknown-linux-gnu -- "$@"
