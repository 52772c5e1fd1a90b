#!/bin/sh
# Sourced by build-cuda.sh and check-cuda.sh in the project's folder: creates, in the folder $workspace,
# a copy of the project's manifests that builds against a candle-core which loads NVIDIA's libraries at
# run time.
#
# candle-core makes cudarc link the libraries, so that a program does not start where one is missing.
# That choice is the word "dynamic-linking" in its manifest; the workspace has a copy of the published
# crate with "dynamic-loading" instead. The project's own manifest and lock file stay unchanged.
set -eu

root=$PWD
mkdir -p "$workspace"
workspace=$(cd "$workspace" && pwd)

# Downloads candle-core if it is missing and finds its folder.
manifest=$(cd "$root" && cargo metadata --locked --format-version 1 --all-features | tr ',' '\n' |
    sed -n 's/.*"manifest_path":"\([^"]*candle-core-[0-9.]*\/Cargo.toml\)".*/\1/p' | head -n 1)
[ -n "$manifest" ] || { echo "$0: \`cargo metadata\` does not list candle-core" >&2; exit 2; }

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
# A package from a folder has neither source nor checksum in the lock file.
awk '/^\[\[package\]\]/ { ours = 0 } /^name = "candle-core"$/ { ours = 1 }
    !(ours && /^(source|checksum) = /)' "$root/Cargo.lock" > "$workspace/Cargo.lock"
