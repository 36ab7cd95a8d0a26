# Needs bases, experts, data sets and heads. Makes results/calibration (Fisher, Gram), learned coefficients and the checkpoint of
# traditional multi-task learning.


rule collect_calibration:
    input:
        checkpoint=expert_of,
        dataset=dataset_of,
        head=head_of,
    output:
        directory("results/calibration/{checkpoints}/{calibration}/seed{seed}/{task}"),
    log:
        "results/logs/collect_calibration/{checkpoints}/{calibration}/seed{seed}/{task}.log",
    benchmark:
        "results/benchmarks/collect_calibration/{checkpoints}/{calibration}/seed{seed}/{task}.tsv"
    wildcard_constraints:
        calibration=any_of({*experiment.calibration}.difference(JOINT_CALIBRATION)),
    conda:
        environment
    resources:
        gpu=GPU_OF_MODELS,
        mem_mb=memory(2500, per_input=6),
        runtime=minutes(120),
    params:
        kind=lookup(dpath="{calibration}/kind", within=experiment.calibration),
        spec=spec(settings=calibration_settings, layout=layout),
        logit_scale=logit_scale,
        family=family,
        device=DEVICE,
        code=code_with_family("scripts.collect_calibration"),
    message:
        "collect_calibration: {wildcards.checkpoints}, {wildcards.calibration}, {wildcards.task}, seed {wildcards.seed}"
    shell:
        "python -m scripts.collect_calibration --family {params.family:q} --kind {params.kind:q}"
        " --checkpoint {input.checkpoint:q} --dataset {input.dataset:q} --head {input.head:q}"
        " --logit-scale {params.logit_scale:q} --device {params.device:q}"
        " --output {output:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule collect_jointly:
    # Layers are read behind merged ones, or compared between experts, so one job collects the statistics of all of a suite.
    input:
        base=base_model,
        experts=expert_folders,
        datasets=datasets_of_suite,
    output:
        directory("results/calibration/{suite}/{calibration}/seed{seed}"),
    log:
        "results/logs/collect_jointly/{suite}/{calibration}/seed{seed}.log",
    benchmark:
        "results/benchmarks/collect_jointly/{suite}/{calibration}/seed{seed}.tsv"
    wildcard_constraints:
        calibration=any_of(JOINT_CALIBRATION),
    conda:
        environment
    resources:
        gpu=GPU_OF_MODELS,
        mem_mb=memory(2500, per_input=6),
        runtime=minutes(240),
    params:
        kind=lookup(dpath="{calibration}/kind", within=experiment.calibration),
        spec=spec(settings=calibration_settings, layout=layout),
        experts=named_experts,
        datasets=named_datasets,
        family=family,
        device=DEVICE,
        code=code_with_family("scripts.collect_jointly"),
    message:
        "collect_jointly: {wildcards.suite}, {wildcards.calibration}, seed {wildcards.seed}"
    shell:
        "python -m scripts.collect_jointly --family {params.family:q} --kind {params.kind:q} --base {input.base:q}"
        " --experts {params.experts:q} --datasets {params.datasets:q} --device {params.device:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule learn_coefficients:
    input:
        base=base_model,
        experts=expert_folders,
        datasets=datasets_of_suite,
        heads=heads_of_suite,
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
        gpu=GPU_OF_MODELS,
        mem_mb=memory(2500, per_input=3),
        runtime=minutes(480),
    params:
        spec=spec(
            method_spec=method_spec("preprocess", "combine", "postprocess"), settings=learn_settings, layout=layout
        ),
        experts=named_experts,
        logit_scale=logit_scale,
        thresholds=option("thresholds"),
        family=family,
        device=DEVICE,
        code=code_with_family("scripts.learn_coefficients"),
    message:
        "learn_coefficients: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.learn_coefficients --family {params.family:q} --base {input.base:q} --experts {params.experts:q}"
        " --datasets {input.datasets:q} --heads {input.heads:q} --logit-scale {params.logit_scale:q} {params.thresholds:q}"
        " --suite {wildcards.suite:q} --method {wildcards.method:q} --seed {wildcards.seed:q} --device {params.device:q}"
        " --output {output:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule finetune_joint:
    input:
        base=base_model,
        datasets=datasets_of_suite,
        heads=heads_of_suite,
    output:
        directory("results/checkpoints/{suite}/seed{seed}/multitask"),
    log:
        "results/logs/finetune_joint/{suite}/seed{seed}.log",
    benchmark:
        "results/benchmarks/finetune_joint/{suite}/seed{seed}.tsv"
    conda:
        environment
    resources:
        mem_mb=memory(2500, per_input=6),
        runtime=minutes(480),
    params:
        spec=spec(settings=joint_training),
        family=family,
        code=code_with_family("scripts.finetune_joint"),
    message:
        "finetune_joint: {wildcards.suite}, seed {wildcards.seed}"
    shell:
        "python -m scripts.finetune_joint --family {params.family:q} --base {input.base:q} --datasets {input.datasets:q}"
        " --heads {input.heads:q} --seed {wildcards.seed:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"
