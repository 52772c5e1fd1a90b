#!/bin/sh
# Runs the tests of the kernels and of the resampler under AddressSanitizer: an access outside a
# buffer, or to freed memory, in any `unsafe` block ends the run with a report. The tests take every
# path that the machine supports (AVX-512, AVX2, scalar), so one run checks all of them.
#
#   scripts/sanitize.sh                      # tests of `kernels` and `images::resize`
#   scripts/sanitize.sh kernels::cpu::micro   # tests whose names begin with this
#
# Requires Linux on x86-64 and any compiler of rustup, which includes the sanitizer's runtime. The
# flag is unstable; RUSTC_BOOTSTRAP makes a stable compiler accept it. The standard library is not
# rebuilt, so errors inside it are detected only where it calls malloc, free or memcpy.
#
# Not part of the gate, because it compiles every dependency again. Its files go to target/sanitize
# unless CARGO_TARGET_DIR is set.
set -eu
cd "$(dirname "$0")/.."

export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/sanitize}"
# Little optimization: it compiles faster, and fewer accesses are removed before they are checked.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1
# rayon's threads and caches live as long as the process, and one test requests more memory than
# can exist.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0:allocator_may_return_null=1}"

[ $# -gt 0 ] || set -- kernels:: images::resize
# With an explicit target, the flags apply to the program only, not to build scripts and macros.
cargo test --release --lib --target x86_64-unknown-linux-gnu -- "$@"
