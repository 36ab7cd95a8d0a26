"""What the safetensors library refuses, we refuse; odd shapes and odd indices are read or refused with right advice."""

import json
import random
import struct
import time

import numpy as np
import pytest
import torch
from models import family, moved, random_model, same_bytes, save, tensors_of

import nan_merge
from nan_merge.checkpoints.checkpoint import INDEX, SINGLE, Checkpoint, write_tensors
from nan_merge.checkpoints.safetensors_file import read_header
from nan_merge.core.errors import UserError

GOOD = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
TEXTS = {  # a header, not always JSON: whether the library accepts it is asked of the library
    "plain": f'{{"w":{GOOD}}}',
    "spaces at the end": f'{{"w":{GOOD}}}   ',
    "spaces before": f'  {{"w":{GOOD}}}',
    "a newline inside": f'{{\n"w":{GOOD}}}',
    "no tensors": "{}",
    "a name twice": f'{{"w":{GOOD},"w":{GOOD}}}',
    "a key twice": '{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "a key that nobody knows": f'{{"w":{GOOD[:-1]},"more":[1,{{}}]}}}}',
    "metadata": f'{{"__metadata__":{{"format":"pt"}},"w":{GOOD}}}',
    "no metadata": f'{{"__metadata__":null,"w":{GOOD}}}',
    "a number as metadata": f'{{"__metadata__":{{"step":1}},"w":{GOOD}}}',
    "a list as metadata": f'{{"__metadata__":[],"w":{GOOD}}}',
    "null in metadata": f'{{"__metadata__":{{"step":null}},"w":{GOOD}}}',
    "metadata in metadata": f'{{"__metadata__":{{"a":{{}}}},"w":{GOOD}}}',
    "NaN": f'{{"w":{GOOD[:-1]},"more":NaN}}}}',
    "Infinity": f'{{"w":{GOOD[:-1]},"more":-Infinity}}}}',
    "minus zero": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}',
    "a float": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}}',
    "an exponent": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8e0]}}',
    "true for one": '{"w":{"dtype":"F32","shape":[2,true],"data_offsets":[0,8]}}',
    "a leading zero": '{"w":{"dtype":"F32","shape":[02],"data_offsets":[0,8]}}',
    "half a surrogate": f'{{"\\ud83d":{GOOD}}}',
    "a whole surrogate": f'{{"\\ud83d\\ude00":{GOOD}}}',
    "half a surrogate in metadata": f'{{"__metadata__":{{"a":"\\udfff"}},"w":{GOOD}}}',
    "a control character": f'{{"w\x01":{GOOD}}}',
    "an empty name": f'{{"":{GOOD}}}',
    "a byte order mark": f'\ufeff{{"w":{GOOD}}}',
    "UTF-16": f'{{"w":{GOOD}}}'.encode("utf-16"),
    "UTF-32": f'{{"w":{GOOD}}}'.encode("utf-32-le"),
    "Latin-1": f'{{"\xe4":{GOOD}}}'.encode("latin-1"),
    "a zero byte at the end": f'{{"w":{GOOD}}}\0',
    "text behind": f'{{"w":{GOOD}}}x',
    "a list": "[]",
    "shape as a word": '{"w":{"dtype":"F32","shape":"2","data_offsets":[0,8]}}',
    "shape as a mapping": '{"w":{"dtype":"F32","shape":{"2":1},"data_offsets":[0,8]}}',
    "shape null": '{"w":{"dtype":"F32","shape":null,"data_offsets":[0,8]}}',
    "offsets as a mapping": '{"w":{"dtype":"F32","shape":[2],"data_offsets":{"0":0,"8":8}}}',
    "a tensor as a list": '{"w":["F32",[2],[0,8]]}',
    "dtype null": '{"w":{"dtype":null,"shape":[2],"data_offsets":[0,8]}}',
    "dtype in lower case": '{"w":{"dtype":"f32","shape":[2],"data_offsets":[0,8]}}',
    "2^64 in a shape": '{"w":{"dtype":"F32","shape":[0,18446744073709551616],"data_offsets":[0,0]}}',
    "2^62 squared and no elements": f'{{"w":{{"dtype":"F32","shape":[{2**62},{2**62},0],"data_offsets":[0,0]}}}}',
    "no elements and 2^62 squared": f'{{"w":{{"dtype":"F32","shape":[0,{2**62},{2**62}],"data_offsets":[0,0]}}}}',
    "no elements": '{"w":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}}',
    "nested": f'{{"w":{GOOD[:-1]},"more":{"[" * 200}{"]" * 200}}}}}',
    "a hole between": f'{{"v":{GOOD},"w":{GOOD.replace("[0,8]", "[9,17]")}}}',
}


