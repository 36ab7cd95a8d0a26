"""Data sets that others made: no picture runs a program, no size that is only claimed is believed, no card leads outside."""

import io
import json
import os
import struct
import zlib
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from nan_merge.core.errors import UserError
from nan_merge.data.decoding import Work
from nan_merge.data.hub_cards import label_names, split_files
from nan_merge.data.shards import open_shard
from nan_merge.data.texts import tokenise


def pixels(data, tmp_path):
    return Work(tmp_path / "work", {}, {}, 8, "floor")._pixels(tmp_path / "shard.parquet", 3, data)


def png(width, height):
    """A PNG of one colour that claims a size; its few bytes hold the first rows."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_runs_no_program(tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript."""
    program, mark = tmp_path / "gs", tmp_path / "executed"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "EPS")
    with pytest.raises(UserError, match=r"shard\.parquet, row 3: no readable image \(cannot identify image file"):
        pixels(stream.getvalue(), tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_the_formats_of_data_sets_are_read(kind, tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 40)).save(stream, kind)
    assert np.abs(pixels(stream.getvalue(), tmp_path).astype(int) - (200, 30, 40)).max() < 10


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_a_picture_of_more_pixels_than_any_is_one_message(size, tmp_path):
    with pytest.raises(UserError, match=r"shard\.parquet, row 3: no readable image"):
        pixels(png(*size), tmp_path)


def test_a_parquet_file_of_more_rows_than_bytes_is_refused(tmp_path):
    count = 3_000_000
    pictures = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int8)), pa.array([b"\x89PNG"])).cast(pa.binary())
    table = pa.table({"image": pictures, "label": pa.array(np.zeros(count, np.int64))})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", row_group_size=count)
    with pytest.raises(UserError, match=r"x\.parquet: claims 3,000,000 rows in [\d,]+ bytes"):
        open_shard(tmp_path / "x.parquet", "image", "label")


METADATA = ([], "x", None, 3, {"info": []}, {"info": {"features": "x"}}, {"info": {"features": {"label": [1]}}},
            {"info": {"features": {"label": {"names": 3}}}})  # fmt: skip


@pytest.mark.parametrize("content", METADATA)
def test_names_of_another_form_in_a_parquet_file_are_none(content, tmp_path):
    table = pa.table({"image": pa.array([b"x" * 99], pa.binary()), "label": pa.array([0])})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(content)}), tmp_path / "x.parquet")
    assert open_shard(tmp_path / "x.parquet", "image", "label").names is None


def test_names_of_labels_that_are_no_utf_8_are_read(tmp_path):
    (tmp_path / "classnames.txt").write_bytes("dog\nK\xe4fer\n".encode("latin-1"))
    assert label_names(tmp_path, "label") == {"classnames.txt": ["dog", "K\ufffdfer"]}


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"model": 3}', "[" * 100_000, json.dumps({"model": {"type": "\x1b"}})])
def test_a_tokenizer_that_is_none_is_one_message(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        tokenise(["a"], tmp_path / "tokenizer.json", 4)


@pytest.fixture
def data_set(tmp_path):
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for place in (folder / "data/train-00000-of-00001.parquet", tmp_path / "outside.parquet"):
        place.write_bytes(b"x")
    return folder


def told(folder, header):
    """Return what the card makes of its folder: the files of train and the names, or a message each."""
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header)}\n---\n")
    answers = []
    for ask in (lambda: split_files(folder, "train"), lambda: label_names(folder, "label")):
        try:
            answers.append(ask())
        except UserError as error:
            answers.append(str(error))
    return answers


VALUES = ([], {}, "x", None, -1, True, 1.5, [1], [[1]], {"a": 1}, [{"split": "train"}], [{"split": "train", "path": 3}],
          {"train": 3}, {"train": None}, {"train": ["**/[", "***", "a\x00b"]}, [{"features": [1]}])  # fmt: skip
PLACES = {
    "configs": lambda value: {"configs": value},
    "a config": lambda value: {"configs": [value]},
    **{key: lambda value, key=key: {"configs": [{key: value}]} for key in ("data_files", "data_dir", "config_name", "default")},
    "dataset_info": lambda value: {"dataset_info": value},
    "two of them": lambda value: {"dataset_info": [value, value]},
    "features": lambda value: {"dataset_info": {"features": value}},
    "a feature": lambda value: {"dataset_info": {"features": [value]}},
    "a type": lambda value: {"dataset_info": {"features": [{"name": "label", "dtype": value}]}},
    "a label": lambda value: {"dataset_info": {"features": [{"name": "label", "dtype": {"class_label": value}}]}},
    "names": lambda value: {"dataset_info": {"features": [{"name": "label", "dtype": {"class_label": {"names": value}}}]}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_card_of_another_form_is_a_message(place, data_set):
    for value in VALUES:
        for answer in told(data_set, PLACES[place](value)):
            assert not isinstance(answer, str) or answer.startswith(str(data_set))


@pytest.mark.parametrize(
    ("key", "path"), product(["data_files", "data_dir"], ["..", "../*", "/", "/etc", "data/../../", "/../*"])
)
def test_a_card_leads_to_no_file_outside(key, path, data_set):
    value = {"train": path} if key == "data_files" else path
    answer, _ = told(data_set, {"configs": [{"config_name": "default", key: value}]})
    assert isinstance(answer, str) or all(file.is_relative_to(data_set) and ".." not in file.parts for file in answer)
