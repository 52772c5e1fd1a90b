#!/bin/sh
# Sourced by build-cuda.sh and check-cuda.sh in the project's folder: lays out, in the folder $workspace, a copy of the project's manifests that
# builds against a candle-core which looks for NVIDIA's libraries when it runs.
#
# candle-core asks cudarc to link them, so that a program would not even start where one is missing. That choice is
# one word in its manifest, "dynamic-linking"; here stands a copy of the published crate with the other word,
# "dynamic-loading". The project's own manifest and lock file stay as they are: a plain build knows nothing of this.
set -eu

root=$PWD
mkdir -p "$workspace"
workspace=$(cd "$workspace" && pwd)

# Downloads what is missing and says where it lies.
manifest=$(cd "$root" && cargo metadata --locked --format-version 1 --all-features | tr ',' '\n' |
    sed -n 's/.*"manifest_path":"\([^"]*candle-core-[0-9.]*\/Cargo.toml\)".*/\1/p' | head -n 1)
[ -n "$manifest" ] || { echo "$0: cargo does not say where candle-core lies" >&2; exit 2; }

rm -rf "$workspace/candle-core"
cp -R "$(dirname "$manifest")" "$workspace/candle-core"
chmod -R u+w "$workspace/candle-core"
rm -f "$workspace/candle-core/.cargo-ok" "$workspace/candle-core/Cargo.lock"
[ "$(grep -c '"dynamic-linking"' "$workspace/candle-core/Cargo.toml")" = 1 ] ||
    { echo "$0: expected one \"dynamic-linking\" in candle-core's manifest" >&2; exit 2; }
sed -i.before 's/"dynamic-linking"/"dynamic-loading"/' "$workspace/candle-core/Cargo.toml"

for part in src benches tests data weights configs README.md clippy.toml .cargo; do
    [ ! -e "$root/$part" ] || ln -sfn "$root/$part" "$workspace/$part"
done
{ cat "$root/Cargo.toml"; printf '\n[patch.crates-io]\ncandle-core = { path = "candle-core" }\n'; } > "$workspace/Cargo.toml"
# A package from a folder has neither source nor checksum.
awk '/^\[\[package\]\]/ { ours = 0 } /^name = "candle-core"$/ { ours = 1 }
    !(ours && /^(source|checksum) = /)' "$root/Cargo.lock" > "$workspace/Cargo.lock"
