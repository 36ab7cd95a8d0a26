# What tables, figures and the report are made from: files by kind, and what they say of methods, suites and origin.


def of_each_suite(kind, pattern):
    """The tables or figures of the config for every suite; one of the premise experiment needs a suite that has it."""
    return [
        pattern.format(name=name, suite=suite)
        for suite in experiment.suites
        for name in experiment.config[kind]
        if experiment.reports[kind][name]["kind"] != "premise" or experiment.premise_runs(suite)
    ]


def tables():
    return of_each_suite("tables", "results/tables/{name}_{suite}.md")


def figures():
    return of_each_suite("figures", "results/figures/{name}_{suite}.svg")


def published():
    return [f"results/published/{table}.md" for table in experiment.config["published"]]


def wanted():
    """What a run makes: of suites scores, tables, figures and the report; of the user's own models the merges."""
    files = ["results/run_config.yaml", *published()]
    if experiment.suites:
        files += ["results/scores.tsv", "results/comparisons.tsv", "results/report.html", *tables(), *figures()]
    for suite in experiment.models:
        files += [
            f"results/merged/{suite}/{m}/seed{seed}"
            for m in experiment.merges(suite)
            for seed in experiment.config["seeds"]
        ]
    return files


def task_json(suite, task):
    record = experiment.tasks[task]
    counts = record.get("arguments", {}).get("counts", {}) if "experts" in experiment.suites[suite] else {}
    fetched = {"train": counts["train"]} if "train" in counts else {}  # what the expert saw, not what is prepared here
    return {"id": task, "label": record["label"], **{k: record[k] for k in ("leaks",) if k in record}, **fetched}


def suite_json(suite):
    record = experiment.suites[suite]
    return {
        "id": suite,
        "label": record["label"],
        "notes": record.get("notes", []),
        "finetune": {key: record.get("finetune", {})[key] for key in ("steps", "batch_size") if "finetune" in record},
        **{key: record[key] for key in ("collection", "published") if key in record},
        "data": experiment.data(suite),
        "tasks": [task_json(suite, task) for task in experiment.task_ids(suite)],
        "seeds": experiment.config["seeds"],
        "skipped": [
            {"task": experiment.tasks[task]["label"], "reason": reason}
            for task, reason in experiment.skipped[suite].items()
        ],
        "skipped_methods": experiment.skipped_methods(suite),
    }


def methods_json():
    keys = "id label host controls reference group summary data static tune sweep draws".split()
    return [{key: row[key] for key in keys if key in row} for row in experiment.rows()]


MATERIAL = {
    "comparisons": lambda suite: ["results/comparisons.tsv"],
    "coefficients": lambda suite: [
        f"results/coefficients/{suite}/{method}/seed{seed}.json"
        for method in experiment.merges(suite)
        for seed in experiment.config["seeds"]
    ],
    "measures": lambda suite: [f"results/measures/{suite}/seed{seed}.json" for seed in experiment.config["seeds"]],
    "datasets": lambda suite: [dataset(suite, task) for task in experiment.task_ids(suite)],
    "premise": lambda suite: [f"results/premise/{suite}.tsv"] if experiment.premise_runs(suite) else [],
}


def material(kind):
    """The inputs that the tables or figures of this kind ask for in config/tables.yaml, besides the scores."""

    def files(wildcards):
        record = experiment.reports[f"{kind}s"][wildcards[kind]]
        return [file for name in record["inputs"] for file in MATERIAL[name](wildcards.suite)]

    return files


def flags(inputs, suites):
    """The same files as flags of the command line; a data set is named by its record."""
    return " ".join(
        f"--{name} {' '.join(f'{f}/dataset.json' if name == 'datasets' else f for f in files)}"
        for name in inputs
        if (files := list(dict.fromkeys(f for suite in suites for f in MATERIAL[name](suite))))
    )


def record_json(kind, section=None):
    """A table or figure as config/tables.yaml describes it, in the section of its kind or a named one."""
    records = experiment.reports.get(section or f"{kind}s", {})
    return lambda wildcards: canonical({"id": wildcards[kind], **records[wildcards[kind]]})


def flags_of(kind):
    return lambda wildcards: flags(experiment.reports[f"{kind}s"][wildcards[kind]]["inputs"], [wildcards.suite])


def run_config():
    """Everything that the config decided for this run, with `extends` resolved."""
    return {
        "config": experiment.config,
        "suites": experiment.suites,
        "tasks": {
            task: experiment.tasks[task] for suite in experiment.suites for task in experiment.suites[suite]["tasks"]
        },
        "methods": {method: experiment.methods[method] for method in experiment.config["methods"]},
        "assets": {
            name: {**experiment.assets[name], "lock": experiment.lock.get(name)} for name in experiment.used_assets()
        },
        "skipped": experiment.skipped,
        "skipped_methods": {
            suite: experiment.skipped_methods(suite) for suite in [*experiment.suites, *experiment.models]
        },
    }


def provenance():
    """What the report says of its own origin."""
    keys = ("kind", "package", "version", "licence", "source")
    return {
        "versions": versions(),
        "config": hashlib.sha256(canonical(run_config()).encode()).hexdigest()[:16],
        "code": code("scripts.merge_checkpoints", "scripts.evaluate_checkpoint", "scripts.finetune_checkpoint"),
        "assets": [
            {
                "id": name,
                **{k: experiment.assets[name][k] for k in keys if k in experiment.assets[name]},
                "sha256": experiment.lock.get(name, {}).get("sha256"),
            }
            for name in experiment.used_assets()
        ],
        "suites": {
            suite: {
                k: experiment.suites[suite][k]
                for k in ("finetune", "merge", "premise")
                if k in experiment.suites[suite]
            }
            for suite in experiment.suites
        },
    }
