# What the merges of random subsets of the experts read, by subset.
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


def methods_of_subset(wildcards):
    return subsets.merging(experiment, wildcards.suite, len(members(wildcards)))


def merges_of_subset(wildcards):
    """The methods that merge a subset: the stages of each, and the files of what was measured for it."""
    chosen, found = members(wildcards), []
    for method in methods_of_subset(wildcards):
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
