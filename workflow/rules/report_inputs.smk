# What tables, figures and the report are made from: files by kind, and what they say of methods, suites and origin.


def of_each_suite(names, pattern):
    return [pattern.format(name=name, suite=suite) for suite in X.suites for name in names if wanted(name, suite)]


def wanted(name, suite):
    """A table or figure of the premise experiment needs a suite that has one."""
    record = X.reports["tables"].get(name) or X.reports["figures"][name]
    return record.get("kind", name) != "premise" or bool(X.premise_runs(suite))


def tables():
    return of_each_suite(X.config["tables"], "results/tables/{name}_{suite}.md")


def figures():
    return of_each_suite(X.config["figures"], "results/figures/{name}_{suite}.svg")


def suite_json(suite):
    record = X.suites[suite]
    return {
        "id": suite,
        "label": record["label"],
        "notes": record.get("notes", []),
        "finetune": {key: record["finetune"][key] for key in ("steps", "batch_size")},
        "tasks": [{"id": task, "label": X.tasks[task]["label"]} for task in X.task_ids(suite)],
        "seeds": X.config["seeds"],
        "skipped": [{"task": X.tasks[task]["label"], "reason": reason} for task, reason in X.skipped[suite].items()],
    }


def methods_json():
    keys = ("label", "host", "controls", "reference", "group", "summary")
    return [
        {"id": method, **{key: X.methods[method][key] for key in keys if key in X.methods[method]}}
        for method in X.config["methods"]
    ]


MATERIAL = {
    "comparisons": lambda suite: ["results/comparisons.tsv"],
    "coefficients": lambda suite: [
        f"results/coefficients/{suite}/{method}/seed{seed}.json" for method in X.merges() for seed in X.config["seeds"]
    ],
    "measures": lambda suite: [f"results/measures/{suite}/seed{seed}.json" for seed in X.config["seeds"]],
    "datasets": lambda suite: [f"results/datasets/{suite}/{task}" for task in X.task_ids(suite)],
    "premise": lambda suite: [f"results/premise/{suite}.tsv"] if X.premise_runs(suite) else [],
}


def material(kind):
    """The inputs that the tables or figures of this kind ask for in config/tables.yaml, besides the scores."""

    def files(wildcards):
        record = X.reports[f"{kind}s"][wildcards[kind]]
        return [file for name in record["inputs"] for file in MATERIAL[name](wildcards.suite)]

    return files


def flags(inputs, suites):
    """The same files as flags of the command line; a data set is named by its record."""
    return " ".join(
        f"--{name} {' '.join(f'{f}/dataset.json' if name == 'datasets' else f for f in files)}"
        for name in inputs
        if (files := list(dict.fromkeys(f for suite in suites for f in MATERIAL[name](suite))))
    )


def record_json(kind):
    return lambda wildcards: canonical({"id": wildcards[kind], **X.reports[f"{kind}s"][wildcards[kind]]})


def flags_of(kind):
    return lambda wildcards: flags(X.reports[f"{kind}s"][wildcards[kind]]["inputs"], [wildcards.suite])


def used_assets():
    """The assets of the run: bases, text towers, tokenizers, captions and data."""
    names = set()
    for suite, record in X.suites.items():
        names |= {record["base"], record["text_tower"], record["input"].get("tokenizer")}
        tasks = [*X.task_ids(suite), *X.captions(suite)]
        names |= {name for task in tasks for name in X.tasks[task]["assets"]}
    return sorted(filter(None, names))


def run_config():
    """Everything that the config decided for this run, with `extends` resolved."""
    return {
        "config": X.config,
        "suites": X.suites,
        "tasks": {task: X.tasks[task] for suite in X.suites for task in X.suites[suite]["tasks"]},
        "methods": {method: X.methods[method] for method in X.config["methods"]},
        "assets": {name: {**X.assets[name], "lock": X.lock.get(name)} for name in used_assets()},
        "skipped": X.skipped,
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
                **{k: X.assets[name][k] for k in keys if k in X.assets[name]},
                "sha256": X.lock.get(name, {}).get("sha256"),
            }
            for name in used_assets()
        ],
        "suites": {
            suite: {k: X.suites[suite][k] for k in ("finetune", "merge", "premise") if k in X.suites[suite]}
            for suite in X.suites
        },
    }
