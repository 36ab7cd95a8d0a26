"""A `.bin` of PyTorch gives the numbers that were saved, without running what it holds; a broken one is a UserError."""

import argparse
import json
import os
import pickle

import numpy as np
import pytest
import torch
from layout_models import CONFIG, DOWN, EMBEDDING, HEAD, LLAMA, QUERY, draw, torch_tensor, values, write, write_pickle
from models import merged, same_bytes

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


def test_one_memory_under_two_names_is_recognised(tmp_path):
    w = torch.ones(3, 4)
    state = {"a": w, "b": w, "copy": w.clone(), "t": w.t(), "half": w[:2]}
    entries = Checkpoint(write_pickle(tmp_path / "model", state)).entries
    assert {name for name in entries if pickles.storage_key(entries[name]) == pickles.storage_key(entries["a"])} == {"a", "b"}
    assert pickles.storage_key(Checkpoint(write(tmp_path / "plain", draw(0))).entries[HEAD]) is None


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
    with pytest.raises(UserError, match=r"pytorch_model.bin: 'x' is an object of type system, whose code was not run; expected"):
        Checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_arguments_of_a_training_program_are_code_too(tmp_path):
    with pytest.raises(UserError, match=r"'args' is an object of type Namespace, whose code was not run"):
        pickles.pickled_tensors(saved(tmp_path / PICKLE, {"w": torch.ones(2), "args": argparse.Namespace(lr=0.1)}))


CONTENTS = {
    "a list": ([torch.ones(2)], "an object of type list where a module is expected"),
    "a tensor": (torch.ones(2), "an object of type StridedTensor where a module is expected"),
    "a number among tensors": ({"w": torch.ones(2), "epoch": 3}, "'epoch' is an object of type int; expected only tensors"),
    "a nested model": ({"model": {"w": torch.ones(2)}}, "'model' is an object of type dict; .* save only the model's state_dict"),
    "a name that is none": ({1: torch.ones(2)}, "1 is an object of type StridedTensor; expected only tensors by name"),
    "complex numbers": ({"w": torch.ones(2, dtype=torch.complex64)}, r"cannot be read \(a storage of an unknown kind\)"),
    "sparse numbers": ({"w": torch.eye(2).to_sparse()}, "'w' is an object of type _rebuild_sparse_tensor"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_model_is_named(content, tmp_path):
    state, message = CONTENTS[content]
    with pytest.raises(UserError, match=message) as error:
        pickles.pickled_tensors(saved(tmp_path / PICKLE, state))
    assert PICKLE in str(error.value)


def test_a_pickle_that_is_not_of_pytorch_is_named(tmp_path):
    (tmp_path / PICKLE).write_bytes(pickle.dumps({"w": [1.0]}))
    with pytest.raises(UserError, match="'w' is an object of type list; expected only tensors"):
        pickles.pickled_tensors(tmp_path / PICKLE)


def test_a_pickle_is_read_only_where_there_are_no_safetensors(tmp_path):
    folder = write(tmp_path / "model", draw(0))
    saved(folder / PICKLE, {"other": Code(tmp_path / "ran")})
    assert Checkpoint(folder).names == list(LLAMA)
    assert {EMBEDDING, QUERY, DOWN} < set(LLAMA)
