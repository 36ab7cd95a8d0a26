"""The reader agrees with safetensors' own library, and a broken file is a UserError that names it."""

import json
import random
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from models import BFLOAT16, SHAPES, random_model, same_bytes, save, tensors_of

from nan_merge.checkpoints.checkpoint import INDEX, PICKLE_INDEX, SINGLE, Checkpoint, write_checkpoint, write_tensors
from nan_merge.checkpoints.safetensors_file import DTYPES
from nan_merge.core.errors import UserError

ODD = (None, -1, 0, 1, 1.5, 16.0, 2**70, True, "x", "F32", [], [0], [0, 4], [-1, 3], {}, {"dtype": "F32"}, "\ud83d")


def all_types():
    """One tensor of every type that both libraries know, with the odd shapes."""
    tensors = random_model(0)
    for dtype in DTYPES.values():
        tensors[f"of.{dtype.name}"] = np.arange(6).reshape(2, 3).astype(dtype)
    return tensors


def written(file, header, data=b"", length=None):
    """Write a safetensors file from a header (object or bytes) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def entry(start=0, stop=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_safetensors_reads_what_we_write(tmp_path):
    library = pytest.importorskip("safetensors")
    tensors = all_types()
    write_tensors(tmp_path / SINGLE, tensors)
    numpy = {name for name, array in tensors.items() if array.dtype.type.__module__ == "numpy"}
    with library.safe_open(tmp_path / SINGLE, framework="numpy") as file:
        assert sorted(file.keys()) == sorted(tensors)
        for name in numpy:
            assert same_bytes({name: file.get_tensor(name)}, {name: tensors[name]})
        for name in tensors.keys() - numpy:
            assert tuple(file.get_slice(name).get_shape()) == tensors[name].shape


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_we_read_what_safetensors_writes(dtype, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    tensors = random_model(3, BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype))
    numpy.save_file(tensors, tmp_path / SINGLE, {"format": "pt"})
    found = tensors_of(tmp_path)
    assert same_bytes(dict(sorted(found.items())), dict(sorted(tensors.items())))


def test_blocks_are_the_slices_of_the_flattened_tensor(tmp_path):
    tensors = random_model(0)
    checkpoint = Checkpoint(save(tmp_path / "model", tensors, shards=3))
    assert sorted(checkpoint.names) == sorted(tensors)
    assert len(checkpoint.shards) == 3
    for name, array in tensors.items():
        assert checkpoint.shape(name) == array.shape
        assert checkpoint.entries[name].is_float == (name in SHAPES)
        assert checkpoint.entries[name].block(array.size // 3, array.size).tolist() == array.ravel()[array.size // 3 :].tolist()


def test_one_file_by_itself_is_a_checkpoint_too(tmp_path):
    write_tensors(tmp_path / "head.safetensors", {"head": np.eye(3, dtype=np.float32)})
    assert Checkpoint(tmp_path / "head.safetensors").read("head").tolist() == np.eye(3).tolist()


def test_writing_keeps_companions_but_neither_weights_nor_provenance(tmp_path):
    source = save(tmp_path / "source", random_model(0), shards=3)
    for name in ("tokenizer.json", "vocab.txt", "provenance.json", "asset.json", ".hidden.json", "pytorch_model.bin"):
        (source / name).write_text("{}")
    write_checkpoint(tmp_path / "out", {"w": np.ones(2, ml_dtypes.bfloat16)}, {"new": 1}, source)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", SINGLE, "tokenizer.json", "vocab.txt"]
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"new": 1}


BROKEN = {
    "an empty file": (b"", "is truncated or no safetensors"),
    "a cut length": (b"\0\0\0", "is truncated or no safetensors"),
    "a length behind the end": ((b"{}", b"", 99), "the header has 99 bytes, the file 10"),
    "a huge length": ((b"{}", b"", 2**63), "is truncated or no safetensors"),
    "no JSON": ((b"{nonsense",), "is not a safetensors header"),
    "no UTF-8": ((b'{"\xff": 1}',), "is not a safetensors header"),
    "no object": ((b"[1, 2]",), "is not a safetensors header"),
    "endless nesting": ((b"[" * 100_000,), "is not a safetensors header"),
    "an entry without type": (({"w": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "is not a safetensors header"),
    "an unknown type": (({"w": entry(dtype="F4")}, bytes(8)), "'w' has the type F4; known are F64"),
    "a type that is no word": (({"w": entry(dtype=["F32"])}, bytes(8)), r"has the type \['F32'\]"),
    "three offsets": (({"w": {**entry(), "data_offsets": [0, 4, 8]}}, bytes(8)), "is not a safetensors header"),
    "offsets that are floats": (({"w": entry(0, 8.0)}, bytes(8)), "should be whole numbers"),
    "offsets that are words": (({"w": entry("0", "8")}, bytes(8)), "should be whole numbers"),
    "a negative offset": (({"w": entry(-8, 0)}, bytes(8)), "should be whole numbers"),
    "a negative shape": (({"w": entry(shape=(-1, -2))}, bytes(8)), "should be whole numbers"),
    "a shape that lies": (({"w": entry(shape=(3,))}, bytes(8)), r"'w' claims bytes 0 to 8 for F32 \[3\]; expected 0 to 12"),
    "offsets behind the end": (({"w": entry(0, 16, shape=(4,))}, bytes(8)), "inside 8; the file is damaged"),
    "offsets the wrong way round": (({"w": entry(8, 0)}, bytes(8)), "'w' claims bytes 8 to 0"),
    "a hole": (({"w": entry(4, 12)}, bytes(12)), "'w' claims bytes 4 to 12"),
    "an overlap": (({"v": entry(), "w": entry(4, 12)}, bytes(12)), "'w' claims bytes 4 to 12 .* expected 8 to 16"),
    "data behind the last tensor": (({"w": entry()}, bytes(11)), "3 bytes after the last tensor"),
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_header_is_named(content, tmp_path):
    parts, message = BROKEN[content]
    file = tmp_path / SINGLE
    file.write_bytes(parts) if isinstance(parts, bytes) else written(file, *parts)
    with pytest.raises(UserError, match=message) as error:
        Checkpoint(tmp_path)
    assert str(file) in str(error.value)


def test_a_file_that_shrinks_after_opening_is_named(tmp_path):
    checkpoint = Checkpoint(save(tmp_path / "model", {"w": np.ones(4, np.float32)}))
    with open(tmp_path / "model" / SINGLE, "r+b") as file:
        file.truncate(file.seek(0, 2) - 2)
    with pytest.raises(
        UserError, match=r"model.safetensors: was changed while it was used \(its size was 112 bytes and is 110\)"
    ):
        checkpoint.read("w")


INDICES = {
    "no JSON": ("{", "not valid JSON"),
    "no UTF-8": (b"\xff", "not valid JSON"),
    "no object": ("[]", "no index of shards"),
    "no map": ('{"weight_map": ["w"]}', "no index of shards"),
    "a number for a file": ('{"weight_map": {"w": 1}}', "no index of shards"),
    "a missing shard": ('{"weight_map": {"w": "absent.safetensors"}}', "names the shard 'absent.safetensors'"),
    "a shard outside": ('{"weight_map": {"w": "../outside.safetensors"}}', r"names the shard '\.\./outside.safetensors'"),
    "an absolute shard": ('{"weight_map": {"w": "/outside.safetensors"}}', "names the shard '/outside.safetensors'"),
    "a tensor twice": ('{"weight_map": {"w": "1.safetensors", "v": "2.safetensors"}}', "tensor 'w' is also in 1.safetensors"),
}


@pytest.mark.parametrize("index", [INDEX, PICKLE_INDEX])
@pytest.mark.parametrize("content", INDICES)
def test_a_broken_index_is_named(content, index, tmp_path):
    text, message = INDICES[content]
    folder = tmp_path / "model"
    folder.mkdir()
    write_tensors(tmp_path / "outside.safetensors", {"w": np.ones(2)})
    write_tensors(folder / "1.safetensors", {"w": np.ones(2)})
    write_tensors(folder / "2.safetensors", {"v": np.ones(2), "w": np.ones(2)})
    (folder / index).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as error:
        Checkpoint(folder)
    assert str(folder) in str(error.value)


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in this folder; expected model.safetensors or .*index.json"):
        Checkpoint(tmp_path)


def test_four_thousand_mutations_raise_nothing_but_user_errors(tmp_path):
    """Flip, double and drop bytes, and put odd values into the header: the file is read whole or refused with a UserError.

    The peak memory of Python and NumPy stays below the cost of parsing a header of that size, though headers claim up to
    2^70 bytes.
    """
    rng, opened = random.Random(0), 0
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.zeros((), np.int64), "c": np.ones(0, np.float16)}
    write_tensors(tmp_path / SINGLE, tensors)
    good = (tmp_path / SINGLE).read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    tracemalloc.start()
    for case in range(4000):
        (tmp_path / SINGLE).unlink()  # ext4 flushes a file that is truncated and written again
        written(tmp_path / SINGLE, *odd(rng, good[8 : 8 + length]), good[8 + length :]) if case % 2 else (
            (tmp_path / SINGLE).write_bytes(bitten(rng, good))
        )
        whole, peak = read_with_peak(tmp_path)
        if peak >= 256 * len(good):  # other threads of the process allocate, too: only what repeats is of the reader
            whole, peak = read_with_peak(tmp_path)
        assert peak < 256 * len(good), (case, peak)
        opened += whole
    tracemalloc.stop()
    assert 0 < opened < 2000, "some mutations are harmless, most are not"


def read_with_peak(folder):
    """Whether the checkpoint is read whole (else it is refused by a UserError), and the peak of the memory for it, in bytes."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        whole = tensors_of(folder) is not None
    except UserError as error:
        whole = False
        assert SINGLE in str(error)
    return whole, tracemalloc.get_traced_memory()[1] - before


def bitten(rng, good):
    data = bytearray(good)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        what = rng.randrange(4)
        if what == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at:at] = data[at : at + rng.randint(1, 8)]
        elif what == 2:
            del data[at : at + rng.randint(1, 8)]
        else:
            data[at] = rng.randrange(256)
    return bytes(data)


def odd(rng, text):
    header = json.loads(text)
    name = rng.choice(["a", "b", "c", "__metadata__"])
    if rng.random() < 0.2 or name == "__metadata__":
        header[name] = rng.choice(ODD)
    else:
        key = rng.choice(["dtype", "shape", "data_offsets"])
        inside = key != "dtype" and header[name][key] and rng.random() < 0.5
        if inside:
            header[name][key][rng.randrange(len(header[name][key]))] = rng.choice(ODD)
        else:
            header[name][key] = rng.choice(ODD)
    return (header,)
