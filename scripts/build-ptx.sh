#!/bin/sh
# Compiles src/kernels/cuda/fused.cu to fused.ptx beside it, with the compiler that fetch-nvcc.sh
# downloads. Run it after every change of the source. The program embeds the result, so that building
# the program needs no CUDA compiler.
#
#   scripts/build-ptx.sh [FOLDER]       # FOLDER: for the compiler, target/cuda/nvcc by default
set -eu
cd "$(dirname "$0")/.."
CUDA_HOME=$(scripts/fetch-nvcc.sh "${1:-target/cuda/nvcc}")
cd src/kernels/cuda
"$CUDA_HOME/bin/nvcc" --ptx -arch=compute_80 -std=c++17 -O3 -o fused.ptx.new fused.cu
# Compute capability 8.0 is the first with bf16 instructions. The assembler rejects what a driver
# would reject.
for card in sm_80 sm_90; do "$CUDA_HOME/bin/ptxas" -arch=$card -o fused.cubin.new fused.ptx.new; done
{ printf '// sha256 of fused.cu: %s\n' "$(sha256sum fused.cu | cut -d ' ' -f 1)"; cat fused.ptx.new; } > fused.ptx
rm -f fused.ptx.new fused.cubin.new
