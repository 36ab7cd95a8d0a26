"""A changed weight is told by the digest of its tensor, and of no other."""

import hashlib

import numpy as np
import pytest
from models import BFLOAT16, FLOAT32, random_model, save

from nan_merge.checkpoints.checkpoint import Checkpoint, write_tensors
from nan_merge.checkpoints.digests import digests


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_one_changed_number_changes_the_digests_of_the_file_and_of_its_tensor(dtype, tmp_path):
    tensors = random_model(0, dtype)
    tensors["large"] = np.ones(1 << 20, dtype)  # more than is read at once
    write_tensors(tmp_path / "one.safetensors", tensors)
    whole, found = digests(tmp_path / "one.safetensors")
    assert whole == hashlib.sha256((tmp_path / "one.safetensors").read_bytes()).hexdigest()
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        if values.size:
            changed = values.copy()
            changed.flat[-1] = changed.flat[-1] == 0
            write_tensors(tmp_path / "other.safetensors", {**tensors, name: changed})
            other, now = digests(tmp_path / "other.safetensors")
            assert other != whole and {each for each in found if found[each] != now[each]} == {name}


def test_another_type_or_shape_of_the_same_bytes_is_another_tensor(tmp_path):
    tensors = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((3, 2), np.float32), "c": np.zeros((2, 3), np.int32)}
    write_tensors(tmp_path / "model.safetensors", tensors)
    assert len({*digests(tmp_path / "model.safetensors")[1].values()}) == 3


def test_the_digest_of_a_tensor_depends_on_no_shard(tmp_path):
    folders = [save(tmp_path / str(shards), random_model(1), shards) for shards in (1, 3)]
    one, three = ({k: v for file in Checkpoint(f).shards for k, v in digests(f / file)[1].items()} for f in folders)
    assert one == three


def test_a_file_without_tensors_has_a_digest(tmp_path):
    write_tensors(tmp_path / "none.safetensors", {})
    assert digests(tmp_path / "none.safetensors") == (
        hashlib.sha256((tmp_path / "none.safetensors").read_bytes()).hexdigest(),
        {},
    )
