"""A pickle cannot take more time than its size explains."""

import pickle
import struct
import time

import pytest
import torch

from nan_merge.checkpoints import pickles
from nan_merge.core.errors import UserError

LONG = b"x" * 1_000_000


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value  # BINUNICODE


def repeated_class():
    """A class name of a megabyte, referred to 300,000 times by three bytes each."""
    once = text(b"m") + b"q\0" + text(LONG) + b"q\1" + b"0"
    return b"\x80\x04" + once + b"]" + b"(" + b"h\0h\1\x93" * 300_000 + b"e" + b"."


def repeated_load():
    """A nested pickle of a megabyte, which is read 1,000,000 times."""
    load = text(b"torch.storage") + text(b"_load_from_bytes") + b"\x93q\0"
    nested = b"\x80\x02" + text(b"n" * 1_000_000) + b"."
    content = b"B" + struct.pack("<I", len(nested)) + nested + b"q\1"
    return b"\x80\x04" + content + b"0" + load + b"0" + b"](" + b"h\0h\1\x85R" * 1_000_000 + b"e."


def nested_load():
    """Pickles in pickles, ten references to the next one in each."""
    inner = b"\x80\x02N."
    for _ in range(20):
        load = text(b"torch.storage") + text(b"_load_from_bytes") + b"\x93q\0"
        content = b"B" + struct.pack("<I", len(inner)) + inner + b"q\1"
        inner = b"\x80\x04" + content + b"0" + load + b"0](" + b"h\0h\1\x85R" * 10 + b"e."
    return inner


def shared_modules():
    """A module that holds the next one twice, 40 levels deep: 2^40 names."""
    module = torch.nn.Linear(1, 1)
    for _ in range(40):
        module = torch.nn.Sequential(module, module)
    return pickle.dumps(module, protocol=2)


FILES = {"a class again and again": repeated_class, "a pickle again and again": repeated_load,
         "pickles in pickles": nested_load, "a module again and again": shared_modules}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_pickle_that_repeats_itself_is_refused_at_once(case, tmp_path):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(FILES[case]())
    started = time.monotonic()
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        pickles.pickled_model(file)
    assert time.monotonic() - started < 10


def test_tensors_saved_by_plain_pickle_are_still_read(tmp_path):
    """Each tensor is a pickle in the pickle; together they are smaller than the file."""
    file = tmp_path / "pytorch_model.bin"
    tensors = {f"layer.{number}.weight": torch.full((50, 3), float(number)) for number in range(20)}
    file.write_bytes(pickle.dumps(tensors, protocol=4))
    found, _ = pickles.pickled_model(file)
    assert {name: float(entry.block(0, 1)[0]) for name, entry in found.items()} == {n: float(t[0, 0]) for n, t in tensors.items()}
