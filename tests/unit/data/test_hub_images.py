"""Image data sets of the hub: the peers' pixels, whole or not at all, the same bytes however it went, every fault named."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import hub_data
import numpy as np
import pytest
from hub_data import DEFAULT, FORM, NAMES, TASK, card, encoded, examples, parquet, photograph, picture, tar
from models import ROOT
from PIL import Image

from nan_merge.core.errors import UserError
from nan_merge.data import hub_sources
from nan_merge.data.dataset import Dataset, draw_rows, work_folder, write_dataset
from nan_merge.data.decoding import Work, decode, square
from nan_merge.data.hub_cards import check_order, label_names, split_files
from nan_merge.data.hub_images import prepare

ORIGIN = {"test": "test", "train": "train", "validation": "train"}


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    return hub_data.build(tmp_path_factory.mktemp("hub") / "data_tiny")


@pytest.fixture
def source(built, tmp_path) -> Path:
    """A copy of the data set, to be damaged at will."""
    return Path(shutil.copytree(built, tmp_path / "data_tiny"))


def task(**more) -> dict:
    """The task with other arguments; `classes` and `splits` may be given too."""
    changed = copy.deepcopy(TASK)
    changed.update({key: more.pop(key) for key in ("classes", "splits", "reader") if key in more})
    changed["arguments"].update(more)
    return changed


def made(folder: Path, output: Path, given: dict | None = None, processes: int = 1, **form) -> Dataset:
    record, splits = prepare(given or task(), {"data_tiny": folder}, {**FORM, **form}, output, processes)
    write_dataset(output, record, splits)
    return Dataset(output)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def shape(i: int, side: int = 32) -> np.ndarray:
    return square(picture(i).convert("RGB"), side)


# ---- pixels ----


def sizes() -> list[tuple[int, int]]:
    drawn = np.random.default_rng(3).integers(18, 400, (14, 2)).tolist()
    return [(224, 224), (500, 375), (375, 500), (231, 224), (224, 227), (31, 31), (640, 20), *map(tuple, drawn)]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1"])
def test_pixels_are_those_of_transformers(mode):
    processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = processing.CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    for size in sizes()[:: 1 if mode == "RGB" else 6]:
        image = photograph().resize(size).convert(mode)
        theirs = np.asarray(processor(images=[image], return_tensors="np")["pixel_values"][0])
        assert theirs.dtype == np.uint8
        np.testing.assert_array_equal(square(image.convert("RGB"), 224), theirs.transpose(1, 2, 0), err_msg=str(size))


def test_pixels_with_resize_are_those_of_the_processor_of_convnext():
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": 224}, crop_pct=0.875, resample=3, do_rescale=False, do_normalize=False
    )
    for size in sizes():
        image = photograph().resize(size)
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        np.testing.assert_array_equal(square(image, 224, resize=256), theirs.transpose(1, 2, 0), err_msg=str(size))


def test_pixels_with_crop_round_are_those_of_open_clip():
    transform = pytest.importorskip("open_clip.transform").image_transform(224, is_train=False)
    differing = 0
    for size in sizes():
        image = photograph().resize(size)
        theirs = image
        for step in transform.transforms[:-2]:  # without ToTensor and Normalize
            theirs = step(theirs)
        np.testing.assert_array_equal(square(image, 224, "round"), np.asarray(theirs), err_msg=str(size))
        differing += not np.array_equal(square(image, 224), np.asarray(theirs))
    assert differing, "no size was drawn for which floor and round differ"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_and_modes_are_read_as_the_datasets_library_does(orientation):
    datasets = pytest.importorskip("datasets")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph().resize((60, 40)), "JPEG", exif=exif)
    theirs = datasets.Image().decode_example({"bytes": data, "path": None}).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(theirs))
    assert decode(data).size == ((40, 60) if orientation in (6, 8) else (60, 40))


def test_transparency_is_dropped_as_by_the_peers():
    image = photograph().resize((40, 40)).convert("RGBA")
    image.putalpha(100)
    np.testing.assert_array_equal(np.asarray(decode(encoded(image))), np.asarray(image.convert("RGB")))


# ---- the prepared data set ----


def test_a_data_set_is_prepared_as_its_task_says(built, tmp_path):
    output = tmp_path / "out" / "tiny"
    data = made(built, output)
    assert data.record["splits"] == {"train": 12, "validation": 5, "test": 23}
    assert {file.name for file in output.iterdir()} == {
        "dataset.json", *(f"{split}.{part}.npy" for split in ("train", "validation", "test") for part in ("inputs", "labels"))
    }  # fmt: skip
    np.testing.assert_array_equal(data.inputs("test"), np.stack([shape(i) for i in range(100, 123)]))
    np.testing.assert_array_equal(data.labels("test"), np.arange(100, 123) % 3)
    pixels = {shape(i).tobytes(): i for i in range(30)}
    rows = {split: [pixels[image.tobytes()] for image in data.inputs(split)] for split in ("train", "validation")}
    assert not set(rows["train"]) & set(rows["validation"]) and len(set(rows["train"])) == 12
    for split in rows:
        assert data.labels(split).tolist() == [i % 3 for i in rows[split]] and rows[split] != sorted(rows[split])
    assert not work_folder(output).exists()


def test_the_manifest_says_what_was_read(built, tmp_path):
    record = made(built, tmp_path / "tiny").record
    assert record["classes"] == ["Annual Crop", "forest", "sea lake"] and "prompts" not in record
    assert record["counts"] == {"train": 30, "test": 23} and record["origin"]["validation"] == "train"
    assert record["order"] == {"verified": 3, "of": 3, "by": ["README.md"]}
    assert record["available"] == 25 and record["side"] == 32 and record["crop"] == "floor" and record["seed"] == 0
    assert record["pillow"] == sys.modules["PIL"].__version__ and len(record["digest"]) == 64
    assert {key: record[key] for key in ("task", "label", "licence", "source")} == {
        "task": "tiny", "label": "Tiny", "licence": "CC0-1.0", "source": "drawn here"
    }  # fmt: skip


def test_the_digest_follows_the_source(source, tmp_path):
    first = made(source, tmp_path / "one").record["digest"]
    parquet(source / "data" / "test-00001-of-00002.parquet", examples(range(211, 223)))
    hub_data.record(source)
    assert made(source, tmp_path / "two").record["digest"] != first


def test_rows_are_those_of_load_dataset(built, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = {split: [str(file) for file in split_files(built, split)] for split in ("train", "test")}
    theirs = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    ours = made(built, tmp_path / "tiny")
    for i, row in enumerate(theirs["test"]):
        assert row["label"] == ours.labels("test")[i]
        np.testing.assert_array_equal(square(row["image"].convert("RGB"), 32), ours.inputs("test")[i])


def test_tar_shards_give_the_same_rows_as_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "data_tiny"
    for split, rows in (("train", range(30)), ("test", range(100, 123))):
        for k in range(2):
            tar(folder / split / f"{k}.tar", rows[k::2])
    (folder / "classnames.txt").write_text("annual crop\nforest\nsea lake\n")
    ours = made(folder, tmp_path / "tiny", task(image="jpg", label="cls"))
    assert ours.record["order"] == {"verified": 3, "of": 3, "by": ["classnames.txt"]}
    files = {"test": [str(file) for file in split_files(folder, "test")]}
    theirs = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))["test"]
    assert len(theirs) == 23
    for i, row in enumerate(theirs):
        assert row["cls"] == ours.labels("test")[i]
        np.testing.assert_array_equal(square(row["jpg"].convert("RGB"), 32), ours.inputs("test")[i])


def test_boolean_labels_are_numbers(tmp_path):
    folder = tmp_path / "data_tiny"
    for split in ("train", "test"):
        columns = examples(range(8))
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", {**columns, "label": [i > 4 for i in range(8)]}, names=None)
    given = task(classes={"False": "no", "True": "yes"}, splits={"train": 4, "test": 9}, counts={"test": 8})
    data = made(folder, tmp_path / "tiny", given)
    assert data.labels("test").tolist() == [0, 0, 0, 0, 0, 1, 1, 1] and data.record["classes"] == ["no", "yes"]
    assert data.record["order"]["verified"] == 2


def test_labels_may_begin_at_one(tmp_path):
    folder = tmp_path / "data_tiny"
    for split in ("train", "test"):
        parquet(folder / f"{split}.parquet", {**examples(range(8)), "label": [1 + i % 3 for i in range(8)]}, ["none", *NAMES])
    given = task(splits={"train": 4, "test": 9}, counts={}, first_label=1)
    assert made(folder, tmp_path / "tiny", given).labels("test").tolist() == [i % 3 for i in range(8)]
    with pytest.raises(UserError, match="4 classes, expected 3"):
        made(folder, tmp_path / "other", task(counts={}))


def test_another_split_may_serve_as_test(source, tmp_path):
    given = task(splits={"test": 1000}, origin={"test": "train"}, counts={"train": 30})
    data = made(source, tmp_path / "tiny", given)
    assert data.labels("test").tolist() == [i % 3 for i in range(30)] and data.record["available"] == 0


def test_without_an_output_all_is_in_memory(built):
    record, splits = prepare(task(), {"data_tiny": built}, FORM, processes=1)
    assert record["splits"]["test"] == 23 and type(splits["test"][0]) is np.ndarray
    np.testing.assert_array_equal(splits["test"][0][0], shape(100))


def test_pictures_of_the_test_split_are_corrupted_in_a_file_and_in_memory(built, tmp_path):
    how = {"kind": "gaussian_noise", "strength": 2}
    clean, noisy = made(built, tmp_path / "clean"), made(built, tmp_path / "noisy", corrupt=how)
    in_memory = prepare(task(), {"data_tiny": built}, {**FORM, "corrupt": how}, processes=1)[1]["test"][0]
    np.testing.assert_array_equal(noisy.inputs("test"), in_memory)
    assert (noisy.inputs("test") != clean.inputs("test")).mean() > 0.5
    np.testing.assert_array_equal(noisy.inputs("train"), clean.inputs("train"))
    assert {path.name for path in tmp_path.iterdir()} == {"clean", "noisy"}, "no work folder is left"


def test_finished_arrays_are_moved_and_a_part_of_a_map_is_copied(built, tmp_path):
    output, less = tmp_path / "tiny", tmp_path / "less"
    record, splits = prepare(task(), {"data_tiny": built}, FORM, output, 1)
    assert all(isinstance(pixels, np.memmap) for pixels, _ in splits.values())
    nodes = {split: os.stat(pixels.filename).st_ino for split, (pixels, _) in splits.items()}
    write_dataset(output, record, splits)
    assert {split: os.stat(output / f"{split}.inputs.npy").st_ino for split in splits} == nodes
    record, splits = prepare(task(), {"data_tiny": built}, FORM, less, 1)
    pixels, labels = splits["test"]
    write_dataset(less, record, {**splits, "test": (pixels[:3], labels[:3])})
    np.testing.assert_array_equal(Dataset(less).inputs("test"), np.stack([shape(i) for i in (100, 101, 102)]))


def test_a_map_of_another_folder_stays_where_it_is(tmp_path):
    np.save(tmp_path / "mine.npy", np.zeros((2, 4, 4, 3), np.uint8))
    mine = np.load(tmp_path / "mine.npy", mmap_mode="r")
    write_dataset(tmp_path / "out", {"classes": ["a"]}, {"test": (mine, np.zeros(2, np.int64))})
    copied = tmp_path / "out" / "test.inputs.npy"
    assert (tmp_path / "mine.npy").stat().st_ino != copied.stat().st_ino and np.load(copied).shape == (2, 4, 4, 3)


# ---- the same bytes, however it went ----


def test_the_number_of_processes_changes_no_byte(built, tmp_path):
    one, three = (tmp_path / name / "tiny" for name in ("one", "three"))
    made(built, one, processes=1)
    made(built, three, processes=3)
    assert content(one) == content(three)


class Stop(BaseException):
    """Stands for Ctrl-C."""


def counting(monkeypatch, stop_after: int | None = None) -> list[int]:
    """Record the units that are decoded; stop before the one after the first few."""
    done: list[int] = []
    fill = Work.fill

    def counted(self, unit):
        if len(done) == stop_after:
            raise Stop
        done.append(unit.number)
        return fill(self, unit)

    monkeypatch.setattr(Work, "fill", counted)
    return done


def test_a_stopped_run_goes_on_where_it_was(built, tmp_path, monkeypatch):
    whole, output = tmp_path / "whole", tmp_path / "tiny"
    made(built, whole)
    with monkeypatch.context() as patch:
        first = counting(patch, stop_after=4)
        with pytest.raises(Stop):
            made(built, output)
    assert first == [0, 1, 2, 3] and not output.exists()
    second = counting(monkeypatch)
    made(built, output)
    assert second and not set(second) & set(first) and content(output) == content(whole)


@pytest.mark.parametrize("change", ["side", "splits", "shard", "draw"])
def test_leftovers_of_other_settings_are_not_used(change, source, tmp_path, monkeypatch):
    output = tmp_path / "tiny"
    with monkeypatch.context() as patch:
        counting(patch, stop_after=4)
        with pytest.raises(Stop):
            made(source, output)
    given, form = (task(splits={"train": 5, "test": 23}) if change == "splits" else task()), {}
    if change == "side":
        form = {"side": 24}
    if change == "shard":  # the same size, other pixels; no asset.json that would tell
        (source / "asset.json").unlink()
        os.utime(source / "data" / "test-00000-of-00002.parquet", (1, 1))
    if change == "draw":
        other = draw_rows(ORIGIN, TASK["splits"], {"train": 30, "test": 23})
        monkeypatch.setattr(hub_sources, "draw_rows", lambda *_: {**other, "train": other["train"][::-1].copy()})
    done = counting(monkeypatch)
    data = made(source, output, given, **form)
    assert done[0] == 0
    np.testing.assert_array_equal(data.inputs("test")[0], shape(100, form.get("side", 32)))


def test_a_killed_run_leaves_no_process_and_goes_on(tmp_path, monkeypatch):
    folder, output = tmp_path / "data_tiny", tmp_path / "tiny"
    big = encoded(photograph().resize((700, 840)), "PNG", compress_level=1)
    for split in ("train", "test"):
        columns = {"image": [{"bytes": big, "path": None}] * 24, "label": [i % 3 for i in range(24)]}
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", columns, group=1)
    splits = task(counts={}, splits={"train": 20, "validation": 4, "test": 24})
    code = "import pathlib as p; from nan_merge.data.hub_images import prepare; "
    code += f"prepare({splits!r}, {{'data_tiny': p.Path({str(folder)!r})}}, {FORM!r}, p.Path({str(output)!r}), 2)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    marks = work_folder(output) / "done"
    until(lambda: marks.is_dir() and any(marks.iterdir()))
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    first = {int(mark.name) for mark in marks.iterdir()}
    assert workers and not output.exists() and 1 <= len(first) < 48
    second = counting(monkeypatch)
    made(folder, output, splits)
    assert set(second) == set(range(48)) - first
    np.testing.assert_array_equal(Dataset(output).inputs("test"), np.stack([square(decode(big), 32)] * 24))


def until(holds) -> None:
    """Wait until a condition holds; the limit is against hanging only."""
    end = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.01)


def children(parent: int) -> list[int]:
    """The processes that a process started and that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(owner) == parent and state != "Z":
            found.append(int(folder.name))
    return found


