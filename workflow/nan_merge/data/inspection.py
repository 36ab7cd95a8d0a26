"""Inspect a prepared data set for what makes accuracies mean less than they seem: leaks, imbalance, easy inputs."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from nan_merge.core.errors import UserError
from nan_merge.data.dataset import PADDING, Dataset, is_number

MOST = 2_000  # test examples that are compared with the training split; more are sampled at equal distances
JACCARD = 0.8  # of sets of tokens, from which two texts are near-duplicates
DISTANCE = 0.02  # root mean square of downsampled pixels in 0..1, up to which two pictures are
SIDE, BLOCK = 8, 256  # pixels of a downsampled side; examples at a time
PENALTY, STEPS = 1.0, 200  # of the linear model: weight of half the squared norm, iterations of L-BFGS
MEANINGS = {  # for readers of the numbers
    "texts": {
        "near_duplicate": f"sets of tokens with a Jaccard index of at least {JACCARD:g}, padding and special tokens aside",
        "features": "counts of tokens, as far as models read the texts",
    },
    "pictures": {
        "near_duplicate": f"at {SIDE} × {SIDE} pixels a difference of at most {100 * DISTANCE:g} % (root mean square)",
        "features": f"{SIDE} × {SIDE} pixels",
    },
}


def inspect(dataset: Dataset, unique: bool) -> dict[str, Any]:
    """Return sizes, duplicates across splits, near-duplicates of test in train, class balance and two baselines of a data set.

    A baseline is the accuracy on test of what the training split alone gives: of its most frequent class, and of logistic
    regression on bags of tokens or on downsampled pixels; labels that are numbers have none. With `unique` a duplicate is a
    UserError, since the reader of the data set drops them.
    """
    splits = list(dataset.record["splits"])
    duplicates = _duplicates({split: dataset.inputs(split) for split in splits})
    if unique and duplicates:
        raise UserError(
            f"{dataset.folder}: {duplicates} examples stand in more than one of the splits {', '.join(splits)}, though its reader"
            " drops them; delete the folder and prepare it again, and report this if it stays so"
        )
    train, test = (_features(dataset.inputs(split)) for split in ("train", "test"))
    sample = np.unique(np.linspace(0, len(dataset.labels("test")) - 1, MOST).astype(int))
    near = _near(test[sample], train)
    found = {
        "task": dataset.record["task"], "splits": dataset.record["splits"], "classes": len(dataset.record["classes"]),
        "duplicates": duplicates, "compared": len(sample), "near_duplicates": int(near.sum()), "near_share": float(near.mean()),
        **MEANINGS["texts" if sparse.issparse(train) else "pictures"], "penalty": PENALTY,
    }  # fmt: skip
    return found if is_number(dataset.labels("test")) else found | _baselines(dataset, train, test)


def _duplicates(inputs: dict[str, np.ndarray]) -> int:
    """Return how many different examples stand in more than one split."""
    contents = ({hashlib.sha256(row.tobytes()).digest() for row in rows} for rows in inputs.values())
    return sum(splits > 1 for splits in Counter(content for split in contents for content in split).values())


def _features(inputs: np.ndarray) -> Any:
    """Return counts of tokens, sparse (N, vocabulary), without those of every row, or small pictures in 0..1, (N, features)."""
    if inputs.ndim == 4:
        edges = np.linspace(0, inputs.shape[1], SIDE, endpoint=False).astype(int)
        sizes = np.diff([*edges, inputs.shape[1]])
        parts = []
        for start in range(0, len(inputs), BLOCK):
            pixels = np.add.reduceat(np.asarray(inputs[start : start + BLOCK], np.float32), edges, axis=1)
            pixels = np.add.reduceat(pixels, edges, axis=2) / (255 * np.multiply.outer(sizes, sizes)[..., None])
            parts.append(pixels.reshape(len(pixels), -1))
        return np.concatenate(parts)
    rows, places = np.nonzero((inputs != 0) & (inputs != PADDING))
    counts = sparse.csr_array((np.ones(len(rows)), (rows, inputs[rows, places])), shape=(len(inputs), PADDING))
    special = np.bincount(counts.indices, minlength=PADDING) == len(inputs)
    return counts @ sparse.diags_array((~special).astype(float))


def _near(test: Any, train: Any) -> np.ndarray:
    """Return which test examples have a near-duplicate in train."""
    found = []
    for start in range(0, test.shape[0], BLOCK):
        part = test[start : start + BLOCK]
        if sparse.issparse(train):
            (a, b), sizes = ((part > 0).astype(np.float32), (train > 0).astype(np.float32)), train.astype(bool).sum(axis=1)
            shared = (a @ b.T).tocoo()
            union = a.sum(axis=1)[shared.row] + sizes[shared.col] - shared.data
            near = np.zeros(part.shape[0], bool)
            near[shared.row[shared.data >= JACCARD * union]] = True
        else:
            squares = (part**2).sum(axis=1)[:, None] + (train**2).sum(axis=1) - 2 * part @ train.T
            near = squares.min(axis=1) <= DISTANCE**2 * part.shape[1]
        found.append(near)
    return np.concatenate(found)


def _baselines(dataset: Dataset, train: Any, test: Any) -> dict[str, float]:
    classes = len(dataset.record["classes"])
    known, right = (np.asarray(dataset.labels(split)) for split in ("train", "test"))
    used = np.flatnonzero(train.sum(axis=0))
    weights = _logistic_regression(train[:, used], known, classes)
    return {
        "largest_share": float(np.bincount(right).max() / len(right)),
        "majority": float(np.mean(right == np.bincount(known).argmax())),
        "linear": float(np.mean(_scores(test[:, used], weights).argmax(axis=1) == right)),
    }


def _scores(features: Any, weights: np.ndarray) -> np.ndarray:
    return features @ weights[:-1] + weights[-1]


def _logistic_regression(features: Any, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the weights (features + 1, classes) of multinomial logistic regression; the last row, not penalised, is added."""
    shape, wanted = (features.shape[1] + 1, classes), np.eye(classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        scores = _scores(features, weights)
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        error = np.exp(logs) - wanted
        slope = np.vstack([features.T @ error + PENALTY * weights[:-1], error.sum(axis=0)])
        return float(PENALTY / 2 * (weights[:-1] ** 2).sum() - (logs * wanted).sum()), slope.ravel()

    return minimize(loss, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x.reshape(shape)