def accepted(file):
    """Return whether the safetensors library opens a file."""
    library = pytest.importorskip("safetensors")
    try:
        with library.safe_open(file, framework="numpy"):
            return True
    except Exception:
        return False


def written(file, text):
    """Write a file from the text of a header, with as many bytes of data as its last tensor claims."""
    raw = text if isinstance(text, bytes) else text.encode()
    size = 8 if b"[0,8]" in raw or b"0,8" in raw or b'"8":8' in raw or b"-0,8" in raw else 0
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(17 if b"[9,17]" in raw else size))
    return file


def read(file):
    """Return what we read of a file, None for a refusal."""
    try:
        return read_header(file)
    except UserError as error:
        assert str(file) in str(error)
        return None


@pytest.mark.parametrize("header", TEXTS)
def test_what_the_library_refuses_is_refused(header, tmp_path):
    file = written(tmp_path / SINGLE, TEXTS[header])
    assert accepted(file) or read(file) is None


@pytest.mark.parametrize("header", ["plain", "spaces at the end", "no tensors", "metadata", "no elements", "a whole surrogate"])
def test_what_the_library_takes_in_daily_use_is_taken(header, tmp_path):
    file = written(tmp_path / SINGLE, TEXTS[header])
    assert accepted(file) and read(file) is not None


def test_ten_thousand_changed_headers_are_never_taken_where_the_library_refuses(tmp_path):
    """Replace, insert and delete pieces of headers; the library decides."""
    rng, file, taken = random.Random(1), tmp_path / SINGLE, 0
    pieces = ["-0", "1e0", "NaN", "null", "true", "[]", "{}", '"', ",", ":", "\\u0000", "\\ud800", "\\", "18446744073709551615",
              "9223372036854775808", "0", "8", " ", "\n", "\x7f", "\x01", '"__metadata__":{},', '"w":', "F32", "[0,8]",
              "I8", "{", "}", "]"]  # fmt: skip
    for _ in range(10_000):
        text = TEXTS[rng.choice(["plain", "metadata", "a key that nobody knows", "no elements"])]
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice([*pieces, ""]) + text[at + rng.choice([0, 0, 1, 2]) :]
        if file.exists():
            file.unlink()
        written(file, text)
        found = read(file)
        taken += found is not None
        assert found is None or accepted(file), text
    assert taken > 100, "some changes are harmless"


# ---- shapes -----------------------------------------------------------------------------------------------------------


def model(folder, shape, count=0):
    """Write a model with a tensor of any shape beside a plain one."""
    rng = np.random.default_rng(len(str(folder)))
    data = rng.standard_normal(2 + count).astype(np.float32).tobytes()
    entries = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    entries["x"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [8, 8 + 4 * count]}
    text = json.dumps(entries).encode()
    folder.mkdir()
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


SHAPES = {
    "no elements": ((0, 5), 0, None),
    "no elements, large": ((0, 2**40), 0, None),
    "no elements, absurd": ((0, 2**62), 0, "larger than any memory"),
    "no elements, absurd twice": ((2**62, 2**62, 0), 0, "larger than any memory"),
    "63 dimensions": ((1,) * 63, 1, None),
    "64 dimensions": ((1,) * 64, 1, "has 64 dimensions; expected at most 63"),
    "65 dimensions": ((1,) * 65, 1, "has 65 dimensions; expected at most 63"),
    "64 dimensions without elements": ((0,) * 64, 0, "has 64 dimensions"),
}


