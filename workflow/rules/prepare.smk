# Needs results/assets. Makes results/datasets, results/heads and results/checkpoints: bases and fine-tuned experts.


rule prepare_dataset:
    input:
        assets=lambda wildcards: [asset(name) for name in sources_of(wildcards)],
    output:
        directory("results/datasets/{suite}/{task}"),
    log:
        "results/logs/prepare_dataset/{suite}/{task}.log",
    conda:
        "../../envs/encoder.yaml"
    params:
        task=lambda wildcards: canonical({"id": wildcards.task, **plan.tasks[wildcards.task]}),
        form=lambda wildcards: canonical(plan.suites[wildcards.suite]["input"]),
        code=lambda wildcards: code("scripts.prepare_dataset", reader_of(wildcards)),
    message:
        "prepare_dataset: {wildcards.suite}, {wildcards.task}"
    shell:
        "python -m scripts.prepare_dataset --task {params.task:q} --form {params.form:q} --assets {input.assets}"
        " --output {output} 2>&1 | tee {log}"


rule prepare_checkpoint:
    input:
        lambda wildcards: asset(plan.suites[wildcards.suite]["base"]),
    output:
        directory("results/checkpoints/{suite}/{stage}"),
    log:
        "results/logs/prepare_checkpoint/{suite}/{stage}.log",
    wildcard_constraints:
        stage="prepared|pretrained",
    conda:
        "../../envs/encoder.yaml"
    params:
        family=lambda wildcards: plan.suites[wildcards.suite]["family"],
        code=lambda wildcards: code("scripts.prepare_checkpoint", family_of(wildcards)),
    message:
        "prepare_checkpoint: {wildcards.suite}"
    shell:
        "python -m scripts.prepare_checkpoint --family {params.family} --source {input} --output {output} 2>&1 | tee {log}"


ruleorder: align_checkpoint > prepare_checkpoint


rule align_checkpoint:
    input:
        prepared="results/checkpoints/{suite}/prepared",
        text_tower=lambda wildcards: asset(plan.suites[wildcards.suite]["text_tower"]),
        captions=lambda wildcards: captions(wildcards),
        datasets=lambda wildcards: [
            f"results/datasets/{wildcards.suite}/{task}" for task in plan.task_ids(wildcards.suite)
        ],
    output:
        directory("results/checkpoints/{suite}/pretrained"),
    log:
        "results/logs/align_checkpoint/{suite}.log",
    benchmark:
        "results/benchmarks/align_checkpoint/{suite}.tsv"
    wildcard_constraints:
        suite=any_of(ALIGNED),
    conda:
        "../../envs/encoder.yaml"
    params:
        settings=lambda wildcards: canonical(plan.suites[wildcards.suite]["alignment"]),
        captions=lambda wildcards, input: f"--captions {input.captions}" if input.captions else "",
        family=lambda wildcards: plan.suites[wildcards.suite]["family"],
        code=lambda wildcards: code("scripts.align_checkpoint", family_of(wildcards)),
    message:
        "align_checkpoint: {wildcards.suite}"
    shell:
        "python -m scripts.align_checkpoint --family {params.family} --prepared {input.prepared}"
        " --text-tower {input.text_tower} --datasets {input.datasets} {params.captions}"
        " --settings {params.settings:q} --output {output} 2>&1 | tee {log}"


rule build_head:
    input:
        dataset="results/datasets/{suite}/{task}",
        text_tower=lambda wildcards: asset(plan.suites[wildcards.suite]["text_tower"]),
    output:
        "results/heads/{suite}/{task}.safetensors",
    log:
        "results/logs/build_head/{suite}/{task}.log",
    conda:
        "../../envs/encoder.yaml"
    params:
        code=code("scripts.build_head"),
    message:
        "build_head: {wildcards.suite}, {wildcards.task}"
    shell:
        "python -m scripts.build_head --dataset {input.dataset} --text-tower {input.text_tower}"
        " --output {output} 2>&1 | tee {log}"


rule finetune_checkpoint:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        dataset="results/datasets/{suite}/{task}",
        head="results/heads/{suite}/{task}.safetensors",
    output:
        directory("results/checkpoints/{suite}/seed{seed}/{task}"),
    log:
        "results/logs/finetune_checkpoint/{suite}/seed{seed}/{task}.log",
    benchmark:
        "results/benchmarks/finetune_checkpoint/{suite}/seed{seed}/{task}.tsv"
    conda:
        "../../envs/encoder.yaml"
    params:
        settings=lambda wildcards: canonical(plan.suites[wildcards.suite]["finetune"]),
        family=lambda wildcards: plan.suites[wildcards.suite]["family"],
        code=lambda wildcards: code("scripts.finetune_checkpoint", family_of(wildcards)),
    message:
        "finetune_checkpoint: {wildcards.suite}, {wildcards.task}, seed {wildcards.seed}"
    shell:
        "python -m scripts.finetune_checkpoint --family {params.family} --base {input.base} --dataset {input.dataset}"
        " --head {input.head} --settings {params.settings:q} --seed {wildcards.seed} --output {output} 2>&1 | tee {log}"
