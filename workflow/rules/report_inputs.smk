# What tables, figures and the report are made from: score files, measurements by kind, and records of suites, methods and origin.
import hashlib

OF_MODELS = (
    "coefficients",
    "experts",
    "premise",
    "search",
    "selection",
    "sweep",
)  # kinds for suites that make their merges
PUBLISHED = os.path.relpath(ROOT / "config/published.tsv")
MATERIAL = {  # files of a suite that an entry of config/tables.yaml may name as `inputs`
    "comparisons": lambda suite: ["results/comparisons.tsv"],
    "coefficients": lambda suite: collect(
        rules.estimate_coefficients.output, suite=experiment.owner(suite), method=experiment.merges(suite), seed=SEEDS
    ),
    "measures": lambda suite: collect(
        rules.measure_weights.output, suite=experiment.owner(suite), nested="", seed=SEEDS
    ),
    "datasets": lambda suite: [dataset(suite, task) for task in experiment.prepared_tasks(suite)],
    "premise": lambda suite: (
        collect(rules.gather_premise.output, suite=suite) if experiment.premise_runs(suite) else []
    ),
    "data_checks": lambda suite: collect(
        rules.check_data.output, data=experiment.data(suite), task=experiment.prepared_tasks(suite)
    ),
    "predictions": lambda suite: test_scores([suite]),
    "subsets": lambda suite: scored_subsets(suite),
    "searches": lambda suite: collect(
        rules.describe_search.output,
        suite=experiment.owner(suite),
        method=searching_methods(suite),
        seed=SEEDS,
    ),
}
NUMBERS = [
    name for name in MATERIAL if name not in ("data_checks", "predictions", "subsets", "searches")
]  # of the pages over all suites


def searching_methods(suite):
    """The methods of a suite that choose hyper-parameters on validation."""
    return [method for method in experiment.merges(suite) if method in experiment.searches]


def scores(suites=experiment.suites):
    """Every score file of suites: test scores of the methods, validation scores of the candidates."""
    return [
        file
        for suite in suites
        for pattern, methods in (
            (rules.evaluate_checkpoint.output.scores, experiment.run(suite)),
            (rules.evaluate_candidate.output.scores, experiment.candidates_in(suite)),
        )
        for file in collect(pattern, suite=suite, method=methods, seed=SEEDS, group=list(experiment.groups(suite)))
    ]


def test_scores(suites=experiment.suites):
    """The test scores of the methods; predictions lie beside them."""
    return [file for file in scores(suites) if file.startswith("results/scores/")]


def examples():
    """The test examples, texts or images, of suites whose data are prepared."""
    return [
        file
        for suite in experiment.suites
        if experiment.prepared_tasks(suite)
        for file in collect(rules.decode_examples.output, suite=suite)
    ]


def cross_checks():
    """The scores of OpenCompass, where the config asks for them."""
    return [
        file
        for suite in experiment.suites
        for file in collect(
            rules.cross_check.output,
            suite=suite,
            method=experiment.cross_checked(suite),
            seed=SEEDS,
            group=list(experiment.groups(suite)),
        )
    ]


def of_each_suite(kind):
    """The tables or figures of the config for every suite that has what they show: models, prepared data, the premise experiment."""
    pattern = {"tables": rules.render_table.output.md, "figures": rules.draw_figure.output.svg}[kind]
    return [
        pattern.format(suite=suite, **{kind.removesuffix("s"): name})
        for suite in experiment.suites
        for name in experiment.config[kind]
        if shows(experiment.reports[kind][name]["kind"], suite)
    ]


def shows(kind, suite):
    """Whether a kind of tables or figures has anything to show of a suite."""
    if kind in OF_MODELS and experiment.owner(suite) != suite:
        return False
    needs = {
        "premise": experiment.premise_runs,
        "data": experiment.prepared_tasks,
        "subsets": subsets_of,
        "search": searching_methods,
    }
    return kind not in needs or bool(needs[kind](suite))


def published():
    return collect(rules.render_published.output.md, table=experiment.config["published"])


def wanted():
    """The targets of a run: of suites scores, tables, figures and the report; of the user's own models the merges."""
    targets = ["results/run_config.yaml", *published()]
    if experiment.suites:
        targets += ["results/scores.tsv", "results/comparisons.tsv", "results/claims.md", "results/report.html"]
        targets += of_each_suite("tables") + of_each_suite("figures") + files(["subsets"], experiment.suites)
    for suite in experiment.models:
        targets += collect("results/merged/{suite}/{m}/seed{seed}", suite=suite, m=experiment.merges(suite), seed=SEEDS)
    return targets


def files(inputs, suites):
    return list(dict.fromkeys(file for suite in suites for name in inputs for file in MATERIAL[name](suite)))


def flags(inputs, suites):
    """The same files as options of the command line; a data set is named by its record."""
    return [
        word
        for name in inputs
        for word in words(name, [f"{f}/dataset.json" if name == "datasets" else f for f in files([name], suites)])
    ]


def listed(paths):
    """Many files as one input. Beside the output of another rule, a plan hashes a list as a whole for each of its files."""
    return lambda wildcards: paths


