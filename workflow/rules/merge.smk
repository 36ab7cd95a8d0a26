# Needs bases, experts, coefficients and thresholds. Makes results/merged (kept) and results/candidates (temporary).


rule merge_checkpoints:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        experts=lambda wildcards: list(experts(wildcards.suite, wildcards.seed).values()),
        coefficients="results/coefficients/{suite}/{method}/seed{seed}.json",
        thresholds=thresholds,
        evidence=evidence,
    output:
        directory("results/merged/{suite}/{method}/seed{seed}"),
    log:
        "results/logs/merge_checkpoints/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/merge_checkpoints/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of({*plan.config["methods"], *plan.candidates}.difference(DYNAMIC)),
    conda:
        "../../envs/merge.yaml"
    resources:
        gpu=GPU["merge"],
    params:
        sentence=lambda wildcards: plan.sentence(wildcards.method, "preprocess", "combine", "postprocess"),
        experts=named_experts,
        layout=layout,
        device=plan.config.get("device", "cpu"),
        thresholds=lambda wildcards, input: f"--thresholds {input.thresholds}" if input.thresholds else "",
        evidence=evidence_flag,
        task=lambda wildcards: f"--task {wildcards.task}" if wildcards.method in DYNAMIC else "",
        code=code("scripts.merge_checkpoints"),
    message:
        "merge_checkpoints: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.merge_checkpoints --base {input.base} --experts {params.experts:q} --sentence {params.sentence:q}"
        " --coefficients {input.coefficients} {params.thresholds} {params.evidence} {params.task} --layout {params.layout:q}"
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
        method=any_of(DYNAMIC),
    message:
        "merge_for_task: {wildcards.suite}, {wildcards.method}, {wildcards.task}, seed {wildcards.seed}"
