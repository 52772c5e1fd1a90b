#!/bin/sh
# Type-checks and lints the GPU backends `cuda` and `cudnn` without a GPU, a driver or a toolkit: a
# fake nvcc prints its version and writes empty files. Part of the gate. It checks the same workspace
# that build-cuda.sh builds.
#
#   scripts/check-cuda.sh [FOLDER]      # FOLDER: for its files, target/cuda-check by default
set -eu
cd "$(dirname "$0")/.."
work=${1:-target/cuda-check}
mkdir -p "$work/bin"
work=$(cd "$work" && pwd)

cat > "$work/bin/nvcc" <<'NVCC'
#!/bin/sh
# Fake nvcc for type checks: every output exists and is empty.
folder= file= before=
for word in "$@"; do
    case "$word" in
    --version)
        printf 'nvcc: NVIDIA (R) Cuda compiler driver\nA fake for type checks\nbuilt never\nCuda compilation tools, release 13.0, V13.0.88\n'
        exit 0 ;;
    --list-gpu-code) printf 'sm_80\nsm_90\n'; exit 0 ;;
    --output-directory=*) folder=${word#*=} ;;
    esac
    case "$before" in
    -o) file=$word ;;
    --output-directory) folder=$word ;;
    esac
    before=$word
done
[ -z "$file" ] || : > "$file"
[ -z "$folder" ] || for word in "$@"; do
    case "$word" in *.cu) : > "$folder/$(basename "$word" .cu).ptx" ;; esac
done
NVCC
chmod +x "$work/bin/nvcc"

workspace="$work/workspace"
. scripts/cuda-workspace.sh

export PATH="$work/bin:$PATH" NVCC="$work/bin/nvcc" CUDA_COMPUTE_CAP=80 CUDARC_CUDA_VERSION=13000
export CARGO_TARGET_DIR="$work/target" RUSTFLAGS="--cfg dpsyn_dynamic_cuda"
cd "$work/workspace"
# The feature `cudnn` includes `cuda`.
cargo clippy --locked --release --features cudnn --lib --bins -- -D warnings
