"""What a change costs: after each change a dry run names exactly the jobs that depend on it, and no other.

A job is written as its message, `rule: wildcards`; every set below is complete.
"""

import os
import subprocess
import time

import pytest
import tiny
from project import Project, package

MERGES = [method for method in tiny.RUN if method not in ("pretrained", "individual")]
CANDIDATES = [f"task_arithmetic_tuned-{value:g}" for value in tiny.GRID]
TABLES = {f"render_table: {name}, tiny" for name in tiny.shown("tables")}
FIGURES = {f"draw_figure: {name}, tiny" for name in tiny.shown("figures")}
PRESENTED = TABLES | FIGURES | {"write_claims", "write_report", "write_run_config"}
GATHERED = {"gather_scores", "compare_methods"}


def each(rule, items, seed=0):
    return {f"{rule}: tiny, {item}, seed {seed}" for item in items}


def estimated(*methods, seed=0):
    return each("estimate_coefficients", methods, seed)


def merged(*methods, seed=0):
    return each("merge_checkpoints", methods, seed) | scored(*methods, seed=seed)


def scored(*methods, seed=0):
    return each("evaluate_checkpoint", [f"{method}, all" for method in methods], seed)


def tuned(seed=0):
    """The search for λ: everything that comes before the estimate of the tuned method."""
    return (estimated(*CANDIDATES, seed=seed) | each("merge_candidate", CANDIDATES, seed)
            | each("evaluate_candidate", [f"{candidate}, all" for candidate in CANDIDATES], seed)
            | chosen(seed))  # fmt: skip


def chosen(seed=0):
    """What follows the scores of the candidates: the choice, and the trace of the search."""
    return each("select_coefficients", ["task_arithmetic_tuned"], seed) | each("describe_search", ["task_arithmetic_tuned"], seed)


def from_experts(seed=0):
    """Everything that follows the experts of one seed, up to its scores."""
    threshold = f"measure_threshold: tiny, density_0.2-scope_model, seed {seed}"
    return ({f"measure_weights: tiny, seed {seed}", threshold} | tuned(seed)
            | estimated(*MERGES, seed=seed) | merged(*MERGES, seed=seed) | scored("individual", seed=seed))  # fmt: skip


def premise(seed=0):
    runs = [f"{protocol}-{size}" for protocol in ("steps", "epochs") for size in tiny.SUITE["premise"]["sizes"]]
    return each("finetune_premise", runs, seed) | each("measure_premise", runs, seed) | {"gather_premise: tiny"}


def methods(project, change):
    project.edit("config/methods.yaml", change)


def config(project, change):
    project.edit("config/config.yaml", change)


def suite(project, change):
    project.edit("config/suites/tiny.yaml", change)


def test_nothing_changed_is_nothing_to_do(project):
    assert project.jobs() == set()


# ---- config ----------------------------------------------------------------------------------------------------


def test_a_changed_lambda_costs_one_estimate_one_merge_and_its_scores(project):
    """Of the host, and of the variants that take its scale."""
    methods(project, lambda m: m["ties"]["coefficients"]["constant"].update(value=0.4))
    changed = ("ties", "ties+nan_delta")
    assert project.jobs() == estimated(*changed) | merged(*changed) | GATHERED | PRESENTED


def test_a_changed_drop_rate_costs_no_estimate(project):
    methods(project, lambda m: m["dare"]["preprocess"]["drop"].update(rate=0.8))
    assert project.jobs() == merged("dare") | GATHERED | PRESENTED


def test_a_changed_density_costs_one_more_threshold(project):
    methods(project, lambda m: m["ties"].update(preprocess={"trim": {"density": 0.1}}))
    changed = merged("ties") | merged("ties+nan_delta")
    assert project.jobs() == {"measure_threshold: tiny, density_0.1-scope_model, seed 0"} | changed | GATHERED | PRESENTED


def test_one_more_value_in_the_grid_costs_one_candidate_and_the_choice(project):
    methods(project, lambda m: m["task_arithmetic_tuned"]["tune"].update(grid=[*tiny.GRID, 0.9]))
    new = "task_arithmetic_tuned-0.9"
    expected = estimated(new) | each("merge_candidate", [new]) | each("evaluate_candidate", [f"{new}, all"])
    expected |= chosen() | estimated("task_arithmetic_tuned")
    assert project.jobs() == expected | merged("task_arithmetic_tuned") | GATHERED | PRESENTED


def test_how_whole_tensors_are_computed_costs_no_merge_by_methods_that_take_pieces(project):
    config(project, lambda c: c.update(compute="float32", blas_threads=2))
    assert project.jobs() <= PRESENTED


