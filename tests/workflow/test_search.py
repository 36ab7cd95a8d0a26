"""Searches of hyper-parameters in the workflow: every trial a job, what is chosen is merged, more trials cost no trial again.

With `prune`, trials that are worse than most are scored on fewer tasks, and all bytes are the same in any order of jobs.
"""

import json
from statistics import fmean

import pytest
import tiny
from project import Project

SPACE = {"value": {"low": 0.1, "high": 1.0}, "density": {"low": 0.05, "high": 0.5, "log": True}}
SEARCHED, TPE = "task_arithmetic+searched", "ties_tpe"
TRIALS = [f"{TPE}-t{number}" for number in range(1, 5)]


def searching(project: Project) -> Project:
    """Give the tiny project a search of two hyper-parameters by TPE and one of a coefficient for each expert."""
    tune = {"search": "tpe", "budget": 4, "batch": 2, "space": SPACE}
    made = {"extends": "ties", "label": "TIES (tpe)", "summary": "TIES by TPE", "data": "validation", "tune": tune}
    project.edit("config/methods.yaml", lambda methods: methods.update({TPE: made}))
    project.edit("config/variants.yaml", lambda variants: variants["searched"]["tune"].update(budget=4, batch=4))
    project.edit("config/config.yaml", lambda config: config.update(methods=[*tiny.METHODS, TPE, SEARCHED]))
    return project


def read(project: Project, name: str) -> dict:
    return json.loads((project / f"results/{name}").read_text())


def file_of(kind: str, method: str) -> str:
    return f"results/{kind}/tiny/{method}/seed0.json"


@pytest.fixture
def searched(project: Project) -> Project:
    searching(project).made(*(file_of(kind, method) for kind in ("searches", "digests") for method in (TPE, SEARCHED)))
    return project


def test_what_was_chosen_is_merged_and_only_later_rounds_see_scores(searched):
    chosen, points = (
        read(searched, f"selected/tiny/{TPE}/seed0.json"),
        [read(searched, f"trials/tiny/{trial}/seed0.json")["point"] for trial in TRIALS],
    )
    assert points[0] == {"coefficients.constant.value": 0.3, "preprocess.trim.density": 0.2}, "the method as it is"
    assert chosen["point"] == points[TRIALS.index(chosen["candidate"])]
    assert chosen["averages"][chosen["candidate"]] == max(chosen["averages"].values())
    merged, candidate = (read(searched, f"digests/tiny/{name}/seed0.json")["tensors"] for name in (TPE, chosen["candidate"]))
    assert merged == candidate, "thresholds and coefficients are those of the chosen trial"
    assert read(searched, f"measures/tiny/seed0_{TPE}.json")["density"] == chosen["point"]["preprocess.trim.density"]
    assert not list((searched / "results/candidates").glob("tiny/*/*/model.safetensors"))
    plain = searched.jobs("--forcerun", "propose_trial", "--", file_of("trials", TRIALS[1]))
    assert plain == {f"propose_trial: tiny, {TRIALS[1]}, seed 0"}, "the first round needs no scores"

    trace = read(searched, f"searches/tiny/{TPE}/seed0.json")
    assert [trial["candidate"] for trial in trace["trace"]] == TRIALS and trace["trials"] == 4
    assert trace["best"] == trace["trace"][-1]["best"] == max(chosen["averages"].values())
    assert trace["optimism"] == pytest.approx(trace["best"] - trace["cross_validated"])

    factors = read(searched, f"selected/tiny/{SEARCHED}/seed0.json")["point"]["coefficients.multiples.values"]
    rows = read(searched, f"coefficients/tiny/{SEARCHED}/seed0.json")
    assert rows["rows"]["model"] == pytest.approx([0.3 * factors[expert] for expert in rows["experts"]])

    searched.edit("config/methods.yaml", lambda methods: methods[TPE]["tune"].update(budget=5))
    new = f"{TPE}-t5"
    rules = ("propose_trial", "measure_threshold", "estimate_coefficients", "merge_candidate", "evaluate_candidate")
    jobs = {f"{rule}: tiny, {new}{', all' * (rule == 'evaluate_candidate')}, seed 0" for rule in rules}
    assert searched.jobs("--", file_of("selected", TPE)) == jobs | {f"select_coefficients: tiny, {TPE}, seed 0"}


SOBOL = "task_arithmetic_sobol"
PRUNING = {"search": "sobol", "budget": 8, "batch": 5, "prune": True, "space": {"value": {"low": 0.0, "high": 4.0}}}
GROUPS = {"first": ["fruit", "weather"]}  # tools is a group of its own
MADE = ("trials", "validation", "selected", "searches")


def test_pruning_saves_scores_and_neither_cores_nor_a_stop_change_a_byte(project, tmp_path):
    made = {"extends": "task_arithmetic", "label": "Sobol", "summary": "by Sobol", "data": "validation", "tune": dict(PRUNING)}
    project.edit("config/methods.yaml", lambda methods: methods.update({SOBOL: made}))
    project.edit("config/config.yaml", lambda config: config.update(methods=[*tiny.METHODS, SOBOL]))
    project.edit("config/suites/tiny.yaml", lambda suite: suite.update(groups=GROUPS))
    stopped, targets = project.copy(tmp_path / "stopped"), [file_of(kind, SOBOL) for kind in ("selected", "searches")]
    project.made("--cores", "2", "--", *targets)
    stopped.made("--cores", "1", "--", f"results/validation/tiny/{SOBOL}-t7/seed0/first.json")
    stopped.made("--cores", "1", "--", *targets)
    patterns = [f"{kind}/tiny/{SOBOL}*/**/*" for kind in MADE]
    assert project.digests(*patterns) == stopped.digests(*patterns)

    chosen, search = (read(project, f"{kind}/tiny/{SOBOL}/seed0.json") for kind in ("selected", "searches"))
    pruned = {trial["candidate"]: trial["pruned"] for trial in search["trace"] if "pruned" in trial}
    assert pruned and pruned.keys() <= {f"{SOBOL}-t{number}" for number in (6, 7, 8)}, "none of the first round"
    assert chosen["averages"].keys() == {f"{SOBOL}-t{number}" for number in range(1, 9)} - pruned.keys()
    assert chosen["candidate"] == search["chosen"] and search["cost"]["pruned"] == len(pruned)
    assert search["cost"]["examples_scored"] < search["cost"]["examples"] == 8 * 3 * 60

    whole = {key: value for key, value in PRUNING.items() if key not in ("prune", "batch")}
    project.edit("config/methods.yaml", lambda methods: methods[SOBOL].update(tune=whole))
    files = {name: [f"validation/tiny/{name}/seed0/{group}.json" for group in ("first", "tools")] for name in pruned}
    project.made("--", *[f"results/{file}" for names in files.values() for file in names])
    for names in files.values():
        values = [row["value"] for file in names for row in read(project, file)["scores"]]
        assert len(values) == 3 and fmean(values) <= chosen["averages"][chosen["candidate"]], "the choice is that without pruning"
