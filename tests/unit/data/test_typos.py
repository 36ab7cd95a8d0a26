"""Typos change the words that they should, in the same way every time, and the test split alone."""

import re

import numpy as np
import pytest
import test_texts
from test_texts import FORM

from nan_merge.data import texts
from nan_merge.data.typos import NEIGHBOURS, with_typos

sources, task = test_texts.sources, test_texts.task
WORDS = ["reading", "several", "ordinary", "sentences", "without", "typing", "mistakes", "demands", "patience"]
PAGE = [f"{WORDS[i % 9]} {WORDS[i % 7]} the {WORDS[i % 5]}, of {WORDS[i % 3]} {i}." for i in range(400)]


def share_of_changed_words(strength):
    pairs = [(a, b) for old, new in zip(PAGE, with_typos(PAGE, strength), strict=True)
             for a, b in zip(old.split(), new.split(), strict=True) if len(a.strip(",.")) >= 4]  # fmt: skip
    return np.mean([a != b for a, b in pairs])


@pytest.mark.parametrize("strength", [0.1, 0.3, 1.0])
def test_the_share_of_words_with_a_typo_is_the_strength(strength):
    assert share_of_changed_words(strength) == pytest.approx(strength, abs=0.03)


def test_a_typo_swaps_leaves_out_or_mistypes_one_inner_letter():
    seen = set()
    for old, new in zip(WORDS * 30, with_typos([f"{word} {i}" for i, word in enumerate(WORDS * 30)], 1.0), strict=True):
        new = new.split()[0]
        assert (new[0], new[-1]) == (old[0], old[-1])
        places = [i for i in range(min(len(old), len(new))) if old[i] != new[i]]
        if len(new) < len(old):
            seen.add("left out")
            assert new in {old[:i] + old[i + 1 :] for i in range(1, len(old) - 1)}
        elif len(places) == 1:
            seen.add("mistyped")
            assert new[places[0]] in NEIGHBOURS[old[places[0]]]
        elif places:
            seen.add("swapped")
            assert places[1] == places[0] + 1 and new == old[: places[0]] + old[places[1]] + old[places[0]] + old[places[1] + 1 :]
    assert seen == {"left out", "mistyped", "swapped"}


def test_neighbours_are_those_of_a_keyboard():
    assert set(NEIGHBOURS["g"]) == set("ftyhbv") and set(NEIGHBOURS["q"]) == set("wa") and set(NEIGHBOURS["m"]) == set("njk")


def test_the_rest_of_a_text_stays_and_upper_case_too():
    old = "It is 12:30, OKAY? naïve ΑΒΓΔ see-saw  \t(WHISPERED)"
    (new,) = with_typos([old], 1.0)
    assert new != old and re.sub("[A-Za-z]{3,}", "", new) == re.sub("[A-Za-z]{3,}", "", old)
    assert re.search(r"\([A-Z]+\)", new)


def test_the_same_text_has_the_same_typos_wherever_it_stands_and_more_strength_keeps_them():
    assert with_typos(PAGE[::-1], 0.3)[::-1] == with_typos(PAGE, 0.3) == [with_typos([text], 0.3)[0] for text in PAGE]
    mild, strong, of_pair = with_typos(PAGE, 0.1), with_typos(PAGE, 0.3), with_typos([(PAGE[0], PAGE[1])], 0.3)
    for old, few, many in zip(PAGE, mild, strong, strict=True):
        kept = [(a, c) for a, b, c in zip(old.split(), few.split(), many.split(), strict=True) if a != b and b != c]
        assert kept == []
    assert mild != strong and of_pair == [(strong[0], strong[1])]


def test_only_the_test_split_has_typos_and_its_examples_are_the_same(task, sources):
    package = sources["package"]
    for name in ("train.tab", "test.tab"):  # words of the vocabulary that are long enough to be mistyped
        (package / name).write_text(re.sub(r"w(\d+)", r"good w\1", (package / name).read_text()))
    clean = texts.prepare(task, sources, FORM)[1]
    corrupt = {**FORM, "corrupt": {"kind": "typos", "strength": 0.5}}
    record, found = texts.prepare(task, sources, corrupt)
    again = texts.prepare(task, sources, corrupt)[1]
    assert record == texts.prepare(task, sources, FORM)[0]
    for split in ("train", "validation"):
        assert all(np.array_equal(a, b) for a, b in zip(clean[split], found[split], strict=True))
    assert np.array_equal(clean["test"][1], found["test"][1]) and not np.array_equal(clean["test"][0], found["test"][0])
    assert np.array_equal(found["test"][0], again["test"][0])
    changed = (clean["test"][0] != found["test"][0]).any(axis=1).mean()
    assert 0.5 < changed <= 1, "three words a row, each mistyped with a chance of one half"
