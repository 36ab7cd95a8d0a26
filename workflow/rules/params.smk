# Parameters of jobs. All settings of a job are one parameter, `spec`: canonical JSON, which the command reads from standard input,
# so its length has no limit. Snakemake compares parameters as a set without names; in one value a swap is noticed.
# Options of a command are lists of words, so that the shell gets every word quoted (`:q`).

ENVIRONMENTS = {
    "text_encoder": "text",
    "image_encoder": "clip",
    "convnet": "clip",
    "open_clip": "clip",
    "sequence_classification": "causal_lm",
    "vlm": "causal_lm",
    "seq2seq_lm": "causal_lm",
    "sentence_encoder": "causal_lm",
    "image_classification": "clip",
}  # other families: their own name
DEVICE = experiment.config.get("scoring", {}).get("device", "cpu")  # of everything that runs models
GPU_OF_MERGES = int(experiment.config.get("device", "cpu") != "cpu")  # GPUs that a job asks a cluster for
GPU_OF_MODELS = int(DEVICE != "cpu")
RUN_BY = {  # what scores benchmarks, where it is not the default
    key: value for key, value in experiment.config.get("scoring", {}).items() if key in HARNESS_KEYS and value != "hf"
}
GPU_OF_BENCHMARKS = RUN_BY.get("parallelize", GPU_OF_MODELS)


def spec(**keys):
    """The settings of a job as canonical JSON. A value that is a function is called with the wildcards."""
    return lambda wildcards: canonical({k: v(wildcards) if callable(v) else v for k, v in keys.items()})


def option(name):
    """`--name FILE ...` for an input that may be absent."""
    return lambda wildcards, input: words(name, [input[name]] if isinstance(input[name], str) else input[name])


def words(name, values):
    """The words of the option `--name`; none if it has no values."""
    return [f"--{name}", *values] if values else []


SCORING = [
    word
    for key, value in sorted(experiment.config.get("scoring", {}).items())
    if key not in HARNESS_KEYS
    for word in words(key.replace("_", "-"), [str(value)])
]


def named(folders):
    return [f"{name}={folder}" for name, folder in folders.items()]


def named_experts(wildcards):
    return named(merged_experts(wildcards))


def named_datasets(wildcards):
    return named({Path(folder).name: folder for folder in datasets_of_suite(wildcards)})


def calibration_option(wildcards):
    return words("calibration", named(calibration_by_expert(wildcards)))


def calibration_for_norms_option(wildcards):
    return calibration_option(wildcards) if calibration_for_norms(wildcards) else []


def metrics_option(wildcards):
    """The metrics of the tasks of a group that are not scored by accuracy."""
    suite, chosen = wildcards.suite, experiment.suites[wildcards.suite].get("metrics", {})
    return words(
        "metrics", [f"{task}={chosen[task]}" for task in experiment.groups(suite)[wildcards.group] if task in chosen]
    )


def dequantise_option(wildcards):
    return ["--dequantise"] if experiment.suites[suite_of(wildcards)].get("dequantise") else []


def vlm_options(wildcards):
    """How pictures are cut and whose tower merges get; base and experts keep one that they have."""
    chosen = experiment.suites[wildcards.suite]["vlm"]
    keeps = ["--keep-tower"] * (wildcards.method in experiment.references)
    return [*words("pipeline", [chosen["pipeline"]]), *words("tower", [chosen["tower"]]), *keeps]


def unique_option(wildcards):
    """Whether the reader of a data set drops examples that stand in two splits; readers of the hub's data keep what there is."""
    reader = experiment.tasks[wildcards.task]["reader"].partition(".")[0]
    return ["--unique"] if reader in ("texts", "images") else []


def joint_options(wildcards):
    """Whether the classes of all tasks are told apart, and whether the checkpoints answer together."""
    joint = ["--joint"] * experiment.is_joint(wildcards.suite)
    return [*joint, *["--ensemble"] * (wildcards.method == "ensemble")]


