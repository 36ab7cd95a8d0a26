"""How two files differ: rounding is told as rounding, everything else by its first line."""

import json

import pytest

from nan_merge.archive.differences import difference, of_texts, relative

LAST, TENTH = "0.30000000000000004", "0.3"
TOLD = [
    (f"a\t{LAST}", f"a\t{TENTH}", "by rounding alone: 1 number", f"1.9e-16 ({TENTH}, expected {LAST})"),
    ("x 1.0 2.0", "x 1.5 2.0000000001", "in numbers alone: 2 numbers", "3.3e-01 (1.5, expected 1.0)"),
    ("a −0.5", "a 0.5", "in numbers alone: 1 number", "2.0e+00 (0.5, expected −0.5)"),
]


@pytest.mark.parametrize(("old", "new", "kind", "largest"), TOLD)
def test_a_difference_of_numbers_is_told_with_its_size(old, new, kind, largest):
    assert of_texts(old, new) == f"differs {kind}, the largest relative difference {largest}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("one\ntwo\n", "one\n2 two\n", "line 2 is '2 two', expected 'two'"),
        ("one\n", "one\ntwo\n", "line 2 is 'two', expected ''"),
        ("one\ntwo", "one", "line 2 is missing, expected 'two'"),
    ],
)
def test_a_difference_of_words_is_told_by_its_first_line(old, new, said):
    assert of_texts(old, new) == said


def test_equal_bytes_are_no_difference_and_other_bytes_are_counted(tmp_path):
    for name, content in {"a.png": b"\x89PNG\xff", "b.png": b"\x89PNG\xff", "c.png": b"\x89PNG\xfe1"}.items():
        (tmp_path / name).write_bytes(content)
    assert difference(tmp_path / "a.png", tmp_path / "b.png") is None
    assert difference(tmp_path / "a.png", tmp_path / "c.png") == "other bytes (6, expected 5)"


TENSORS = {name: name * 32 for name in "abc"}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({**TENSORS, "b": "f" * 32}, "1 of 3 tensors differ: b"),
        ({**TENSORS, "a": "f" * 32, "c": "f" * 32}, "2 of 3 tensors differ: a, c"),
        ({"a": "f" * 32, "b": TENSORS["b"], "d": "0" * 32}, "1 of 3 tensors differ: a; 1 missing: c; 1 not expected: d"),
        (TENSORS, 'line 4 is \' "sha256": "f",\', expected \' "sha256": "e",\''),
    ],
)
def test_of_a_merge_the_tensors_that_differ_are_named(made, said, tmp_path):
    for name, tensors, digest in (("kept.json", TENSORS, "e"), ("made.json", made, "f")):
        record = {"card": "0.5", "note": "more", "sha256": digest, "tensors": tensors}
        (tmp_path / name).write_text(json.dumps(record, indent=1))
    assert difference(tmp_path / "kept.json", tmp_path / "made.json") == said


def test_relative_differences():
    assert (relative(0, 0), relative(1, 1), relative(1, -1), relative(0, 5)) == (0, 0, 2, 1)
