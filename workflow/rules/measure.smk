# Needs bases and experts. Makes results/measures, results/selected, results/coefficients and results/premise.


rule measure_weights:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        experts=lambda wildcards: list(experts(wildcards.suite, wildcards.seed).values()),
    output:
        "results/measures/{suite}/seed{seed}.json",
    log:
        "results/logs/measure_weights/{suite}/seed{seed}.log",
    benchmark:
        "results/benchmarks/measure_weights/{suite}/seed{seed}.tsv"
    conda:
        "../../envs/merge.yaml"
    params:
        experts=named_experts,
        layout=layout,
        code=code("scripts.measure_weights"),
    message:
        "measure_weights: {wildcards.suite}, seed {wildcards.seed}"
    shell:
        "python -m scripts.measure_weights --base {input.base} --experts {params.experts:q} --layout {params.layout:q}"
        " --threads {threads} --output {output} 2>&1 | tee {log}"


rule measure_threshold:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        experts=lambda wildcards: list(experts(wildcards.suite, wildcards.seed).values()),
    output:
        "results/measures/{suite}/seed{seed}_{thresholds}.json",
    log:
        "results/logs/measure_threshold/{suite}/seed{seed}_{thresholds}.log",
    benchmark:
        "results/benchmarks/measure_threshold/{suite}/seed{seed}_{thresholds}.tsv"
    conda:
        "../../envs/merge.yaml"
    params:
        experts=named_experts,
        layout=layout,
        settings=lambda wildcards: canonical(THRESHOLDS[wildcards.thresholds]),
        code=code("scripts.measure_threshold"),
    message:
        "measure_threshold: {wildcards.suite}, {wildcards.thresholds}, seed {wildcards.seed}"
    shell:
        "python -m scripts.measure_threshold --base {input.base} --experts {params.experts:q} --layout {params.layout:q}"
        " --settings {params.settings:q} --threads {threads} --output {output} 2>&1 | tee {log}"


rule estimate_coefficients:
    input:
        measures="results/measures/{suite}/seed{seed}.json",
        selected=selected,
        calibration=calibration_norms,
    output:
        "results/coefficients/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/estimate_coefficients/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/estimate_coefficients/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of({*experiment.methods, *experiment.candidates}.difference(LEARNED)),
    conda:
        "../../envs/merge.yaml"
    params:
        method_spec=lambda wildcards: experiment.method_spec(wildcards.method, "coefficients", "control", "tune"),
        selected=lambda wildcards, input: f"--selected {input.selected}" if input.selected else "",
        calibration=calibration_flag,
        code=code("scripts.estimate_coefficients"),
    message:
        "estimate_coefficients: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.estimate_coefficients --measures {input.measures} --method-spec {params.method_spec:q} {params.selected}"
        " {params.calibration}"
        " --suite {wildcards.suite} --method {wildcards.method} --seed {wildcards.seed} --output {output} 2>&1 | tee {log}"


rule select_coefficients:
    input:
        lambda wildcards: [
            f"results/validation/{wildcards.suite}/{candidate}/seed{wildcards.seed}/{group}.json"
            for candidate in experiment.candidates_of(wildcards.method)
            for group in experiment.groups(wildcards.suite)
        ],
    output:
        "results/selected/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/select_coefficients/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/select_coefficients/{suite}/{method}/seed{seed}.tsv"
    localrule: True
    conda:
        "../../envs/merge.yaml"
    params:
        code=code("scripts.select_coefficients"),
    message:
        "select_coefficients: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.select_coefficients --scores {input} --output {output} 2>&1 | tee {log}"


use rule finetune_checkpoint as finetune_premise with:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        dataset=lambda wildcards: dataset(wildcards.suite, premise_of(wildcards)["task"]),
        head=lambda wildcards: head(wildcards.suite, premise_of(wildcards)["task"]),
    output:
        temp(directory("results/premise/{suite}/seed{seed}/{run}")),
    log:
        "results/logs/finetune_premise/{suite}/seed{seed}/{run}.log",
    benchmark:
        "results/benchmarks/finetune_premise/{suite}/seed{seed}/{run}.tsv"
    params:
        settings=lambda wildcards: canonical({**experiment.suites[wildcards.suite]["finetune"], **subset_of(wildcards)}),
        family=family,
        code=lambda wildcards: code("scripts.finetune_checkpoint", family_of(wildcards)),
    message:
        "finetune_premise: {wildcards.suite}, {wildcards.run}, seed {wildcards.seed}"


rule measure_premise:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        dataset=lambda wildcards: dataset(wildcards.suite, premise_of(wildcards)["task"]),
        head=lambda wildcards: head(wildcards.suite, premise_of(wildcards)["task"]),
        checkpoint="results/premise/{suite}/seed{seed}/{run}",
    output:
        "results/premise/{suite}/seed{seed}/{run}.json",
    log:
        "results/logs/measure_premise/{suite}/seed{seed}/{run}.log",
    benchmark:
        "results/benchmarks/measure_premise/{suite}/seed{seed}/{run}.tsv"
    conda:
        environment
    params:
        run=lambda wildcards: canonical(
            {"suite": wildcards.suite, "seed": int(wildcards.seed), **premise_of(wildcards)}
        ),
        family=family,
        layout=layout,
        code=lambda wildcards: code("scripts.measure_premise", family_of(wildcards)),
    message:
        "measure_premise: {wildcards.suite}, {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m scripts.measure_premise --family {params.family} --base {input.base} --checkpoint {input.checkpoint}"
        " --dataset {input.dataset} --head {input.head} --layout {params.layout:q} --run {params.run:q}"
        " --output {output} 2>&1 | tee {log}"


rule gather_premise:
    input:
        lambda wildcards: [
            f"results/premise/{wildcards.suite}/seed{seed}/{run}.json"
            for seed in experiment.config["seeds"]
            for run in experiment.premise_runs(wildcards.suite)
        ],
    output:
        "results/premise/{suite}.tsv",
    log:
        "results/logs/gather_premise/{suite}.log",
    benchmark:
        "results/benchmarks/gather_premise/{suite}.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        code=code("scripts.gather_premise"),
    message:
        "gather_premise: {wildcards.suite}"
    shell:
        "python -m scripts.gather_premise --runs {input} --output {output} 2>&1 | tee {log}"
