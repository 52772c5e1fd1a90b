#!/bin/sh
# Runs the source of the CUDA kernels on the CPU, one CPU thread per thread of a block, and compares
# the results with plain loops in double precision. That checks indices, synchronization and
# arithmetic, not the behavior of a GPU. Needs a C++20 compiler. Not part of the gate.
#
#   scripts/emulate-cuda-kernels.sh
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${CXX:-c++}" -std=c++20 -O1 -pthread -DEMULATED -I src/kernels/cuda \
    -o "$work/emulate" scripts/emulate_cuda_kernels.cpp
"$work/emulate"
