#!/bin/sh
# Builds dpsyn with CUDA and cuDNN on any x86-64 Linux machine without a GPU, driver or toolkit. The
# program also starts on any such machine: it loads NVIDIA's libraries at run time, and computes on the
# CPU where they are missing.
#
#   scripts/build-cuda.sh [FOLDER]       # FOLDER: for its files, target/cuda by default
#   CARGO_PROFILE=dist scripts/build-cuda.sh
#   scripts/build-cuda.sh FOLDER test --release --test goldens     # any other cargo command
#
# Needs cargo, a C and C++ compiler, pip and unzip. To run on a GPU, the program needs a driver of CUDA
# 13 (580 or later) and libcublas, libcurand and libcudnn 9 on the loader's path. CUDA_COMPUTE_CAP is
# the oldest supported compute capability, 80 (Ampere) by default; on newer GPUs the driver compiles the
# kernels at their first use.
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

# candle-kernels also compiles matrix products of quantized weights to objects, which takes half of the
# whole build. dpsyn does not call them, so they become empty objects here and nothing refers to them.
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
# Flags are separated by a byte that no path contains, unlike a space.
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
