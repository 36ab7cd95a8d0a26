"""No config makes the report say what is not so: the shipped ones, and runs with little in them."""

import re
from html.parser import HTMLParser

import pytest
from fabricated_run import ROOT, FabricatedRun, quick

from nan_merge.catalogue.files import read_yaml

CONFIG = ROOT / "config"
OVERLAYS = {
    path.stem: read_yaml(path)
    for path in [*CONFIG.glob("papers/*.yaml"), CONFIG / "study/every_method.yaml", CONFIG / "scan.yaml"]
}
OVERLAYS = {name: {**each, **({"suites": each["suites"][:2]} if "suites" in each else {})} for name, each in OVERLAYS.items()}
OVERLAYS |= {"config": {}, "vision": read_yaml(CONFIG / "vision.yaml"), "two_suites": {"suites": ["text", "vision"]}}
USUAL = ["pretrained", "individual", "weight_averaging"]
PLAIN = {"tables": ["main", "comparisons", "methods", "experts", "coefficients", "scan", "sweep"]}
RUNS = {
    **{name: {"overlay": overlay} for name, overlay in OVERLAYS.items() if overlay.get("suites", True)},
    "robustness": {"overlay": {**read_yaml(CONFIG / "study/robustness.yaml"), "seeds": [0, 1]}},
    "search": {"overlay": {**read_yaml(CONFIG / "study/search.yaml"), "suites": ["text"]}},
    "three_seeds": {"overlay": {"seeds": [0, 1, 2]}},
    "fetched_seeds": {"overlay": {"suites": ["vit_b32_8"], "seeds": [0, 1]}},
    "one_task": {"overlay": {}, "tasks": 1},
    "same_answers": {"overlay": {}, "flips": 0.0},
    "equal_norms": {"overlay": {}, "spread": 0.0},
    "one_method": {"overlay": {"methods": ["task_arithmetic"], **PLAIN}},
    "no_merge": {"overlay": {"methods": ["pretrained", "individual"], **PLAIN}},
    "no_host": {"overlay": {"methods": ["task_arithmetic+nan_delta", "ties"], **PLAIN}},
    "no_controls": {"overlay": {"methods": [*USUAL, "ties", "ties+nan_delta"], **PLAIN}},
    "no_nan": {"overlay": {"methods": [*USUAL, "ties", "adamerging_layer"], **PLAIN}},
}
RESIDUES = {
    "an open or empty place": r"[{}]|\(\)|\[\]|: \.|, \.|: ,| ,|\.\.| ; |;;",
    "a value of Python": r"\bNone\b|\bTrue\b|\bFalse\b|\bnan\b(?! )(?![+_])(?<![+_]nan)|\binf\b|Undefined",
    "one thing in the plural": r"(?<![\d.,])1 (tasks|methods|comparisons|predictions|draws|seeds|experts|sizes|merges|steps)\b",
}


class Text(HTMLParser):
    """The text of a page by section, a line a paragraph, an entry or a row."""

    def __init__(self, page):
        super().__init__()
        self.parts, self.style = [], False
        self.feed(page)
        self.lines = [" ".join(line.split()) for line in "".join(self.parts).split("\n") if line.strip()]

    def handle_starttag(self, tag, attributes):
        self.style = tag in ("style", "script")
        self.parts.append("\n" if tag in ("p", "li", "h2", "h3", "dt", "dd", "tr", "summary", "caption") else " ")

    def handle_data(self, data):
        if not self.style:
            self.parts.append(data.replace("\n", " "))


@pytest.fixture(params=RUNS, scope="module")
def run(request, tmp_path_factory):
    """The name of a run, its text, its experiment and its studies."""
    with quick():
        made = FabricatedRun(tmp_path_factory.mktemp(request.param), **RUNS[request.param])
        text = Text(made.report().read_text(encoding="utf-8"))
    return request.param, text.lines, made


def said(lines, words):
    return any(words in line for line in lines)


