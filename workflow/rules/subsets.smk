# Needs bases, experts, measurements, data sets and heads. Makes results/subsets: merges of random subsets of the experts, scored.
from experiment import subsets


def subsets_of(suite):
    """The drawn subsets of a suite by id."""
    return subsets.subsets(experiment, suite)


def members(wildcards):
    """The experts of a subset, each the expert of the task of its name."""
    return subsets_of(wildcards.suite)[wildcards.subset]


def experts_of_subset(wildcards):
    return {name: expert(wildcards.suite, wildcards.seed, name) for name in members(wildcards)}


def folders_of_subset(wildcards):
    return list(experts_of_subset(wildcards).values())


def named_experts_of_subset(wildcards):
    return named(experts_of_subset(wildcards))


def datasets_of_subset(wildcards):
    return [dataset(wildcards.suite, task) for task in members(wildcards)]


def heads_of_subset(wildcards):
    return [head(wildcards.suite, task) for task in members(wildcards)]


def merges_of_subset(wildcards):
    """The methods that merge a subset: the stages of each, and the files of what was measured for it."""
    chosen, found = members(wildcards), []
    for method in subsets.merging(experiment, wildcards.suite, len(chosen)):
        job = type(wildcards)(fromdict={**dict(wildcards.items()), "method": method})
        folders = {name: folder for name, folder in calibration_by_expert(job).items() if name in chosen}
        files = {"measures": measures(job), "thresholds": thresholds(job) or None, "calibration": folders}
        found.append({"id": method, "method_spec": experiment.method_spec(method, *STAGES), **files})
    return found


def measured_for_subset(wildcards):
    return [
        file
        for merge in merges_of_subset(wildcards)
        for file in filter(None, [merge["measures"], merge["thresholds"], *merge["calibration"].values()])
    ]


def stated_examples_of_subset(wildcards):
    """Training-set sizes by expert that the config states; of experts that are fine-tuned here their data sets have them."""
    stated = experiment.examples(wildcards.suite) | experiment.rotated_sizes(wildcards.suite, int(wildcards.seed))
    return {name: stated[name] for name in members(wildcards) if stated.get(name) is not None}


def scored_subsets(suite):
    """The scores of the subsets of a suite; predictions lie beside them."""
    return collect(
        rules.score_subset.output.scores, suite=suite, subset=list(subsets.parts(experiment, suite)), seed=SEEDS
    )


rule score_subset:
    # One process merges and scores all methods of a subset, merge by merge; what is measured of an expert is that of the suite.
    input:
        base=base_model,
        experts=folders_of_subset,
        datasets=datasets_of_subset,
        heads=heads_of_subset,
        measured=measured_for_subset,
    output:
        scores="results/subsets/{suite}/{subset}/seed{seed}.json",
        predictions="results/subsets/{suite}/{subset}/seed{seed}.npz",
    log:
        "results/logs/score_subset/{suite}/{subset}/seed{seed}.log",
    benchmark:
        "results/benchmarks/score_subset/{suite}/{subset}/seed{seed}.tsv"
    conda:
        environment
    threads: threads_for_models
    resources:
        gpu=max(GPU_OF_MODELS, GPU_OF_MERGES),
        mem_mb=memory(2000, per_input=3),
        runtime=minutes(240),
    params:
        spec=spec(methods=merges_of_subset, layout=layout, examples=stated_examples_of_subset),
        experts=named_experts_of_subset,
        merge_device=experiment.config.get("device", "cpu"),
        scoring=SCORING,
        family=family,
        code=code_with_family("scripts.score_subset"),
    message:
        "score_subset: {wildcards.suite}, {wildcards.subset}, seed {wildcards.seed}"
    shell:
        "python -m scripts.score_subset --family {params.family:q} --base {input.base:q} --experts {params.experts:q}"
        " --datasets {input.datasets:q} --heads {input.heads:q} {params.scoring:q} --merge-device {params.merge_device:q}"
        " --suite {wildcards.suite:q} --subset {wildcards.subset:q} --seed {wildcards.seed:q} --threads {threads}"
        " --scores {output.scores:q} --predictions {output.predictions:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"
