#!/bin/sh
# Builds dpsyn with CUDA and cuDNN on any x86-64 Linux machine: no GPU, driver or toolkit is needed for that. The program
# starts on any such machine, too, looks for NVIDIA's libraries when it runs, and computes on the CPU where they
# are missing.
#
#   scripts/build-cuda.sh [FOLDER]       # FOLDER: where it works, target/cuda by default
#   CARGO_PROFILE=dist scripts/build-cuda.sh
#   scripts/build-cuda.sh FOLDER test --release --test goldens     # any other command of cargo, with cuDNN
#
# Needs cargo, a C and C++ compiler, pip and unzip. To run on a GPU: a driver of CUDA 13 (580 or later) and libcublas,
# libcurand and libcudnn 9 where the loader finds them. CUDA_COMPUTE_CAP is the oldest card that it runs on, 80 (Ampere)
# by default; newer ones compile the kernels when they are first used.
set -eu
cd "$(dirname "$0")/.."
work=${1:-target/cuda}
profile=${CARGO_PROFILE:-release}
[ $# = 0 ] || shift
mkdir -p "$work/bin" "$work/link"
work=$(cd "$work" && pwd)

CUDA_HOME=$(scripts/fetch-nvcc.sh "$work/nvcc")
CUDA_PATH=$CUDA_HOME
export CUDA_HOME CUDA_PATH

# candle-kernels also compiles matrix products of quantised weights to objects, half of the time of the whole build. dpsyn
# has no use for them: they become empty objects, and what is not called is not linked.
cat > "$work/bin/nvcc" <<'NVCC'
#!/bin/sh
object= file= before=
for word in "$@"; do
    [ "$word" != -c ] || object=yes
    [ "$before" != -o ] || file=$word
    before=$word
done
if [ -n "$object" ] && [ -n "$file" ]; then
    printf '' | cc -x c -c -o "$file" -
    exit
fi
exec "$CUDA_HOME/bin/nvcc" "$@"
NVCC
chmod +x "$work/bin/nvcc"
ln -sf "$CUDA_HOME/lib/libcudart_static.a" "$work/link/libcudart.a"
library=$(g++ -print-file-name=libstdc++.a)
[ -e "$library" ] || { echo "$0: g++ has no libstdc++.a" >&2; exit 2; }
ln -sf "$library" "$work/link/libstdc++.a"

workspace="$work/workspace"
. scripts/cuda-workspace.sh

export PATH="$work/bin:$CUDA_HOME/bin:$PATH" NVCC="$work/bin/nvcc"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}" CUDARC_CUDA_VERSION=13000
# Between flags stands a byte that no path has, unlike a space.
CARGO_ENCODED_RUSTFLAGS=$(printf -- '-Lnative=%s\037--cfg\037dpsyn_dynamic_cuda' "$work/link")
export CARGO_TARGET_DIR="$work/target" CARGO_ENCODED_RUSTFLAGS
cd "$work/workspace"
if [ $# -gt 0 ]; then
    command=$1
    shift
    exec cargo "$command" --locked --features cudnn "$@"
fi
cargo build --locked --profile "$profile" --features cudnn --bin dpsyn
echo "$work/target/$profile/dpsyn"
