"""Tables, figures and the report say what was measured: nothing missing is hidden, nothing undecided is claimed."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_table
from nan_merge.reporting import checks, norm_data, norm_figures
from nan_merge.reporting.figure_style import curve_styles
from nan_merge.reporting.figures import draw_figure
from nan_merge.reporting.formats import p_value, percent
from nan_merge.reporting.paired_tests import FAILS, HOLDS, ITSELF, NOT_TESTED, SAME, UNDECIDABLE, UNDECIDED
from nan_merge.reporting.report import write_report
from nan_merge.reporting.study import Score, Study, gather_scores, studies, training_sizes
from nan_merge.reporting.tables import render_table

TASKS, SIZES = ["digits", "news"], {"digits": 900, "news": 300}
METHODS = [
    {"id": "pretrained", "label": "Pre-trained", "group": "reference"},
    {"id": "individual", "label": "Individual", "group": "reference"},
    {"id": "weight_averaging", "label": "Averaging", "group": "host", "reference": "2203.05482"},
    {"id": "tuned", "label": "Tuned_λ & 50 %", "group": "host", "tune": {"hyper_parameter": "value", "fixed": 0.3}},
    {"id": "nan", "label": "NAN (|W|)", "group": "nan", "host": "weight_averaging", "controls": ["permuted"]},
    {"id": "permuted", "label": "Permuted", "group": "control"},
]
LEVELS = {"pretrained": 0.5, "individual": 0.9, "weight_averaging": 0.6, "tuned": 0.7, "nan": 0.6, "permuted": 0.61}


def pair(method, against, kind, difference, p=0.001, discordant=40):
    """A comparison row as the table holds it; the interval has a half-width of two points."""
    numbers = {
        "difference": difference, "low": difference - 0.02, "high": difference + 0.02, "p": p, "p_holm": p, "n": 200,
        "discordant": discordant, "changed": discordant, "least_p": 1e-5, "least_p_holm": 2e-5 if discordant else 1.0,
        "detectable": 0.031 if discordant else "",
    }  # fmt: skip
    usual = {"suite": "toy", "method": method, "against": against, "kind": kind, "task": "average", "seeds": "0"}
    return {**usual, **{key: str(value) for key, value in numbers.items()}}


def measure(weights, task_vector):
    squares = {"weights": [float(n) ** 2 for n in weights], "task_vector": [float(n) ** 2 for n in task_vector]}
    return {"experts": TASKS, "tensors": {"layer": {"numel": 4, **squares}}}


def probe(protocol, examples, weights, task_vector):
    numbers = {"examples": examples, "steps": 5, "norm_weights": weights, "norm_task_vector": task_vector}
    usual = {"suite": "toy", "task": "digits", "protocol": protocol, "accuracy": "0.5", "seed": "0"}
    return {**usual, **{key: str(value) for key, value in numbers.items()}}


@pytest.fixture
def study():
    """A complete study of two tasks: NAN repeats its host, λ was tuned, the premise holds at equal steps only."""
    scores = [Score("toy", m, t, "accuracy", v, 100, 0) for m, v in LEVELS.items() for t in TASKS]
    for value in (0.2, 0.3, 0.5):
        scores += [Score("toy", f"tuned-{value}", t, "validation_accuracy", 0.6 + value / 5, 50, 0) for t in TASKS]
    comparisons = [
        pair("nan", "weight_averaging", "host", 0.0, 1.0, 0),
        pair("nan", "permuted", "control", -0.01, 0.4),
        pair("weight_averaging", "pretrained", "order", 0.1),
        pair("tuned", "weight_averaging", "order", 0.1),
        pair("individual", "tuned", "order", 0.2),
        pair("tuned", "weight_averaging", "selection", 0.1),
    ]
    coefficients = [
        {"suite": "toy", "method": m, "seed": 0, "experts": TASKS, "scope": "model", "rows": {"model": c}}
        for m, c in (("weight_averaging", [0.5, 0.5]), ("nan", [0.5, 0.5]), ("permuted", [0.4, 0.6]))
    ]
    coefficients.append({**coefficients[0], "method": "tuned", "chosen": 0.5})
    premise = [probe("steps", n, 100, 1 / n) for n in (10, 20, 40)] + [probe("epochs", n, 100, n) for n in (10, 20, 40)]
    suite = {
        "id": "toy",
        "label": "Toy <suite>",
        "tasks": [{"id": t, "label": t.title(), "train": SIZES[t]} for t in TASKS],
        "seeds": [0],
        "skipped": [],
    }
    return Study(suite, METHODS, scores, comparisons, coefficients, {0: measure([100, 100.001], [1.0, 2.0])}, {}, premise)


def rendered(study, tmp_path, kind="accuracy"):
    render_table(study, {"id": "t", "kind": kind, "title": "Title"}, tmp_path / "t_toy")
    with open(tmp_path / "t_toy.csv", newline="") as lines:
        return list(csv.DictReader(lines)), (tmp_path / "t_toy.md").read_text(), (tmp_path / "t_toy.tex").read_text()


def test_a_known_leak_is_a_footnote_where_it_shows(study, tmp_path):
    study.suite["tasks"][0]["leaks"] = {"accuracy": 0.86, "note": "Test images were trained on."}
    _, page, _ = rendered(study, tmp_path)
    line = next(line for line in page.splitlines() if line.startswith("| Individual"))
    assert "90.0<sup>a</sup>" in line and "Test images were trained on." in page
    assert page.count("<sup>a</sup>") == 2, "a merge below the bound betrays nothing"


def test_a_leak_of_one_collection_is_told_of_that_collection_only(study, tmp_path):
    study.suite["tasks"][0]["leaks"] = {"collection": "A", "note": "Another split."}
    assert "Another split" not in rendered(study, tmp_path)[1]
    study.suite["collection"] = {"id": "A", "label": "task_vectors"}
    page = rendered(study, tmp_path)[1]
    assert "Another split" in page and "collection A, task" in page


def test_a_leak_to_one_expert_is_told_of_its_row_and_of_merges(study, tmp_path):
    study.suite["tasks"][0]["leaks"] = {"expert": "solver", "note": "Trained on its sources."}

    def marked():
        page = rendered(study, tmp_path)[1]
        mark = re.search(r"(<sup>\w</sup>) Trained on its sources", page)[1]
        names = ("Pre-trained", "Individual", "Averaging", "Permuted")
        return [next(mark in line for line in page.splitlines() if line.startswith(f"| {name}")) for name in names]

    assert marked() == [False, False, True, True]
    study.methods = [{**m, "id": m["id"].replace("individual", "expert_solver")} for m in study.methods]
    study.scores = [s._replace(method=s.method.replace("individual", "expert_solver")) for s in study.scores]
    assert marked() == [False, True, True, True]


def test_outputs_without_an_answer_or_cut_off_are_a_footnote(study, tmp_path):
    score = next(s for s in study.scores if s.method == "nan")
    study.scores += [score._replace(metric="unanswered", value=0.125), score._replace(metric="cut_off", value=0.01)]
    told = "No answer was found in 12.5 % of the outputs; they count as wrong."
    page = rendered(study, tmp_path)[1]
    assert told in page and "limit of tokens" not in page
    study.suite["tasks"][0]["unanswered"] = 0
    assert f"{told} 1.0 % of the outputs reached the limit of tokens." in rendered(study, tmp_path)[1]


def test_data_shared_by_suites_are_found_for_both(tmp_path):
    (tmp_path / "shared/digits").mkdir(parents=True)
    (tmp_path / "shared/digits/dataset.json").write_text(json.dumps({"splits": {"train": 7}}))
    suites = [{"id": name, "data": "shared", "tasks": [{"id": "digits"}]} for name in ("one", "two")]
    suites.append({"id": "three", "data": "shared", "tasks": [{"id": "digits", "train": 900}]})
    files = [tmp_path / "shared/digits/dataset.json"]
    assert training_sizes(suites, files) == {"one": {"digits": 7}, "two": {"digits": 7}, "three": {"digits": 900}}


def score_file(path, *scores):
    usual = {"suite": "toy", "task": "digits", "metric": "accuracy", "stderr": 0.1, "n": 9, "seed": 0}
    path.write_text(json.dumps({"scores": [{**usual, **score} for score in scores]}))
    return path


def test_scores_keep_the_order_of_methods_and_the_word_nan(tmp_path):
    files = [
        score_file(tmp_path / f"{m}.json", *({"method": m, "value": 0.5, "task": task} for task in "ba"))
        for m in ("pretrained", "nan", "dare")
    ]
    gather_scores(files, tmp_path / "scores.tsv")
    found = [(row["method"], row["task"]) for row in read_table(tmp_path / "scores.tsv")]
    assert found == [(m, t) for m in ("pretrained", "nan", "dare") for t in "ab"]


@pytest.mark.parametrize("value", [float("nan"), 1.5, None])
def test_a_score_that_is_no_fraction_is_refused_by_the_name_of_its_file(tmp_path, value):
    with pytest.raises(UserError, match=r"bad\.json.*from 0 to 1"):
        gather_scores([score_file(tmp_path / "bad.json", {"method": "dare", "value": value})], tmp_path / "scores.tsv")


def test_a_score_given_twice_is_refused_with_both_files(tmp_path):
    files = [score_file(tmp_path / name, {"method": "dare", "value": 0.5}) for name in ("one.json", "two.json")]
    with pytest.raises(UserError, match=r"two\.json.*one\.json"):
        gather_scores(files, tmp_path / "scores.tsv")


def test_files_are_split_by_suite_and_read_back(tmp_path):
    gather_scores([score_file(tmp_path / "a.json", {"method": "dare", "value": 0.25})], tmp_path / "scores.tsv")
    for suite in ("toy", "other"):
        (tmp_path / suite).mkdir()
        (tmp_path / suite / "seed3.json").write_text(json.dumps(measure([1, 1], [1, 1])))
    suites = [{"id": name, "tasks": [], "seeds": [3]} for name in ("toy", "other")]
    measures = [tmp_path / name / "seed3.json" for name in ("toy", "other")]
    toy, other = studies(suites, METHODS, tmp_path / "scores.tsv", measures=measures)
    assert (len(toy.scores), len(other.scores), list(other.measures)) == (1, 0, [3])


def test_numbers_are_spelt_in_one_way():
    assert [percent(0.743), percent(None)] == ["74.3", ""]
    assert [percent(-0.0004, signed=True), percent(0.004, signed=True)] == ["0.0", "+0.4"]
    assert percent(-0.01) == "−1.0" and p_value(0.0004) == "<0.001"


def test_the_main_table_has_averages_intervals_and_differences(study, tmp_path):
    rows, markdown, latex = rendered(study, tmp_path)
    nan = next(row for row in rows if row["method"] == "nan")
    assert float(nan["average"]) == pytest.approx(0.6) and nan["average_percent"] == "60.0"
    assert float(nan["average_low"]) < 0.6 < float(nan["average_high"])
    assert (nan["host"], nan["host_difference"], nan["control_1"]) == ("weight_averaging", "0.0", "permuted")
    assert "Averaging: 0.0, same predictions<br>Permuted: −1.0 [−3.0, +1.0] p 0.400" in markdown
    study.comparisons[1]["least_p_holm"] = "0.07"
    assert "Permuted: −1.0 [−3.0, +1.0] p 0.400, cannot be decided" in rendered(study, tmp_path)[1]
    assert r"NAN (\|W\|)" in markdown and r"Tuned\_$\lambda$ \& 50 \%" in latex and r"\toprule" in latex
    assert len({len(line) for line in markdown.splitlines() if line.startswith("|")}) == 1  # aligned


def test_a_missing_score_is_an_empty_cell_with_a_footnote_and_no_average(study, tmp_path):
    study.scores = [row for row in study.scores if (row.method, row.task) != ("nan", "news")]
    rows, markdown, latex = rendered(study, tmp_path)
    nan = next(row for row in rows if row["method"] == "nan")
    assert nan["news"] == nan["average"] == nan["weighted_average"] == nan["normalised_average"] == ""
    line = next(line for line in markdown.splitlines() if "NAN" in line and line.startswith("|"))
    assert re.search(r"60\.0 \|\s+<sup>a</sup> \|\s+<sup>b</sup> \|", line)
    assert "<sup>b</sup> No average without News." in markdown and r"\textsuperscript{b} No average" in latex


def test_a_method_without_any_score_keeps_its_row(study, tmp_path):
    study.scores = [row for row in study.scores if row.method != "permuted"]
    rows, _, _ = rendered(study, tmp_path)
    assert [row["method"] for row in rows] == [method["id"] for method in METHODS]


def test_a_skipped_task_is_named_with_its_reason(study, tmp_path):
    study.suite["skipped"] = [{"task": "news", "reason": "no licence was accepted"}]
    rows, markdown, _ = rendered(study, tmp_path)
    assert "Task News was skipped: no licence was accepted." in markdown and "news" not in rows[0]


def test_several_seeds_are_shown_with_their_spread(study, tmp_path):
    study.suite["seeds"] = [0, 1]
    study.scores += [row._replace(seed=1, value=row.value + 0.02) for row in study.scores]
    _, markdown, _ = rendered(study, tmp_path)
    assert "61.0 ± 1.4" in markdown and "2 fine-tuning seeds" in markdown


def test_the_comparison_table_gives_verdicts(study, tmp_path):
    rows, markdown, _ = rendered(study, tmp_path, "comparisons")
    assert [row["verdict"] for row in rows[:3]] == [SAME, UNDECIDED, HOLDS]
    assert [row["detectable"] for row in rows[:2]] == ["", "0.031"] and "| 3.10 |" in re.sub(" +", " ", markdown)
    assert "significant with a chance of 80 %" in markdown
    assert "over the 2 host and control comparisons" in markdown


def test_shares_from_norms_are_inverse_and_sum_to_one(study, tmp_path):
    rows, _, _ = rendered(study, tmp_path, "experts")
    assert [float(row["alpha_task_vector"]) for row in rows] == pytest.approx([2 / 3, 1 / 3])
    assert sum(float(row["alpha_weights"]) for row in rows) == pytest.approx(1)
    assert [float(row["share_of_data"]) for row in rows] == [0.75, 0.25]


def test_coefficients_are_described_by_ratio_and_entropy(study, tmp_path):
    study.coefficients[1] |= {"scope": "layer", "rows": {"a": [0.2, 0.4], "b": [0.3, 0.3]}}
    rows, markdown, _ = rendered(study, tmp_path, "coefficients")
    found = {row["method"]: row for row in rows}
    assert float(found["weight_averaging"]["entropy_mean"]) == pytest.approx(1)
    assert float(found["permuted"]["max_over_min_mean"]) == pytest.approx(1.5)
    assert "1.500 [1.000, 2.000]" in markdown and float(found["nan"]["alpha_digits"]) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_a_nested_merge_has_the_shares_of_what_it_takes(study, tmp_path):
    """Experts of its own, in another order than those of the suite: every share stands under its name."""
    other = next(table for table in study.coefficients if table["method"] == "nan")
    other |= {"experts": ["pair", "digits"], "rows": {"model": [0.6, 0.2]}}
    rows, _, _ = rendered(study, tmp_path, "coefficients")
    found = {row["method"]: row for row in rows}
    assert [float(found["nan"][f"alpha_{name}"]) for name in ("pair", "digits")] == pytest.approx([0.75, 0.25])
    assert found["weight_averaging"]["alpha_pair"] == "" and float(found["weight_averaging"]["alpha_digits"]) > 0
    absent = next(name for name in study.experts if name != "digits")
    assert found["nan"][f"alpha_{absent}"] == ""


def test_a_coefficient_that_is_not_positive_has_no_entropy(study):
    study.coefficients = [{**study.coefficients[0], "method": "nan", "rows": {"model": [1.0, -0.5]}}]
    assert norm_data.shares(study, "nan").entropy is None


def test_an_unknown_kind_names_the_known_ones(study, tmp_path):
    for draw in (render_table, draw_figure):
        with pytest.raises(UserError, match=r"config/tables\.yaml.*known: accuracy"):
            draw(study, {"id": "t", "kind": "pie", "title": ""}, tmp_path / "t")


KINDS = ["accuracy", "selection", "coefficients", "premise"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_has_the_same_bytes_each_time(study, tmp_path, kind):
    for name in ("one", "two"):
        draw_figure(study, {"id": "f", "kind": kind, "title": "Title"}, tmp_path / name)
    for suffix in (".svg", ".pdf", ".png"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert "dc:date" not in (tmp_path / "one.svg").read_text()


def test_shares_stand_beside_the_training_sets_of_every_seed_where_these_change(study):
    names, (measured,) = list(norm_data.experts(study)), study.measures.values()
    for task in study.tasks:
        task["train"] = {"0": 100, "1": 400} if task["id"] == names[0] else {"0": 400, "1": 100}
    study.measures = {0: measured, 1: measured}
    figure, caption = norm_figures.coefficients(study, {})
    points = next(line for line in figure.axes[1].get_lines() if line.get_label() == "α from ‖τ‖")
    alpha = [float(norm_data.experts(study)[name]["alpha_task_vector"][0]) for name in names]
    assert points.get_xdata().tolist() == [100, 400, 400, 100]
    assert points.get_ydata().tolist() == pytest.approx([alpha[0], alpha[0], alpha[1], alpha[1]])
    assert figure.axes[1].get_xscale() == "log" and "right: every seed" in caption


def test_shares_have_one_panel_where_no_training_set_is_known(study):
    study.datasets = {}
    study.suite["tasks"] = [{key: value for key, value in task.items() if key != "train"} for task in study.tasks]
    figure, caption = norm_figures.coefficients(study, {})
    assert len(figure.axes) == 1 and "Dashed" not in caption


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_of_nothing_is_drawn_and_says_so(tmp_path, kind):
    empty = Study({"id": "toy", "tasks": [], "seeds": [0]}, [])
    draw_figure(empty, {"id": "f", "kind": kind, "title": "Title"}, tmp_path / "f")
    assert re.search("in this suite", (tmp_path / "f.svg").read_text())


def test_the_configured_tables_and_figures_are_all_known(study, tmp_path):
    from pathlib import Path

    config = yaml.safe_load((Path(__file__).parents[3] / "config" / "tables.yaml").read_text(encoding="utf-8"))
    for name, record in config["tables"].items():
        render_table(study, {"id": name, **record}, tmp_path / name)
    for name, record in config["figures"].items():
        draw_figure(study, {"id": name, **record}, tmp_path / name)


def verdicts(study):
    return {check.statement: check.verdict for check in checks.checks(study)}


def test_checks_follow_from_the_numbers(study):
    found = verdicts(study)
    assert found["Methods are separated: pretrained < averaging < best merge < individual"] == HOLDS
    assert found["NAN from the norms of whole weights differs from uniform coefficients"] == FAILS
    assert found["NAN is above its host"] == SAME
    assert found['NAN is above the control "Permuted"'] == UNDECIDED
    assert found["1/‖τ‖ follows the amount of data at equal steps"] == HOLDS
    assert found["1/‖τ‖ follows the amount of data at equal epochs"] == checks.REVERSED
    assert found["1/‖W‖ follows the amount of data at equal steps"] == FAILS
    assert found["Tuned_λ & 50 %: λ selected on validation is above the fixed λ = 0.3 on the test split"] == HOLDS


def test_a_check_says_what_could_have_been_found(study):
    together = " ".join(check(study, "NAN is above its host and above all its controls").evidence)
    assert "the minimal detectable difference is 3.10 points in the median, from 3.10 to 3.10" in together
    assert "with a chance of 80 % at the first step of Holm's adjustment over 2 comparisons" in together
    assert "over 2 comparisons, by the normal approximation." in together and "left out" not in together
    assert "detectable 3.10 points, least attainable adjusted p < 0.001." in check(study, "NAN is above the control").evidence[0]
    (host,) = (one for one in checks.checks(study) if one.statement == "NAN is above its host")
    assert "No difference was observed; one as large as 2.00 points, either way," in host.evidence[0]
    study.comparisons = [{**row, "least_p_holm": "0.3"} for row in study.comparisons]
    assert check(study, "NAN is above the control").verdict == UNDECIDABLE
    together = " ".join(check(study, "NAN is above its host and").evidence)
    assert "Of 2 comparisons of NAN rows 1 cannot be decided and is left out here" in together


def test_a_comparison_of_the_same_models_is_told_once(study, tmp_path):
    study.comparisons[1] |= {"same_as": "nan against weight_averaging"}
    study.comparisons[5] |= {"same_as": ITSELF, "difference": "0.0", "discordant": "0", "changed": "0"}
    found = check(study, "NAN is above the control").evidence[0]
    assert found.endswith("; the same models as in NAN (|W|) − Averaging, counted once.")
    assert check(study, "Tuned_λ & 50 %").evidence[-1].endswith("one and the same model, so there is no difference to test.")
    _, page, _ = rendered(study, tmp_path, "comparisons")
    assert "over the 1 host and control comparison of the suite" in page
    assert "The same models as in NAN (\\|W\\|) − Averaging: one comparison, counted once." in page
    assert "one and the same model here: no comparison, and not counted." in page


def test_what_norms_of_weights_tell_apart_are_parts_along_the_base(study):
    """Long task vectors that are orthogonal to the base leave norms nearly equal; short ones along it do not."""
    base, across = np.array([100.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    for along, lengths in (([0.0, 0.0], [2.0, 5.0]), ([0.5, -0.3], [0.1, 0.2])):
        taus = [a * base / 100 + length * across for a, length in zip(along, lengths, strict=True)]
        sizes = [np.linalg.norm(tau) for tau in taus]
        study.measures = {0: measure([np.linalg.norm(base + tau) for tau in taus], sizes)}
        assert norm_data.along_the_base(study) == pytest.approx(np.ptp(along) / max(sizes), rel=0.01, abs=1e-9)
    line = check(study, "NAN from the norms").evidence[2]
    assert "of the longest task vector" in line and "Lengths alone would allow norms of weights that differ by 0.87 %" in line
    assert norm_data.allowed_by_lengths(study) == pytest.approx(sum(sizes) / 100, rel=0.01), "not twice the longest"
    assert norm_data.along_the_base(Study(study.suite, METHODS)) is None


@pytest.mark.parametrize("lengths", [[0.0, 2.0], [0.0, 0.0]], ids=["one expert", "both"])
def test_an_expert_that_equals_the_base_is_told_in_words(study, tmp_path, lengths):
    study.measures = {0: measure([100, 100], lengths)}
    draw_figure(study, {"id": "f", "kind": "coefficients", "title": "T"}, tmp_path / "f")
    texts = [*check(study, "NAN from the norms").evidence, (tmp_path / "f.svg").read_text()]
    assert not [text for text in texts if re.search(r"\binf\b|\bnan %", text)]
    assert ("is positive and the smallest is zero" in texts[1]) == any(lengths)
    assert ("is positive and the smallest is zero" in texts[-1]) == any(lengths)


def check(study, start):
    return next(check for check in checks.checks(study) if check.statement.startswith(start))


def test_the_best_merge_is_the_best_of_all_and_its_selection_on_the_test_split_is_said(study, tmp_path):
    assert "Tuned_λ & 50 % 70.0" in check(study, "Methods are").evidence[0]
    study.scores = [row._replace(value=0.8) if row.method == "nan" else row for row in study.scores]
    found = check(study, "Methods are")
    assert "NAN (|W|) 80.0" in found.evidence[0] and found.verdict == NOT_TESTED, "no comparison, no verdict"
    assert "was selected on the same test split: its average is the largest of 3 merges" in " ".join(found.evidence)
    assert "does not favour" not in " ".join(found.evidence), "not every merge was compared with averaging"
    assert "largest average of 3 on this same test split" in text_of_report(study, METHODS, tmp_path)
    study.methods = [method for method in METHODS if method["id"] not in ("nan", "permuted")]
    assert "selected on the same" not in " ".join(check(study, "Methods are").evidence), "of one merge nothing is selected"


def test_controls_of_one_kind_are_one_check(study):
    new = [{"id": f"{host}+nan", "group": "nan", "host": host, "controls": [f"{host}+nan+permuted"]} for host in ("ta", "ties")]
    study.methods = [*METHODS, *new]
    study.comparisons = [pair(m["id"], f"{m['id']}+permuted", "control", 0.1) for m in new]
    found = check(study, 'NAN is above its control "permuted"')
    assert found.verdict == HOLDS and len(found.evidence) == 2


def test_a_gain_of_a_row_that_is_no_nan_is_no_gain_of_nan(study):
    study.methods = [{**method, "group": "control"} if method["id"] == "nan" else method for method in METHODS]
    assert check(study, "NAN is above its host").verdict == NOT_TESTED


@pytest.mark.parametrize("kind", ["accuracy", "comparisons", "methods", "coefficients"])
def test_a_table_with_a_selected_value_says_on_what_it_was_selected(study, tmp_path, kind):
    words = "Tuned\\_λ & 50 %: λ = 0.5, chosen by the average accuracy over tasks on the validation splits."
    assert words in rendered(study, tmp_path, kind)[1]
    study.methods = [method for method in METHODS if "tune" not in method]
    assert "validation" not in rendered(study, tmp_path, kind)[1]


def test_a_value_that_was_chosen_for_another_method_says_so(study):
    tune = {"hyper_parameter": "mean", "as": "tuned"}
    study.methods = [*METHODS, {"id": "tuned+nan", "label": "Tuned + NAN", "group": "nan", "tune": tune}]
    assert study.choices()[1].startswith("Tuned + NAN: λ, chosen for Tuned_λ & 50 % by the average accuracy")


COLOURS = {"host": "#0072b2", "nan": "#d55e00", "control": "#009e73"}


@pytest.mark.parametrize("left_out", [[], ["pretrained", "individual"], ["weight_averaging", "permuted"]])
def test_a_group_has_the_same_colour_in_every_run(study, tmp_path, left_out):
    study.methods = [method for method in METHODS if method["id"] not in left_out]
    draw_figure(study, {"id": "f", "kind": "accuracy", "title": "T"}, tmp_path / "f")
    drawn = set(re.findall(r"stroke: (#\w{6})", (tmp_path / "f.svg").read_text()))
    assert drawn & set(COLOURS.values()) == {COLOURS[m["group"]] for m in study.methods if m["group"] in COLOURS}


def test_a_curve_looks_the_same_whatever_else_is_drawn_and_no_two_are_alike():
    methods = [{"id": f"host_{number}+nan_delta_tuned", "group": "nan"} for number in range(20)]
    together, alone = curve_styles(methods), {method["id"]: curve_styles([method])[method["id"]] for method in methods}
    assert len(set(together.values())) == len(methods)
    assert curve_styles(methods[:4]) == {method["id"]: alone[method["id"]] for method in methods[:4]}


def test_the_fixed_value_in_a_figure_is_that_of_the_method(study, tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr("matplotlib.axes.Axes.axvline", lambda self, value, **style: labels.append((value, style["label"])))
    draw_figure(study, {"id": "f", "kind": "selection", "title": "T"}, tmp_path / "f")
    assert labels == [(0.5, "1/T (averaging) = 0.5"), (0.3, "fixed λ = 0.3")]


IDS = {"nan": "weight_averaging+nan", "permuted": "weight_averaging+nan+permuted", "tuned": "tuned+nan_delta_tuned"}


def renamed(value):
    """Replace ids anywhere in a record; candidates are `<id>-<value>`."""
    if isinstance(value, str):
        name, dash, rest = value.partition("-")
        return f"{IDS.get(name, name)}{dash}{rest}"
    if isinstance(value, dict):
        return {key: value if key in ("label", "group", "kind") else renamed(value) for key, value in value.items()}
    if isinstance(value, Score):
        return value._replace(method=renamed(value.method))
    return [renamed(each) for each in value] if isinstance(value, list) else value


def test_ids_with_variants_change_nothing_but_themselves(study, tmp_path):
    other = Study(study.suite, *(renamed(of) for of in (study.methods, study.scores, study.comparisons, study.coefficients)),
                  study.measures, {}, study.premise)  # fmt: skip
    assert [each.evidence for each in checks.checks(other)] == [each.evidence for each in checks.checks(study)]
    assert 'NAN is above its control "permuted"' in verdicts(other)
    for kind in ("accuracy", "comparisons", "coefficients", "sweep"):
        (rows, *pages), (plain, *expected) = rendered(other, tmp_path, kind), rendered(study, tmp_path, kind)
        assert pages == expected and [row["method"] for row in rows] == [renamed(row["method"]) for row in plain]
    shown = other.only({"methods": ["*+nan*"], "without": ["*+permuted"]})
    assert [method["id"] for method in shown.methods] == ["tuned+nan_delta_tuned", "weight_averaging+nan"]
    draw_figure(other, {"id": "f", "kind": "accuracy", "title": "T"}, tmp_path / "f_toy")
    write_report([other], other.methods, [tmp_path / "t_toy.md"], [tmp_path / "f_toy.svg"], {}, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "weight_averaging+nan+permuted" in page.text and len(page.ids) == len(set(page.ids))


def test_a_higher_average_alone_never_holds(study):
    study.comparisons = [{**row, "p_holm": "0.2"} for row in study.comparisons]
    assert HOLDS not in [verdict for statement, verdict in verdicts(study).items() if not statement.startswith("1/")]


def test_what_was_not_measured_is_not_tested(study):
    empty = Study(study.suite, METHODS)
    assert set(verdicts(empty).values()) == {NOT_TESTED}


def test_a_choice_at_the_edge_of_the_grid_is_said(study):
    assert any("edge of the grid" in line for each in checks.checks(study) for line in each.evidence)


class Page(HTMLParser):
    """Collect tags, ids and outside references of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.text = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.links.append(value)

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(study, tmp_path):
    other = Study({**study.suite, "id": "other_toy", "label": "Other"}, METHODS)
    tables, figures = [], []
    for one in (study, other):
        for kind in ("accuracy", "coefficients"):
            render_table(one, {"id": kind, "kind": kind, "title": kind}, tmp_path / f"{kind}_{one.suite['id']}")
            tables.append(tmp_path / f"{kind}_{one.suite['id']}.md")
            draw_figure(one, {"id": kind, "kind": kind, "title": kind}, tmp_path / f"{kind}_{one.suite['id']}")
            figures.append(tmp_path / f"{kind}_{one.suite['id']}.svg")
    study.datasets = {"digits": {"classes": ["a", "b"], "splits": {"train": 900, "test": 100}, "licence": "CC0-1.0"}}
    origin = {"versions": {"numpy": "2.0"}, "config": "abc123", "assets": [{"id": "base", "licence": "MIT", "sha256": "ff"}]}
    write_report([study, other], METHODS, tables, figures, origin, tmp_path / "report.html")
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_report_needs_nothing_from_outside(page):
    assert page.tags.isdisjoint({"link", "img", "iframe", "object"})
    inner = {link[1:] for link in page.links if not link.startswith("data:text/")}
    assert len(page.ids) == len(set(page.ids)) and inner <= set(page.ids)


