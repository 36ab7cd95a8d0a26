"""`nan-merge plan`: assets, disk space, jobs and time of a run before it starts."""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import tiny
import yaml
from models import ROOT
from project import LIMIT, Done

from experiment import entries
from experiment.experiment import Experiment
from nan_merge.catalogue.files import check_schema
from nan_merge.core.disk import human
from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import STAGES
from planning.costs import rate, seconds, wall_time
from planning.jobs import PlannedJob, planned_jobs
from planning.memory import gpu_memory
from planning.overview import assets, check_fits, lock_command, overview, skipped
from planning.sizes import Sizes, held
from planning.text import _memory, duration, lock_lines, text
from scripts.plan_run import values

CONFIG, ASSETS, LOCK = "config/config.yaml", "config/assets.yaml", "config/assets.lock.json"
PRICES = "config/costs.yaml"
SCHEMA = ROOT / "workflow/schemas/costs.schema.yaml"
COSTS = tiny.read_yaml(ROOT / PRICES)


def planned(project, *arguments, before=(), **environment):
    """Run the command of the plan as a user does."""
    done = subprocess.run([*before, sys.executable, "-m", "scripts.plan_run", *arguments], cwd=project.folder, text=True,
                          env=project.environment(**environment), capture_output=True, timeout=LIMIT, check=False)  # fmt: skip
    return Done(done.returncode, done.stdout + done.stderr)


def plan_of(project, *arguments):
    done = planned(project, "--json", *arguments)
    assert done.code == 0, done.text[-3000:]
    return json.loads(done.text)


def to_do(plan):
    return {row["rule"]: row["to_do"] for row in plan["jobs"] if row["to_do"]}


def by_rule(jobs):
    """Count jobs by rule, as `snakemake --dry-run` names them."""
    return dict(Counter(job.split(":")[0] for job in jobs if job != "all"))


# ---- a project before, after and between runs -----------------------------------------------------------------------


def test_before_a_run_everything_is_to_come_and_nothing_is_made(fresh):
    plan = plan_of(fresh)
    lock = json.loads((fresh / LOCK).read_text())
    assert {(entry["asset"], entry["bytes"]) for entry in plan["assets"]} == {(k, v["size"]) for k, v in lock.items()}
    assert all(entry["fetch"] and entry["locked"] and entry["exact"] for entry in plan["assets"])
    assert plan["update_lock"] is None
    assert to_do(plan) == by_rule(fresh.jobs())
    assert {row["done"] for row in plan["jobs"]} == {0}
    assert not (fresh / "results").exists()


def test_after_a_run_nothing_is_to_come(finished):
    plan = plan_of(finished)
    assert to_do(plan) == {} == by_rule(finished.jobs())
    assert not any(entry["fetch"] for entry in plan["assets"])
    assert plan["disk"]["disks"][0]["needed"] == 0
    assert plan["time"] == {"core_seconds": 0, "gpu_seconds": 0, "wall_seconds": 0}
    shown = text(plan)
    assert "assets to fetch: none" in shown and "there already: 2 assets, " in shown and "jobs: nothing to do, " in shown
    assert "time" not in shown


def test_the_sizes_that_were_planned_are_those_that_came(fresh, finished):
    size = held(finished / "results/checkpoints/tiny/pretrained")
    fresh.edit(PRICES, lambda costs: costs["models"].update(tiny_bert={**costs["models"]["any"], "bytes": size}))
    coming, there = (plan_of(project)["disk"]["folders"] for project in (fresh, finished))
    for name in ("datasets", "checkpoints", "merged"):
        count = coming[name]["outputs"]
        assert count and coming[name]["to_come"] == pytest.approx(there[name]["there"], rel=0.1, abs=count * COSTS["small"])
    assert coming["assets"]["to_come"] >= there["assets"]["there"] > 0  # small archives hold more air than large ones


def test_after_a_change_is_planned_what_would_be_run(project):
    project.edit("config/methods.yaml", lambda methods: methods["ties"]["coefficients"]["constant"].update(value=0.7))
    found = plan_of(project)
    assert to_do(found) == by_rule(project.jobs())
    assert to_do(found)["merge_checkpoints"] == 2, "of the host, and of the variant that takes its scale"
    done = {row["rule"]: row["done"] for row in found["jobs"]}
    assert done["merge_checkpoints"] == len(tiny.RUN) - 4 and done["finetune_checkpoint"] == 3


