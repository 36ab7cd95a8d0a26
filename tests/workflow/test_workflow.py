"""The whole workflow on the tiny suite: what it makes, that it stops when done, and that its bytes are reproducible."""

import csv
import json
import re
import zipfile

import pytest
import tiny
from project import RESULTS, Project

MERGES = [method for method in tiny.RUN if method not in ("pretrained", "individual")]


def scores(project: Project) -> list[dict[str, str]]:
    with open(project / "results/scores.tsv", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def averages(project: Project) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in scores(project):
        if row["metric"] == "accuracy":
            found.setdefault(row["method"], []).append(float(row["value"]))
    return {method: sum(values) / len(values) for method, values in found.items()}


def test_every_target_exists(finished):
    expected = ["scores.tsv", "comparisons.tsv", "claims.md", "claims.csv", "report.html", "run_config.yaml"]
    expected += [f"tables/{table}_tiny.{suffix}" for table in tiny.shown("tables") for suffix in ("csv", "md", "tex")]
    expected += [f"figures/{figure}_tiny.{suffix}" for figure in tiny.shown("figures") for suffix in ("svg", "png")]
    expected += [f"merged/tiny/{method}/seed0/model.safetensors" for method in MERGES]
    missing = [name for name in expected if not (finished / "results" / name).stat().st_size]
    assert not missing


def test_scores_hold_one_row_a_method_and_task_and_nothing_else(finished):
    rows = {(row["suite"], row["method"], row["task"], row["metric"]) for row in scores(finished)}
    test = {("tiny", method, task, "accuracy") for method in tiny.RUN for task in tiny.TASKS}
    grid = {("tiny", f"task_arithmetic_tuned-{value}", task, "validation_accuracy") for value in tiny.GRID for task in tiny.TASKS}
    assert rows == test | grid
    assert len(scores(finished)) == len(rows)
    assert all(0 <= float(row["value"]) <= 1 and row["n"] in ("80", "60") for row in scores(finished))


def test_the_tiny_suite_is_learnable_so_that_its_tables_mean_something(finished):
    average = averages(finished)
    assert average["pretrained"] + 0.1 < average["weight_averaging"] < average["individual"] - 0.05


def test_the_tuned_method_takes_the_best_candidate_of_validation(finished):
    chosen = json.loads((finished / "results/coefficients/tiny/task_arithmetic_tuned/seed0.json").read_text())
    by_value: dict[float, list[float]] = {}
    for row in scores(finished):
        if row["metric"] == "validation_accuracy":
            by_value.setdefault(float(row["method"].split("-")[1]), []).append(float(row["value"]))
    best = max(sorted(by_value), key=lambda value: sum(by_value[value]))
    assert chosen["chosen"] == best
    assert chosen["rows"] == {"model": [best] * 3}


def test_candidates_and_premise_checkpoints_are_not_kept(finished):
    assert not list((finished / "results").glob("candidates/tiny/*/*/model.safetensors"))
    assert not list((finished / "results").glob("premise/tiny/*/*/model.safetensors"))


def test_uniform_matched_is_its_host_when_the_coefficients_are_equal(finished):
    folder = finished / "results/merged/tiny"
    models = {m: (folder / m / "seed0/model.safetensors").read_bytes() for m in MERGES}
    assert models[tiny.UNIFORM] == models["task_arithmetic"]
    others = [models[m] for m in MERGES if m != tiny.UNIFORM]
    assert len(set(others)) == len(others) or models["task_arithmetic_tuned"] == models["task_arithmetic"]
    assert len({models[name] for name in ("task_arithmetic+nan_delta", *tiny.DRAWS)}) == 3


def test_no_temporary_file_is_left(finished):
    assert finished.leftovers() == []


def test_the_report_needs_nothing_else(finished):
    page = (finished / "results/report.html").read_text(encoding="utf-8")
    loads = re.findall(r"<(?:script|img|iframe|object|embed|source|audio|video|link)\b[^>]*>", page)
    assert not [tag for tag in loads if re.search(r"""(?:src|href|data|srcset)\s*=\s*["']?(?!data:|#)""", tag)]
    assert not re.search(r"@import|url\(\s*[\"']?(?!#|data:)", page)
    assert "Tiny BERT" in page and page.count("<svg") == len(tiny.shown("figures"))


def test_a_second_run_has_nothing_to_do(finished):
    assert finished.jobs() == set()


def test_snakemakes_own_report_has_every_result_with_its_caption_and_needs_no_network(project, isolated):
    kinds = ("tables/*.md", "figures/*.svg", "scores.tsv", "claims.md", "report.html")
    expected = {path for kind in kinds for path in made(project, kind)}
    for name in ("own.html", "own.zip"):
        done = project.run("--report", name, before=isolated("--net"))
        assert done.code == 0, done.text[-3000:]
    with zipfile.ZipFile(project / "own.zip") as bundle:
        pages = (project / "own.html").read_text(encoding="utf-8"), bundle.read("own/report.html").decode()
        kept = {name: bundle.read(name) for name in bundle.namelist()}
    for page in pages:
        assert "Experts of one base are merged by every configured method" in page
        shown, _ = json.JSONDecoder().raw_decode("{" + page.partition("var results = {")[2])
        assert shown.keys() == expected and len(expected) > 12
        captions = {path: result["caption"] for path, result in shown.items()}
        assert [path for path, text in captions.items() if len(text) < 60 or "of config/tables.yaml" in text] == []
        of_suites = {path.rpartition("/")[0] for path, text in captions.items() if "Suite <" in text}
        assert of_suites == {"results/tables", "results/figures"}
    for path, result in shown.items():
        assert kept[f"own/{result['data_uri']}"] == (project / path).read_bytes()


def made(project, kind):
    """Files of the results, by path in the project."""
    return {path.relative_to(project.folder).as_posix() for path in (project / "results").glob(kind)}


def test_two_clean_runs_give_the_same_bytes_whatever_the_cores_threads_and_folder(finished, fresh):
    elsewhere = fresh.run("--cores", "1", OMP_NUM_THREADS="3", MKL_NUM_THREADS="2", PYTHONHASHSEED="7", TZ="Asia/Tokyo")
    assert elsewhere.code == 0, elsewhere.text[-6000:]
    first, second = finished.digests(*RESULTS), fresh.digests(*RESULTS)
    assert first.keys() == second.keys()
    assert {
        "scores.tsv",
        "merged/tiny/dare/seed0/model.safetensors",
        "figures/premise_tiny.png",
        "figures/premise_tiny.pdf",
    } <= first.keys()
    assert {name for name in first if first[name] != second[name]} == set()


def test_the_draws_of_a_control_are_one_row_and_one_comparison(finished):
    with open(finished / "results/tables/main_tiny.csv", newline="") as lines:
        rows = {row["method"]: row for row in csv.DictReader(lines)}
    assert set(rows) == set(tiny.METHODS)
    one, two = sorted(averages(finished)[name] for name in tiny.DRAWS)
    found = [float(rows[tiny.PERMUTED][f"average{end}"]) for end in ("", "_low", "_high")]
    assert found == pytest.approx([(one + two) / 2, one, two], rel=1e-12)
    with open(finished / "results/comparisons.tsv", newline="") as lines:
        pairs = [row for row in csv.DictReader(lines, delimiter="\t") if row["against"] == tiny.PERMUTED]
    assert {row["draws"] for row in pairs} == {"2"} and {row["method"] for row in pairs} == {"task_arithmetic+nan_delta"}
