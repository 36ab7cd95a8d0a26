"""Table 3 in small: LLaVAs in original names, and a Qwen2-VL, from a hub on the loopback to the tables by the rules of users."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import picture_project as world
import pytest
import tiny_vlm
from hub import Hub
from project import Project

from nan_merge.core.files import read_json

pytestmark = pytest.mark.demo
EXPERTS = {**dict.fromkeys(world.SUITES, ("expert_llava16", "expert_math_llava")), "qwen": ("expert_shapes", "expert_bars")}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Path]]:
    """The project after a run, and what was published."""
    folder = tmp_path_factory.mktemp("pictures")
    world.build(folder / "hub")
    project = world.project(folder / "project")
    with Hub() as hub:
        world.serve(hub, folder / "hub")
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1,localhost"}
        locked = project.shell(
            "PYTHONPATH=workflow:. python -m scripts.update_lock --configfile config/config.yaml", **environment
        )
        assert locked.code == 0, locked.text
        done = project.run(**environment)
        assert done.code == 0, done.text[-6000:]
        again = project.run(**environment)
        assert "Nothing to be done" in again.text, again.text[-2000:]
    yield project, folder / "hub"


def scores(project: Project, suite: str, method: str) -> dict[str, float]:
    """Return the accuracies of a model by task."""
    (file,) = (project / f"results/scores/{suite}/{method}/seed0").glob("*.json")
    return {score["task"]: score["value"] for score in read_json(file)["scores"] if score["metric"] == "accuracy"}


def written(project: Project, suite: str, method: str, task: str) -> list[str]:
    """Return what a model wrote to every question of a task."""
    (file,) = (project / f"results/scores/{suite}/{method}/seed0").glob("*.jsonl.gz")
    with gzip.open(file, "rt") as stream:
        return [line["output"] for line in map(json.loads, stream) if line["benchmark"] == task]


def log(project: Project, suite: str, method: str) -> str:
    return (project / f"results/logs/convert_checkpoint/{suite}/{method}/seed0.log").read_text()


@pytest.mark.parametrize("suite", EXPERTS)
def test_the_base_is_below_the_average_and_that_is_below_the_expert_of_each_task(suite: str, scored: Any) -> None:
    project, _ = scored
    shapes, bars = (scores(project, suite, name) for name in EXPERTS[suite])
    assert shapes["ai2d"] > bars["ai2d"] and bars["mathvista"] > shapes["mathvista"]
    base, average = (sum(scores(project, suite, method).values()) / 2 for method in ("pretrained", "weight_averaging"))
    assert base + 0.05 < average < (shapes["ai2d"] + bars["mathvista"]) / 2


@pytest.mark.parametrize("suite", world.SUITES)
def test_every_row_of_table_3_is_scored_and_what_was_converted_is_removed(suite: str, scored: Any) -> None:
    project, _ = scored
    found = sorted(each.name for each in (project / f"results/scores/{suite}").iterdir())
    assert found == sorted(["pretrained", *EXPERTS[suite], "weight_averaging"])
    assert not [*(project / "results").glob("converted/*/*/*")] and not [*(project / "results").glob("merged/llava*/*/*")]


def test_merges_get_the_tower_that_the_suite_names_and_models_keep_theirs(scored: Any) -> None:
    project, _ = scored
    for method in ("pretrained", "weight_averaging"):
        assert "note: its tower is that of results/assets/clip_vit_l14_336" in log(project, "llava_13b", method)
    for suite in world.SUITES:
        assert "keeps its own tower, which equals that of results/assets/clip_vit_l14_336" in log(
            project, suite, "expert_math_llava"
        )
        assert "keeps its own tower, which differs from that of" in log(project, suite, "expert_llava16")
    assert "its tower is that of results/checkpoints/llava_13b/experts/llava16" in log(
        project, "llava_13b_next", "weight_averaging"
    )
    assert "left out `image_newline`" in log(project, "llava_13b", "expert_llava16")
    assert "`image_newline` is that of results/checkpoints/llava_13b/experts/llava16" in log(
        project, "llava_13b_next", "expert_math_llava"
    )


@pytest.mark.parametrize(("suite", "kind"), [*zip(world.SUITES, ("llava", "llava_next"), strict=True)])
def test_outputs_of_a_converted_expert_are_those_of_the_model_it_was_made_of(suite: str, kind: str, scored: Any) -> None:
    project, hub = scored
    (file,) = (hub / "datasets/tiny/mathvista").rglob("*.parquet")
    models = [hub / "models/tiny" / name for name in ("bars", "shapes")]
    found = tiny_vlm.outputs(kind, models, datasets.Dataset.from_parquet(str(file)))
    assert written(project, suite, "expert_math_llava", "mathvista") == found
    assert len({*found}) >= 3


def test_pictures_are_cut_in_two_ways(scored: Any) -> None:
    project, _ = scored
    one, two = (written(project, suite, "weight_averaging", "mathvista") for suite in world.SUITES)
    assert one != two


def test_leaks_and_printed_numbers_stand_in_the_tables(scored: Any) -> None:
    project, _ = scored
    page = (project / "results/tables/main_llava_13b.md").read_text()
    assert "Math-LLaVA was trained on questions of data sets that MathVista samples from" in page
    printed = (project / "results/published/nan_table3.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in printed if "Math-LLaVA  " in line or "Expert: math" in line]
    assert {row[3].partition(",")[0] for row in rows} == {"published", "measured"}
    assert any(row[4].startswith("45.8 ± 1.6") for row in rows)