def test_an_overlay_and_keys_of_the_config_change_the_plan(fresh):
    (fresh / "config/few.yaml").write_text("methods: [pretrained, ties]\ntables: [main]\nfigures: []\n")
    found = to_do(plan_of(fresh, "--configfile", "config/few.yaml", "--config", '{"seeds": [0, 1]}'))
    assert found["merge_checkpoints"] == 2 and "draw_figure" not in found


def test_planning_waits_for_no_other_run_and_disturbs_none(project):
    locks = project / ".snakemake/locks"
    for name in ("0.input.lock", "0.output.lock"):
        (locks / name).write_text("results/scores.tsv\n")
    locked = subprocess.run([sys.executable, "-m", "snakemake", "--cores", "1", "--forcerun", "gather_scores"], text=True,
                            cwd=project.folder, env=project.environment(), capture_output=True, check=False)  # fmt: skip
    assert locked.returncode != 0 and "lock" in locked.stderr
    assert to_do(plan_of(project)) == {}
    assert {file.name for file in locks.iterdir()} == {"0.input.lock", "0.output.lock"}


def test_the_text_is_narrow_and_its_columns_are_aligned_and_no_torch_is_loaded_for_it(fresh):
    (fresh / "trap/torch").mkdir(parents=True)
    (fresh / "trap/torch/__init__.py").write_text("raise SystemExit('planning imported torch')")
    done = planned(fresh, "--jobs", "3", PYTHONPATH=str(fresh / "trap"))
    assert done.code == 0, done.text[-3000:]
    lines = done.text.splitlines()
    assert max(map(len, lines)) <= 100
    start = next(i for i, line in enumerate(lines) if line.startswith("jobs "))
    table = lines[start : lines.index("", start)]
    assert len({len(line) for line in table}) == 1
    counts = [int(line.split()[1]) for line in table[1:]]
    assert table[-1].split()[0] == "total" and counts[-1] == sum(counts[:-1]) == len(fresh.jobs())
    assert "removed once used; those of 3 jobs at once" in done.text and "time, 3 jobs at once" in done.text


def test_a_plan_does_not_stop_at_assets_that_are_not_locked(fresh):
    (fresh / LOCK).write_text("{}")
    (fresh / "config/few.yaml").write_text("methods: [pretrained, ties]\n")
    done = planned(fresh, "--configfile", "config/few.yaml", "--config", '{"device": "cuda"}')
    assert done.code == 0, done.text[-3000:]
    assert re.search(r"^  merge_checkpoints +1 +- +- +\d+ s$", done.text, re.MULTILINE), done.text[-3000:]
    assert "nan-merge lock tiny_bert tiny_texts" in done.text
    assert not (fresh / "results").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_the_models_that_snakemake_removes_after_use_are_planned_as_temporary(fresh, sizes, keep):
    fresh.edit(CONFIG, lambda config: config.update(keep_merged=keep))
    removed = set(re.findall(r"^Would remove temporary output (\S+)$", fresh.run("--dry-run").text, re.MULTILINE))
    jobs = planned_jobs(fresh.folder, [], {})
    assert {job.outputs[0] for job in jobs if job.is_temporary(sizes(keep_merged=keep).experiment)} == removed
    assert {name.split("/")[1] for name in removed} == {"candidates", "premise", *([] if keep else ["merged"])}


def test_merges_that_are_not_kept_need_room_for_those_of_the_jobs_at_once(sizes):
    def merge(method, task=""):
        folder = f"results/merged/tiny/{method}/seed0" + f"/{task}" * bool(task)
        rule = "merge_for_task" if task else "merge_checkpoints"
        return PlannedJob(rule, {"suite": "tiny", "method": method}, (), (folder, folder.replace("merged", "digests") + ".json"))

    def score(*merges):
        wildcards = {"suite": "tiny", "method": merges[0].wildcards["method"], "group": "all"}
        return PlannedJob("evaluate_checkpoint", wildcards, tuple(merge.outputs[0] for merge in merges), ("results/scores/x",))

    single, by_task = [merge(name) for name in ("ties", "dare", "slerp")], [merge("emr", task) for task in tiny.TASKS]
    jobs = [*single, *by_task, *map(lambda merge: score(merge), single), score(*by_task)]
    one = sizes().output(single[0])
    for keep, at_once, room in ((True, 1, 0), (False, 1, 3), (False, 2, 4), (False, 9, 6)):
        found = overview(sizes(keep_merged=keep), jobs, at_once)["disk"]["folders"]
        assert found.get("temporary", {"to_come": 0})["to_come"] == room * one
        assert found["merged"]["to_come"] == (6 * one if keep else 0)


