# Functions from ids, or from the wildcards of a job, to paths below results/.


def asset(name):
    return f"results/assets/{name}"


def dataset(suite, task):
    return f"results/datasets/{experiment.data(suite)}/{task}"


def head(suite, task):
    return f"results/heads/{experiment.heads(suite)}/{task}.safetensors"


def own_model(suite, name):
    """The folder of a model of the user: a local one as it is, another where fetch_model puts it.

    In the path of an input Snakemake replaces {names} and <names>, so a folder with such a path is linked by fetch_model.
    """
    place = os.path.expanduser(experiment.own_models(suite)[name])
    return place if os.path.isdir(place) and not set(place) & set("{<") else f"results/models/{suite}/{name}"


def expert(suite, seed, task):
    """The folder of one expert, or of the model that was trained on all tasks: fetched, or fine-tuned with a seed."""
    origin = "experts" if experiment.expert_asset(suite, task) else f"seed{seed}"
    return f"results/checkpoints/{experiment.checkpoints(suite)}/{origin}/{task}"


def merged(path):
    """A merged model. A temporary one is removed once it was scored, unless it is a target: asked for, or of `models`."""
    return directory(path) if experiment.keep_merged else temp(directory(path))


def experts(wildcards):
    """The folder of every expert of a suite, by name."""
    suite = wildcards.suite
    if suite in experiment.models:
        return {name: own_model(suite, name) for name in experiment.models[suite]["experts"]}
    return {name: expert(suite, wildcards.seed, name) for name in experiment.experts(suite)}


def merge_of(wildcards):
    """The nested merge whose experts a job measures, or the method by which it merges; empty where it is for all methods."""
    return Path(wildcards.get("nested", "")).name or wildcards.get("method", "")


def merged_experts(wildcards):
    """The folder of all that a job merges or measures, by name: experts of the suite, and of a nested merge other nested ones."""
    suite, folders = wildcards.suite, experts(wildcards)
    names = experiment.merged_experts(suite, merge_of(wildcards))
    return {name: folders.get(name, f"results/merged/{suite}/{name}/seed{wildcards.get('seed')}") for name in names}


def sharing(wildcards):
    """The suites that share the prepared data, the checkpoints or the text tower that the wildcards name."""
    kind = next(kind for kind in ("data", "checkpoints", "tower") if kind in wildcards.keys())
    return experiment.sharing(kind, wildcards[kind])


def suite_of(wildcards):
    """The suite that the wildcards name, or one of those that share what they name."""
    return wildcards.suite if "suite" in wildcards.keys() else sharing(wildcards)[0]


def premise_of(wildcards):
    return experiment.premise_runs(wildcards.suite)[wildcards.run]


def task_of(wildcards):
    return wildcards.task if "task" in wildcards.keys() else premise_of(wildcards)["task"]


# ---- inputs of one job ----------------------------------------------------------------------------------------------


def base_asset(wildcards):
    return asset(experiment.suites[suite_of(wildcards)]["base"])


def expert_asset(wildcards):
    return asset(next(filter(None, (experiment.expert_asset(suite, wildcards.task) for suite in sharing(wildcards)))))


def text_tower(wildcards):
    return asset(experiment.tower(wildcards.suite))


def assets_of_dataset(wildcards):
    """The assets of a data set: its own, and the suite's tokenizer."""
    tokenizer = experiment.suites[suite_of(wildcards)]["input"].get("tokenizer")
    return [asset(name) for name in [*experiment.tasks[wildcards.task]["assets"], *([tokenizer] if tokenizer else [])]]


def tokenizer(wildcards):
    """The tokenizer of a suite of texts."""
    name = experiment.suites[wildcards.suite]["input"].get("tokenizer")
    return asset(name) if name else []


def captions(wildcards):
    return [dataset(wildcards.suite, name) for name in experiment.captions(wildcards.suite)]


def base_model(wildcards):
    """The checkpoint that experts were fine-tuned from."""
    if wildcards.suite in experiment.models:
        return own_model(wildcards.suite, "base")
    return f"results/checkpoints/{experiment.checkpoints(wildcards.suite)}/pretrained"


