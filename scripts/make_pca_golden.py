#!/usr/bin/env python3
"""Makes tests/goldens/pca.{json,safetensors} with numpy.

    pip install numpy==2.* safetensors
    python scripts/make_pca_golden.py

Each row holds random images of 8-bit color, other images, the mean and the first principal components of
the former (eigenvectors of numpy.cov, in which the entry of the largest magnitude is positive), the
variances along them, and the projections of the latter, whitened or not.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "goldens"
# Images, height, width, components, grayscale, whiten.
ROWS = [
    (40, 5, 4, 6, False, False),
    (1500, 6, 6, 10, False, True),
    (300, 9, 7, 20, True, False),
    (700, 8, 8, 12, True, True),
]


def images(rng, count, height, width):
    """Returns images of a few smooth patterns of decreasing strength, and noise."""
    patterns = rng.normal(size=(30, height * width * 3))
    weights = rng.normal(size=(count, 30)) * 60 * 0.8 ** np.arange(30)
    levels = 120 + weights @ patterns + rng.normal(size=(count, height * width * 3)) * 4
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(count, height, width, 3)


def pixels(batch, grayscale):
    """Returns the numbers of each image in float64."""
    batch = batch.astype(np.float64)
    return (batch.mean(axis=3) if grayscale else batch).reshape(len(batch), -1)


def main():
    tensors, rows = {}, []
    for index, (count, height, width, components, grayscale, whiten) in enumerate(ROWS):
        rng = np.random.default_rng(index)
        public, others = images(rng, count, height, width), images(rng, 25, height, width)
        values = pixels(public, grayscale)
        mean = values.mean(axis=0)
        variances, vectors = np.linalg.eigh(np.cov(values, rowvar=False))
        variances = variances[::-1][:components]
        directions = vectors.T[::-1][:components]
        largest = np.abs(directions).argmax(axis=1)
        directions = directions * np.sign(directions[np.arange(components), largest])[:, None]
        # Directions are compared, so none may be as good as another one.
        assert (variances[:-1] / variances[1:]).min() > 1.001
        projected = (pixels(others, grayscale) - mean) @ directions.T
        tensors[f"{index}.public"] = public
        tensors[f"{index}.others"] = others
        tensors[f"{index}.mean"] = mean
        tensors[f"{index}.components"] = np.ascontiguousarray(directions)
        tensors[f"{index}.variances"] = np.ascontiguousarray(variances)
        tensors[f"{index}.projected"] = projected / np.sqrt(variances) if whiten else projected
        rows.append({"components": components, "grayscale": grayscale, "whiten": whiten})
    save_file(tensors, FOLDER / "pca.safetensors")
    (FOLDER / "pca.safetensors").chmod(0o644)
    case = {"case": "pca", "what": f"numpy.cov and numpy.linalg.eigh {np.__version__}", "rows": rows}
    (FOLDER / "pca.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
