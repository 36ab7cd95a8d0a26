# Needs bases, experts, data sets and heads. Makes results/calibration (Fisher, Gram), learned coefficients and the checkpoint of
# traditional multi-task learning.


rule collect_calibration:
    input:
        checkpoint=lambda wildcards: expert(suite_id(wildcards), wildcards.seed, wildcards.task),
        dataset=lambda wildcards: dataset(suite_id(wildcards), wildcards.task),
        head=lambda wildcards: head(suite_id(wildcards), wildcards.task),
    output:
        directory("results/calibration/{checkpoints}/{calibration}/seed{seed}/{task}"),
    log:
        "results/logs/collect_calibration/{checkpoints}/{calibration}/seed{seed}/{task}.log",
    benchmark:
        "results/benchmarks/collect_calibration/{checkpoints}/{calibration}/seed{seed}/{task}.tsv"
    wildcard_constraints:
        calibration=any_of(ONE_BY_ONE),
    conda:
        environment
    resources:
        gpu=GPU["model"],
    params:
        kind=calibration_kind,
        settings=calibration_settings,
        layout=layout,
        logit_scale=logit_scale,
        family=family,
        device=DEVICE,
        code=lambda wildcards: code("scripts.collect_calibration", family_of(wildcards)),
    message:
        "collect_calibration: {wildcards.checkpoints}, {wildcards.calibration}, {wildcards.task}, seed {wildcards.seed}"
    shell:
        "python -m scripts.collect_calibration --family {params.family} --kind {params.kind} --checkpoint {input.checkpoint}"
        " --dataset {input.dataset} --head {input.head} --logit-scale {params.logit_scale} --settings {params.settings:q}"
        " --layout {params.layout:q} --device {params.device} --output {output} 2>&1 | tee {log}"


for name in experiment.suites:

    rule:
        # Every layer is read behind merged ones, so one job makes the calibration of all experts of a suite.
        name:
            f"collect_gram_plus_{name}"
        input:
            base=lambda wildcards: pretrained(wildcards.suite),
            experts=lambda wildcards: list(experts(wildcards.suite, wildcards.seed).values()),
            datasets=every_dataset,
        output:
            [
                directory(f"results/calibration/{{suite}}/{{calibration}}/seed{{seed}}/{task}")
                for task in experiment.task_ids(name)
            ],
        log:
            "results/logs/collect_gram_plus/{suite}/{calibration}/seed{seed}.log",
        benchmark:
            "results/benchmarks/collect_gram_plus/{suite}/{calibration}/seed{seed}.tsv"
        wildcard_constraints:
            suite=any_of([name]),
            calibration=any_of(JOINT_CALIBRATION),
        conda:
            environment
        resources:
            gpu=GPU["model"],
            mem_mb=lambda wildcards, input, attempt: attempt * (2500 + 6 * job_resources.megabytes(input)),
            runtime=lambda wildcards, attempt: attempt * 240,  # not in profiles/default: every suite has its own rule
        params:
            kind=calibration_kind,
            settings=calibration_settings,
            experts=named_experts,
            datasets=lambda wildcards: [f"{Path(folder).name}={folder}" for folder in every_dataset(wildcards)],
            folder="results/calibration/{suite}/{calibration}/seed{seed}",
            layout=layout,
            family=family,
            device=DEVICE,
            code=lambda wildcards: code("scripts.collect_gram_plus", family_of(wildcards)),
        message:
            "collect_gram_plus: {wildcards.suite}, {wildcards.calibration}, seed {wildcards.seed}"
        shell:
            "python -m scripts.collect_gram_plus --family {params.family} --kind {params.kind} --base {input.base}"
            " --experts {params.experts:q} --datasets {params.datasets:q} --settings {params.settings:q}"
            " --layout {params.layout:q} --device {params.device} --output {params.folder} 2>&1 | tee {log}"


rule learn_coefficients:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        experts=lambda wildcards: list(experts(wildcards.suite, wildcards.seed).values()),
        datasets=every_dataset,
        heads=every_head,
        thresholds=thresholds,
    output:
        "results/coefficients/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/learn_coefficients/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/learn_coefficients/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of(LEARNED),
    conda:
        environment
    resources:
        gpu=GPU["model"],
    params:
        method_spec=lambda wildcards: experiment.method_spec(wildcards.method, "preprocess", "combine", "postprocess"),
        settings=lambda wildcards: canonical(
            {**experiment.methods[wildcards.method]["learn"], **experiment.suites[wildcards.suite].get("learn", {})}
        ),
        experts=named_experts,
        layout=layout,
        logit_scale=logit_scale,
        thresholds=lambda wildcards, input: f"--thresholds {input.thresholds}" if input.thresholds else "",
        family=family,
        device=DEVICE,
        code=lambda wildcards: code("scripts.learn_coefficients", family_of(wildcards)),
    message:
        "learn_coefficients: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.learn_coefficients --family {params.family} --base {input.base} --experts {params.experts:q}"
        " --datasets {input.datasets} --heads {input.heads} --logit-scale {params.logit_scale}"
        " --method-spec {params.method_spec:q} --settings {params.settings:q} {params.thresholds} --layout {params.layout:q}"
        " --suite {wildcards.suite} --method {wildcards.method} --seed {wildcards.seed} --device {params.device}"
        " --output {output} 2>&1 | tee {log}"


rule finetune_joint:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        datasets=every_dataset,
        heads=every_head,
    output:
        directory("results/checkpoints/{suite}/seed{seed}/multitask"),
    log:
        "results/logs/finetune_joint/{suite}/seed{seed}.log",
    benchmark:
        "results/benchmarks/finetune_joint/{suite}/seed{seed}.tsv"
    conda:
        environment
    params:
        settings=lambda wildcards: canonical(experiment.suites[wildcards.suite]["finetune"]),
        family=family,
        code=lambda wildcards: code("scripts.finetune_joint", family_of(wildcards)),
    message:
        "finetune_joint: {wildcards.suite}, seed {wildcards.seed}"
    shell:
        "python -m scripts.finetune_joint --family {params.family} --base {input.base} --datasets {input.datasets}"
        " --heads {input.heads} --settings {params.settings:q} --seed {wildcards.seed} --output {output} 2>&1 | tee {log}"