# ---- assets -----------------------------------------------------------------------------------------------------------

HUB = {"kind": "hub", "repo": "owner/tiny-bert", "licence": "none", "source": "random numbers"}
FETCHES = [PlannedJob("fetch_asset", {"asset": name}, (), (f"results/assets/{name}",)) for name in ("tiny_bert", "tiny_texts")]


@pytest.fixture
def sizes(fresh, monkeypatch):
    """Return the sizes of the tiny project before a run, with keys of the config if they are given."""
    monkeypatch.chdir(fresh.folder)
    return lambda **keys: Sizes(Experiment({**tiny.read_yaml(fresh / CONFIG), **keys}, fresh.folder), fresh.folder)


def test_assets_that_are_not_locked_are_listed_with_the_one_command_that_locks_them(fresh, sizes):
    (fresh / LOCK).write_text("{}")
    shown = text(overview(sizes(), FETCHES, 2))
    assert shown.count("not locked") == 3 and "  nan-merge lock tiny_bert tiny_texts\n" in shown
    size = human((fresh / "archives/tiny_bert.tar").stat().st_size)
    assert re.search(rf"tiny_bert +path archives/tiny_bert.tar +about {re.escape(size)} +not locked", shown)
    there = [replace(job, to_do=False) for job in FETCHES]
    assert overview(sizes(), there, 2)["update_lock"] is None


def test_the_command_goes_on_over_lines_that_a_shell_takes_together():
    names = [f"clip_vit_b32_{number}" for number in range(20)]
    lines = lock_lines(lock_command(names))[1:]
    assert len(lines) > 3 and max(map(len, lines)) <= 100
    command = "\n".join(lines).replace("nan-merge", "echo", 1)
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["lock", *names] and shown.count("\n") == 1
    assert lock_command([]) is None and lock_lines(None) == []


def test_the_bytes_of_the_hub_are_about_until_the_lock_is_verified_and_exact_then(fresh, sizes):
    fresh.edit(ASSETS, lambda known: known.update(tiny_bert={**HUB, "bytes": 5_000_000}))
    (fresh / LOCK).write_text(json.dumps({"tiny_bert": {"commit": "0" * 40, "unverified": "a page"}}))
    expected = {"asset": "tiny_bert", "source": "hub owner/tiny-bert", "fetch": True}
    assert assets(sizes(), FETCHES[:1]) == [{**expected, "bytes": 5_000_000, "exact": False, "locked": False}]
    there = {"config.json": 1000, "model.safetensors": 3_000_000}
    files = {name: {"size": size, "sha256": name.encode().hex().ljust(64, "0")} for name, size in there.items()}
    (fresh / LOCK).write_text(json.dumps({"tiny_bert": {"of": "owner/tiny-bert@main", "commit": "0" * 40, "files": files}}))
    assert assets(sizes(), FETCHES[:1]) == [{**expected, "bytes": 3_001_000, "exact": True, "locked": True}]
    (fresh / "results/downloads").mkdir(parents=True)  # what an earlier run had fetched before it broke off
    (fresh / "results/downloads" / files["config.json"]["sha256"]).write_bytes(bytes(1000))
    assert assets(sizes(), FETCHES[:1])[0]["bytes"] == 3_000_000


def test_an_asset_of_unknown_size_is_no_asset_of_no_size(fresh, sizes):
    fresh.edit(ASSETS, lambda known: known.update(tiny_bert=HUB))
    found = overview(sizes(), FETCHES, 2)
    assert found["assets"][0]["bytes"] is None and not found["assets"][0]["exact"]
    assert re.search(r"tiny_bert +hub owner/tiny-bert +unknown", text(found))
    assert re.search(r"^  total .* and 1 unknown$", text(found), re.MULTILINE)
    assert re.search(r"^  assets .* 1 of unknown size$", text(found), re.MULTILINE)
    assert ", and what is of unknown size; it fits" in text(found)


# ---- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["results", "results/merged"])
def test_a_run_that_does_not_fit_the_disk_is_refused_with_numbers(fresh, isolated, folder):
    (fresh / folder).mkdir(parents=True)
    before = (*isolated("--mount"), "sh", "-c", f'mount -t tmpfs -o size=64k none {folder} && exec "$@"', "sh")
    done = planned(fresh, before=before)
    assert done.code == 1 and "Traceback" not in done.text, done.text[-3000:]
    assert "IT DOES NOT FIT" in done.text and "error: the run does not fit the disk" in done.text
    holds = "merged" if folder == "results/merged" else "assets, datasets, checkpoints, merged, other, temporary"
    assert re.search(rf"to results/ \({holds}\), 0\.07 MB are free", done.text), done.text[-1000:]
    assert "run elsewhere with --directory" in done.text
    assert not list((fresh / folder).iterdir())


