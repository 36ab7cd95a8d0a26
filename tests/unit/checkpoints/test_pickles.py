"""A `.bin` of PyTorch gives the numbers that were saved, without running what it holds; a broken one is a UserError."""

import argparse
import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from layout_models import CONFIG, DOWN, EMBEDDING, HEAD, LLAMA, QUERY, draw, torch_tensor, values, write, write_pickle
from models import merged, same_bytes, tensors_of

from nan_merge.checkpoints import pickles
from nan_merge.checkpoints.checkpoint import PICKLE, PICKLE_INDEX, Checkpoint
from nan_merge.checkpoints.safetensors_file import DTYPES
from nan_merge.core.errors import UserError

YOUNG = {"U16", "U32", "U64", "F8_E4M3", "F8_E5M2"}  # types that PyTorch before 1.6 did not have
SUM = {"coefficients": {"constant": {"value": 0.3}}}


class Code:
    """What unpickles by running a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def saved(file, content, **how):
    torch.save(content, file, **how)
    return file


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "before 1.6"])
def test_every_type_and_shape_is_read_as_it_was_saved(how, tmp_path):
    types = {name: dtype for name, dtype in DTYPES.items() if not how or name not in YOUNG}
    tensors = {dtype.name: np.arange(-6, 18).reshape(2, 3, 4).astype(dtype) for dtype in types.values()}
    tensors |= {"scalar": np.array(3.5), "empty": np.ones((0, 4), np.float32)}
    checkpoint = Checkpoint(write_pickle(tmp_path / "model", tensors, **how))
    assert checkpoint.names == list(tensors)
    assert same_bytes({name: values(checkpoint, name) for name in tensors}, tensors)
    assert {entry.in_memory for entry in checkpoint.entries.values()} == {bool(how)}


def test_a_tensor_that_is_mapped_takes_no_memory(tmp_path):
    folder = write_pickle(tmp_path / "model", {"w": np.ones(1 << 24, np.float32)})  # 64 MiB

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    before = anonymous()
    tensor = Checkpoint(folder).entries["w"]
    buffer = np.empty(1 << 18, np.uint8)
    assert sum(float(tensor.block(start, start + (1 << 16), buffer).sum()) for start in range(0, 1 << 24, 1 << 16)) == 1 << 24
    assert anonymous() - before < 1 << 23


def test_transposed_expanded_and_trained_tensors_are_read_in_their_own_order(tmp_path):
    w = torch.arange(12.0).reshape(3, 4)
    odd = {"t": w.t(), "part": w[:, 1:3], "wide": w[:1].expand(5, 4), "half": w.bfloat16().t(), "p": torch.nn.Parameter(w)}
    checkpoint = Checkpoint(write_pickle(tmp_path / "model", odd))
    for name, tensor in odd.items():
        assert values(checkpoint, name).astype(float).tolist() == tensor.tolist(), name


def test_one_memory_under_two_names_is_recognised(tmp_path):
    w = torch.ones(3, 4)
    state = {"a": w, "b": w, "copy": w.clone(), "t": w.t(), "half": w[:2]}
    entries = Checkpoint(write_pickle(tmp_path / "model", state)).entries
    assert {name for name in entries if pickles.storage_key(entries[name]) == pickles.storage_key(entries["a"])} == {"a", "b"}
    assert pickles.storage_key(Checkpoint(write(tmp_path / "plain", draw(0))).entries[HEAD]) is None


def test_what_training_programs_wrap_is_unwrapped(tmp_path):
    w = {"w": torch.ones(2)}
    checkpoint = Checkpoint(write_pickle(tmp_path / "model", {"state_dict": w, "epoch": 3, "best": torch.zeros(1)}))
    assert checkpoint.names == ["w"]


def test_a_merge_of_pickles_is_the_merge_of_the_same_safetensors(tmp_path):
    tensors = {name: draw(seed) for seed, name in enumerate(("base", "a", "b"))}
    plain = {name: write(tmp_path / "plain" / name, model) for name, model in tensors.items()}
    folders = {name: sharded(tmp_path / name, model) for name, model in tensors.items()}
    found = merged(tmp_path / "out", SUM, folders.pop("base"), folders)
    expected = merged(tmp_path / "expected", SUM, plain.pop("base"), plain)
    assert same_bytes(dict(sorted(found.items())), dict(sorted(expected.items())))
    files = ["config.json", *(f"model-{i}-of-2.safetensors" for i in (0, 1)), "model.safetensors.index.json"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == files


def sharded(folder, tensors):
    """Write a model as two `.bin` with their index."""
    folder.mkdir()
    places = {name: f"pytorch_model-{i % 2}-of-2.bin" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        saved(folder / file, {name: torch_tensor(tensors[name]) for name in tensors if places[name] == file})
    (folder / PICKLE_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_and_not_run(zipped, tmp_path):
    state = {"w": torch.ones(2), "x": Code(tmp_path / "ran")}
    folder = write_pickle(tmp_path / "model", state, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"pytorch_model.bin: holds code \(posix.system\), which was not run; .*safetensors"):
        Checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_arguments_of_a_training_program_are_code_too(tmp_path):
    with pytest.raises(UserError, match=r"holds code \(argparse.Namespace\), which was not run"):
        pickles.pickled_tensors(saved(tmp_path / PICKLE, {"w": torch.ones(2), "args": argparse.Namespace(lr=0.1)}))


CONTENTS = {
    "a list": ([torch.ones(2)], "holds an object of type list; expected tensors by name"),
    "a tensor": (torch.ones(2), "holds an object of type Tensor; expected tensors by name"),
    "a number among tensors": ({"w": torch.ones(2), "epoch": 3}, "'epoch' is an object of type int; expected only tensors"),
    "a nested model": ({"model": {"w": torch.ones(2)}}, "'model' is an object of type dict; .* save only the model's state_dict"),
    "a name that is none": ({1: torch.ones(2)}, "1 is an object of type Tensor; expected only tensors by name"),
    "complex numbers": ({"w": torch.ones(2, dtype=torch.complex64)}, r"'w' is torch.complex64 .*; expected a dense tensor"),
    "sparse numbers": ({"w": torch.eye(2).to_sparse()}, r"'w' is torch.float32 \(torch.sparse_coo, cpu\); expected a dense"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_model_is_named(content, tmp_path):
    state, message = CONTENTS[content]
    with pytest.raises(UserError, match=message) as error:
        pickles.pickled_tensors(saved(tmp_path / PICKLE, state))
    assert PICKLE in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_named(zipped, share, tmp_path):
    file = saved(tmp_path / PICKLE, {"w": torch.ones(1000)}, _use_new_zipfile_serialization=zipped)
    with open(file, "r+b") as stream:
        stream.truncate(int(share * file.stat().st_size))
    with pytest.raises(UserError, match=r"pytorch_model.bin: cannot be read \(.*\); it is truncated, .*; fetch it"):
        pickles.pickled_tensors(file)


def test_a_pickle_that_is_not_of_pytorch_is_named(tmp_path):
    (tmp_path / PICKLE).write_bytes(pickle.dumps({"w": [1.0]}))
    with pytest.raises(UserError, match=r"cannot be read \(.*\); it is truncated, damaged or no weight file"):
        pickles.pickled_tensors(tmp_path / PICKLE)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("zipped", [True, False])
def test_three_hundred_mutations_raise_nothing_but_user_errors(zipped, tmp_path):
    rng, opened = random.Random(0), 0
    good = saved(
        tmp_path / "good", {"a": torch.ones(2, 3), "b": torch.zeros(2)}, _use_new_zipfile_serialization=zipped
    ).read_bytes()
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.choice([0, 1, 4])] = rng.randbytes(rng.choice([0, 1, 4]))
        (tmp_path / PICKLE).write_bytes(data)
        try:
            tensors_of(tmp_path)
            opened += 1
        except UserError as error:
            assert PICKLE in str(error)
    assert opened < 300, "some mutations break the file"


def test_a_pickle_is_read_only_where_there_are_no_safetensors(tmp_path):
    folder = write(tmp_path / "model", draw(0))
    saved(folder / PICKLE, {"other": Code(tmp_path / "ran")})
    assert Checkpoint(folder).names == list(LLAMA)
    assert {EMBEDDING, QUERY, DOWN} < set(LLAMA)
