"""Texts and pairs of GLUE, from the hub's parquet to rows of tokens; what does not match the task is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import glue_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_classifiers
from glue_hub import WORDS

from nan_merge.core.errors import UserError
from nan_merge.data import glue
from nan_merge.data.dataset import PADDING, Dataset, write_dataset

SPLITS = {"train": 100, "validation": 40, "test": 1_000_000}
LENGTH = 32


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "glue"
    return glue_hub.publish(folder, train=150, held=50)


@pytest.fixture(scope="module", params=tiny_classifiers.KINDS)
def tokenizer(request, tmp_path_factory):
    """Return the asset of a tokenizer, by its kind."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_classifiers.tokenizer(request.param, WORDS).save(str(folder / "tokenizer.json"))
    return folder


def task(config, held="validation", **changes):
    record = {
        "id": config, "label": config, "reader": "glue.table", "assets": ["data"], "splits": SPLITS,
        "labels": glue_hub.TASKS[config]["names"] or "number",
        "arguments": {"config": config, "texts": glue_hub.TASKS[config]["texts"],
                      "origin": {"test": held, "train": "train", "validation": "train"}, "counts": {"train": 150, held: 50}},
    }  # fmt: skip
    return {**record, **changes}


def prepared(source, tokenizer, record, length=LENGTH):
    return glue.prepare(record, {"data": source, "tokenizer": tokenizer}, {"tokenizer": "tokenizer", "length": length})


def changed(record, **arguments):
    return {**record, "arguments": {**record["arguments"], **arguments}}


def refused(source, tokenizer, record, match):
    with pytest.raises(UserError, match=match):
        prepared(source, tokenizer, record)


def test_rows_hold_the_tokens_that_the_libraries_give(source, tokenizer):
    """A pair is one text after the other for GPT-2; for RoBERTa `<s> a </s></s> b </s>`."""
    from transformers import PreTrainedTokenizerFast

    special = {} if tokenizer.name.startswith("gpt2") else {"bos_token": "<s>", "eos_token": "</s>"}
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / "tokenizer.json"), **special)
    _, splits = prepared(source, tokenizer, task("mnli", "validation_matched"))
    table = pq.read_table(source / "mnli/validation_matched-00000-of-00001.parquet").to_pydict()
    assert splits["test"][1].tolist() == table["label"]
    for row, first, second in zip(splits["test"][0], table["premise"], table["hypothesis"], strict=True):
        ids = row[row != PADDING].tolist()
        assert ids == theirs(first, second)["input_ids"]
        a, b = (theirs(text, add_special_tokens=False)["input_ids"] for text in (first, second))
        assert ids == ([*a, *b] if not special else [0, *a, 2, 2, *b, 2])
    assert (splits["test"][0] == 0).any()  # an id like any other


def test_splits_are_those_of_the_source_and_disjoint(source, tokenizer):
    record, splits = prepared(source, tokenizer, task("cola"))
    assert {name: len(labels) for name, (_, labels) in splits.items()} == {"train": 100, "validation": 40, "test": 50}
    assert record["available"] == 110 and record["classes"] == ["unacceptable", "acceptable"]
    assert record["order"] == {"verified": 2, "of": 2, "by": ["README.md", *sorted(
        f"cola/{split}-00000-of-00001.parquet" for split in ("train", "validation"))]}  # fmt: skip
    rows = [{row.tobytes() for row in splits[name][0]} for name in ("train", "validation")]
    assert not rows[0] & rows[1]


def test_labels_of_a_regression_stay_numbers(source, tokenizer, tmp_path):
    record, splits = prepared(source, tokenizer, task("stsb"))
    write_dataset(tmp_path / "stsb", record, splits)
    stored = Dataset(tmp_path / "stsb").labels("test")
    assert stored.dtype == np.float32 and record["classes"] == ["number"] and "order" not in record
    assert stored.tolist() == pq.read_table(source / "stsb/validation-00000-of-00001.parquet")["label"].to_pylist()


def test_a_pair_that_is_too_long_loses_tokens_of_its_longer_text(source, tokenizer):
    _, whole = prepared(source, tokenizer, task("mnli", "validation_matched"))
    _, cut = prepared(source, tokenizer, task("mnli", "validation_matched"), length=14)
    lengths, kept = ((rows != PADDING).sum(1) for rows in (whole["test"][0], cut["test"][0]))
    assert cut["test"][0].shape == (50, 14) and kept.tolist() == np.minimum(lengths, 14).tolist() and (lengths > 14).any()


def test_hidden_labels_are_refused(source, tokenizer):
    told = r"task cola: .*test-0.*row 0: label -1, expected 0 to 1 .*labels of -1 are hidden"
    refused(source, tokenizer, task("cola", "test"), told)


COLUMNS = {
    "a missing text": ("cola", {"texts": ["sentence1"]}, r"no column 'sentence1', found sentence \(string\), .*arguments: texts"),
    "a missing label": ("cola", {"label": "score"}, r"no column 'score', found .*`arguments: label:`"),
    "a number for a text": ("cola", {"texts": ["idx"]}, r"column 'idx' is int32, expected texts"),
    "a text for a label": ("cola", {"label": "sentence"}, r"column 'sentence' is string, expected class numbers"),
    "classes for numbers": ("stsb", {"label": "idx"}, r"column 'idx' is int32, expected numbers with decimals"),
    "three texts": ("cola", {"texts": ["sentence"] * 3}, r"`arguments: texts:` has 3 columns; name one, or both of a pair"),
    "another configuration": ("cola", {"config": "wnli"}, r"no configuration 'wnli', expected one of cola, mnli, stsb"),
    "another number of rows": ("cola", {"counts": {"train": 151}}, r"expected 151 rows .*found 150"),
    "a split that is not there": ("cola", {"origin": {"test": "dev", "train": "train", "validation": "train"}}, "no split 'dev'"),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_a_source_that_does_not_match_the_task_is_refused(source, tokenizer, name):
    config, arguments, match = COLUMNS[name]
    refused(source, tokenizer, changed(task(config), **arguments), rf"task {config}: .*{match}")


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (["acceptable", "unacceptable"], "label 0 is 'unacceptable' in README.md but 'acceptable' in `labels:`"),
        (["no", "yes", "maybe"], r"names 2 classes, expected 3 \(`labels:`\)"),
        ("number", "column 'label' is int64, expected numbers with decimals"),
    ],
)
def test_labels_in_another_order_or_number_are_refused(source, tokenizer, labels, match):
    refused(source, tokenizer, task("cola", labels=labels), match)


@pytest.mark.parametrize("column", ["sentence", "label"])
def test_a_row_without_a_value_is_refused(source, tokenizer, tmp_path, column):
    folder = shutil.copytree(source, tmp_path / "glue")
    file = Path(folder) / "cola/train-00000-of-00001.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    values[3] = None
    pq.write_table(table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type)), file)
    refused(folder, tokenizer, task("cola"), rf"train-0.*row 3: no \w+, expected a value in '{column}'")
