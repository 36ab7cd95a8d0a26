# Needs results/assets. Makes results/datasets, results/data_checks, results/heads and results/checkpoints: bases and fine-tuned experts.


rule prepare_dataset:
    input:
        assets=assets_of_dataset,
    output:
        directory("results/datasets/{data}/{task}"),
    log:
        "results/logs/prepare_dataset/{data}/{task}.log",
    cache: "omit-software"
    conda:
        environment
    threads: 2
    resources:
        mem_mb=memory(2000, per_input=2),
        runtime=minutes(120),
    params:
        spec=spec(task=task_entry, input=form),
        code=code_with_reader("scripts.prepare_dataset"),
    message:
        "prepare_dataset: {wildcards.data}, {wildcards.task}"
    shell:
        "python -m scripts.prepare_dataset --assets {input.assets:q} --processes {threads} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule check_data:
    input:
        dataset=rules.prepare_dataset.output,
    output:
        "results/data_checks/{data}/{task}.json",
    log:
        "results/logs/check_data/{data}/{task}.log",
    benchmark:
        "results/benchmarks/check_data/{data}/{task}.tsv"
    conda:
        environment_file("report")
    resources:
        mem_mb=memory(2000, per_input=2),
        runtime=minutes(60),
    params:
        unique=unique_option,
        code=code("scripts.check_data"),
    message:
        "check_data: {wildcards.data}, {wildcards.task}"
    shell:
        "python -m scripts.check_data --dataset {input.dataset:q} {params.unique:q} --output {output:q} 2>&1 | tee {log:q}"


rule prepare_checkpoint:
    input:
        base=[],
        source=base_asset,
    output:
        directory("results/checkpoints/{checkpoints}/{stage}"),
    log:
        "results/logs/prepare_checkpoint/{checkpoints}/{stage}.log",
    benchmark:
        "results/benchmarks/prepare_checkpoint/{checkpoints}/{stage}.tsv"
    wildcard_constraints:
        stage="prepared|pretrained",
        checkpoints=any_of(experiment.checkpoints(s) for s, record in experiment.suites.items() if "base" in record),
    conda:
        environment
    resources:
        mem_mb=memory(2000, per_input=3),
        runtime=minutes(60),
    params:
        family=family,
        base=option("base"),
        dequantise=dequantise_option,
        code=code_with_family("scripts.prepare_checkpoint"),
    message:
        "prepare_checkpoint: {wildcards.checkpoints}"
    shell:
        "python -m scripts.prepare_checkpoint --family {params.family:q} --source {input.source:q} {params.base:q}"
        " {params.dequantise:q}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule build_network:
    # The base of experts that are trained from random weights of their own.
    output:
        directory("results/checkpoints/{suite}/pretrained"),
    log:
        "results/logs/build_network/{suite}.log",
    benchmark:
        "results/benchmarks/build_network/{suite}.tsv"
    wildcard_constraints:
        suite=any_of(experiment.checkpoints(s) for s, record in experiment.suites.items() if "network" in record),
    conda:
        environment
    resources:
        mem_mb=memory(1500),
        runtime=minutes(15),
    params:
        spec=spec(network=section("network")),
        family=family,
        code=code_with_family("scripts.build_network"),
    message:
        "build_network: {wildcards.suite}"
    shell:
        "python -m scripts.build_network --family {params.family:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


use rule prepare_checkpoint as prepare_expert with:
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
        task=any_of([*experiment.tasks, *experiment.expert_rows.values(), "multitask"]),
        checkpoints=any_of(experiment.checkpoints(s) for s, record in experiment.suites.items() if "experts" in record),
    message:
        "prepare_expert: {wildcards.checkpoints}, {wildcards.task}"


ruleorder: align_checkpoint > prepare_checkpoint