def expert_folders(wildcards):
    return list(merged_experts(wildcards).values())


def expert_of(wildcards):
    return expert(suite_of(wildcards), wildcards.seed, wildcards.task)


def dataset_of(wildcards):
    return dataset(suite_of(wildcards), task_of(wildcards))


def head_of(wildcards):
    return head(suite_of(wildcards), task_of(wildcards))


def datasets_of_suite(wildcards):
    return [dataset(wildcards.suite, task) for task in experiment.prepared_tasks(wildcards.suite)]


def heads_of_suite(wildcards):
    return [head(wildcards.suite, task) for task in experiment.task_ids(wildcards.suite)]


def datasets_of_group(wildcards):
    return [dataset(wildcards.suite, task) for task in experiment.groups(wildcards.suite)[wildcards.group]]


def heads_of_group(wildcards):
    return [head(wildcards.suite, task) for task in experiment.groups(wildcards.suite)[wildcards.group]]


def data_of_group(wildcards):
    """The folders of the data of each benchmark: its assets."""
    tasks = experiment.groups(wildcards.suite)[wildcards.group]
    return [asset(name) for task in tasks for name in experiment.tasks[task]["assets"]]


def data_of_expert(wildcards):
    """The folders of the data of each benchmark that an expert is trained on: its assets."""
    tasks = experiment.trained_on(wildcards.suite)[wildcards.expert]
    return [asset(name) for task in tasks for name in experiment.tasks[task]["assets"]]


def scored_checkpoints(wildcards):
    """The checkpoints that are scored: one for all tasks of the group, or one for each."""
    suite, method, seed = wildcards.suite, wildcards.method, wildcards.seed
    owner = experiment.owner(suite)
    if method == "pretrained":
        return base_model(wildcards)
    if method == "multitask":
        return expert(suite, seed, "multitask")
    if method == "ensemble":
        return list(experts(wildcards).values())
    if method == "individual":  # a task that no expert was trained on is left to the base
        own = [experiment.own_expert(suite, task) for task in experiment.groups(suite)[wildcards.group]]
        return [experts(wildcards)[name] if name else base_model(wildcards) for name in own]
    if method in experiment.expert_rows:
        return experts(wildcards)[experiment.expert_rows[method]]
    if method in PER_TASK_METHODS:
        return [f"results/merged/{owner}/{method}/seed{seed}/{t}" for t in experiment.groups(suite)[wildcards.group]]
    return f"results/{'candidates' if method in experiment.candidates else 'merged'}/{owner}/{method}/seed{seed}"


def benchmarked_checkpoints(wildcards):
    """The checkpoints that benchmarks score: those, or what is made of one whose suite has `vlm:`."""
    if "vlm" in experiment.suites[wildcards.suite]:
        return f"results/converted/{wildcards.suite}/{wildcards.method}/seed{wildcards.seed}"
    return scored_checkpoints(wildcards)


def part_of_vlm(key):
    """The folder of an asset that `vlm:` of a suite names, or of the expert that it names as donor."""

    def folder(wildcards):
        name = experiment.suites[wildcards.suite]["vlm"].get(key)
        return experts(wildcards)[name] if key == "donor" and name else asset(name) if name else []

    return folder


def of_candidates(pattern, wildcards, candidates):
    """Files of some candidates of a tuned method, all groups of one behind another."""
    groups = list(experiment.groups(wildcards.suite))
    return [
        pattern.format(suite=wildcards.suite, method=candidate, seed=wildcards.seed, group=group)
        for candidate in candidates
        for group in (groups if "{group}" in pattern else [""])
    ]


def validation_scores(wildcards):
    """The validation scores of all candidates of a tuned method."""
    return of_candidates(rules.evaluate_candidate.output.scores, wildcards, experiment.candidates_of(wildcards.method))


def validation_predictions(wildcards):
    return of_candidates(
        rules.evaluate_candidate.output.predictions, wildcards, experiment.candidates_of(wildcards.method)
    )


def points_of_trials(wildcards):
    """The points of the trials of a tuned method; none for a grid, whose points are known."""
    trials = [name for name in experiment.candidates_of(wildcards.method) if name in TRIALS]
    return of_candidates(rules.propose_trial.output[0], wildcards, trials)