def test_what_does_not_fit_is_said_with_all_three_numbers():
    disk = {"holds": ["merged"], "needed": 5_000_000_000, "free": 2_000_000_000, "fits": False}
    with pytest.raises(UserError, match=r"about 5\.00 GB .*merged.* 2\.00 GB are free in /here; 3\.02 GB are missing"):
        check_fits({"directory": "/here", "disk": {"disks": [disk]}})
    check_fits({"directory": "/here", "disk": {"disks": [{**disk, "fits": True}]}})


# ---- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_mistake_in_the_config_is_said_as_by_a_run(fresh):
    fresh.edit(CONFIG, lambda config: config["methods"].append("tise"))
    done = planned(fresh)
    assert done.code == 1 and "Traceback" not in done.text, done.text[-3000:]
    assert "methods: unknown 'tise'" in done.text and "did you mean 'ties'?" in done.text


FAULTS = {
    "unknown key": (lambda costs: costs.update(netwrok=1.0), "'netwrok'.*did you mean 'network'"),
    "no number": (lambda costs: costs["models"]["any"].update(cpu="fast"), r"models\.any\.cpu"),
    "negative": (lambda costs: costs["jobs"]["other"].update(start=-1), r"jobs\.other\.start"),
}


@pytest.mark.parametrize("change, message", FAULTS.values(), ids=FAULTS)
def test_a_mistake_in_the_prices_names_file_and_key(change, message):
    costs = yaml.safe_load((ROOT / PRICES).read_text())
    change(costs)
    with pytest.raises(UserError, match=rf"config/costs\.yaml: .*{message}"):
        check_schema(costs, SCHEMA, PRICES)


def test_no_jobs_at_once_are_refused(fresh):
    done = planned(fresh, "--jobs", "0")
    assert done.code == 2 and "--jobs: expected a whole number from 1, found 0" in done.text


# ---- prices -----------------------------------------------------------------------------------------------------------


def test_the_prices_fit_their_schema_and_name_what_there_is():
    check_schema(COSTS, SCHEMA, PRICES)
    rules = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    known = set(re.findall(r"^(?:rule|use rule \w+ as) (\w+)", rules, re.MULTILINE)) | {"other"}
    assert COSTS["jobs"].keys() <= known
    merges = COSTS["merges"]
    assert merges["operators"].keys() <= {name for stage in STAGES.values() for name in stage}
    assert merges["matrices"].keys() | merges["steps"].keys() <= {name for stage in STAGES.values() for name in stage}
    assert COSTS["calibration"].keys() == {entry["kind"] for entry in tiny.read_yaml(ROOT / "config/calibration.yaml").values()}


def test_every_suite_has_a_price_by_its_base():
    names = [file.stem for file in (ROOT / "config/suites").glob("*.yaml")]
    suites = [entries.suite(name, ROOT / "config", ROOT / "workflow/schemas") for name in names]
    assert {record[key] for record in suites for key in ("base", "family") if key in record} <= COSTS["models"].keys()


METHOD_SPECS = {  # each dearer than the one before
    "sum": {},
    "ties": {"preprocess": {"trim": {"density": 0.2}}, "combine": {"disjoint_sum": {}}},
    "sorting": {"preprocess": {"breadcrumbs": {"density": 0.1, "outliers": 0.01}}},
    "singular values": {"combine": {"tsv": {}}},
    "10 steps more": {"preprocess": {"star": {"eta": 0.4}}, "combine": {"wudi": {"steps": 30}}},
    "300 steps": {"combine": {"wudi": {"steps": 300, "learning_rate": 1e-5}}},
}


def test_the_time_of_a_merge_is_the_sum_over_its_operators():
    def price(record, width=0.768):
        return sum(rate(COSTS["merges"], width, record, stage)["cpu"] for stage in ("preprocess", "combine", "postprocess"))

    found = [price(record) for record in METHOD_SPECS.values()]
    assert found == sorted(found) and found[0] > 0
    assert price(METHOD_SPECS["singular values"], 1.536) == pytest.approx(2 * found[3])
    assert price(METHOD_SPECS["sum"], 1.536) == found[0]


