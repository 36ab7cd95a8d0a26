# Needs results/assets. Makes results/datasets, results/heads and results/checkpoints: bases and fine-tuned experts.


rule prepare_dataset:
    input:
        assets=lambda wildcards: [asset(name) for name in sources_of(wildcards)],
    output:
        directory("results/datasets/{data}/{task}"),
    log:
        "results/logs/prepare_dataset/{data}/{task}.log",
    cache: "omit-software"
    conda:
        environment
    params:
        task=lambda wildcards: canonical(
            {"id": wildcards.task, **{k: v for k, v in experiment.tasks[wildcards.task].items() if k != "prompt"}}
        ),
        form=lambda wildcards: canonical(suite_of(wildcards)["input"]),
        code=lambda wildcards: code("scripts.prepare_dataset", reader_of(wildcards)),
    message:
        "prepare_dataset: {wildcards.data}, {wildcards.task}"
    shell:
        "python -m scripts.prepare_dataset --task {params.task:q} --form {params.form:q} --assets {input.assets}"
        " --processes {threads} --output {output} 2>&1 | tee {log}"


rule prepare_checkpoint:
    input:
        lambda wildcards: asset(suite_of(wildcards)["base"]),
    output:
        directory("results/checkpoints/{checkpoints}/{stage}"),
    log:
        "results/logs/prepare_checkpoint/{checkpoints}/{stage}.log",
    benchmark:
        "results/benchmarks/prepare_checkpoint/{checkpoints}/{stage}.tsv"
    wildcard_constraints:
        stage="prepared|pretrained",
    conda:
        environment
    params:
        family=family,
        code=lambda wildcards: code("scripts.prepare_checkpoint", family_of(wildcards)),
    message:
        "prepare_checkpoint: {wildcards.checkpoints}"
    shell:
        "python -m scripts.prepare_checkpoint --family {params.family} --source {input} --output {output} 2>&1 | tee {log}"


rule prepare_expert:
    input:
        base="results/checkpoints/{checkpoints}/pretrained",
        source=expert_asset,
    output:
        directory("results/checkpoints/{checkpoints}/experts/{task}"),
    log:
        "results/logs/prepare_expert/{checkpoints}/{task}.log",
    benchmark:
        "results/benchmarks/prepare_expert/{checkpoints}/{task}.tsv"
    wildcard_constraints:
        task=any_of([*experiment.tasks, "multitask"]),
        checkpoints=any_of(FETCHED),
    conda:
        environment
    params:
        family=family,
        code=lambda wildcards: code("scripts.prepare_checkpoint", family_of(wildcards)),
    message:
        "prepare_expert: {wildcards.checkpoints}, {wildcards.task}"
    shell:
        "python -m scripts.prepare_checkpoint --family {params.family} --source {input.source} --base {input.base}"
        " --output {output} 2>&1 | tee {log}"


ruleorder: align_checkpoint > prepare_checkpoint


rule align_checkpoint:
    input:
        prepared="results/checkpoints/{suite}/prepared",
        text_tower=lambda wildcards: asset(experiment.suites[wildcards.suite]["text_tower"]),
        captions=lambda wildcards: [dataset(wildcards.suite, name) for name in experiment.captions(wildcards.suite)],
        datasets=every_dataset,
    output:
        directory("results/checkpoints/{suite}/pretrained"),
    log:
        "results/logs/align_checkpoint/{suite}.log",
    benchmark:
        "results/benchmarks/align_checkpoint/{suite}.tsv"
    wildcard_constraints:
        suite=any_of(ALIGNED),
    conda:
        environment
    params:
        settings=lambda wildcards: canonical(experiment.suites[wildcards.suite]["alignment"]),
        prompts=lambda wildcards: canonical(
            {
                task: experiment.class_prompts(task)
                for task in [*experiment.task_ids(wildcards.suite), *experiment.captions(wildcards.suite)]
            }
        ),
        captions=lambda wildcards, input: f"--captions {input.captions}" if input.captions else "",
        family=family,
        code=lambda wildcards: code("scripts.align_checkpoint", family_of(wildcards)),
    message:
        "align_checkpoint: {wildcards.suite}"
    shell:
        "python -m scripts.align_checkpoint --family {params.family} --prepared {input.prepared}"
        " --text-tower {input.text_tower} --datasets {input.datasets} --prompts {params.prompts:q} {params.captions}"
        " --settings {params.settings:q} --output {output} 2>&1 | tee {log}"


rule build_head:
    input:
        text_tower=asset("{tower}"),
    output:
        "results/heads/{tower}/{task}.safetensors",
    log:
        "results/logs/build_head/{tower}/{task}.log",
    cache: "omit-software"
    conda:
        environment
    params:
        prompts=lambda wildcards: canonical(experiment.class_prompts(wildcards.task)),
        family=family,
        code=lambda wildcards: code("scripts.build_head", family_of(wildcards)),
    message:
        "build_head: {wildcards.tower}, {wildcards.task}"
    shell:
        "python -m scripts.build_head --family {params.family} --prompts {params.prompts:q} --text-tower {input.text_tower}"
        " --output {output} 2>&1 | tee {log}"


rule shared:
    """Asked for by name: what experiments of one group have in common; see "Shared by a group" in profiles/README.md."""
    input:
        [asset(name) for name in experiment.used_assets()],
        [dataset(suite, task) for suite in experiment.suites for task in experiment.task_ids(suite)],
        [head(suite, task) for suite in experiment.suites for task in experiment.task_ids(suite)],
    localrule: True


rule finetune_checkpoint:
    input:
        base=lambda wildcards: pretrained(wildcards.suite),
        dataset=lambda wildcards: dataset(wildcards.suite, wildcards.task),
        head=lambda wildcards: head(wildcards.suite, wildcards.task),
    output:
        directory("results/checkpoints/{suite}/seed{seed}/{task}"),
    log:
        "results/logs/finetune_checkpoint/{suite}/seed{seed}/{task}.log",
    benchmark:
        "results/benchmarks/finetune_checkpoint/{suite}/seed{seed}/{task}.tsv"
    conda:
        environment
    params:
        settings=lambda wildcards: canonical(experiment.suites[wildcards.suite]["finetune"]),
        family=family,
        code=lambda wildcards: code("scripts.finetune_checkpoint", family_of(wildcards)),
    message:
        "finetune_checkpoint: {wildcards.suite}, {wildcards.task}, seed {wildcards.seed}"
    shell:
        "python -m scripts.finetune_checkpoint --family {params.family} --base {input.base} --dataset {input.dataset}"
        " --head {input.head} --settings {params.settings:q} --seed {wildcards.seed} --output {output} 2>&1 | tee {log}"
