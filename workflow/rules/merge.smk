# Needs bases, experts, coefficients and thresholds. Makes results/merged (temporary with `keep_merged: false`),
# results/candidates (temporary) and results/digests.


rule merge_checkpoints:
    input:
        base=base_model,
        experts=expert_folders,
        coefficients=rules.estimate_coefficients.output,
        thresholds=thresholds,
        calibration=calibration,
    output:
        model=merged("results/merged/{suite}/{method}/seed{seed}"),
        digest="results/digests/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/merge_checkpoints/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/merge_checkpoints/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of({*METHODS, *experiment.nested.rows}.difference(PER_TASK_METHODS)),
    conda:
        environment_file("merge")
    threads: lambda wildcards, input: max(threads_for_models(wildcards, input), experiment.blas_threads(wildcards.method))
    resources:
        gpu=GPU_OF_MERGES,
        mem_mb=memory(1500, per_input=1 / 10),
        runtime=minutes(60),
    params:
        spec=spec(
            method_spec=method_spec("space", "preprocess", "combine", "postprocess"), layout=layout, origins=origins
        ),
        experts=named_experts,
        device=experiment.config.get("device", "cpu"),
        computing=lambda wildcards: experiment.computing(wildcards.method),
        thresholds=option("thresholds"),
        calibration=calibration_option,
        task=task_option,
        nested=nested_option,
        code=code("scripts.merge_checkpoints"),
    message:
        "merge_checkpoints: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.merge_checkpoints --base {input.base:q} --experts {params.experts:q}"
        " --coefficients {input.coefficients:q} {params.thresholds:q} {params.calibration:q} {params.task:q}"
        " {params.nested:q}"
        " --seed {wildcards.seed:q} --threads {threads} --device {params.device:q} {params.computing:q}"
        " --output {output.model:q}"
        " --digest {output.digest:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


use rule merge_checkpoints as merge_candidate with:
    output:
        model=temp(directory("results/candidates/{suite}/{method}/seed{seed}")),
        digest="results/digests/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/merge_candidate/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/merge_candidate/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of(experiment.candidates),
    message:
        "merge_candidate: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"


use rule merge_checkpoints as merge_for_task with:
    output:
        model=merged("results/merged/{suite}/{method}/seed{seed}/{task}"),
        digest="results/digests/{suite}/{method}/seed{seed}/{task}.json",
    log:
        "results/logs/merge_for_task/{suite}/{method}/seed{seed}/{task}.log",
    benchmark:
        "results/benchmarks/merge_for_task/{suite}/{method}/seed{seed}/{task}.tsv"
    wildcard_constraints:
        method=any_of(PER_TASK_METHODS),
    message:
        "merge_for_task: {wildcards.suite}, {wildcards.method}, {wildcards.task}, seed {wildcards.seed}"