@pytest.mark.parametrize("key", ["label", "summary"])
def test_changed_words_are_only_presented_again(project, key):
    methods(project, lambda m: m["ties"].update({key: "Another"}))
    assert project.jobs() == PRESENTED


def test_a_new_method_adds_its_own_jobs(project):
    config(project, lambda c: c["methods"].append("weight_averaging+nan_delta"))
    new = "weight_averaging+nan_delta"
    assert project.jobs() == estimated(new) | merged(new) | GATHERED | PRESENTED


def test_a_removed_method_is_only_left_out(project):
    config(project, lambda c: c["methods"].remove("dare"))
    assert project.jobs() == GATHERED | PRESENTED


def test_a_changed_caption_of_a_table_renders_that_table(project):
    project.replace("config/tables.yaml", "Ranks of the merges", "Merges by rank")
    assert project.jobs() == {"render_table: ranks, tiny", "write_report"}


def test_a_smallest_effect_of_another_size_judges_the_claims_again(project):
    project.edit("config/claims.yaml", lambda claims: claims["smallest_effect"].update(points=1.0))
    assert project.jobs() == {"write_claims", "write_report"}


def test_a_changed_caption_of_snakemake_s_report_is_read_when_that_is_made(project):
    with open(project / "workflow/report/table.rst", "a") as file:
        file.write("More words.\n")
    assert project.jobs() == set()


def test_a_changed_tolerance_renders_the_tables_of_printed_numbers_that_have_it(project):
    config(project, lambda c: c.update(published=["nan_table1", "fusionbench_clip"]))
    project.made()
    project.edit("config/tables.yaml", lambda t: t["published"]["nan_table1"].update(tolerance={"average": 0.3, "task": 1.0}))
    assert project.jobs() == {"render_published: nan_table1", "write_report"}


def test_swapped_hyper_parameters_of_a_method_are_noticed(project):
    """Parameters of jobs are compared as a set: a swap of two numbers must not go unnoticed."""
    project.edit("config/variants.yaml", lambda v: v["nan_delta"]["coefficients"]["nan"].update(exponent=0.3))
    methods(project, lambda m: m["task_arithmetic"]["coefficients"]["constant"].update(value=1.0))
    found = {job for job in project.jobs() if job.startswith("estimate_coefficients")}
    assert estimated("task_arithmetic+nan_delta", tiny.UNIFORM, *tiny.DRAWS) <= found


def test_swapped_settings_of_fine_tuning_are_noticed(project):
    rate, decay = (tiny.SUITE["finetune"][key] for key in ("learning_rate", "weight_decay"))
    suite(project, lambda s: s["finetune"].update(learning_rate=decay, weight_decay=rate))
    expected = each("finetune_checkpoint", tiny.TASKS) | from_experts() | premise() | GATHERED | PRESENTED
    assert project.jobs() == expected


def test_a_changed_prompt_costs_a_head_and_what_is_trained_on_it_but_no_data(project):
    project.edit("config/tasks.yaml", lambda t: t["tools"].update(prompt="words on {}"))
    alone = {"build_head: tiny_bert, tools", "finetune_checkpoint: tiny, tools, seed 0"}
    assert project.jobs() == alone | from_experts() | scored("pretrained") | GATHERED | PRESENTED


def test_a_new_seed_adds_its_experts_and_leaves_the_others(project):
    config(project, lambda c: c["seeds"].append(1))
    expected = each("finetune_checkpoint", tiny.TASKS, 1) | from_experts(1) | scored("pretrained", seed=1) | premise(1)
    assert project.jobs() == expected | GATHERED | PRESENTED


def test_a_new_task_adds_its_expert_and_changes_every_merge(project):
    project.edit("config/tasks.yaml", lambda t: t.update(more={**t["tools"], "label": "More tools"}))
    suite(project, lambda s: s["tasks"].append("more"))
    alone = {"prepare_dataset: tiny, more", "build_head: tiny_bert, more", "finetune_checkpoint: tiny, more, seed 0"}
    group = each("evaluate_checkpoint", [f"{method}, more" for method in tiny.RUN])
    group |= each("evaluate_candidate", [f"{candidate}, more" for candidate in CANDIDATES])
    alone |= {"decode_examples: tiny", "check_data: tiny, more"}
    assert project.jobs() == alone | group | (from_experts() - scored("individual")) | GATHERED | PRESENTED


def test_the_order_of_keys_means_nothing(project):
    def backwards(value):
        return {k: backwards(value[k]) for k in reversed(value)} if isinstance(value, dict) else value

    for name in ("config/config.yaml", "config/suites/tiny.yaml", "config/assets.yaml", "config/tables.yaml"):
        tiny.write_yaml(project / name, backwards(tiny.read_yaml(project / name)))
    for name in ("config/tasks.yaml", "config/methods.yaml"):  # the order of classes is the order of the heads' rows
        value = tiny.read_yaml(project / name)
        tiny.write_yaml(project / name, {k: dict(reversed(value[k].items())) for k in reversed(value)})
    assert project.jobs() == set()


