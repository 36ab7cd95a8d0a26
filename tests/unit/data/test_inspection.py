"""Leaks between splits are counted, and baselines are what they say."""

import numpy as np
import pytest

from nan_merge.core.errors import UserError
from nan_merge.data.dataset import Dataset, write_dataset
from nan_merge.data.inspection import PENALTY, _logistic_regression, inspect

DRAW = np.random.default_rng(0)


def dataset(folder, classes, **splits):
    record = {"task": "toy", "classes": [f"c{i}" for i in range(classes)]}
    write_dataset(folder, record, splits)
    return Dataset(folder)


def texts(size, classes=3, length=12, words=200):
    """Rows of [2, words of the class and others ..., 3, padding], as a tokenizer leaves them."""
    labels = DRAW.integers(classes, size=size)
    rows = np.zeros((size, length), np.uint16)
    for row, label in zip(rows, labels, strict=True):
        own = 10 + words * np.arange(2) + 5 * label + DRAW.integers(5, size=2)
        row[: length - 2] = [2, *own, *DRAW.integers(500, 500 + words, size=length - 6), 3]
    return rows, labels


def pictures(size, classes=3, side=20):
    labels = DRAW.integers(classes, size=size)
    found = DRAW.integers(60, 120, size=(size, side, side, 3))
    found[..., 0] += 40 * labels[:, None, None]
    return found.astype(np.uint8), labels


MAKERS = pytest.mark.parametrize("make", [texts, pictures])


@MAKERS
def test_splits_without_leaks_have_none_and_a_linear_model_sees_what_tells_classes_apart(make, tmp_path):
    found = inspect(dataset(tmp_path / "d", 3, train=make(300), validation=make(40), test=make(90)), unique=True)
    assert (found["duplicates"], found["near_duplicates"], found["compared"]) == (0, 0, 90)
    assert found["splits"] == {"train": 300, "validation": 40, "test": 90}
    assert found["linear"] > 0.95 > 0.6 > found["majority"] and 1 / 3 <= found["largest_share"] < 0.6


@MAKERS
def test_what_stands_in_two_splits_is_counted_once_or_refused(make, tmp_path):
    train, validation, test = make(100), make(30), make(50)
    test[0][:2] = train[0][:2]
    validation[0][0] = train[0][0]  # in three splits
    validation[0][5] = test[0][9]
    found = dataset(tmp_path / "d", 3, train=train, validation=validation, test=test)
    assert inspect(found, unique=False)["duplicates"] == 3
    with pytest.raises(UserError, match="3 examples stand in more than one of the splits test, train, validation, though"):
        inspect(found, unique=True)


def test_texts_are_near_duplicates_from_four_fifths_of_all_tokens(tmp_path):
    train, test = texts(120), texts(40)
    words = np.arange(1000, 1010, dtype=np.uint16)
    train[0][7] = [2, *words[:9], 3, 0]
    rows = {  # Jaccard with these nine, special tokens and padding aside
        0: [2, *words[8::-1], 3],  # 9 / 9: the order is another
        1: [2, *words[:9], 3, 77],  # 9 / 10
        2: [2, *words[1:9], 77, 3],  # 8 / 10
        3: [2, *words[2:9], 77, 78, 3],  # 7 / 11
        4: [2, *words[:7], 3],  # 7 / 9
    }
    for place, row in rows.items():
        test[0][place] = [*row, *[0] * (12 - len(row))]
    found = inspect(dataset(tmp_path / "d", 3, train=train, test=test), unique=True)
    assert (found["near_duplicates"], found["near_share"]) == (3, 3 / 40)
    assert "0.8" in found["near_duplicate"]


def test_pictures_are_near_duplicates_where_they_differ_little_when_they_are_small(tmp_path):
    train, test = pictures(60), pictures(30)
    test[0][0] = train[0][5] + DRAW.integers(0, 6, size=train[0][5].shape).astype(np.uint8)  # noise, which the mean removes
    test[0][1] = train[0][5] + 12  # 4.7 % brighter
    found = inspect(dataset(tmp_path / "d", 3, train=train, test=test), unique=True)
    assert found["near_duplicates"] == 1


def test_the_majority_is_that_of_the_training_split(tmp_path):
    (rows, labels), (tests, right) = texts(100), texts(50)
    labels[:70], right[:] = 2, [0] * 30 + [2] * 15 + [1] * 5
    found = inspect(dataset(tmp_path / "d", 3, train=(rows, labels), test=(tests, right)), unique=True)
    assert (found["largest_share"], found["majority"]) == (0.6, 0.3)


def test_labels_that_are_numbers_have_no_classes_to_score(tmp_path):
    (rows, labels), (tests, right) = texts(100), texts(50)
    found = inspect(
        dataset(tmp_path / "d", 1, train=(rows, labels.astype(np.float32)), test=(tests, right.astype(np.float32))), unique=True
    )
    assert found["near_duplicates"] == 0 and not {"linear", "majority", "largest_share"} & found.keys()


def test_the_linear_model_is_at_the_minimum_of_its_loss():
    features, labels = DRAW.random((80, 5)), DRAW.integers(3, size=80)
    weights = _logistic_regression(features, labels, 3)
    scores = features @ weights[:-1] + weights[-1]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    error = shares - np.eye(3)[labels]
    assert np.abs(features.T @ error + PENALTY * weights[:-1]).max() < 1e-2 and np.abs(error.sum(axis=0)).max() < 1e-2
    assert np.abs(weights).max() > 0.1
