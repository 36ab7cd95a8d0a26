# What all of the workflow shares: the checked config, and functions from wildcards to paths and config values.
import hashlib
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "workflow"))

from cluster import executor_patch, slurm  # noqa: E402
from experiment.experiment import Experiment  # noqa: E402
from experiment.methods import REFERENCES  # noqa: E402
from nan_merge.core.code_digest import code_digest  # noqa: E402
from nan_merge.core.errors import UserError  # noqa: E402
from nan_merge.core.files import canonical  # noqa: E402
from nan_merge.core.versions import versions  # noqa: E402
from cluster import job_resources  # noqa: E402

try:
    experiment = Experiment(config, ROOT)
except UserError as error:
    raise WorkflowError(str(error)) from None

# One thread a process: the bytes then do not depend on the number of cores, and jobs fill the machine.
shell.prefix(
    f"set -euo pipefail; export PYTHONPATH={str(ROOT / 'workflow')!r}:{str(ROOT)!r} PYTHONHASHSEED=0"
    " OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 HF_HUB_OFFLINE=1;"
)

PER_TASK_METHODS = [
    m for m in experiment.config["methods"] if not experiment.methods[m].get("static", True) and m not in REFERENCES
]
LEARNED = [method for method in experiment.config["methods"] if "learn" in experiment.methods[method]]
ONE_BY_ONE = [name for name, record in experiment.calibration.items() if record["kind"] != "gram_plus"]
JOINT_CALIBRATION = [name for name in experiment.calibration if name not in ONE_BY_ONE]
THRESHOLDS = experiment.threshold_settings()
PUBLISHED = os.path.relpath(ROOT / "config/published.tsv")
DEVICE = experiment.config.get("scoring", {}).get("device", "cpu")  # of everything that runs models
GPU = {
    "merge": int(experiment.config.get("device", "cpu") != "cpu"),
    "model": int(DEVICE != "cpu"),
}  # what a job asks a cluster for
SCORING = " ".join(
    f"--{key.replace('_', '-')} {value}" for key, value in sorted(experiment.config.get("scoring", {}).items())
)
ENVIRONMENTS = {
    "text_encoder": "text",
    "image_encoder": "clip",
    "open_clip": "clip",
}  # other families: their own name
ALIGNED = [experiment.checkpoints(suite) for suite, record in experiment.suites.items() if "alignment" in record]
FETCHED = [experiment.checkpoints(suite) for suite, record in experiment.suites.items() if "experts" in record]


def any_of(names):
    """A regular expression that matches exactly the given names (and nothing when there are none)."""
    return "|".join(sorted(map(re.escape, names))) or "(?!)"


wildcard_constraints:
    suite=any_of([*experiment.suites, *experiment.models]),
    model="[A-Za-z0-9][A-Za-z0-9_.-]*",
    task=any_of(experiment.tasks),
    data=any_of(experiment.data(suite) for suite in experiment.suites),
    checkpoints=any_of(experiment.checkpoints(suite) for suite in experiment.suites),
    tower=any_of(experiment.tower(suite) for suite in experiment.suites),
    asset=any_of(experiment.assets),
    method=any_of([*experiment.config["methods"], *experiment.candidates]),
    seed="[0-9]+",
    thresholds=any_of(THRESHOLDS),
    group="[a-z][a-z0-9_]*",
    run="(steps|epochs)-[0-9]+",
    table=any_of({**experiment.reports["tables"], **experiment.reports.get("published", {})}),
    figure=any_of(experiment.reports["figures"]),


def code(*modules):
    return code_digest(ROOT, *modules)


def asset(name):
    return f"results/assets/{name}"


def own_model(suite, name):
    """The folder of a model of the user: a local one as it is, one of the hub where fetch_model puts it."""
    place = experiment.own_models(suite)[name]
    return place if os.path.isdir(place) else f"results/models/{suite}/{name}"