def test_nothing_is_left_over_and_one_is_no_plural(run):
    _, lines, _ = run
    for what, pattern in RESIDUES.items():
        found = [line for line in lines if re.search(pattern, line)]
        assert not found, (what, found[:3])


def test_a_sentence_is_there_if_and_only_if_it_is_true(run):
    _, lines, made = run
    records = [method for study in made.studies for method in study.methods if "skipped" not in method]
    groups = {method.get("group") for method in records}
    fetched, tuned = any("experts" in suite for suite in made.suites), any("tune" in method for method in records)
    several = len(made.seeds) > 1
    for words, true in {
        "test inputs without their labels are used by": any(m.get("data") == "unlabelled test" for m in records),
        "Fetched experts were trained elsewhere": fetched,
        "one fine-tuning seed": not fetched and not several,
        "which extend to other seeds of the same recipe": not fetched and several,
        "With several seeds, seeds and examples are both a sample": several,
        "They cover the choice of examples and another fine-tuning": not fetched and several,
        "They cover the choice of examples and of random draws, not another fine-tuning": fetched and several,
        "They cover the choice of examples, not another fine-tuning": not several,
        "fetched experts, one fine-tuning of each": fetched,
        "the seeds change random draws of methods only": fetched and several,
        "The paper of NAN leaves open": bool(groups & {"nan", "scan"}),
        "Nothing. Every other hyper-parameter": not tuned,
        "by the average accuracy over tasks on the validation splits": tuned,
        "A row of several draws is shown": any("draws" in method for method in records),
    }.items():
        assert said(lines, words) == true, words


def test_the_versions_are_those_that_the_scores_record(run):
    _, lines, made = run
    torch = ", ".join(f"2.14.{seed}" for seed in made.seeds)
    assert [line for line in lines if line.startswith("versions.")] == ["versions.numpy 2.4.6", f"versions.torch {torch}"]


def test_the_number_of_comparisons_is_that_of_different_models(run):
    _, lines, made = run
    for study in made.studies:
        rows = [row for row in study.comparisons if row["kind"] in ("host", "control") and row["task"] == "average"]
        size = len({(row["method"], row["against"]) for row in rows if row["p"]})
        words = f"over the {size} host and control comparison{'' if size == 1 else 's'} of the suite"
        assert said(lines, words) or "main" not in made.experiment.config["tables"]


def test_a_check_of_controls_needs_a_control(run):
    _, lines, made = run
    nan = {method["id"] for method in made.methods if method.get("group") == "nan"}
    rows = [pair for pair in made.experiment.pairs() if pair["method"] in nan]
    assert said(lines, "NAN is above its host and above all its controls") == any(pair["kind"] == "control" for pair in rows)
    if rows and not any(pair["kind"] == "control" for pair in rows):
        assert said(lines, "No control of a NAN row was compared.")


def test_no_difference_is_detectable_that_cannot_be_decided(run):
    _, lines, _ = run
    lost = [line for line in lines if line.startswith("Cannot be decided. ")]
    assert not [line for line in lost if "detectable" in line]


def test_every_table_has_rows_or_says_that_it_has_none(run):
    _, _, made = run
    for page in made.folder.glob("tables/*.md"):
        text = page.read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len(rows) > 2 or "This suite has no measurements of this kind." in text, page.name


def test_what_norms_say_stands_with_the_suite_that_makes_the_merges(run):
    _, lines, made = run
    owners = [suite for suite in made.suites if "owner" not in suite]
    for words in ("NAN from the norms of whole weights differs from uniform", "The premise was not measured in this suite."):
        assert sum(words in line for line in lines) == len(owners), words
    assert said(lines, "nothing was trained here, and nothing chosen on these data") == (len(owners) < len(made.suites))


def test_one_expert_has_no_coefficients_to_judge(run):
    name, lines, _ = run
    assert said(lines, "One expert has the whole share, whatever its norm.") == (name == "one_task")
