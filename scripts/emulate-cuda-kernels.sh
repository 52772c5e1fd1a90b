#!/bin/sh
# Runs the source of the CUDA kernels on the CPU, a thread of the machine for each thread of a block, and compares what comes
# out with plain loops in double precision. Shows that indices, order and arithmetic are right, not that a GPU agrees.
# Needs a C++ compiler (C++20). Not part of the gate.
#
#   scripts/emulate-cuda-kernels.sh
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${CXX:-c++}" -std=c++20 -O1 -pthread -DEMULATED -I src/kernels/cuda -o "$work/emulate" scripts/emulate_cuda_kernels.cpp
"$work/emulate"