def test_only_wanted_rows_are_decoded(source, tmp_path):
    rows = examples(range(30))
    taken = draw_rows(ORIGIN, TASK["splits"], {"train": 30, "test": 23})
    drawn = {*taken["train"].tolist(), *taken["validation"].tolist()}
    for i in set(range(30)) - drawn:
        rows["image"][i] = {"bytes": b"not an image", "path": None}
    (source / "asset.json").unlink()
    for k, part in enumerate((slice(0, 17), slice(17, 30))):
        columns = {key: values[part] for key, values in rows.items()}
        parquet(source / "data" / f"train-{k:05d}-of-00002.parquet", columns)
    assert made(source, tmp_path / "tiny").record["splits"]["train"] == 12


# ---- draws ----


def test_draws_are_disjoint_seeded_and_the_train_draw_stays():
    one = draw_rows(ORIGIN, {"train": 40, "validation": 30, "test": 999}, {"train": 100, "test": 50})
    other = draw_rows(ORIGIN, {"train": 40, "validation": 55, "test": 999}, {"train": 100, "test": 50})
    assert one["test"].tolist() == list(range(50))
    assert not set(one["train"]) & set(one["validation"]) and len(one["train"]) == 40 and len(one["validation"]) == 30
    assert one["train"].tolist() == other["train"].tolist() != sorted(one["train"])
    assert set(one["validation"]) < set(other["validation"])