def test_a_gpu_takes_its_jobs_off_the_cores_and_half_precision_is_quicker(sizes):
    place = {"suite": "tiny", "method": "ties", "seed": "0"}
    jobs = [
        PlannedJob("evaluate_checkpoint", {**place, "group": "all"}, outputs=("results/scores/tiny/ties/seed0/all.json",)),
        PlannedJob("merge_checkpoints", place, outputs=("results/merged/tiny/ties/seed0",)),
        PlannedJob("finetune_checkpoint", {"suite": "tiny", "seed": "0", "task": "fruit"},
                   outputs=("results/checkpoints/tiny/seed0/fruit",)),
    ]  # fmt: skip
    keys = [{}, {"scoring": {"device": "cuda"}}, {"scoring": {"device": "cuda", "precision": "bfloat16"}}]
    keys.append({"scoring": {"device": "cuda"}, "device": "cuda:1"})
    plans = [overview(sizes(**each), jobs, 2) for each in keys]
    rules = [sorted(row["rule"] for row in plan["jobs"] if row["gpu_seconds"]) for plan in plans]
    assert rules == [[], ["evaluate_checkpoint"], ["evaluate_checkpoint"], ["evaluate_checkpoint", "merge_checkpoints"]]
    spent = [plan["time"]["gpu_seconds"] for plan in plans]
    assert spent[0] == 0 and 0 < spent[1] < spent[3]
    exact, half = (
        seconds(sizes(**each), jobs[0], gpu=True) - COSTS["jobs"]["evaluate_checkpoint"]["start"] for each in keys[1:3]
    )
    assert half == pytest.approx(COSTS["precision"]["bfloat16"] * exact)


def test_a_pass_over_processed_vectors_costs_what_their_preprocess_does(sizes):
    hosts = ["task_arithmetic", "dare", "breadcrumbs"]
    run = sizes(methods=[f"{host}+nan_processed" for host in hosts])
    plain = seconds(run, PlannedJob("measure_weights", {"suite": "tiny", "seed": "0"}), gpu=False)
    jobs = [PlannedJob("measure_processed", {"suite": "tiny", "seed": "0", "processed": name})
            for name in run.experiment.needing(run.experiment.processed)]  # fmt: skip
    nothing, dropped, ranked = (seconds(run, job, gpu=False) for job in jobs)
    assert plain == nothing < dropped < ranked


def test_a_subset_takes_the_merges_of_its_experts_and_their_scores(sizes):
    job = PlannedJob("score_subset", {"suite": "tiny", "subset": "2-0", "seed": "0"})

    def of(*methods):
        run = sizes(methods=["individual", *methods], subsets={"sizes": [2], "draws": 1})
        return seconds(run, job, gpu=False) - COSTS["jobs"]["score_subset"]["start"], run.output(job)

    one, other, both = (of(*methods) for methods in (["weight_averaging"], ["ties"], ["weight_averaging", "ties"]))
    assert 0 < one[0] < other[0] and both[0] == pytest.approx(one[0] + other[0])
    assert both[1] - one[1] == 8 * 2 * tiny._task("fruit")["splits"]["test"], "a prediction an example of two tasks"


def own_models(fresh, folder, size):
    """Return the plan's sizes of a run that scores a user's models of so many bytes."""
    for name in ("base", "a"):
        (folder / name).mkdir(parents=True)
        with open(folder / name / "model.safetensors", "wb") as file:
            file.truncate(size)
    suite = {"base": str(folder / "base"), "experts": {"a": str(folder / "a")}, "tasks": ["gsm8k"]}
    config = {**tiny.read_yaml(ROOT / CONFIG), "suites": [], "models": {"mine": suite}, "methods": ["pretrained", "tsv_m"]}
    return Sizes(Experiment({**config, "tables": [], "figures": []}, ROOT), ROOT)


def test_methods_that_do_not_apply_are_named_with_the_reason():
    methods = ["pretrained", "task_arithmetic", "ties+core"]
    found = skipped(Experiment({**tiny.read_yaml(ROOT / CONFIG), "methods": methods}, ROOT))
    assert found["text"]["ties+core"].startswith("the space 'core' needs LoRA adapters") and "multitask" not in found["text"]


