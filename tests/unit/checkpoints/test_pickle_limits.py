"""A pickle cannot take more time than its size explains."""

import pickle
import struct
import time
import zipfile

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


def tensor(shape=b"K\1", state=b""):
    """A state dict of one tensor, with a state set on it."""
    storage = b"((" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\1tQ"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n" + storage + b"K\0(" + shape + b"t(K\1tNNtR"
    return b"\x80\2}" + text(b"a") + made + state + b"s."


def number(digits):
    return b"\x8b" + struct.pack("<i", digits) + b"\1" * digits


def claimed(opcode, form="<Q", size=1 << 62):
    return b"\x80\4" + opcode + struct.pack(form, size) + b"abc."


CLAIMS = {
    "a frame of exabytes": claimed(b"\x95"), "bytes of exabytes": claimed(b"\x8e"), "a text of exabytes": claimed(b"\x8d"),
    "an array of exabytes": claimed(b"\x96"), "bytes of gigabytes": claimed(b"B", "<I", 0xFFFF_FFFF),
    "a number of gigabytes": claimed(b"\x8b", "<i", 0x7FFF_FFFF), "a shape of millions of digits": tensor(number(8_000_000) * 4),
    "an array in place of the tensor's": tensor(state=b"}" + text(b"array") + b"cbuiltins\nlist\nsb"),
    "an offset from a file": tensor(state=b"N}" + text(b"offset") + b"K\5s\x86b"),
    "a function with a state": b"\x80\2ctorch._utils\n_rebuild_tensor\n}b.",
    "lists in lists": b"\x80\2" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "tuples in tuples": b"\x80\2N" + b"\x85" * 200_000 + b".",
    "a call of the shell": b"cposix\nsystem\n(S'exit 3'\ntR.", "an instance of the shell": b"(S'exit 3'\nios\nsystem\n.",
    "an extension": b"\x80\2\x82\1.", "a persistent text": b"\x80\2Pabc\n.", "no persistent id": b"\x80\2NQ.",
}  # fmt: skip


@pytest.mark.parametrize("case", CLAIMS)
def test_a_pickle_that_claims_what_it_has_not_is_one_message(case, tmp_path):
    """Neither memory nor time for what a file only says; the message blames the file, not the machine."""
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(CLAIMS[case])
    started = time.process_time()
    with pytest.raises(UserError, match=r"pytorch_model\.bin: (cannot be read|holds an object)"):
        pickles.pickled_model(file)
    assert time.process_time() - started < 5


def test_members_of_an_archive_are_found_by_their_names_alone(tmp_path):
    """A record of an absolute name, of one that climbs, and two of one name: nothing is written, the message is one."""
    for number, names in enumerate((("/etc/data.pkl",), ("../../data.pkl", "../../data/0"), ("a/data.pkl", "b/data.pkl"))):
        file = tmp_path / f"{number}/pytorch_model.bin"
        file.parent.mkdir()
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, pickle.dumps({}))
        with pytest.raises(UserError, match=r"pytorch_model\.bin: (cannot be read|holds an object)"):
            pickles.pickled_model(file)
        assert [path.name for path in file.parent.iterdir()] == ["pytorch_model.bin"]


@pytest.mark.parametrize("case", FILES)
def test_a_pickle_that_repeats_itself_is_refused_at_once(case, tmp_path):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(FILES[case]())
    started = time.process_time()
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        pickles.pickled_model(file)
    assert time.process_time() - started < 10


def test_tensors_saved_by_plain_pickle_are_still_read(tmp_path):
    """Each tensor is a pickle in the pickle; together they are smaller than the file."""
    file = tmp_path / "pytorch_model.bin"
    tensors = {f"layer.{number}.weight": torch.full((50, 3), float(number)) for number in range(20)}
    file.write_bytes(pickle.dumps(tensors, protocol=4))
    found, _ = pickles.pickled_model(file)
    assert {name: float(entry.block(0, 1)[0]) for name, entry in found.items()} == {n: float(t[0, 0]) for n, t in tensors.items()}
