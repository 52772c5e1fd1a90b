#!/bin/sh
# Downloads NVIDIA's compiler as Python packages (100 MB), checks them against nvcc-wheels.sha256,
# unpacks them into the folder $1 and prints CUDA_HOME. Needs pip and unzip on x86-64 Linux; no driver,
# toolkit or GPU.
set -eu
sums=$(cd "$(dirname "$0")" && pwd)/nvcc-wheels.sha256
mkdir -p "$1"
cd "$1"
if [ ! -e complete ]; then
    pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2010_x86_64 --platform manylinux_2_12_x86_64 --dest wheels \
        nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cuda-cccl==13.0.85 >&2
    (cd wheels && sha256sum --check --quiet "$sums") >&2
    # Unlike Python's zipfile, unzip keeps the permission to execute.
    for wheel in wheels/*.whl; do unzip -qo "$wheel"; done
    : > complete
fi
echo "$PWD/nvidia/cu13"
