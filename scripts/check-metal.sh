#!/bin/sh
# Type-checks the GPU backend `metal` for Macs with Apple silicon on a Debian machine, where it can
# neither be linked nor run. Not part of the gate.
#
#   scripts/check-metal.sh FOLDER       # FOLDER: with Debian's compiler, unpacked
#
# The standard library for that target is checked from source, which needs Debian's compiler package
# for the web. Unpack these packages into FOLDER (`apt-get download`, then `dpkg -x PACKAGE FOLDER`;
# nothing is installed):
#   rustc-web rust-web-src libstd-rust-web-1.96 libstd-rust-web-dev libllvm22
# On a Mac, or where rustup has the target aarch64-apple-darwin, `cargo check --features metal` with
# that target does the same.
set -eu
cd "$(dirname "$0")/.."
[ $# = 1 ] || { sed -n '5,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$(cd "$1" && pwd)
[ -x "$folder/usr/bin/rustc" ] || { echo "$0: $folder/usr/bin/rustc does not exist" >&2; exit 2; }
work=target/metal-check
mkdir -p "$work"
work=$(cd "$work" && pwd)
cat > "$work/rustc" <<RUSTC
#!/bin/sh
LD_LIBRARY_PATH="$folder/usr/lib/x86_64-linux-gnu" exec "$folder/usr/bin/rustc" "\$@"
RUSTC
# Replace Apple's C compiler and archiver, which a dependency with C code calls: nothing is linked, so
# their outputs may be empty.
cat > "$work/cc" <<'CC'
#!/bin/sh
before=
for word in "$@"; do
    [ "$before" != -o ] || : > "$word"
    before=$word
done
CC
cat > "$work/ar" <<'AR'
#!/bin/sh
for word in "$@"; do
    case "$word" in *.a) : > "$word" ;; esac
done
AR
chmod +x "$work/rustc" "$work/cc" "$work/ar"
export CC_aarch64_apple_darwin="$work/cc" AR_aarch64_apple_darwin="$work/ar"
RUSTC="$work/rustc" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$work/target" \
    cargo check --locked -Zbuild-std=std,panic_abort --target aarch64-apple-darwin \
        --lib --bins --no-default-features --features metal