# ---- code ------------------------------------------------------------------------------------------------------


def test_comments_docstrings_and_layout_mean_nothing(project):
    combine = "workflow/nan_merge/methods/combine.py"
    project.replace(combine, '    """Return sum_t c_t tau_t (task', '    """Compute sum_t c_t tau_t (task')
    project.replace(combine, "    total = terms[0]\n", "    # from the first on\n\n    total = (terms[0])\n")
    with open(project / "workflow/nan_merge/models/training.py", "a") as file:
        file.write("\n\n# the end\n")
    with open(project / "workflow/rules/merge.smk", "a") as file:
        file.write("\n\n# the end\n")
    assert project.jobs() == set()


def test_a_changed_combination_costs_the_merges_and_no_training(project):
    project.replace("workflow/nan_merge/methods/combine.py", "    total = terms[0]\n", "    total = 1.0 * terms[0]\n")
    expected = tuned() | estimated(*MERGES) | merged(*MERGES) | GATHERED | PRESENTED - {"write_run_config"}
    assert project.jobs() == expected


def test_a_changed_training_costs_the_experts_and_all_that_follows(project):
    project.replace("workflow/nan_merge/models/training.py", "WARM_UP = 0.1", "WARM_UP = 0.2")
    expected = each("finetune_checkpoint", tiny.TASKS) | from_experts() | premise() | GATHERED
    assert project.jobs() == expected | PRESENTED - {"write_run_config"}


def test_changed_drawing_costs_the_figures(project):
    with open(project / "workflow/nan_merge/reporting/figures.py", "a") as file:
        file.write("\n\nUNUSED = 1\n")
    assert project.jobs() == FIGURES | {"write_report"}


@pytest.mark.parametrize("name", ["report.html.j2", "report.results.j2", "report.css", "report.js"])
def test_a_changed_part_of_the_page_costs_the_report(project, name):
    with open(project / "workflow/nan_merge/reporting" / name, "a") as file:
        file.write("\n\n")
    assert project.jobs() == {"write_report"}


# ---- files -----------------------------------------------------------------------------------------------------


def test_touched_sources_mean_nothing(project):
    now = time.time() + 5
    for folder in ("workflow", "scripts", "config", "envs", "archives"):
        for file in (project / folder).rglob("*"):
            os.utime(file, (now, now))
    os.utime(project / "Snakefile", (now, now))
    assert project.jobs() == set()


@pytest.mark.parametrize("name", ["vllm", "numpy"])
def test_another_version_of_a_package_means_nothing(name, finished, tmp_path):
    """Scores record the versions that they were made with; what is installed when a run is planned is no part of it."""
    done = finished.run("--dry-run", PYTHONPATH=package(tmp_path, name, "99.0"))
    assert done.code == 0 and "Nothing to be done" in done.text, done.text[-3000:]


def test_a_moved_folder_means_nothing(project, tmp_path):
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    moved = project.copy(tmp_path / "deep" / "folder" / "moved")
    project.folder.rename(tmp_path / "gone")
    assert moved.jobs() == set()


def test_a_fresh_checkout_beside_kept_results_means_nothing(project, tmp_path):
    tiny.build(tmp_path / "checkout")
    for name in ("results", ".snakemake"):
        subprocess.run(["cp", "-a", str(project / name), str(tmp_path / "checkout" / name)], check=True)
    assert Project(tmp_path / "checkout").jobs() == set()


def test_a_deleted_merge_is_made_again_alone_when_it_is_wanted(project):
    project.remove("results/merged/tiny/ties")
    assert project.jobs("results/merged/tiny/ties/seed0") == each("merge_checkpoints", ["ties"])
    assert project.jobs() == set()  # its scores are there, and they are what was asked for


def test_after_a_change_is_run_there_is_nothing_left_to_do_and_undoing_it_brings_the_bytes_back(project, finished):
    wanted = ("results/scores.tsv", "results/tables/coefficients_tiny.md")
    methods(project, lambda m: m["ties"]["coefficients"]["constant"].update(value=0.4))
    project.made(*wanted)
    assert project.jobs(*wanted) == set()
    assert project.digests("merged/**/*") != finished.digests("merged/**/*")
    methods(project, lambda m: m["ties"]["coefficients"]["constant"].update(value=0.3))
    project.made(*wanted)
    names = ("merged/**/*", "coefficients/**/*", "scores/**/*", "scores.tsv", "tables/coefficients*")
    assert project.digests(*names) == finished.digests(*names)
