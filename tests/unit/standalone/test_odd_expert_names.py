"""Names of experts that are made from folders are names that the command reads back."""

import pytest

from nan_merge.standalone.sources import named, short_names

ODD = ["mein modell", "größe-7b", "ckpt-lr=2e-5", "_tmp", "llama+math", "a{b}", "$(x)", "ölfilm", "  ", "2024-01-01", "a;b&c"]


@pytest.mark.parametrize("folder", ODD)
def test_a_made_name_is_read_back(folder):
    (name,) = short_names([f"/models/{folder}"])
    assert named([f"{name}=/models/{folder}"]) == {name: f"/models/{folder}"}