def pruning_options(wildcards, input):
    """The scores by which the trial of a search with `prune` may be stopped."""
    return [*option("earlier")(wildcards, input), *option("before")(wildcards, input)]


def task_option(wildcards):
    return words("task", [wildcards.task] if wildcards.method in PER_TASK_METHODS else [])


def nested_option(wildcards):
    """The method of a nested merge, whose own name is no method."""
    record = experiment.method(wildcards.method)
    return words("nested", [record["method"]] if "nested" in record else [])


def family(wildcards):
    return experiment.suites[suite_of(wildcards)]["family"]


def environment(wildcards):
    """The conda environment of what runs models, by their family."""
    return environment_file(ENVIRONMENTS.get(family(wildcards), family(wildcards)))


def environment_of_backend(wildcards):
    """The conda environment of benchmarks: vLLM has its own, since its pins are others."""
    return environment_file("vllm") if RUN_BY.get("backend") == "vllm" else environment(wildcards)


def code_with_family(script):
    """The digest of a script and of the model family that it loads by name."""
    return lambda wildcards: digest(script, f"nan_merge.models.families.{family(wildcards)}")


def code_with_reader(script):
    """The digest of a script and of the reader of data sets that it loads by name."""
    return lambda wildcards: digest(
        script, f"nan_merge.data.{experiment.tasks[wildcards.task]['reader'].partition('.')[0]}"
    )


# ---- values of specs: sections of the config ------------------------------------------------------------------------


def asset_entry(wildcards):
    return experiment.assets[wildcards.asset]


def asset_lock(wildcards):
    return {name: entry for name, entry in experiment.lock.items() if name == wildcards.asset}


def task_entry(wildcards):
    entry = {**experiment.tasks[wildcards.task], "splits": experiment.splits(suite_of(wildcards), wildcards.task)}
    return {"id": wildcards.task, **{key: value for key, value in entry.items() if key != "prompt"}}


def place_of_model(wildcards):
    return experiment.own_models(wildcards.suite)[wildcards.model]


def files_of_model(wildcards):
    """Size and time of the files of a folder that is linked, so that a change of it is noticed; [] for a model of the hub."""
    found = sorted(Path(place_of_model(wildcards)).expanduser().glob("**/*"))
    return [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in found if file.is_file()]


def form(wildcards):
    """The form in which a data set is stored."""
    return experiment.form(suite_of(wildcards))


def section(name):
    """A section of the suite's file: `finetune`, `alignment`."""
    return lambda wildcards: experiment.suites[suite_of(wildcards)][name]


def layout(wildcards):
    """`merge:` of a suite, or of an entry of `models`."""
    suite = suite_of(wildcards)
    return (experiment.models if suite in experiment.models else experiment.suites)[suite].get("merge", {})


def origins(wildcards):
    """Hub id and commit of base and experts that came from a hub, but for `models` (source.json); names of nested merges."""
    suite = wildcards.suite
    record = {} if suite in experiment.models else experiment.suites[suite]
    nested = {name: {"name": name} for name in merged_experts(wildcards) if name in experiment.nested.of(suite)}
    own = [name for name in merged_experts(wildcards) if name not in nested] if record else []
    found = {name: experiment.expert_asset(suite, name) for name in own}
    found |= {"base": record.get("base") if "alignment" not in record else None}
    hub = {name: asset for name, asset in found.items() if asset and experiment.assets[asset]["kind"] == "hub"}
    locked = {name: experiment.lock.get(asset, {}).get("commit") for name, asset in hub.items()}
    return nested | {
        name: {"repo": experiment.assets[hub[name]]["repo"], "commit": commit}
        for name, commit in locked.items()
        if commit
    }


def benchmarks_of_group(wildcards):
    return benchmarks(experiment.groups(wildcards.suite)[wildcards.group])


def benchmarks_of_expert(wildcards):
    return benchmarks(experiment.trained_on(wildcards.suite)[wildcards.expert])


