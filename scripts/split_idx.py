#!/usr/bin/env python3
"""Splits the images of an IDX file (MNIST, Fashion-MNIST) into a public and a private half.

    pip install numpy==2.*
    python scripts/split_idx.py /usr/share/datasets/fashion-mnist data/fashion-mnist

reads `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` (plain or `.gz`) in the first folder and
writes `public` and `private` in the second one. Which half an image belongs to is drawn by a fixed seed
and does not depend on any image. An image that is in both halves, because the file has copies, stays in
the private half only. The labels of the public half are not written, unless `--public-labels` is given.

This makes data for experiments. For private images of your own, take a public set of another origin.
"""

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def read(folder, name):
    """Returns the array of an IDX file of bytes."""
    path = folder / name
    data = path.read_bytes() if path.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    dimensions = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{folder / name}: expected an IDX file of bytes")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(dimensions)


def write(folder, name, array):
    """Writes an array of bytes as a gzipped IDX file."""
    folder.mkdir(parents=True, exist_ok=True)
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    # Without a time, so that equal input gives equal files.
    (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of the IDX files")
    parser.add_argument("target", type=Path, help="folder in which public and private are written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--public-labels", action="store_true", help="write them, too")
    arguments = parser.parse_args()
    images, labels = read(arguments.source, IMAGES), read(arguments.source, LABELS)
    order = np.random.default_rng(arguments.seed).permutation(len(images))
    private, public = np.sort(order[: len(images) // 2]), np.sort(order[len(images) // 2 :])
    known = {images[index].tobytes() for index in private}
    public = np.array([index for index in public if images[index].tobytes() not in known])
    for name, chosen in (("private", private), ("public", public)):
        write(arguments.target / name, IMAGES, images[chosen])
        if name == "private" or arguments.public_labels:
            write(arguments.target / name, LABELS, labels[chosen])
        print(f"{arguments.target / name}: {len(chosen)} images")


if __name__ == "__main__":
    main()