def earlier_points(wildcards):
    return of_candidates(rules.propose_trial.output[0], wildcards, experiment.earlier_trials(wildcards.method))


def earlier_scores(wildcards):
    return of_candidates(rules.evaluate_candidate.output.scores, wildcards, experiment.earlier_trials(wildcards.method))


def scores_of_earlier_rounds(wildcards):
    """The validation scores by which the trial of a search with `prune` may be stopped."""
    trials = experiment.pruned_by(wildcards.method)
    return of_candidates(rules.evaluate_candidate.output.scores, wildcards, trials)


def scores_of_earlier_groups(wildcards):
    """The validation scores of the same trial on earlier groups of tasks, where it may be stopped."""
    if not experiment.pruned_by(wildcards.method):
        return []
    groups = list(experiment.groups(wildcards.suite))
    scores = of_candidates(rules.evaluate_candidate.output.scores, wildcards, [wildcards.method])
    return scores[: groups.index(wildcards.group)]


def choice(wildcards, method):
    """The choice on validation that a method uses, or the point of a trial; none where nothing is chosen."""
    if method in TRIALS:
        return f"results/trials/{wildcards.suite}/{method}/seed{wildcards.seed}.json"
    tuner = experiment.tuner(method)
    return f"results/selected/{wildcards.suite}/{tuner}/seed{wildcards.seed}.json" if tuner else []


def selected(wildcards):
    return choice(wildcards, wildcards.method)


def choice_of_thresholds(wildcards):
    """The choice of how to trim, for thresholds that depend on it."""
    chooses = experiment.chooses(THRESHOLDS[wildcards.thresholds], "preprocess")
    return choice(wildcards, chooses) if chooses else []


def datasets_for_sizes(wildcards):
    """The data sets of a method whose coefficients come from their sizes, if the experts are fine-tuned on them here."""
    suite = wildcards.suite
    sized = experiment.reads_examples(wildcards.method) and suite in experiment.suites
    stated = sized and experiment.rotated_sizes(suite, int(wildcards.seed))
    return datasets_of_suite(wildcards) if sized and not stated and "finetune" in experiment.suites[suite] else []


def measures(wildcards):
    """The norms that the coefficients of a method come from."""
    name = experiment.processed(wildcards.method)
    return f"{folder_of_measures(wildcards)}/seed{wildcards.seed}{f'_processed-{name}' if name else ''}.json"


def thresholds(wildcards):
    name = experiment.thresholds(wildcards.method if "method" in wildcards.keys() else PROCESSED[wildcards.processed])
    return f"{folder_of_measures(wildcards)}/seed{wildcards.seed}_{name}.json" if name else []


def folder_of_measures(wildcards):
    """Where the measures of the experts of a suite lie, or of a nested merge."""
    name = merge_of(wildcards)
    return str(Path("results/measures", wildcards.suite, name if name in experiment.nested.rows else ""))


# ---- calibration statistics -----------------------------------------------------------------------------------------


def calibration_by_expert(wildcards):
    """The folder of the calibration statistics of every expert that the method needs, by expert; none if it needs none."""
    name = experiment.method(wildcards.method).get("calibration")
    place = wildcards.suite if name in JOINT_CALIBRATION else experiment.checkpoints(wildcards.suite)
    tasks = experiment.task_ids(wildcards.suite) if name else []
    return {task: f"results/calibration/{place}/{name}/seed{wildcards.seed}/{task}" for task in tasks}


def calibration(wildcards):
    """What a job waits for: the folder of each expert, or the one folder of statistics that are collected together."""
    folders = calibration_by_expert(wildcards).values()
    joint = experiment.method(wildcards.method).get("calibration") in JOINT_CALIBRATION
    return list(dict.fromkeys(os.path.dirname(folder) if joint else folder for folder in folders))


def calibration_for_norms(wildcards):
    """The calibration statistics of a method whose coefficients come from their norms."""
    return calibration(wildcards) if experiment.takes_norms_of_calibration(wildcards.method) else []