rule align_checkpoint:
    input:
        prepared="results/checkpoints/{suite}/prepared",
        text_tower=text_tower,
        captions=captions,
        datasets=datasets_of_suite,
    output:
        directory("results/checkpoints/{suite}/pretrained"),
    log:
        "results/logs/align_checkpoint/{suite}.log",
    benchmark:
        "results/benchmarks/align_checkpoint/{suite}.tsv"
    wildcard_constraints:
        suite=any_of(experiment.checkpoints(s) for s, record in experiment.suites.items() if "alignment" in record),
    conda:
        environment
    resources:
        mem_mb=memory(3000, per_input=4),
        runtime=minutes(120),
    params:
        spec=spec(settings=section("alignment"), prompts=prompts),
        captions=option("captions"),
        family=family,
        code=code_with_family("scripts.align_checkpoint"),
    message:
        "align_checkpoint: {wildcards.suite}"
    shell:
        "python -m scripts.align_checkpoint --family {params.family:q} --prepared {input.prepared:q}"
        " --text-tower {input.text_tower:q} --datasets {input.datasets:q} {params.captions:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


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
    resources:
        mem_mb=memory(1500, per_input=3),
        runtime=minutes(30),
    params:
        spec=spec(classes=class_prompts("classes"), templates=class_prompts("templates")),
        family=family,
        code=code_with_family("scripts.build_head"),
    message:
        "build_head: {wildcards.tower}, {wildcards.task}"
    shell:
        "python -m scripts.build_head --family {params.family:q} --text-tower {input.text_tower:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule extract_head:
    # The experts of a suite with `head: expert` keep their heads: the base and every merge are scored with them.
    input:
        source=expert_asset,
    output:
        "results/heads/{checkpoints}/{task}.safetensors",
    log:
        "results/logs/extract_head/{checkpoints}/{task}.log",
    benchmark:
        "results/benchmarks/extract_head/{checkpoints}/{task}.tsv"
    wildcard_constraints:
        checkpoints=any_of(experiment.checkpoints(s) for s, record in experiment.suites.items() if "head" in record),
    conda:
        environment
    resources:
        mem_mb=memory(1500, per_input=2),
        runtime=minutes(30),
    params:
        family=family,
        code=code_with_family("scripts.extract_head"),
    message:
        "extract_head: {wildcards.checkpoints}, {wildcards.task}"
    shell:
        "python -m scripts.extract_head --family {params.family:q} --source {input.source:q} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule shared:
    """Asked for by name: what experiments of one group have in common; see "Shared by a group" in docs/cluster.md."""
    input:
        [asset(name) for name in experiment.used_assets()],
        [dataset(suite, task) for suite in experiment.suites for task in experiment.prepared_tasks(suite)],
        [head(suite, task) for suite in experiment.suites for task in experiment.prepared_tasks(suite)],
    localrule: True


rule finetune_checkpoint:
    input:
        base=base_model,
        dataset=dataset_of,
        head=head_of,
    output:
        directory("results/checkpoints/{suite}/seed{seed}/{task}"),
    log:
        "results/logs/finetune_checkpoint/{suite}/seed{seed}/{task}.log",
    benchmark:
        "results/benchmarks/finetune_checkpoint/{suite}/seed{seed}/{task}.tsv"
    wildcard_constraints:
        suite=any_of({*experiment.suites}.difference(BENCHMARKED)),
    conda:
        environment
    resources:
        mem_mb=memory(2500, per_input=6),
        runtime=minutes(240),
    params:
        spec=spec(settings=training),
        family=family,
        code=code_with_family("scripts.finetune_checkpoint"),
    message:
        "finetune_checkpoint: {wildcards.suite}, {wildcards.task}, seed {wildcards.seed}"
    shell:
        "python -m scripts.finetune_checkpoint --family {params.family:q} --base {input.base:q} --dataset {input.dataset:q}"
        " --head {input.head:q} --seed {wildcards.seed:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule finetune_language:
    # The prompts and answers are those of the benchmarks' training splits.
    input:
        base=base_model,
        data=data_of_expert,
    output:
        directory("results/checkpoints/{suite}/seed{seed}/{expert}"),
    log:
        "results/logs/finetune_language/{suite}/seed{seed}/{expert}.log",
    benchmark:
        "results/benchmarks/finetune_language/{suite}/seed{seed}/{expert}.tsv"
    wildcard_constraints:
        suite=any_of(BENCHMARKED),
        expert=any_of(experiment.expert_rows.values()),
    conda:
        environment_file("causal_lm")
    resources:
        mem_mb=memory(2500, per_input=6),
        runtime=minutes(240),
    params:
        spec=spec(benchmarks=benchmarks_of_expert, settings=language_training),
        family=family,
        code=code_with_family("scripts.finetune_language"),
    message:
        "finetune_language: {wildcards.suite}, {wildcards.expert}, seed {wildcards.seed}"
    shell:
        "python -m scripts.finetune_language --family {params.family:q} --base {input.base:q} --data {input.data:q}"
        " --seed {wildcards.seed:q} --output {output:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"