def material(kind, wildcard):
    """The inputs, besides the scores, of a table or figure."""
    return lambda wildcards: files(experiment.reports[kind][wildcards[wildcard]]["inputs"], [wildcards.suite])


def flags_of(kind, wildcard):
    return lambda wildcards: flags(experiment.reports[kind][wildcards[wildcard]]["inputs"], [wildcards.suite])


def report_entry(kind, wildcard):
    """The entry of config/tables.yaml, with its id."""
    return lambda wildcards: {"id": wildcards[wildcard], **experiment.reports[kind][wildcards[wildcard]]}


def task_record(suite, task):
    record = experiment.tasks[task]
    counts = record.get("arguments", {}).get("counts", {}) if "experts" in experiment.suites[suite] else {}
    fetched = {"train": counts["train"]} if "train" in counts else {}  # what the expert saw, not what is prepared here
    harness = record.get("harness", {})
    benchmark = (
        {**part(harness, "unanswered", "examples", "generated"), **part(record, "source", "licence")} if harness else {}
    )
    metric = {"metric": found} if (found := experiment.metric(suite, task)) != "accuracy" else {}
    known = part(record, "leaks")
    sizes = {str(seed): found[task] for seed in SEEDS if task in (found := experiment.rotated_sizes(suite, seed))}
    if sizes:  # what the expert saw: the same with every seed, or by seed
        known["train"] = sizes if len({*sizes.values()}) > 1 else next(iter(sizes.values()))
    return {"id": task, "label": record["label"], **known, **metric, **fetched, **benchmark}


def suite_record(suite):
    record, made_here = experiment.suites[suite], experiment.owner(suite) == suite
    trained_here = record.get("finetune", {}) if made_here else {}
    return {
        "id": suite,
        "label": record["label"],
        "notes": record.get("notes", []),
        "finetune": part(trained_here, "steps", "epochs", "batch_size", "sizes", "undertrained"),
        **{key: record[key] for key in ("collection", "published", "experts") if key in record},
        **({"trained_on": trained} if (trained := experiment.trained_on(suite)) else {}),
        "data": experiment.data(suite),
        **({} if made_here else {"owner": owner_record(suite)}),
        "tasks": [task_record(suite, task) for task in experiment.task_ids(suite)],
        "seeds": SEEDS,
        "skipped": [
            {"task": experiment.tasks[task]["label"], "reason": reason}
            for task, reason in experiment.skipped[suite].items()
        ],
        "skipped_methods": experiment.skipped_methods(suite),
        **({"subsets": drawn} if (drawn := subsets_of(suite)) else {}),
        **({"methods": rows_of(suite)} if experiment.expert_rows or experiment.nested.rows else {}),
    }


def rows_of(suite):
    """The rows of the tables of a suite, where suites of the run have different references."""
    return [row["id"] for row in experiment.rows() if row["id"] not in experiment.absent(suite)]


def suite_record_of(wildcards):
    return suite_record(wildcards.suite)


def suite_records():
    return [suite_record(suite) for suite in experiment.suites]


def owner_record(suite):
    """The suite whose merges are scored, and how its inputs are corrupted here."""
    owner = experiment.owner(suite)
    return {"id": owner, "label": experiment.suites[owner]["label"], **part(experiment.suites[suite], "corrupt")}


def suites_of_comparisons():
    """The suites with their tasks; data sets weigh tasks only where each has an expert that was trained on it."""
    weighted = [record for record in suite_records() if experiment.has_experts_of_tasks(record["id"])]
    return [{key: record[key] for key in ("id", "data", "tasks")} for record in weighted]


def method_records():
    keys = "id label host controls reference group summary data static sweep draws".split()
    return [part(row, *keys) | ({"tune": tune_record(row)} if "tune" in row else {}) for row in experiment.rows()]


def tune_record(row):
    """`tune:` of a method without its grid or space, and the value of one hyper-parameter where it is not tuned."""
    if "space" in row["tune"]:
        return {**part(row["tune"], "as"), "hyper_parameters": names(row["tune"])}
    ((_, values),) = row["coefficients"].items()
    tune = part(row["tune"], "hyper_parameter", "as")
    return {**tune, "fixed": values[tune["hyper_parameter"]]} if tune["hyper_parameter"] in values else tune


def provenance(wildcards):
    """The origin of the report: digests of config and code, assets, settings of the suites."""
    return {
        "config": hashlib.sha256(canonical(experiment.record()).encode()).hexdigest()[:16],
        "code": digest("scripts.merge_checkpoints", "scripts.evaluate_checkpoint", "scripts.finetune_checkpoint"),
        "assets": [
            {
                "id": name,
                **part(experiment.assets[name], "kind", "package", "version", "licence", "source"),
                "sha256": experiment.lock.get(name, {}).get("sha256"),
            }
            for name in experiment.used_assets()
        ],
        "suites": {name: part(suite, "finetune", "merge", "premise") for name, suite in experiment.suites.items()},
    }


def part(record, *keys):
    return {key: record[key] for key in keys if key in record}