def test_what_is_scarce_goes_to_the_held_out_splits():
    taken = draw_rows(ORIGIN, {"train": 2560, "validation": 30, "test": 20}, {"train": 100, "test": 50})
    assert {split: len(rows) for split, rows in taken.items()} == {"train": 70, "validation": 30, "test": 20}
    assert taken["test"].tolist() == sorted(taken["test"]) != list(range(20))
    alone = draw_rows(dict.fromkeys(ORIGIN, "all"), {"train": 50, "validation": 10, "test": 10}, {"all": 60})
    assert sorted(np.concatenate(list(alone.values())).tolist()) == list(range(60)) and len(alone["train"]) == 40


# ---- which files make a split ----


LAYOUTS = {
    "configs": (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
                [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"},
                                                           {"split": "test", "path": ["data/test-*"]}]}], None),
    "two configs": (["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet", "b/test-00000-of-00001.parquet"],
                    [{"config_name": "a", "data_files": [{"split": "train", "path": "a/train-*"}]},
                     {"config_name": "b", "data_files": [{"split": s, "path": f"b/{s}-*"} for s in ("train", "test")]}], "b"),
    "one of two is the default": (["a/train.parquet", "b/train.parquet"],
                                  [{"config_name": "a", "data_files": "a/*"},
                                   {"config_name": "b", "data_files": "b/*", "default": True}], None),
    "data_dir": (["one/x.parquet", "two/x.parquet"],
                 [{"config_name": "a", "data_dir": "one"}, {"config_name": "b", "data_dir": "two"}], "b"),
    "shards in data": (["data/train-00000-of-00002-4717c3cf.parquet", "data/train-00001-of-00002-5499148a.parquet",
                        "data/valid-00000-of-00001-549914b1.parquet"], None, None),
    "folders": (["train/0.parquet", "train/1.parquet", "test/0.parquet"], None, None),
    "folders before files": (["train/eval.parquet", "test/0.parquet"], None, None),
    "file names": (["my_train_part.parquet", "my-test.parquet", "dev.1.parquet"], None, None),
    "words inside words": (["sub/training.parquet", "sub/contest.parquet", "sub/eval.parquet"], None, None),
    "no name": (["one.parquet", "two.parquet"], None, None),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_are_made_of_the_files_that_the_datasets_library_takes(layout, tmp_path):
    datasets = pytest.importorskip("datasets")
    files, configs, config = LAYOUTS[layout]
    folder = tmp_path / "set"
    for file in files:
        parquet(folder / file, examples([0]))
    card(folder, configs, names=None)
    builder = datasets.load_dataset_builder(str(folder), name=config, cache_dir=str(tmp_path / "cache"))
    theirs = {str(split): sorted(Path(path) for path in paths) for split, paths in builder.config.data_files.items()}
    assert theirs
    for split, paths in theirs.items():
        assert split_files(folder, split, config) == paths
    with pytest.raises(UserError, match=r"no split 'noise', only .*`arguments: origin:`"):
        split_files(folder, "noise", config)


