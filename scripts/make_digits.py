#!/usr/bin/env python3
"""Writes data/digits.npz: the quickstart's private digits and held-out digits, from MNIST.

    python3 scripts/make_digits.py MNIST_TRAIN_FOLDER MNIST_TEST_FOLDER data/digits.npz

The folders hold <digit>_<rest>.png, 28x28. The script takes the first files of each digit, in
string order of their names: 800 of each for training, 200 of each for testing. The keys are those
of MedMNIST: train_images uint8[8000, 28, 28], train_labels uint8[8000, 1], test_images,
test_labels. The output is the same on every machine. Requires numpy and Pillow.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def take(folder: str, per_digit: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for digit in range(10):
        files = sorted(Path(folder).glob(f"{digit}_*.png"), key=lambda f: f.name)[:per_digit]
        if len(files) < per_digit:
            sys.exit(f"{folder}: {len(files)} images of digit {digit}, {per_digit} expected")
        images += [np.asarray(Image.open(f).convert("L")) for f in files]
        labels += [digit] * per_digit
    return np.stack(images), np.array(labels, dtype=np.uint8)[:, None]


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    train, test = take(sys.argv[1], 800), take(sys.argv[2], 200)
    arrays = dict(
        train_images=train[0], train_labels=train[1], test_images=test[0], test_labels=test[1]
    )
    with zipfile.ZipFile(sys.argv[3], "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED, 9
            )


if __name__ == "__main__":
    main()