def test_the_report_says_what_it_must(page):
    text = " ".join(" ".join(page.text).split())
    for words in (
        "Variation over fine-tuning is not covered",
        "Holm",
        "Wilson",
        "CC0-1.0",
        "abc123",
        "arXiv 2203.05482",
        "Permuted",
        "not tested",
        "does not hold",
        "MIT",
        "0.0, same predictions",
        "Toy <suite>",
    ):
        assert words in text, words
    assert not re.search(r"\bnan\b(?! )[.,]|None|\binf\b", text)


def text_of_report(study, methods, tmp_path):
    write_report([study], methods, [], [], {}, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    return " ".join(" ".join(page.text).split())


def test_the_report_names_the_methods_that_use_test_inputs(study, tmp_path):
    learned = [{"id": "ada", "label": "AdaMerging", "data": "unlabelled test"}, {"id": "other", "data": "train"}]
    assert "trains and selects on other splits." in text_of_report(study, METHODS, tmp_path)
    study.methods = [*METHODS, {**learned[0], "skipped": "it needs data"}, learned[1]]
    assert "trains and selects on other splits." in text_of_report(study, METHODS + learned, tmp_path), "it did not run"
    study.methods = METHODS + learned
    assert "test inputs without their labels are used by AdaMerging." in text_of_report(study, METHODS + learned, tmp_path)


def test_the_report_says_that_seeds_are_a_sample(study, tmp_path):
    study.suite["seeds"] = [0, 1, 2]
    assert "a sample for tests and intervals, which extend to other seeds of the same recipe" in text_of_report(
        study, METHODS, tmp_path
    )


def test_the_report_tells_fetched_experts_from_its_own(study, tmp_path):
    assert "Fetched experts" not in text_of_report(study, METHODS, tmp_path)
    study.suite["experts"] = "clip_{}"
    assert "Fetched experts were trained elsewhere" in text_of_report(study, METHODS, tmp_path)


def test_a_reference_is_never_shown_as_the_best_merge(study, tmp_path):
    study.methods = [*study.methods, {"id": "mtl", "label": "MTL", "group": "reference"}]
    study.scores += [row._replace(method="mtl", value=0.99) for row in study.scores if row.method == "nan"]
    write_report([study], study.methods, [], [], {}, tmp_path / "report.html")
    shown = (tmp_path / "report.html").read_text(encoding="utf-8").partition('class="answer"')[2].partition("</p>")[0]
    assert "MTL" not in shown and "Pre-trained" in shown


def test_a_file_of_an_unknown_suite_is_refused(study, tmp_path):
    with pytest.raises(UserError, match="belongs to no suite"):
        write_report([study], METHODS, [tmp_path / "main_elsewhere.md"], [], {}, tmp_path / "report.html")