def benchmarks(tasks):
    """`harness:` of tasks with a digest of own YAML files, less what only the plan reads and what tables say."""
    unread = ("examples", "documents", "generated", "unanswered")
    entries = [{"id": task, **experiment.tasks[task]["harness"]} for task in tasks]
    kept = [{key: value for key, value in entry.items() if key not in unread} for entry in entries]
    for entry in kept:
        if (folders := len(experiment.tasks[entry["id"]]["assets"])) > 1:
            entry["folders"] = folders
    return [
        {**entry, **({"definition": own} if (own := definition(entry.get("folder", ""))) else {})} for entry in kept
    ]


def harness_task_by_benchmark(wildcards):
    return {t: experiment.tasks[t]["harness"]["tasks"][0] for t in experiment.groups(wildcards.suite)[wildcards.group]}


def harness_settings(wildcards):
    """`harness:` of the suite, and the backend and number of GPUs of a model, which are part of a result's identity."""
    return {**experiment.suites[wildcards.suite].get("harness", {}), **RUN_BY}


def logit_scale(wildcards):
    return experiment.logit_scale(suite_of(wildcards))


def prompts(wildcards):
    tasks = [*experiment.task_ids(wildcards.suite), *experiment.captions(wildcards.suite)]
    return {task: experiment.class_prompts(task) for task in tasks}


def class_prompts(key):
    return lambda wildcards: experiment.class_prompts(wildcards.task)[key]


def method_spec(*stages):
    return lambda wildcards: experiment.method_spec(wildcards.method, *stages)


def stated_examples(wildcards):
    """Training-set sizes by expert, for a method that reads them, where the config states them."""
    if not experiment.reads_examples(wildcards.method):
        return {}
    return experiment.examples(wildcards.suite) | experiment.rotated_sizes(wildcards.suite, int(wildcards.seed))


def search_of_trial(wildcards):
    return experiment.searches[experiment.candidates[wildcards.method].method].record()


def number_of_trial(wildcards):
    return experiment.candidates[wildcards.method].number


def names_of_experts(wildcards):
    return list(experts(wildcards))


def points_of_candidates(wildcards):
    """The points of all candidates of a tuned method; None for trials."""
    return {name: experiment.candidates[name].point for name in experiment.candidates_of(wildcards.method)}


def is_chosen_by_value(wildcards):
    return "hyper_parameter" in experiment.methods[wildcards.method]["tune"]


def kind_of_search(wildcards):
    return experiment.searches[wildcards.method].kind


def is_pruned(wildcards):
    return experiment.searches[wildcards.method].prune


def metrics_of_suite(wildcards):
    return {task: experiment.metric(wildcards.suite, task) for task in experiment.task_ids(wildcards.suite)}


def threshold_settings(wildcards):
    return experiment.requirements(THRESHOLDS[wildcards.thresholds])["thresholds"]


def processed_settings(wildcards):
    return experiment.requirements(PROCESSED[wildcards.processed])["processed"]


def calibration_settings(wildcards):
    return {key: value for key, value in experiment.calibration[wildcards.calibration].items() if key != "kind"}


def learn_settings(wildcards):
    return {**experiment.methods[wildcards.method]["learn"], **experiment.suites[wildcards.suite].get("learn", {})}


def language_training(wildcards):
    """`finetune:` of the suite without the tasks of the other experts."""
    return {key: value for key, value in section("finetune")(wildcards).items() if key != "tasks"}


def training(wildcards):
    """`finetune:` of the suite with the training examples and steps of one expert."""
    return experiment.training(wildcards.suite, task_of(wildcards), int(wildcards.seed))


def joint_training(wildcards):
    """`finetune:` of the suite for the model that is trained on all tasks."""
    return experiment.joint_training(wildcards.suite)


def premise_settings(wildcards):
    """`finetune:` of the suite with the training examples and steps of one run of the premise experiment."""
    return training(wildcards) | {key: premise_of(wildcards)[key] for key in ("examples", "steps")}


def premise_run(wildcards):
    return {"suite": wildcards.suite, "seed": int(wildcards.seed), **premise_of(wildcards)}