def test_what_own_models_take_follows_from_their_size(fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(fresh.folder)
    score = PlannedJob("evaluate_benchmark", {"suite": "mine", "method": "pretrained", "seed": "0", "group": "benchmarks"})
    merge = PlannedJob("merge_checkpoints", {"suite": "mine", "method": "tsv_m", "seed": "0"})
    known = COSTS["models"]["causal_lm"]
    sizes = {size: own_models(fresh, tmp_path / str(size), size) for size in (10**6, 10**9, known["of"])}
    times = {size: [seconds(each, job, gpu=False) for job in (score, merge)] for size, each in sizes.items()}
    small, middle, large = times.values()
    assert small[0] < 300 and small[1] < 4, "a model of a megabyte takes no hours"
    assert middle[0] == pytest.approx(large[0] * 1e9 / known["of"], rel=0.01)
    assert sizes[known["of"]].model("mine") == known, "the table is for this size"
    assert sizes[10**9].model("mine")["width"] == pytest.approx(known["width"] * (1e9 / known["of"]) ** (1 / 3))


def test_keys_of_the_config_are_given_as_to_snakemake(fresh):
    assert values("scoring={device: cuda, batch_size: 4}") == {"scoring": {"device": "cuda", "batch_size": 4}}
    assert values('{"methods": ["ties"], "seeds": [0]}') == {"methods": ["ties"], "seeds": [0]}
    refused = planned(fresh, "--config", "scoring")
    assert refused.code == 2 and "expected KEY=VALUE, such as scoring='{device: cuda}', or JSON" in refused.text
    plan = plan_of(fresh, "--config", "methods=[ties]", "tables=[]", "--config", "figures=[]")
    assert to_do(plan)["merge_checkpoints"] == 1 and "draw_figure" not in to_do(plan)


# ---- jobs at once -----------------------------------------------------------------------------------------------------


def a_job(name, *inputs, rule="evaluate_checkpoint"):
    return PlannedJob(rule, {}, inputs, (name,))


def test_jobs_at_once_share_the_time_and_wait_for_what_they_need():
    alike = [a_job(str(number)) for number in range(6)]
    assert [wall_time(alike, [10.0] * 6, at_once) for at_once in (1, 2, 4, 6, 99)] == [60, 30, 15, 10, 10]
    chain = [a_job("c", "b"), a_job("b", "a"), a_job("a")]  # as Snakemake has them: what is wanted first
    assert wall_time(chain, [1.0, 10.0, 100.0], 8) == 111
    assert [wall_time([*chain, a_job("d")], [1.0, 10.0, 100.0, 50.0], at_once) for at_once in (2, 1)] == [111, 161]
    assert wall_time([], [], 2) == 0


def test_downloads_share_the_network():
    fetches = [a_job(str(number), rule="fetch_asset") for number in range(4)]
    assert wall_time(fetches, [10.0] * 4, 4) == wall_time(fetches, [10.0] * 4, 1) == 40


def test_times_are_written_in_their_natural_unit():
    assert [duration(seconds) for seconds in (0, 4.4, 89, 90, 5000, 12_345, 7e6)] == [
        "-", "4 s", "89 s", "2 min", "83 min", "3.4 h", "1,944.4 h",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scoring", "weights", "needed"),
    [
        ({"device": "cuda", "precision": "float16", "batch_size": 8}, 26.033e9, 39.9e9),
        ({"device": "cuda", "precision": "float16", "batch_size": 1}, 26.033e9, 27.8e9),
        ({"device": "cuda", "precision": "float32", "batch_size": 8}, 52.066e9, 79.8e9),
        ({"device": "cuda", "precision": "bfloat16", "batch_size": 8, "parallelize": 2}, 26.033e9, 39.9e9),
    ],
)
def test_memory_of_gpus_follows_from_precision_and_batch(scoring, weights, needed):
    suite = "llama2_13b_wizard"
    config = {**tiny.read_yaml(ROOT / CONFIG), "suites": [suite], "methods": ["individual"], "scoring": scoring}
    sizes = Sizes(Experiment(config, ROOT), ROOT)
    job = PlannedJob("evaluate_benchmark", {"suite": suite, "group": "bbh"}, [], ["results/scores/none.json"], True)
    (found,) = gpu_memory(sizes, [job, job])
    assert found["weights"] == pytest.approx(weights) and found["needed"] == pytest.approx(needed, rel=0.01)
    assert gpu_memory(sizes, [replace(job, to_do=False)]) == []
    shown = _memory({"gpu_memory": [found]})[1]
    each = human(found["needed"] / scoring.get("parallelize", 1))
    assert each in shown and f"{scoring['precision']}, batches of {scoring['batch_size']}" in shown