def test_label_names_come_from_the_card_of_the_configuration(tmp_path):
    names = {key: {"class_label": {"names": {"1": f"{key}1", "0": f"{key}0", "10": f"{key}10"}}} for key in "ab"}
    infos = [{"config_name": key, "features": [{"name": "label", "dtype": names[key]}]} for key in "ab"]
    card(tmp_path, names=None, dataset_info=infos)
    assert label_names(tmp_path, "label", "b") == {"README.md": ["b0", "b1", "b10"]}
    assert label_names(tmp_path, "image", "b") == {}
    (tmp_path / "classnames.txt").write_text("x\n\ny \n")
    assert label_names(tmp_path, "other") == {"classnames.txt": ["x", "y"]}


# ---- the order of the classes ----


def test_classes_are_compared_with_the_names_of_the_source(capsys):
    assert check_order(["sea lake", "T-shirt/top"], {"README.md": ["Sea_Lake", "T - shirt / top"]})["verified"] == 2
    assert check_order(["lymph node", "crab"], {"README.md": ["lymph node", "cra"]})["verified"] == 1
    assert check_order({"a": "words", "b": "more"}, {"README.md": ["a", "b"]})["verified"] == 2
    assert capsys.readouterr().err == ""
    assert check_order(["no", "yes"], {"README.md": ["0", "1"]})["verified"] == 0
    assert "order of the classes is unverified" in capsys.readouterr().err
    assert check_order(["no", "yes"], {}) == {"verified": 0, "of": 2, "by": []}
    assert "unverified" in capsys.readouterr().err