def pretrained(suite):
    return (
        own_model(suite, "base")
        if suite in experiment.models
        else f"results/checkpoints/{experiment.checkpoints(suite)}/pretrained"
    )


def expert(suite, seed, task):
    """The folder of one expert, or of the model that was trained on all tasks: fetched, or fine-tuned with a seed."""
    made = "experts" if experiment.expert_asset(suite, task) else f"seed{seed}"
    return f"results/checkpoints/{experiment.checkpoints(suite)}/{made}/{task}"


def experts(suite, seed):
    if suite in experiment.models:
        return {name: own_model(suite, name) for name in experiment.models[suite]["experts"]}
    return {task: expert(suite, seed, task) for task in experiment.task_ids(suite)}


def named_experts(wildcards):
    return [f"{name}={folder}" for name, folder in experts(wildcards.suite, wildcards.seed).items()]


def layout(wildcards):
    suite = suite_id(wildcards)
    return canonical((experiment.models if suite in experiment.models else experiment.suites)[suite].get("merge", {}))


def checkpoints_of(wildcards):
    """What a method is scored with: one folder for all tasks of the group, or one for each."""
    if wildcards.method == "pretrained":
        return pretrained(wildcards.suite)
    if wildcards.method == "multitask":
        return expert(wildcards.suite, wildcards.seed, "multitask")
    if wildcards.method == "individual":
        return [experts(wildcards.suite, wildcards.seed)[task] for task in tasks_of(wildcards)]
    if wildcards.method in PER_TASK_METHODS:
        return [
            f"results/merged/{wildcards.suite}/{wildcards.method}/seed{wildcards.seed}/{t}" for t in tasks_of(wildcards)
        ]
    folder = "candidates" if wildcards.method in experiment.candidates else "merged"
    return f"results/{folder}/{wildcards.suite}/{wildcards.method}/seed{wildcards.seed}"


def tasks_of(wildcards):
    return experiment.groups(wildcards.suite)[wildcards.group]


def dataset(suite, task):
    return f"results/datasets/{experiment.data(suite)}/{task}"


def head(suite, task):
    return f"results/heads/{experiment.tower(suite)}/{task}.safetensors"


def datasets_of(wildcards):
    return [dataset(wildcards.suite, task) for task in tasks_of(wildcards)]


def heads_of(wildcards):
    return [head(wildcards.suite, task) for task in tasks_of(wildcards)]


def of_each_group(pattern, suite, methods):
    return [
        pattern.format(suite=suite, method=method, seed=seed, group=group)
        for method in methods
        for seed in experiment.config["seeds"]
        for group in experiment.groups(suite)
    ]


def scores():
    """Every score file of the run: test scores of the methods, validation scores of the candidates."""
    return [
        file
        for suite in experiment.suites
        for file in of_each_group(
            "results/scores/{suite}/{method}/seed{seed}/{group}.json", suite, experiment.run(suite)
        )
        + of_each_group(
            "results/validation/{suite}/{method}/seed{seed}/{group}.json", suite, experiment.candidates_in(suite)
        )
    ]


def sharing(wildcards):
    """The suites that share the prepared data, the checkpoints or the text tower that the wildcards name."""
    kind = next(kind for kind in ("data", "checkpoints", "tower") if kind in wildcards.keys())
    return experiment.sharing(kind, wildcards[kind])


def suite_id(wildcards):
    """The suite that the wildcards name, or one of those that share what they name."""
    return wildcards.suite if "suite" in wildcards.keys() else sharing(wildcards)[0]


def suite_of(wildcards):
    return experiment.suites[suite_id(wildcards)]


def expert_asset(wildcards):
    return asset(next(filter(None, (experiment.expert_asset(suite, wildcards.task) for suite in sharing(wildcards)))))


def sources_of(wildcards):
    """The assets of a data set: its own, and the suite's tokenizer."""
    tokenizer = suite_of(wildcards)["input"].get("tokenizer")
    return [*experiment.tasks[wildcards.task]["assets"], *([tokenizer] if tokenizer else [])]


