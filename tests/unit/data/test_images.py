"""The readers of image tasks on tiny generated files, and the promises that all image tasks keep."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nan_merge.core.errors import UserError
from nan_merge.data import rendered
from nan_merge.data.images import READERS, captions, draw_per_class, drop_duplicates, prepare, to_rgb_square

FORM = {"side": 12}
SPLITS = {"train": 6, "validation": 2, "test": 2, "alignment": 2}


def task(reader: str, assets: list[str], classes, **more) -> dict:
    return {"label": "Some task", "reader": f"images.{reader}", "assets": assets, "classes": classes,
            "prompt": "a picture of {}", "splits": SPLITS, "licence": "CC0-1.0", "source": "made here", **more}  # fmt: skip


def contents(splits) -> dict[str, set[bytes]]:
    return {split: {image.tobytes() for image in images} for split, (images, _) in splits.items()}


def promises(record, splits, classes: int) -> None:
    """Check what holds for every prepared task."""
    assert set(splits) == {"train", "validation", "test", "alignment"}
    for images, labels in splits.values():
        assert images.dtype == np.uint8 and images.shape == (len(labels), 12, 12, 3)
        assert labels.dtype == np.int64 and labels.min() >= 0 and labels.max() < classes
    assert len(set(record["classes"])) == len(record["classes"]) == classes
    found = contents(splits)
    for one, other in (("train", "test"), ("train", "validation"), ("alignment", "test"), ("alignment", "train")):
        assert not found[one] & found[other], f"{one} and {other} share a picture"


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """Write one tiny asset of each kind, with the layout of the real one."""
    draw = np.random.default_rng(0)
    folders = {name: tmp_path / name for name in ("rows", "idx", "clipart", "globe", "zones", "signs", "patterns")}
    for folder in folders.values():
        folder.mkdir()
    table = np.concatenate([draw.integers(0, 17, (40, 16)), np.arange(40)[:, None] % 2], axis=1)
    with gzip.open(folders["rows"] / "some.csv.gz", "wt") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in table)
    for stem, count in (("train", 30), ("t10k", 8)):
        write_idx(folders["idx"] / f"{stem}-images-idx3-ubyte.gz", draw.integers(0, 256, (count, 5, 5)))
        write_idx(folders["idx"] / f"{stem}-labels-idx1-ubyte.gz", np.arange(count) % 2)
    for name in ("animals/cats/black", "animals/dogs", "shapes/stars"):
        (folders["clipart"] / name).mkdir(parents=True)
        for i in range(14):
            pixels = draw.integers(0, 256, (9, 7 + i, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(folders["clipart"] / name / f"my_{i}-picture.png")
    (folders["clipart"] / "animals" / "dogs" / "broken.png").write_bytes(b"\x89PNG\r\n")
    Image.fromarray(draw.integers(0, 256, (64, 1536, 3), dtype=np.uint8)).save(folders["globe"] / "bmng.jpg")
    zones = np.repeat(np.array([[3], [7]], np.uint8), 64, axis=0).repeat(3072, axis=1)
    Image.fromarray(zones).save(folders["zones"] / "kmz_int_reshape.png")
    for kind, colour in (("warning--bend", "red"), ("regulatory--stop", "blue")):
        for g in (1, 2):
            shape = f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle cx="4" cy="4" r="{g + 2}" '
            (folders["signs"] / f"{kind}--g{g}.svg").write_text(shape + f'fill="{colour}"/></svg>')
    for name, channels in (("leather", 3), ("paper", 1)):
        head = struct.pack(">5I", 28, 1, 50, 48, channels) + b"GPATname"
        pixels = draw.integers(0, 256, 50 * 48 * channels, dtype=np.uint8)
        (folders["patterns"] / f"{name}.pat").write_bytes(head + pixels.tobytes())
    return folders


def write_idx(file: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    file.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0))


TASKS = {
    "rows": task("rows", ["rows"], ["even", "odd"], arguments={"top": 16}),
    "idx": task("idx", ["idx"], ["even", "odd"]),
    "clipart": task("clipart", ["clipart"], {"animals/cats": "cats", "animals/dogs": "dogs"}),
    "climate": task("climate", ["globe", "zones"], {"3": "steppe", "7": "desert"}, arguments={"tile": 8}),
    "signs": task("signs", ["signs", "globe"], {"warning--bend": "bend", "regulatory--stop": "stop"},
                  arguments={"views": {"train": 5, "validation": 1, "test": 1}}),
    "textures": task("textures", ["patterns"], {"leather": "leather", "paper": "paper"},
                     arguments={"crops": {"train": 8, "validation": 2, "test": 2}}),
}  # fmt: skip


@pytest.mark.parametrize("word", TASKS)
def test_a_task_keeps_all_promises_and_has_the_same_bytes_twice(word, sources):
    if word == "signs":
        pytest.importorskip("resvg_py")
    record, splits = prepare(TASKS[word], sources, FORM)
    promises(record, splits, 2)
    assert "prompts" not in record and record["licence"] == "CC0-1.0"  # another template must not decode images again
    again = prepare(TASKS[word], sources, FORM)[1]
    for split, (images, labels) in splits.items():
        assert images.tobytes() == again[split][0].tobytes() and labels.tobytes() == again[split][1].tobytes()


def test_every_reader_is_tested():
    assert set(READERS) == {*TASKS, "scripts"}


def test_a_published_test_split_stays_one(sources):
    raw = READERS["idx"]([sources["idx"]], classes=["even", "odd"], side=12)
    own = {to_rgb_square(image[None], 12).tobytes() for image in raw["test"][0]}
    _, splits = prepare(TASKS["idx"], sources, FORM)
    found = contents(splits)
    assert found["test"] <= own
    assert not own & (found["train"] | found["validation"] | found["alignment"])


def test_images_of_the_named_labels_alone_are_read(sources):
    every = READERS["idx"]([sources["idx"]], classes=["even", "odd"], side=5)
    some = READERS["idx"]([sources["idx"]], classes={"1": "odd"}, side=5)
    for split, (images, labels) in every.items():
        assert (some[split][0] == images[labels == 1]).all() and len(some[split][0]) == (labels == 1).sum() > 0
        assert not some[split][1].any()


def test_pixels_and_labels_are_read_as_written(sources):
    images, labels = READERS["rows"]([sources["rows"]], classes=[], side=4, top=16)["train"]
    rows = np.loadtxt(sources["rows"] / "some.csv.gz", delimiter=",")
    np.testing.assert_array_equal(labels, rows[:, -1])
    np.testing.assert_allclose(images.reshape(40, 16), rows[:, :-1] * 255 / 16, atol=0.5)


def test_climate_tiles_have_their_zone_and_splits_their_longitudes(sources):
    world = rendered._globe(sources["globe"] / "bmng.jpg")
    parts = READERS["climate"]([sources["globe"], sources["zones"]], classes={"3": "a", "7": "b"}, side=8, tile=8)
    tiles = {world[r : r + 8, c : c + 8].tobytes(): (r, c) for r in range(0, 64, 8) for c in range(0, 1536, 8)}
    blocks = {}
    for split, (images, labels) in parts.items():
        places = [tiles[image.tobytes()] for image in images]
        assert all((row >= 32) == bool(label) for (row, _), label in zip(places, labels, strict=True))
        blocks[split] = {column // 96 for _, column in places}
    assert blocks["test"] == {3, 7, 11, 15} and blocks["validation"] == {1, 9}
    assert not blocks["train"] & (blocks["test"] | blocks["validation"])


def test_texture_tests_come_from_the_other_half(sources, monkeypatch):
    monkeypatch.setattr(rendered, "_patch", lambda half, side, rng: half[:12, :12])
    parts = READERS["textures"]([sources["patterns"]], classes={"leather": "leather"}, side=12,
                                crops={"train": 1, "validation": 1, "test": 1})  # fmt: skip
    pixels = rendered._pattern(sources["patterns"] / "leather.pat")
    np.testing.assert_array_equal(parts["train"][0][0], pixels[:12, :12])
    np.testing.assert_array_equal(parts["test"][0][0], pixels[:12, 25:37])


def test_letters_of_one_pair_stay_in_one_split(monkeypatch):
    seen: dict[str, set] = {}
    fonts = [Path("a.ttf"), Path("b.ttf")]
    monkeypatch.setattr(rendered, "_letters", lambda folder, classes: {s: {65 + i: fonts for i in range(9)} for s in classes})
    monkeypatch.setattr(rendered, "_letter", lambda letter, font, side, rng: (letter, font.name))
    monkeypatch.setattr(rendered, "collect", lambda draw, counts, classes: seen.update(
        {s: {draw(s, k, i) for k in range(classes) for i in range(n)} for s, n in counts.items()}))  # fmt: skip
    drawings = {"train": 30, "validation": 6, "test": 12}
    rendered.scripts([Path()], {"LATIN": "Latin"}, 12, drawings)
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]
    assert len(seen["train"] | seen["validation"] | seen["test"]) == 18


def test_letters_are_drawn_from_a_real_font():
    pytest.importorskip("fontTools")
    matplotlib = pytest.importorskip("matplotlib")
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = rendered._letters(folder, {"LATIN": "Latin", "GREEK": "Greek"}, "DejaVuSans.ttf")
    assert set("aZ") <= {chr(point) for point in found["LATIN"]} and ord("ω") in found["GREEK"]
    one, same, other = (rendered._letter("ω", folder / "DejaVuSans.ttf", 24, rendered.generator(word)) for word in "aab")
    assert one.shape == (24, 24) and one.min() < 100 and one.max() == 255
    assert one.tobytes() == same.tobytes() != other.tobytes()


def test_captions_see_nothing_of_the_clip_art_task(sources):
    folder = sources["clipart"]
    with Image.open(folder / "animals/dogs/my_3-picture.png") as image:  # the same pixels in another file
        image.save(folder / "shapes" / "copy.png", compress_level=0)
    wanted = task("captions", ["clipart"], {}, arguments={"without": ["animals/dogs", "animals/cats"]}, splits={"train": 99})
    record, splits = prepare(wanted, sources, FORM)
    images, labels = splits["train"]
    assert len(images) == 14 and labels.tolist() == list(range(14))
    assert set(record["classes"]) == {"my picture, shapes, stars"} and "prompts" not in record
    _, others = prepare(TASKS["clipart"], sources, FORM)
    assert not contents(splits)["train"] & set().union(*contents(others).values())
    with pytest.raises(UserError, match="no picture is left"):
        captions({**wanted, "arguments": {"without": ["animals", "shapes"]}}, folder, 12)


def test_a_picture_that_occurs_twice_is_kept_for_the_test():
    zeros, ones, twos = (np.full((1, 2, 2), value, np.uint8) for value in range(3))
    parts = drop_duplicates({
        "train": (np.concatenate([zeros, ones, twos, twos]), np.arange(4)),
        "test": (np.concatenate([ones, ones]), np.array([5, 6])),
    })  # fmt: skip
    assert parts["train"][1].tolist() == [0, 2] and parts["test"][1].tolist() == [5]


def test_small_classes_are_shared_out_and_large_ones_capped():
    labels = np.repeat([0, 1], [100, 6])
    images = np.arange(106, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    splits = draw_per_class({"train": (images, labels)}, SPLITS)
    counts = {split: np.bincount(y, minlength=2).tolist() for split, (_, y) in splits.items()}
    assert counts == {"train": [6, 3], "validation": [2, 1], "test": [2, 1], "alignment": [2, 1]}
    taken = np.concatenate([x[:, 0, 0] for x, _ in splits.values()])
    assert len(set(taken.tolist())) == len(taken)


def test_mistakes_are_named(sources):
    with pytest.raises(UserError, match=r"unknown reader 'images.pixels'; known: images.rows"):
        prepare(task("pixels", ["rows"], ["a"]), sources, FORM)
    with pytest.raises(UserError, match="names 'wood' twice"):
        prepare({**TASKS["textures"], "classes": {"leather": "wood", "paper": "wood"}}, sources, FORM)
    with pytest.raises(UserError, match=r"animals/mice has no picture"):
        prepare({**TASKS["clipart"], "classes": {"animals/mice": "mice"}}, sources, FORM)
    with pytest.raises(UserError, match=r"no drawing of warning--cow"):
        prepare({**TASKS["signs"], "classes": {"warning--cow": "cow"}}, sources, FORM)
    with pytest.raises(UserError, match=r"no pattern .*silk\.pat"):
        prepare({**TASKS["textures"], "classes": {"silk": "silk"}}, sources, FORM)
