"""Class names and tasks of the papers as data: every count, template and order that can be told without the data sets."""

from __future__ import annotations

import string

import pytest
import yaml
from models import ROOT

from nan_merge.catalogue.files import check_schema
from nan_merge.data.hub_cards import normalise_name

CONFIG = ROOT / "config"
FILES = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted((CONFIG / "class_names").glob("*.yaml"))}
TASKS = {name: task for name, task in yaml.safe_load((CONFIG / "tasks.yaml").read_text(encoding="utf-8")).items()
         if task.get("reader", "").startswith("hub_images.")}  # fmt: skip

# classes, templates, test, train: the papers' data sets and openai/CLIP's templates
KNOWN = {
    "sun397": (397, 2, 19850, 19850), "cars": (196, 8, 8041, 8144), "resisc45": (45, 18, 6300, 18900),
    "eurosat": (10, 3, 2700, 21600), "svhn": (10, 1, 26032, 73257), "gtsrb": (43, 3, 12630, 26640),
    "mnist_hub": (10, 1, 10000, 60000), "dtd": (47, 8, 1880, 3760), "flowers102": (102, 1, 6149, 1020),
    "pcam": (2, 1, 32768, 262144), "fer2013": (7, 6, 7178, 28709), "pets": (37, 1, 3669, 3680),
    "stl10": (10, 2, 8000, 5000), "cifar100": (100, 18, 10000, 50000), "cifar10": (10, 18, 10000, 50000),
    "food101": (101, 1, 25250, 75750), "fashion_mnist": (10, 2, 10000, 60000), "emnist_letters": (26, 1, 20800, 124800),
    "emnist_digits": (10, 1, 40000, 240000), "kmnist": (10, 1, 10000, 60000), "rendered_sst2": (2, 1, 1821, 6920),
}  # fmt: skip
EIGHT = ("sun397", "cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist_hub", "dtd")


def words(name: str) -> list[str]:
    classes = FILES[name]["classes"]
    return list(classes.values() if isinstance(classes, dict) else classes)


def test_there_is_a_file_a_task_and_nothing_more():
    assert set(FILES) == set(TASKS) == set(KNOWN)
    assert all(task["class_names"] == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", KNOWN)
def test_names_and_templates_are_whole(name):
    check_schema(FILES[name], ROOT / "workflow" / "schemas" / "class_names.schema.yaml", name)
    classes, templates, *_ = KNOWN[name]
    assert len(words(name)) == classes and len(FILES[name]["prompt"]) == templates
    assert len(set(words(name))) == classes and len({normalise_name(word) for word in words(name)}) == classes
    assert all(isinstance(word, str) and word == word.strip() and word for word in words(name))
    assert len(set(FILES[name]["prompt"])) == templates
    for template in FILES[name]["prompt"]:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        assert fields == [""], f"{template!r} needs one {{}}"
    assert "(MIT)" in FILES[name]["source"]


@pytest.mark.parametrize("name", KNOWN)
def test_a_task_says_what_its_source_must_hold(name):
    _, _, test, train = KNOWN[name]
    task = TASKS[name]
    origin, counts = task["arguments"]["origin"], task["arguments"]["counts"]
    assert task["assets"] == [f"data_{name}"] and set(origin) == set(task["splits"]) == {"test", "train", "validation"}
    assert counts == {origin["test"]: test, origin["train"]: train} and origin["validation"] == origin["train"]
    assert task["splits"]["test"] >= test and task["splits"]["train"] + task["splits"]["validation"] <= train
    assert task["label"] and task["licence"] and task["source"]


def test_the_eight_tasks_have_as_many_test_images_as_the_papers_say():
    assert sum(TASKS[name]["arguments"]["counts"]["test"] for name in EIGHT) == 87_433


def test_known_leaks_are_written_down():
    assert TASKS["dtd"]["leaks"]["accuracy"] == 0.86 and TASKS["eurosat"]["leaks"]["collection"] == "A"
    assert {name for name, task in TASKS.items() if "leaks" in task} == {"dtd", "eurosat"}


def test_names_stand_in_the_order_of_the_labels():
    """Labels that are numbers of sorted folders are sorted; EuroSAT and FER2013 are not in the order of openai/CLIP."""
    for name in ("dtd", "resisc45", "pets", "cifar100", "cifar10", "stl10", "fer2013", "sun397", "food101"):
        keys = [normalise_name(word) for word in words(name)]
        assert keys == sorted(keys), name
    starts = (
        "annual crop",
        "forest",
        "brushland",
        "highway",
        "industrial",
        "pasture",
        "permanent",
        "residential",
        "river",
        "lake",
    )
    assert all(word.startswith(start) for word, start in zip(words("eurosat"), starts, strict=True))
    assert words("svhn") == words("mnist_hub") == words("emnist_digits") == list("0123456789")
    assert words("emnist_letters") == list(string.ascii_uppercase) and words("kmnist") == list("おきすつなはまやれを")
    assert FILES["pcam"]["classes"] == {"False": words("pcam")[0], "True": "lymph node containing metastatic tumor tissue"}
    assert words("rendered_sst2") == ["negative", "positive"]
    assert (
        words("flowers102")[:2] == ["pink primrose", "hard-leaved pocket orchid"] and words("flowers102")[-1] == "blackberry lily"
    )
    assert words("gtsrb")[14] == "stop" and words("cars")[0] == "AM General Hummer SUV 2000"


def test_the_wording_is_that_of_openai_clip_where_it_has_the_task():
    assert FILES["mnist_hub"]["prompt"] == FILES["svhn"]["prompt"] == ['a photo of the number: "{}".']
    assert FILES["food101"]["prompt"] == ["a photo of {}, a type of food."]
    assert FILES["cifar10"]["prompt"] == FILES["cifar100"]["prompt"]
    assert [word for word in words("cars") if "/" in word] == ["Ram C/V Cargo Van Minivan 2012"]