def reader_of(wildcards):
    return f"nan_merge.data.{experiment.tasks[wildcards.task]['reader'].split('.')[0]}"


def family(wildcards):
    return suite_of(wildcards)["family"]


def environment(wildcards):
    """The conda environment of what runs models, by their family."""
    return f"../../envs/{ENVIRONMENTS.get(family(wildcards), family(wildcards))}.yaml"


def family_of(wildcards):
    return f"nan_merge.models.families.{family(wildcards)}"


def premise_of(wildcards):
    return experiment.premise_runs(wildcards.suite)[wildcards.run]


def subset_of(wildcards):
    return {key: premise_of(wildcards)[key] for key in ("examples", "steps")}


def selected(wildcards):
    tuner = experiment.tuner(wildcards.method)
    return f"results/selected/{wildcards.suite}/{tuner}/seed{wildcards.seed}.json" if tuner else []


def thresholds(wildcards):
    name = experiment.thresholds(wildcards.method)
    return f"results/measures/{wildcards.suite}/seed{wildcards.seed}_{name}.json" if name else []


def calibration(wildcards):
    """What was collected of every expert for the method, if it looks at data; shared like the experts if it is one expert's."""
    name = experiment.methods[experiment.candidates.get(wildcards.method, (wildcards.method,))[0]].get("calibration")
    place = wildcards.suite if name in JOINT_CALIBRATION else experiment.checkpoints(wildcards.suite)
    return [
        f"results/calibration/{place}/{name}/seed{wildcards.seed}/{task}"
        for task in (experiment.task_ids(wildcards.suite) if name else [])
    ]


def calibration_kind(wildcards):
    return experiment.calibration[wildcards.calibration]["kind"]


def calibration_settings(wildcards):
    return canonical(
        {key: value for key, value in experiment.calibration[wildcards.calibration].items() if key != "kind"}
    )


def logit_scale(wildcards):
    return experiment.logit_scale(suite_id(wildcards))


def every_dataset(wildcards):
    return [dataset(wildcards.suite, task) for task in experiment.task_ids(wildcards.suite)]


def every_head(wildcards):
    return [head(wildcards.suite, task) for task in experiment.task_ids(wildcards.suite)]


def calibration_norms(wildcards):
    """The calibration of a method whose coefficients come from the norms of it."""
    coefficients = experiment.methods[experiment.candidates.get(wildcards.method, (wildcards.method,))[0]].get(
        "coefficients"
    )
    given = next(iter(coefficients.values())) if isinstance(coefficients, dict) else None
    return calibration(wildcards) if (given or {}).get("norm_of") == "calibration" else []


def calibration_flag(wildcards, input):
    return " ".join(["--calibration", *(f"{Path(f).name}={f}" for f in input.calibration)]) if input.calibration else ""


onstart:
    fetches = [job for job in workflow.dag.needrun_jobs() if job.rule.name == "fetch_asset"]
    if unlocked := experiment.unlocked(job.wildcards.asset for job in fetches):
        raise WorkflowError(
            f"not in config/assets.lock.json, or unverified there: {', '.join(unlocked)}; expected revision, size and sha256 of what"
            f" this run would fetch; run: python -m scripts.update_lock {' '.join(unlocked)}"
        )
    if not os.access("results" if os.path.exists("results") else ".", os.W_OK):
        raise WorkflowError(
            "results/ cannot be written (read-only, or another user's); make it writable or choose another folder with --directory"
        )
    if workflow.executor_plugin.name == "slurm":
        how, account = workflow.executor_settings, (workflow.resource_settings.default_resources or {}).get(
            "slurm_account"
        )
        try:
            slurm.check(
                how.status_command,
                how.init_seconds_before_status_checks,
                Path.cwd(),
                account.raw if account else None,
                how.array_jobs,
            )
        except UserError as error:
            raise WorkflowError(str(error)) from None
        executor_patch.mend()