@pytest.mark.parametrize("classes", [["forest", "annual crop", "sea lake"], ["annual crop", "sea lake", "other"],
                                     {"annual crop": "a", "sea_lake": "b", "forest": "c"},
                                     {"Annual crop": "a", "forest": "b", "sea_lake": "c"}])  # fmt: skip
def test_a_swapped_order_is_refused(classes, built, tmp_path):
    with pytest.raises(UserError, match=r"task tiny: label \d is '.*' in README.md but '.*' in `classes:`; bring"):
        made(built, tmp_path / "tiny", task(classes=classes))


def test_every_list_of_names_is_looked_at(source, tmp_path):
    card(source, DEFAULT, names=None)
    record = made(source, tmp_path / "one").record
    assert record["order"]["by"] == ["data/train-00000-of-00002.parquet"]
    parquet(source / "data" / "test-00001-of-00002.parquet", examples(range(111, 123)), names=[NAMES[1], NAMES[0], NAMES[2]])
    hub_data.record(source)
    with pytest.raises(UserError, match=r"label 0 is 'forest' in data/test-00001-of-00002.parquet but 'Annual Crop'"):
        made(source, tmp_path / "two")


def test_an_unverified_order_is_said_aloud_and_written_down(source, tmp_path, capsys):
    card(source, DEFAULT, names=None)
    for file in sorted((source / "data").iterdir()):
        split, k = file.name.split("-")[0], int(file.name.split("-")[1])
        cuts = {"train": (0, 17, 30), "test": (100, 111, 123)}[split]
        parquet(file, examples(range(cuts[k], cuts[k + 1])), names=None)
    hub_data.record(source)
    assert made(source, tmp_path / "tiny").record["order"] == {"verified": 0, "of": 3, "by": []}
    assert "unverified" in capsys.readouterr().err
    with pytest.raises(UserError, match="labels of 3 classes, expected 4"):
        made(source, tmp_path / "other", task(classes=["a", "b", "c", "d"]))


