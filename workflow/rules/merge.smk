# Needs bases, experts, coefficients and thresholds. Makes results/merged (kept) and results/candidates (temporary).


rule merge_checkpoints:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        experts=lambda wildcards: list(experts(wildcards.suite, wildcards.seed).values()),
        coefficients="results/coefficients/{suite}/{method}/seed{seed}.json",
        thresholds=thresholds,
        calibration=calibration,
    output:
        directory("results/merged/{suite}/{method}/seed{seed}"),
    log:
        "results/logs/merge_checkpoints/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/merge_checkpoints/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of({*experiment.config["methods"], *experiment.candidates}.difference(PER_TASK_METHODS)),
    conda:
        "../../envs/merge.yaml"
    resources:
        gpu=GPU["merge"],
    params:
        method_spec=lambda wildcards: experiment.method_spec(wildcards.method, "preprocess", "combine", "postprocess"),
        experts=named_experts,
        layout=layout,
        device=experiment.config.get("device", "cpu"),
        thresholds=lambda wildcards, input: f"--thresholds {input.thresholds}" if input.thresholds else "",
        calibration=calibration_flag,
        task=lambda wildcards: f"--task {wildcards.task}" if wildcards.method in PER_TASK_METHODS else "",
        code=code("scripts.merge_checkpoints"),
    message:
        "merge_checkpoints: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.merge_checkpoints --base {input.base} --experts {params.experts:q} --method-spec {params.method_spec:q}"
        " --coefficients {input.coefficients} {params.thresholds} {params.calibration} {params.task} --layout {params.layout:q}"
        " --seed {wildcards.seed} --threads {threads} --device {params.device} --output {output} 2>&1 | tee {log}"


use rule merge_checkpoints as merge_candidate with:
    output:
        temp(directory("results/candidates/{suite}/{method}/seed{seed}")),
    log:
        "results/logs/merge_candidate/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/merge_candidate/{suite}/{method}/seed{seed}.tsv"
    message:
        "merge_candidate: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"


use rule merge_checkpoints as merge_for_task with:
    output:
        directory("results/merged/{suite}/{method}/seed{seed}/{task}"),
    log:
        "results/logs/merge_for_task/{suite}/{method}/seed{seed}/{task}.log",
    benchmark:
        "results/benchmarks/merge_for_task/{suite}/{method}/seed{seed}/{task}.tsv"
    wildcard_constraints:
        method=any_of(PER_TASK_METHODS),
    message:
        "merge_for_task: {wildcards.suite}, {wildcards.method}, {wildcards.task}, seed {wildcards.seed}"
