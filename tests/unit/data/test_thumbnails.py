"""Images of a page are those of the data set, small, and few enough."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from models import ROOT
from PIL import Image

from nan_merge.core.files import read_json
from nan_merge.data.dataset import write_dataset
from nan_merge.data.thumbnails import MOST, SIDE, thumbnails


def flat(colours, side=48):
    """Images of one colour each: (N, side, side, 3)."""
    return np.repeat(np.repeat(np.array(colours, np.uint8)[:, None, None, :], side, 1), side, 2)


def pixels(address):
    kind, _, content = address.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))


@pytest.mark.parametrize(("side", "expected"), [(8, 8), (48, 48), (224, SIDE)])
def test_an_image_keeps_its_colours_and_is_never_enlarged(side, expected):
    colours = [(200, 30, 30), (20, 180, 60), (10, 20, 30)]
    for colour, address in zip(colours, thumbnails(flat(colours, side)), strict=True):
        assert pixels(address).shape == (expected, expected, 3)
        assert np.abs(pixels(address).mean(axis=(0, 1)) - colour).max() < 8 and len(address) < 2500


@pytest.mark.parametrize("count", [0, 1, MOST, MOST + 1, 5 * MOST])
def test_of_many_images_evenly_spaced_ones_are_kept(count):
    found = thumbnails(np.zeros((count, 4, 4, 3), np.uint8))
    kept = [index for index, address in enumerate(found) if address is not None]
    assert len(found) == count and len(kept) == min(count, MOST)
    assert np.ptp(np.diff(kept)) <= 1 if len(kept) > 1 else True
    assert kept[:1] == [0][:count] and kept[-1:] == [count - 1][:count]


def test_the_images_of_a_prepared_data_set_are_written(tmp_path):
    colours = [(255, 0, 0), (0, 0, 255)]
    splits = {"test": (flat(colours), np.array([0, 1]))}
    write_dataset(tmp_path / "fashion", {"classes": ["red", "blue"]}, splits)
    command = [sys.executable, "-m", "scripts.decode_examples", "--suite", "vision", "--datasets", tmp_path / "fashion"]
    subprocess.run(
        [*command, "--output", tmp_path / "vision.json"], cwd=ROOT, check=True, env={"PYTHONPATH": str(ROOT / "workflow")}
    )
    record = read_json(tmp_path / "vision.json")
    assert record == {"suite": "vision", "images": {"fashion": thumbnails(splits["test"][0])}}
