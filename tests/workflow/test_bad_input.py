"""A user's mistake ends with one message that says what is wrong, where, and how to mend it; never with a traceback."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
from project import mounted
from safetensors.numpy import load_file, save_file

CONFIG, METHODS, SUITE = "config/config.yaml", "config/methods.yaml", "config/suites/tiny.yaml"


def refused(done, *words):
    """Expect a failure whose message holds all the words, in one piece."""
    assert done.code != 0, done.text[-3000:]
    assert "Traceback" not in done.text, done.text[-3000:]
    missing = [word for word in words if word not in done.text]
    assert not missing, f"{missing} not in:\n{done.text[-3000:]}"


# ---- the config: refused before anything runs (every other fault of it: test_config_mistakes) -----------------------

MISTAKES = {  # one a file
    "unknown method": (CONFIG, lambda c: c["methods"].append("tise"), ["methods: unknown 'tise'", "did you mean 'ties'?"]),
    "unknown word": (METHODS, lambda m: m["ties"].update(combine={"disjoint_sun": {}}),
                     ["ties.combine", "'disjoint_sun'", "did you mean 'disjoint_sum'?"]),
    "unknown task": (SUITE, lambda s: s["tasks"].append("fruits"), ["tasks: unknown 'fruits'", "did you mean 'fruit'?"]),
}  # fmt: skip


@pytest.mark.parametrize("file, change, words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_config_names_file_key_and_way_out(fresh, file, change, words):
    fresh.edit(file, change)
    refused(fresh.run("--dry-run"), file, *words)


OVERLAYS = {
    "a value": ("methods: TIES\n", ["own.yaml: methods: expected a list", "found the text 'TIES'"]),
    "a name in capitals": ("methods: [TIES]\n", ["own.yaml: methods: unknown 'TIES'; did you mean 'ties'?"]),
    "a key": ("metods: [ties]\n", ["own.yaml: the file: unknown key 'metods'; did you mean 'methods'?"]),
    "a key twice": ("seeds: [0]\nseeds: [1]\n", ["own.yaml: the key 'seeds' stands twice", "lines 1 and 2"]),
    "a folder": ("models: {m: {base: ./absent, experts: {a: o/a}}}\nmethods: [ties]\n",
                 ["own.yaml: models: m: base: there is no folder './absent'"]),
}  # fmt: skip


@pytest.mark.parametrize("text, words", OVERLAYS.values(), ids=OVERLAYS)
def test_a_mistake_in_an_overlay_names_the_overlay(fresh, text, words):
    (fresh / "first.yaml").write_text("methods: [ties]\n")
    (fresh / "own.yaml").write_text(text)
    refused(fresh.run("--dry-run", "--configfile", "first.yaml", "own.yaml"), *words)


def test_a_mistake_on_the_command_line_names_the_option(fresh):
    refused(fresh.run("--dry-run", "--config", "seeds=[zero]"), "--config: seeds.0: expected a whole number", "'zero'")


def test_numbers_of_the_command_line_are_numbers(fresh):
    small = ("methods=[ties]", "tables=[]", "figures=[]", "seeds=[0, 1]", "scoring={batch_size: 4, device: cpu}")
    done = fresh.run("--dry-run", "--config", *small)
    assert done.code == 0, done.text[-2000:]


def test_config_yaml_is_checked_for_its_syntax_first(fresh):
    text = (fresh / CONFIG).read_text()
    (fresh / CONFIG).write_text(text + "seeds: [1]\n")
    refused(fresh.run("--dry-run"), CONFIG, "the key 'seeds' stands twice")
    (fresh / CONFIG).write_text("methods:\n\t- ties\n")
    refused(fresh.run("--dry-run"), CONFIG, "line 2", "indent with spaces")
    (fresh / CONFIG).write_text("")
    refused(fresh.run("--dry-run"), "config/config.yaml: the file is empty; expected lines such as")


def test_broken_yaml_names_file_and_line(fresh):
    (fresh / METHODS).write_text("ties:\n  label: TIES\n combine: weighted_sum\n")
    refused(fresh.run("--dry-run"), METHODS, "line 3")


def test_the_config_is_checked_without_any_large_package(fresh):
    program = (
        "import sys, yaml; from pathlib import Path; from experiment.experiment import Experiment; root = Path('.')\n"
        "Experiment(yaml.safe_load((root / 'config/config.yaml').read_text()), root)\n"
        "heavy = {'torch', 'transformers', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "print(*heavy)"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=fresh.folder, text=True, capture_output=True, check=True,
                           env={**os.environ, "PYTHONPATH": str(fresh / "workflow")}).stdout.split()  # fmt: skip
    assert found == []


# ---- assets -------------------------------------------------------------------------------------------------------

BERT = "results/assets/tiny_bert"


def relock(project, change):
    lock = json.loads((project / "config/assets.lock.json").read_text())
    change(lock)
    (project / "config/assets.lock.json").write_text(json.dumps(lock))


def test_an_asset_without_a_lock_says_how_to_lock_it(fresh):
    relock(fresh, lambda lock: lock.pop("tiny_bert"))
    refused(fresh.run(BERT), "not in config/assets.lock.json, or unverified there: tiny_bert", "run: nan-merge lock tiny_bert")
    assert not (fresh / BERT).exists()
    tiny.lock(fresh.folder, "tiny_bert")
    assert fresh.run(BERT).code == 0


def test_an_archive_that_is_not_the_locked_one_is_refused(fresh):
    relock(fresh, lambda lock: lock["tiny_bert"].update(sha256="0" * 64))
    found = hashlib.sha256((fresh / "archives/tiny_bert.tar").read_bytes()).hexdigest()
    refused(fresh.run(BERT), "sha256 of tiny_bert.tar", "expected " + "0" * 64, f"found {found}", "config/assets.lock.json")
    assert not (fresh / BERT).exists()


def test_a_missing_archive_names_the_path_and_the_key(fresh):
    fresh.remove("archives/tiny_bert.tar")
    refused(fresh.run(BERT), "tiny_bert", "no file or folder archives/tiny_bert.tar", "`path:` in config/assets.yaml")


def test_without_a_network_the_missing_asset_is_named_and_the_rest_is_kept(fresh):
    fresh.made("results/assets/tiny_texts")
    fresh.edit("config/assets.yaml", lambda a: a.update(tiny_bert={
        "kind": "pypi", "package": "tiny-bert", "version": "1.0", "archive": "tiny_bert-1.0.tar.gz", "licence": "none",
        "source": "nowhere"}))  # fmt: skip
    dead = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "",
            "PIP_CONFIG_FILE": os.devnull, "PIP_TIMEOUT": "2"}  # fmt: skip
    done = fresh.run(BERT, "results/datasets/tiny/fruit", **dead)
    refused(done, "tiny_bert", "tiny-bert", "no network", "missing: tiny_bert", "Already fetched and kept: tiny_texts")
    assert (fresh / "results/assets/tiny_texts/asset.json").exists()


# ---- checkpoints --------------------------------------------------------------------------------------------------


def test_a_nan_in_a_checkpoint_names_file_tensor_and_index(project):
    file = project / "results/checkpoints/tiny/seed0/fruit/model.safetensors"
    tensors = load_file(file)
    name = "encoder.layer.1.output.dense.weight"
    tensors[name].ravel()[77] = np.nan
    save_file(tensors, file)
    for target in ("results/measures/tiny/seed0.json", "results/merged/tiny/ties/seed0"):
        rule = {"measures": "measure_weights", "merged": "merge_checkpoints"}[target.split("/")[1]]
        done = project.run("--forcerun", rule, "--allowed-rules", rule, "--", target)  # only this rule, with what is there
        refused(done, "results/checkpoints/tiny/seed0/fruit", name, "nan", "flat index 77")


def test_a_cut_checkpoint_names_the_file(project):
    file = project / "results/checkpoints/tiny/seed0/fruit/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    done = project.run("--forcerun", "measure_weights", "--allowed-rules", "measure_weights", "--",
                       "results/measures/tiny/seed0.json")  # fmt: skip
    refused(done, "results/checkpoints/tiny/seed0/fruit/model.safetensors", "damaged")


# ---- the machine --------------------------------------------------------------------------------------------------


FULL = {
    "assets": ("results", "fetch_asset", BERT),
    "merges": ("results/merged", "merge_checkpoints", "results/merged/tiny/ties/seed0"),
}


@pytest.mark.parametrize("folder, rule, target", FULL.values(), ids=FULL)
def test_a_full_disk_is_said_and_nothing_half_written_is_kept(project, isolated, folder, rule, target):
    before = mounted(isolated, f"mount -t tmpfs -o size=64k none {folder}")
    show = (
        "sh",
        "-c",
        f'"$@"; code=$?; echo kept: $(find {target} "$(dirname {target})" -name "*.safetensors*"); exit $code',
        "sh",
    )
    done = project.run("--allowed-rules", rule, "--", target, before=(*before, *show))
    refused(done, "No space left on device", "free some space and run again")
    assert "kept:\n" in done.text, done.text[-3000:]


READ_ONLY = {  # the first is said before anything runs
    "results": ["results/ cannot be written", "choose another folder with --directory"],
    "results/merged": ["Read-only file system: 'results/merged/tiny/ties'"],
}


@pytest.mark.parametrize("folder", READ_ONLY)
def test_a_results_folder_that_cannot_be_written_is_named(project, isolated, folder):
    project.remove("results/merged/tiny/ties", "results/digests/tiny/ties")
    before = mounted(isolated, f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}")
    refused(project.run("results/merged/tiny/ties/seed0", before=before), *READ_ONLY[folder])