# ---- faults ----


def broken(source: Path, row: int, value: object, column: str = "image", names=NAMES) -> None:
    """Write the second test shard anew with one other value."""
    columns = examples(range(111, 123))
    columns[column][row] = value
    parquet(source / "data" / "test-00001-of-00002.parquet", columns, names=names)
    hub_data.record(source)


def refused(source: Path, output: Path, message: str, given: dict | None = None, processes: int = 1) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(source, output, given, processes)
    assert str(caught.value).startswith("task tiny: ") and not output.exists()


def test_a_task_that_does_not_fit_its_source_is_refused(built, tmp_path):
    message = r"split 'test' of .*: expected 24 rows .*found 23 in 2 shards"
    refused(built, tmp_path / "tiny", message, task(counts={"test": 24}))
    refused(built, tmp_path / "tiny", "README.md names 3 classes, expected 2", task(classes=["annual crop", "forest"]))
    refused(built, tmp_path / "tiny", "has no entry for test", task(origin={"train": "train", "validation": "train"}))
    message = r"unknown reader 'hub_images.rows'.*known: hub_images.table"
    refused(built, tmp_path / "tiny", message, task(reader="hub_images.rows"))
    message = r"no column 'img', found image \(struct.*label \(int64\); correct `arguments: image:`"
    refused(built, tmp_path / "tiny", message, task(image="img"))
    refused(built, tmp_path / "tiny", r"column 'label' is int64, expected encoded images", task(image="label"))
    refused(built, tmp_path / "tiny", r"column 'image' is struct.* expected numbers", task(label="image"))
    with pytest.raises(UserError, match="`input: crop:` is 'ceil', expected floor or round"):
        made(built, tmp_path / "tiny", crop="ceil")
    with pytest.raises(UserError, match="`input: resize:` of the suite is 31, below `side`, 32; expected at least that"):
        made(built, tmp_path / "tiny", resize=31)
    assert made(built, tmp_path / "larger", resize=36).record["resize"] == 36


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_refused(label, source, tmp_path):
    card(source, DEFAULT, names=None)
    for file in (source / "data").glob("t*.parquet"):
        file.unlink()
    for split, rows in (("train", range(30)), ("test", range(23))):
        columns = examples(rows)
        columns["label"][7] = label if split == "test" else columns["label"][7]
        parquet(source / "data" / f"{split}-00000-of-00001.parquet", columns, names=None)
    hub_data.record(source)
    refused(source, tmp_path / "tiny", rf"test-00000-of-00001.parquet, row 7: label {label}, expected 0 to 2")


