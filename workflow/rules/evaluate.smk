# Needs checkpoints, data sets and heads, or benchmarks. Makes results/scores (test split) and results/validation (candidates).


rule evaluate_checkpoint:
    input:
        checkpoints=scored_checkpoints,
        datasets=datasets_of_group,
        heads=heads_of_group,
    output:
        scores="results/scores/{suite}/{method}/seed{seed}/{group}.json",
        predictions="results/scores/{suite}/{method}/seed{seed}/{group}.npz",
    log:
        "results/logs/evaluate_checkpoint/{suite}/{method}/seed{seed}/{group}.log",
    benchmark:
        "results/benchmarks/evaluate_checkpoint/{suite}/{method}/seed{seed}/{group}.tsv"
    wildcard_constraints:
        suite=any_of({*experiment.suites}.difference(BENCHMARKED)),
    conda:
        environment
    resources:
        gpu=GPU_OF_MODELS,
        mem_mb=memory(2000, per_input=3),
        runtime=minutes(120),
    params:
        split="test",
        family=family,
        scoring=SCORING,
        metrics=metrics_option,
        joint=joint_options,
        pruning=[],
        code=code_with_family("scripts.evaluate_checkpoint"),
    message:
        "evaluate_checkpoint: {wildcards.suite}, {wildcards.method}, {wildcards.group}, seed {wildcards.seed}"
    shell:
        "python -m scripts.evaluate_checkpoint --family {params.family:q} --checkpoints {input.checkpoints:q}"
        " --datasets {input.datasets:q} --heads {input.heads:q} --split {params.split:q} {params.scoring:q} {params.metrics:q}"
        " {params.joint:q} {params.pruning:q}"
        " --threads {threads} --suite {wildcards.suite:q} --method {wildcards.method:q} --seed {wildcards.seed:q}"
        " --scores {output.scores:q} --predictions {output.predictions:q} 2>&1 | tee {log:q}"


use rule evaluate_checkpoint as evaluate_candidate with:
    # A trial of a search with `prune` waits for the scores of earlier rounds, and for its own on earlier groups of tasks.
    input:
        checkpoints=scored_checkpoints,
        datasets=datasets_of_group,
        heads=heads_of_group,
        earlier=scores_of_earlier_rounds,
        before=scores_of_earlier_groups,
    output:
        scores="results/validation/{suite}/{method}/seed{seed}/{group}.json",
        predictions="results/validation/{suite}/{method}/seed{seed}/{group}.npz",
    log:
        "results/logs/evaluate_candidate/{suite}/{method}/seed{seed}/{group}.log",
    benchmark:
        "results/benchmarks/evaluate_candidate/{suite}/{method}/seed{seed}/{group}.tsv"
    params:
        split="validation",
        pruning=pruning_options,
    message:
        "evaluate_candidate: {wildcards.suite}, {wildcards.method}, {wildcards.group}, seed {wildcards.seed}"


rule convert_checkpoint:
    # LLaVAs are merged in their original names; transformers loads what is made of one, with a vision tower and a processor.
    input:
        model=scored_checkpoints,
        clip=part_of_vlm("clip"),
        donor=part_of_vlm("donor"),
        processor=part_of_vlm("processor"),
    output:
        temp(directory("results/converted/{suite}/{method}/seed{seed}")),
    log:
        "results/logs/convert_checkpoint/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/convert_checkpoint/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        suite=any_of(suite for suite, record in experiment.suites.items() if "vlm" in record),
    conda:
        environment_file("causal_lm")
    resources:
        mem_mb=memory(2000, per_input=1 / 10),
        runtime=minutes(60),
    params:
        vlm=vlm_options,
        donor=option("donor"),
        code=code("scripts.convert_checkpoint"),
    message:
        "convert_checkpoint: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.convert_checkpoint --model {input.model:q} --clip {input.clip:q} {params.donor:q}"
        " --processor {input.processor:q} {params.vlm:q} --output {output:q} 2>&1 | tee {log:q}"


rule evaluate_benchmark:
    # The cache keeps the answers to every task of the harness, so a job that was ended goes on after the last one.
    input:
        checkpoints=benchmarked_checkpoints,
        data=data_of_group,
    output:
        scores=rules.evaluate_checkpoint.output.scores,
        predictions=rules.evaluate_checkpoint.output.predictions,
        samples="results/scores/{suite}/{method}/seed{seed}/{group}.jsonl.gz",
    log:
        "results/logs/evaluate_benchmark/{suite}/{method}/seed{seed}/{group}.log",
    benchmark:
        "results/benchmarks/evaluate_benchmark/{suite}/{method}/seed{seed}/{group}.tsv"
    wildcard_constraints:
        suite=any_of(BENCHMARKED),
    conda:
        environment_of_backend
    resources:
        gpu=GPU_OF_BENCHMARKS,
        mem_mb=memory(4000, per_input=2),
        runtime=minutes(480),
    params:
        spec=spec(benchmarks=benchmarks_of_group, settings=harness_settings),
        scoring=SCORING,
        cache="results/harness",
        code=code_with_family("scripts.evaluate_benchmark"),
    message:
        "evaluate_benchmark: {wildcards.suite}, {wildcards.method}, {wildcards.group}, seed {wildcards.seed}"
    shell:
        "python -m scripts.evaluate_benchmark --checkpoints {input.checkpoints:q} --data {input.data:q} {params.scoring:q}"
        " --suite {wildcards.suite:q} --method {wildcards.method:q} --seed {wildcards.seed:q} --cache {params.cache:q}"
        " --scores {output.scores:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule cross_check:
    # OpenCompass on the models of the methods that `cross_check` names; `gather_scores` puts its scores beside those of lm_eval.
    input:
        checkpoints=scored_checkpoints,
        data=data_of_group,
    output:
        "results/cross_checks/{suite}/{method}/seed{seed}/{group}.json",
    log:
        "results/logs/cross_check/{suite}/{method}/seed{seed}/{group}.log",
    benchmark:
        "results/benchmarks/cross_check/{suite}/{method}/seed{seed}/{group}.tsv"
    wildcard_constraints:
        suite=any_of(BENCHMARKED),
    conda:
        environment_file("opencompass")
    resources:
        gpu=GPU_OF_BENCHMARKS,
        mem_mb=memory(4000, per_input=2),
        runtime=minutes(960),
    params:
        spec=spec(benchmarks=harness_task_by_benchmark, gpus=GPU_OF_BENCHMARKS),
        scoring=SCORING,
        code=code("scripts.cross_check"),
    message:
        "cross_check: {wildcards.suite}, {wildcards.method}, {wildcards.group}, seed {wildcards.seed}"
    shell:
        "python -m scripts.cross_check --checkpoints {input.checkpoints:q} --data {input.data:q} {params.scoring:q}"
        " --suite {wildcards.suite:q} --method {wildcards.method:q} --seed {wildcards.seed:q} --scores {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"