@pytest.mark.parametrize("method", ["task_arithmetic", "ties+nan_delta", "tsv_m"])
@pytest.mark.parametrize("shape", SHAPES)
def test_odd_shapes_are_merged_or_refused_with_their_file(shape, method, tmp_path):
    dimensions, count, message = SHAPES[shape]
    base, *experts = (model(tmp_path / name, dimensions, count) for name in ("base", "expert", "experts"))

    def merge():
        return nan_merge.merge(base=base, experts=experts, method=method, output=tmp_path / "out", quiet=True)

    if message:
        with pytest.raises(UserError, match=rf"base/model.safetensors: tensor 'x' .*{message}"):
            merge()
    else:
        merge()
        assert tensors_of(tmp_path / "out")["x"].shape == dimensions


# ---- indices ----------------------------------------------------------------------------------------------------------


def promising(folder, **more):
    """Add names to the index of a sharded model that no shard has."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= dict.fromkeys(more or {"mtp.fc.weight": 0}, next(iter(index["weight_map"].values())))
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def sharded(folder):
    base = random_model(0)
    save(folder / "base", base, shards=2)
    for seed, name in enumerate("ab", 1):
        save(folder / name, moved(base, seed), shards=2)


def merge(folder, **more):
    given = {"base": folder / "base", "experts": {name: folder / name for name in "ab"}, "method": "task_arithmetic"}
    return nan_merge.merge(**given, output=folder / "out", quiet=True, **more)


@pytest.mark.parametrize("who", ["base", "a"])
def test_an_index_that_promises_too_much_is_merged_with_a_note(who, tmp_path):
    """A multi-token-prediction head that was removed: such a model loads in transformers."""
    sharded(tmp_path)
    merge(tmp_path)
    expected = tensors_of(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "first")
    promising(tmp_path / who)
    found = merge(tmp_path)
    assert same_bytes(tensors_of(tmp_path / "out"), expected)
    (note,) = found.notes
    assert "its index names 1 tensor that no weight file of it has: " in note and "mtp.fc.weight" in note
    promised = json.loads((tmp_path / "out" / INDEX).read_text())["weight_map"]
    assert promised.keys() == expected.keys(), "ours promises no more than it has"


def test_a_tensor_in_another_shard_than_the_index_says_is_found(tmp_path):
    sharded(tmp_path)
    index = json.loads((tmp_path / "a" / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"] = {name: files[file == files[0]] for name, file in index["weight_map"].items()}
    (tmp_path / "a" / INDEX).write_text(json.dumps(index))
    assert merge(tmp_path).notes == ()


def test_a_base_that_lacks_what_the_experts_have_is_refused(tmp_path):
    base = random_model(0)
    lacking = {name: tensor for name, tensor in base.items() if name != "logit_scale"}
    promising(save(tmp_path / "base", lacking, shards=2), **{"logit_scale": 0})
    for seed, name in enumerate("ab", 1):
        save(tmp_path / name, moved(base, seed))
    with pytest.raises(
        UserError, match=r"base: its index names 1 tensor that no weight file of it has, but the experts do: .*logit"
    ):
        merge(tmp_path)


def test_an_expert_that_lacks_what_its_index_names_is_missing_a_tensor(tmp_path):
    base = random_model(0)
    save(tmp_path / "base", base)
    lacking = {name: tensor for name, tensor in moved(base, 1).items() if name != "logit_scale"}
    promising(save(tmp_path / "a", lacking, shards=2), **{"logit_scale": 0})
    save(tmp_path / "b", moved(base, 2))
    with pytest.raises(UserError, match="expert 'a' has no tensor 'logit_scale'") as error:
        merge(tmp_path)
    assert "fetch" not in str(error.value)


def test_an_index_of_both_kinds_of_files_is_one_model(tmp_path):
    """A .bin and a .safetensors that get one name in the output."""
    torch = pytest.importorskip("torch")
    base, experts = family(tmp_path, experts=2)
    tensors = tensors_of(base)
    names = list(tensors)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    files = {"pytorch_model-1.bin": names[:4], "model-1.safetensors": names[4:]}
    torch.save({name: torch.from_numpy(tensors[name]) for name in names[:4]}, mixed / "pytorch_model-1.bin")
    write_tensors(mixed / "model-1.safetensors", {name: tensors[name] for name in names[4:]})
    (mixed / INDEX).write_text(json.dumps({"weight_map": {name: file for file, those in files.items() for name in those}}))
    assert same_bytes(tensors_of(mixed), tensors)
    for origin in (base, mixed):
        nan_merge.merge(base=origin, experts=experts, method="ties", output=tmp_path / f"of {origin.name}", quiet=True)
    found, expected = tensors_of(tmp_path / "of mixed"), tensors_of(tmp_path / "of base")
    assert same_bytes(dict(sorted(found.items())), dict(sorted(expected.items())))


@pytest.mark.parametrize("there", [(), ("0123abc",)])
def test_a_folder_of_the_hubs_cache_is_explained(there, tmp_path):
    folder = tmp_path / "models--owner--name"
    for revision in there:
        (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "blobs").mkdir(parents=True)
    with pytest.raises(UserError, match="cache of a hub's model") as error:
        Checkpoint(folder)
    advice = "snapshots/0123abc in it" if there else "of which there is none yet"
    assert advice in str(error.value) and "the id owner/name" in str(error.value)


# ---- files that shrink ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("opened", [False, True])
def test_a_pickle_that_shrinks_after_opening_ends_with_a_message(opened, transposed, tmp_path):
    """A page of a mapping that the file has lost would end the process by SIGBUS."""
    torch = pytest.importorskip("torch")
    values = torch.arange(1_000_000, dtype=torch.float32).reshape(1000, 1000)
    torch.save({"w": values.T if transposed else values}, tmp_path / "pytorch_model.bin")
    checkpoint = Checkpoint(tmp_path)
    expected = (values.T if transposed else values).contiguous().numpy()
    if opened:
        assert np.array_equal(checkpoint.read("w"), expected)
    with open(tmp_path / "pytorch_model.bin", "r+b") as file:
        file.truncate(100_000)
    with pytest.raises(UserError, match=r"pytorch_model.bin: (ends inside tensor 'w'|was changed while it was used \(its size)"):
        checkpoint.read("w")


def test_strided_and_shared_tensors_of_a_pickle_are_read_as_torch_reads_them(tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "whole": whole,
        "rows": whole[1:3],
        "columns": whole[:, 1:4],
        "turned": whole.T,
        "one": whole[2, 3],
        "none": whole[:0],
    }
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    found = tensors_of(tmp_path)
    for name, tensor in tensors.items():
        assert np.array_equal(found[name], tensor.numpy()) and found[name].shape == tuple(tensor.shape)


def test_a_name_that_is_there_twice_among_many_is_found_at_once(tmp_path):
    names = [f'"w{number}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in [*range(50_000), 49_999]]
    started = time.process_time()
    with pytest.raises(UserError, match="'w49999' is there twice"):
        read_header(written(tmp_path / "x.safetensors", f"{{{','.join(names)}}}"))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("kind", [SINGLE, "pytorch_model.bin"])
def test_a_name_longer_than_any_is_refused_before_it_is_searched(kind, tmp_path):
    name = "layers." + "a.lora_A.lora_" * 200_000
    folder = tmp_path / "m"
    folder.mkdir()
    if kind == SINGLE:
        write_tensors(folder / kind, {name: np.ones(1, np.float32)})
    else:
        torch.save({name: torch.ones(1)}, folder / kind)
    with pytest.raises(
        UserError, match=rf"{kind}: the name of a tensor has 2,800,007 characters, 'layers\.a.*'; expected at most"
    ):
        Checkpoint(folder)
