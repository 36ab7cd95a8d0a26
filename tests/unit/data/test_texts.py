"""Texts are read, split without leaks and tokenised to the same rows every time."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from nan_merge.core.errors import UserError
from nan_merge.data import texts
from nan_merge.data.dataset import Dataset, write_dataset

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(90)), "good", "bad", "a", "text"]
FORM = {"tokenizer": "tower", "length": 8}


@pytest.fixture
def sources(tmp_path):
    """A package folder with a published split and a rated file; a tower folder with a tokenizer."""
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    (tmp_path / "tower").mkdir()
    tokenizer.save(str(tmp_path / "tower/tokenizer.json"))
    folder = tmp_path / "package"
    folder.mkdir()
    head = "Category\tText\nd\tstring\nclass\t\n"
    line = "{}\tw{} w{} w{}\n".format
    train = "".join(line("up" if i % 2 else "down", i % 90, i // 90, 7) for i in range(200))
    test = "".join(line("up", i % 90, i // 90, 7 + i % 3) for i in range(150, 260))  # some rows are in train too
    (folder / "train.tab").write_text(head + train + "other\tw1 w2 w3\n")
    (folder / "test.tab").write_text(head + test)
    rows = (f"{i // 4}_{i % 4}\t{(-1) ** i * (i % 5) / 2}\tw{i % 90} w{i // 90} w5\n" for i in range(200))
    (folder / "rated.txt").write_text("".join(rows))
    return {"package": folder, "tower": tmp_path / "tower"}


@pytest.fixture
def task():
    return {"id": "toy", "label": "Toy", "reader": "texts.tab", "assets": ["package"],
            "arguments": {"train": "train.tab", "test": "test.tab", "label": "Category", "text": "Text"},
            "classes": {"down": "bad", "up": "good"}, "prompt": "a {} text",
            "splits": {"train": 60, "validation": 20, "test": 50}}  # fmt: skip


def rows(part):
    return {row.tobytes() for row in part[0]}


def test_no_test_text_is_in_train_or_validation_and_none_occurs_twice(task, sources):
    task["splits"] = {"train": 1000, "validation": 20, "test": 1000}
    record, splits = texts.prepare(task, sources, FORM)
    assert not rows(splits["test"]) & (rows(splits["train"]) | rows(splits["validation"]))
    assert not rows(splits["train"]) & rows(splits["validation"])
    assert all(len(rows(part)) == len(part[1]) for part in splits.values())
    assert len(splits["test"][1]) == 110 and record["available"] == len(splits["train"][1]) < 180


def test_splits_have_the_sizes_of_the_task_and_a_smaller_train_is_a_subset(task, sources):
    _, splits = texts.prepare(task, sources, FORM)
    assert {name: len(labels) for name, (_, labels) in splits.items()} == task["splits"]
    task["splits"] = {**task["splits"], "train": 25}
    _, smaller = texts.prepare(task, sources, FORM)
    assert np.array_equal(smaller["train"][0], splits["train"][0][:25])
    assert np.array_equal(smaller["test"][0], splits["test"][0])


def test_labels_follow_the_order_of_the_classes_and_others_are_left_out(task, sources):
    record, splits = texts.prepare(task, sources, FORM)
    assert record["classes"] == ["down", "up"]
    assert set(splits["test"][1]) == {1} and set(splits["train"][1]) == {0, 1}


def test_rows_are_truncated_padded_ids_of_the_tokenizer(sources):
    rows = texts.tokenise(["w0 good", "bad " * 500], sources["tower"] / "tokenizer.json", 5)
    assert rows.dtype == np.uint16
    assert rows.tolist() == [[2, 4, WORDS.index("good"), 3, 0], [2, *[WORDS.index("bad")] * 3, 3]]


def test_rows_are_read_back_as_the_words_that_fit(sources, tmp_path):
    tokenizer, vocabulary = Tokenizer.from_file(str(sources["tower"] / "tokenizer.json")), tmp_path / "tokenizer.json"
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    tokenizer.save(str(vocabulary))
    given = ["w0 good", "bad " * 500]
    for rows in (texts.tokenise(given, vocabulary, 5), texts.encode(given, vocabulary, 5)):
        assert texts.decode(rows, vocabulary) == ["w0 good", "bad bad bad"]


def test_rated_texts_lose_the_undecided_and_keep_documents_together(sources):
    found = texts.rated([sources["package"]], file="rated.txt", threshold=0.6, held_out=0.25)
    kept = [line.split("\t") for line in (sources["package"] / "rated.txt").read_text().splitlines()]
    kept = {words: (name.split("_")[0], float(r)) for name, r, words in kept if abs(float(r)) >= 0.6}
    assert len(found["train"][0]) + len(found["test"][0]) == len(kept)
    for words, key in zip(*found["test"], strict=True):
        assert key == ("positive" if kept[words][1] > 0 else "negative")
    documents = [{kept[words][0] for words in found[split][0]} for split in ("train", "test")]
    assert not documents[0] & documents[1] and len(documents[1]) in (12, 13)


def test_one_table_can_be_filtered_and_held_out(sources):
    arguments = {"label": "Text", "text": "Text", "file": "train.tab", "where": {"Category": "up"}}
    found = texts.tab([sources["package"]], **arguments, held_out=0.3)
    assert (len(found["train"][0]), len(found["test"][0])) == (70, 30)
    assert found == texts.tab([sources["package"]], **arguments, held_out=0.3)


def test_a_comma_table_is_read_with_its_quotes_and_broken_letters(tmp_path):
    lines = [b"mood,sure,words", *(b'up,0.5,"w%d, \xff"' % i for i in range(10))]
    (tmp_path / "crowd.csv").write_bytes(b"\n".join(lines))
    found = texts.comma([tmp_path], file="crowd.csv", label="mood", text="words", held_out=0.2)
    assert (len(found["train"][0]), len(found["test"][0])) == (8, 2)
    assert sorted(found["train"][0] + found["test"][0]) == [f"w{i}, \ufffd" for i in range(10)]


def test_a_prepared_data_set_has_the_same_bytes_twice(task, sources, tmp_path):
    for name in ("one", "two"):
        write_dataset(tmp_path / name, *texts.prepare(task, sources, FORM))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files[0] == "dataset.json" and len(files) == 7
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    data = Dataset(tmp_path / "one")
    assert data.record["splits"] == task["splits"] and data.inputs("train").shape == (60, 8)
    with pytest.raises(UserError, match="no split 'alignment'"):
        data.inputs("alignment")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reader": "texts.xml"}, r"unknown reader 'texts\.xml'; known: texts\.tab"),
        ({"arguments": {"train": "no.tab", "test": "test.tab", "label": "Category", "text": "Text"}}, r"no file 'no\.tab'"),
        ({"arguments": {"file": "test.tab", "label": "Author", "text": "Text"}}, "no column 'Author', found Category"),
        ({"splits": {"train": 9, "validation": 900, "test": 9}}, "lower `splits: validation`"),
    ],
)
def test_mistakes_in_a_task_are_user_errors(task, sources, change, message):
    with pytest.raises(UserError, match=message):
        texts.prepare({**task, **change}, sources, FORM)


def test_a_data_set_with_an_empty_split_or_a_foreign_label_is_refused(tmp_path):
    record = {"classes": ["a", "b"]}
    with pytest.raises(UserError, match="no example is left"):
        write_dataset(tmp_path / "d", record, {"test": (np.zeros((0, 4)), np.zeros(0))})
    with pytest.raises(UserError, match=r"labels 0\.\.2, expected 0\.\.1"):
        write_dataset(tmp_path / "d", record, {"test": (np.zeros((3, 4)), np.arange(3))})
    assert not (tmp_path / "d").exists()
