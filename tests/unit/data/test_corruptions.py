"""Pictures are corrupted as in CIFAR-10-C and ImageNet-C, the same in every run."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from nan_merge.data.corruptions import KINDS, corrupt_pictures
from nan_merge.data.dataset import Dataset
from scripts import prepare_dataset

SIDES = {"small": 48, "large": 96}


@pytest.fixture(params=SIDES)
def pictures(request):
    """Smooth pictures with an edge, (6, side, side, 3) uint8."""
    side = SIDES[request.param]
    y, x = np.mgrid[:side, :side] / side
    waves = [np.stack([x * 90 + 60, (1 - y) * 120 + 40, (x > 0.3 + 0.05 * i) * 140 + 50], axis=-1) for i in range(6)]
    return np.array(waves).astype(np.uint8)


def corrupted(pictures, kind, severity, tmp_path, name="a"):
    found = corrupt_pictures(pictures, kind, severity)
    in_file = corrupt_pictures(pictures, kind, severity, tmp_path / f"{name}.npy")
    assert isinstance(in_file, np.memmap) and np.array_equal(in_file, found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_is_further_from_the_picture_and_equal_each_time(kind, pictures, tmp_path):
    found = {severity: corrupted(pictures, kind, severity, tmp_path) for severity in range(1, 6)}
    assert all(each.shape == pictures.shape and each.dtype == np.uint8 for each in found.values())
    far = [np.abs(each.astype(float) - pictures).mean() for each in found.values()]
    assert far == sorted(far) and far[0] > 0.1
    assert np.array_equal(corrupted(pictures, kind, 3, tmp_path, "b"), found[3])
    assert np.array_equal(corrupted(pictures[::-1], kind, 3, tmp_path, "c")[::-1], found[3]), (
        "a picture's own noise, wherever it stands"
    )


def test_the_constants_are_those_of_the_two_benchmarks(pictures, tmp_path):
    small = pictures.shape[1] == SIDES["small"]
    middle = slice(8, -8)
    noise = corrupted(pictures, "gaussian_noise", 1, tmp_path).astype(float) - pictures
    assert noise.std() / 255 == pytest.approx(0.04 if small else 0.08, rel=0.05)
    kept = corrupted(pictures, "contrast", 5, tmp_path).std(axis=(1, 2)) / pictures.std(axis=(1, 2))
    assert kept == pytest.approx(0.15 if small else 0.05, rel=0.1)
    blur = corrupted(pictures, "gaussian_blur", 5, tmp_path).astype(float)
    exact = gaussian_filter(pictures.astype(float), (0, *[1.0 if small else 6.0] * 2, 0), mode="nearest")
    assert np.abs(blur - exact)[:, middle, middle].max() < (7 if small else 3), "of an edge of 140 grey levels"
    stored = io.BytesIO()
    Image.fromarray(pictures[0]).save(stored, "JPEG", quality=80 if small else 25)
    assert np.array_equal(corrupted(pictures, "jpeg", 1, tmp_path)[0], np.asarray(Image.open(stored)))


def test_equal_pictures_have_equal_noise_and_others_their_own(pictures, tmp_path):
    twice = pictures[[0, 0, 1]]
    noise = corrupted(twice, "gaussian_noise", 1, tmp_path).astype(int) - twice
    assert np.array_equal(noise[0], noise[1]) and not np.array_equal(noise[0], noise[2])


def test_only_the_test_split_of_a_prepared_data_set_is_corrupted(tmp_path, monkeypatch):
    """By the script of the rule, on grey digits in a table."""
    digits = np.random.default_rng(0).integers(0, 17, size=(60, 64))
    table = np.column_stack([digits, np.arange(60) % 2])
    (tmp_path / "source").mkdir()
    np.savetxt(tmp_path / "source/digits.csv.gz", table, delimiter=",", fmt="%d")
    task = {"id": "digits", "label": "Digits", "reader": "images.rows", "assets": ["source"], "arguments": {"top": 16},
            "classes": ["even", "odd"], "splits": {"train": 10, "validation": 5, "test": 10}}  # fmt: skip

    def prepared(name, **corrupt):
        form = {"side": 16, **({"corrupt": corrupt} if corrupt else {})}
        words = ["--assets", str(tmp_path / "source"), "--output", str(tmp_path / name)]
        monkeypatch.setattr("sys.argv", ["prepare_dataset", *words, "--spec", json.dumps({"task": task, "input": form})])
        prepare_dataset.main()
        return Dataset(tmp_path / name)

    clean, noisy, again = prepared("clean"), *(prepared(name, kind="gaussian_noise", strength=5) for name in ("noisy", "again"))
    for split in ("train", "validation"):
        assert np.array_equal(clean.inputs(split), noisy.inputs(split))
    assert np.array_equal(clean.labels("test"), noisy.labels("test")) and np.array_equal(
        noisy.inputs("test"), again.inputs("test")
    )
    assert (clean.inputs("test") != noisy.inputs("test")).mean() > 0.8
    assert noisy.record == {**clean.record, "corrupt": {"kind": "gaussian_noise", "strength": 5}}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "clean", "noisy", "again"}, "no work folder is left"