def test_a_missing_label_is_refused(source, tmp_path):
    broken(source, 5, None, "label")
    refused(source, tmp_path / "tiny", r"test-00001-of-00002.parquet, row 5: no label")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("value", [b"not an image", encoded(photograph(), "JPEG")[:4000], encoded(photograph())[:4000]])
def test_an_unreadable_image_is_refused(value, processes, source, tmp_path):
    broken(source, 6, {"bytes": value, "path": None})
    message = r"test-00001-of-00002.parquet, row 6: no readable image .*images are never skipped"
    refused(source, tmp_path / "tiny", message, processes=processes)


def test_the_first_of_two_unreadable_images_is_named(source, tmp_path):
    columns = examples(range(111, 123))
    for row in (3, 11):
        columns["image"][row] = {"bytes": b"not an image", "path": None}
    parquet(source / "data" / "test-00001-of-00002.parquet", columns, group=1)
    hub_data.record(source)
    for processes in (1, 3):
        refused(source, tmp_path / "tiny", "row 3: no readable image", processes=processes)


def test_an_image_that_is_not_stored_is_refused(source, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = source / "data" / "test-00001-of-00002.parquet"
    table = pq.read_table(file)
    image = [{"bytes": None, "path": "/else/where.png"}, *table["image"].to_pylist()[1:]]
    table = table.set_column(0, "image", pa.array(image, table["image"].type)).replace_schema_metadata(table.schema.metadata)
    pq.write_table(table, file)
    hub_data.record(source)
    refused(source, tmp_path / "tiny", r"row 0: no image is stored, only the path '/else/where.png'")


def test_a_missing_shard_is_refused(source, tmp_path):
    (source / "data" / "train-00001-of-00002.parquet").unlink()
    refused(source, tmp_path / "tiny", r"1 of the 2 shards of data/train are missing, the first is data/train-00001-of-00002")


@pytest.mark.parametrize("known", [True, False])
def test_half_a_shard_is_refused(known, source, tmp_path):
    file = source / "data" / "train-00001-of-00002.parquet"
    whole = file.stat().st_size
    file.write_bytes(file.read_bytes()[: whole // 2])
    if not known:
        (source / "asset.json").unlink()
    message = rf"expected {whole} bytes \(asset.json\), found {whole // 2}" if known else "not a whole parquet file"
    refused(source, tmp_path / "tiny", message + r".*fetch it again")


def test_a_shard_that_is_damaged_inside_is_refused(source, tmp_path):
    file = source / "data" / "test-00001-of-00002.parquet"
    data = bytearray(file.read_bytes())
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")  # the footer stays whole
    data[4:end] = bytes(end - 4)
    file.write_bytes(data)
    refused(
        source, tmp_path / "tiny", r"test-00001-of-00002.parquet.*(damaged|no readable image|no image is stored).*fetch it again"
    )


@pytest.mark.parametrize("cut", [700, 1500, 12000, None])
def test_half_a_tar_is_refused(cut, tmp_path):
    folder = tmp_path / "data_tiny"
    for split in ("train", "test"):
        tar(folder / split / "0.tar", range(30))
    given = task(image="jpg", label="cls", counts={})
    file = folder / "test" / "0.tar"
    with tarfile.open(file) as bundle:
        third = bundle.getmembers()[4].offset  # a cut between two samples leaves nothing broken behind
    file.write_bytes(file.read_bytes()[: cut or third])
    refused(folder, tmp_path / "tiny", r"test/0.tar: not a whole tar file .*fetch it again", given)


def test_a_sample_of_a_tar_without_a_number_for_a_label_is_refused(tmp_path):
    folder = tmp_path / "data_tiny"
    for split in ("train", "test"):
        tar(folder / split / "0.tar", range(30), label="txt")
    message = r"0.tar, row 0 \(/s0000\): no 'cls', found jpg, txt"
    refused(folder, tmp_path / "tiny", message, task(image="jpg", label="cls", counts={}))
    message = r"0.tar, row 0: label b'.*expected a number"
    refused(folder, tmp_path / "tiny", message, task(image="txt", label="jpg", counts={}))


def test_an_empty_split_is_refused(source, tmp_path):
    for file in (source / "data").glob("test*"):
        file.unlink()
    refused(source, tmp_path / "a", r"split 'test' has no file, expected parquet or tar shards like data/test-\* \(README.md\)")
    parquet(source / "data" / "test-00000-of-00001.parquet", {"image": [], "label": []})
    refused(source, tmp_path / "b", r"split 'test' of .*: no row in 1 shards", task(counts={}))
    all_held = task(splits={"train": 5, "validation": 30}, counts={})
    refused(source, tmp_path / "c", r"no example is left for train, the source has {'train': 30} rows; correct `spl", all_held)


def test_another_configuration_is_refused(source, tmp_path):
    refused(
        source,
        tmp_path / "a",
        r"no configuration 'cropped', expected one of default; set `arguments: config:`",
        task(config="cropped"),
    )
    card(source, [{"config_name": key, "data_files": [{"split": "train", "path": f"{key}/*"}]} for key in ("full", "cropped")])
    refused(source, tmp_path / "b", r"several configurations and no default, expected one of full, cropped")
    (source / "README.md").unlink()
    refused(source, tmp_path / "c", r"the data set has no configuration 'cropped'", task(config="cropped"))


def test_another_format_and_a_broken_card_are_refused(source, tmp_path):
    for file in list((source / "data").glob("test*")):
        file.rename(file.with_suffix(".arrow"))
    refused(source, tmp_path / "a", r"split 'test' has files \['.arrow'\], expected parquet or tar")
    (source / "README.md").write_text("---\na: [\n---\n")
    refused(source, tmp_path / "b", r"README.md: not valid YAML")
