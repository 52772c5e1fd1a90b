#!/usr/bin/env python3
"""Makes tests/goldens/logistic.{json,safetensors} with scikit-learn.

    pip install numpy==2.* scikit-learn==1.* safetensors
    python scripts/make_logistic_golden.py

Each row holds random training vectors with labels, test vectors, and the log-probabilities that
scikit-learn's multinomial logistic regression predicts for the test vectors. dpsyn minimizes the mean
cross-entropy plus l2/2 times the squared weights; scikit-learn minimizes C times the summed cross-entropy
plus half of the squared weights, so C = 1 / (l2 * vectors). For two classes scikit-learn has one weight
vector, the difference of dpsyn's two, whose squared norm is twice as large: C = 2 / (l2 * vectors). Both
standardize the features by the training set.
"""

import json
from pathlib import Path

import numpy as np
import sklearn
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "goldens"
# Vectors, dimension, classes, l2, offset and scale of the features.
ROWS = [
    (60, 4, 2, 1e-2, 0.0, 1.0),
    (200, 7, 3, 1e-1, 5.0, 3.0),
    (300, 33, 10, 1e-2, -2.0, 0.1),
]


def main():
    tensors, rows = {}, []
    for index, (count, dimension, classes, l2, offset, scale) in enumerate(ROWS):
        rng = np.random.default_rng(index)
        centers = rng.normal(size=(classes, dimension))
        labels = np.arange(count) % classes
        noise = rng.normal(size=(count, dimension))
        train = ((centers[labels] + 1.5 * noise) * scale + offset).astype(np.float32)
        test = (2.0 * rng.normal(size=(20, dimension)) * scale + offset).astype(np.float32)
        c = (2 if classes == 2 else 1) / (l2 * count)
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=c, tol=1e-10, max_iter=100_000)
        )
        model.fit(train.astype(np.float64), labels)
        tensors[f"{index}.train"] = train
        tensors[f"{index}.labels"] = labels.astype(np.int64)
        tensors[f"{index}.test"] = test
        tensors[f"{index}.log_probabilities"] = model.predict_log_proba(test.astype(np.float64))
        rows.append({"classes": classes, "l2": l2})
    save_file(tensors, FOLDER / "logistic.safetensors")
    (FOLDER / "logistic.safetensors").chmod(0o644)
    case = {
        "case": "logistic",
        "what": f"sklearn.linear_model.LogisticRegression {sklearn.__version__}, float64",
        "rows": rows,
    }
    (FOLDER / "logistic.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
