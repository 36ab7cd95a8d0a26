# Needs bases, experts and validation scores. Makes results/measures, trials, selected, searches, coefficients and premise.


rule measure_weights:
    input:
        base=base_model,
        experts=expert_folders,
    output:
        "results/measures/{suite}{nested}/seed{seed}.json",
    log:
        "results/logs/measure_weights/{suite}{nested}/seed{seed}.log",
    benchmark:
        "results/benchmarks/measure_weights/{suite}{nested}/seed{seed}.tsv"
    conda:
        environment_file("merge")
    threads: threads_for_models
    resources:
        mem_mb=memory(1000, per_input=1 / 20),
        runtime=minutes(30),
    params:
        experts=named_experts,
        selected=[],
        spec=spec(thresholds=None, layout=layout),
        code=code("scripts.measure_weights"),
    message:
        "measure_weights: {wildcards.suite}{wildcards.nested}, seed {wildcards.seed}"
    shell:
        "python -m scripts.measure_weights --base {input.base:q} --experts {params.experts:q} {params.selected:q}"
        " --threads {threads} --output {output:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


use rule measure_weights as measure_threshold with:
    input:
        base=base_model,
        experts=expert_folders,
        selected=choice_of_thresholds,
    output:
        "results/measures/{suite}{nested}/seed{seed}_{thresholds}.json",
    log:
        "results/logs/measure_threshold/{suite}{nested}/seed{seed}_{thresholds}.log",
    benchmark:
        "results/benchmarks/measure_threshold/{suite}{nested}/seed{seed}_{thresholds}.tsv"
    resources:
        mem_mb=memory(1000, per_input=1 / 20),
        runtime=minutes(60),
    params:
        selected=option("selected"),
        spec=spec(thresholds=threshold_settings, layout=layout),
    message:
        "measure_threshold: {wildcards.suite}{wildcards.nested}, {wildcards.thresholds}, seed {wildcards.seed}"


rule measure_processed:
    input:
        base=base_model,
        experts=expert_folders,
        thresholds=thresholds,
    output:
        "results/measures/{suite}{nested}/seed{seed}_processed-{processed}.json",
    log:
        "results/logs/measure_processed/{suite}{nested}/seed{seed}_{processed}.log",
    benchmark:
        "results/benchmarks/measure_processed/{suite}{nested}/seed{seed}_{processed}.tsv"
    conda:
        environment_file("merge")
    threads: threads_for_models
    resources:
        mem_mb=memory(1500, per_input=1 / 10),
        runtime=minutes(60),
    params:
        experts=named_experts,
        thresholds=option("thresholds"),
        spec=spec(processed=processed_settings, layout=layout),
        code=code("scripts.measure_processed"),
    message:
        "measure_processed: {wildcards.suite}{wildcards.nested}, {wildcards.processed}, seed {wildcards.seed}"
    shell:
        "python -m scripts.measure_processed --base {input.base:q} --experts {params.experts:q} {params.thresholds:q}"
        " --seed {wildcards.seed:q} --threads {threads} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule estimate_coefficients:
    input:
        measures=measures,
        selected=selected,
        calibration=calibration_for_norms,
        datasets=datasets_for_sizes,
    output:
        "results/coefficients/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/estimate_coefficients/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/estimate_coefficients/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of({*experiment.methods, *experiment.candidates}.difference(LEARNED)),
    conda:
        environment_file("merge")
    resources:
        mem_mb=memory(1000),
        runtime=minutes(15),
    params:
        spec=spec(method_spec=method_spec("coefficients", "control", "tune"), examples=stated_examples),
        selected=option("selected"),
        datasets=option("datasets"),
        calibration=calibration_for_norms_option,
        code=code("scripts.estimate_coefficients"),
    message:
        "estimate_coefficients: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.estimate_coefficients --measures {input.measures:q} {params.selected:q}"
        " {params.calibration:q} {params.datasets:q} --suite {wildcards.suite:q} --method {wildcards.method:q}"
        " --seed {wildcards.seed:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule propose_trial:
    # A trial of tpe and cma_es waits for the scores of earlier rounds; the trials of a round run side by side.
    input:
        trials=earlier_points,
        scores=earlier_scores,
    output:
        "results/trials/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/propose_trial/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/propose_trial/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of(TRIALS),
    localrule: True
    conda:
        environment_file("search")
    params:
        trials=option("trials"),
        scores=option("scores"),
        spec=spec(search=search_of_trial, number=number_of_trial, experts=names_of_experts),
        code=code("scripts.propose_trial"),
    message:
        "propose_trial: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.propose_trial {params.trials:q} {params.scores:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule select_coefficients:
    input:
        trials=points_of_trials,
        scores=validation_scores,
    output:
        "results/selected/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/select_coefficients/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/select_coefficients/{suite}/{method}/seed{seed}.tsv"
    localrule: True
    conda:
        environment_file("merge")
    params:
        trials=option("trials"),
        spec=spec(points=points_of_candidates, by_value=is_chosen_by_value),
        code=code("scripts.select_coefficients"),
    message:
        "select_coefficients: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.select_coefficients --scores {input.scores:q} {params.trials:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule describe_search:
    input:
        trials=points_of_trials,
        scores=validation_scores,
        predictions=validation_predictions,
    output:
        "results/searches/{suite}/{method}/seed{seed}.json",
    log:
        "results/logs/describe_search/{suite}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/describe_search/{suite}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=any_of(experiment.searches),
    localrule: True
    conda:
        environment_file("merge")
    params:
        trials=option("trials"),
        spec=spec(points=points_of_candidates, search=kind_of_search, prune=is_pruned, metrics=metrics_of_suite),
        code=code("scripts.describe_search"),
    message:
        "describe_search: {wildcards.suite}, {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -m scripts.describe_search --scores {input.scores:q} {params.trials:q} --suite {wildcards.suite:q}"
        " --method {wildcards.method:q} --seed {wildcards.seed:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


use rule finetune_checkpoint as finetune_premise with:
    output:
        temp(directory("results/premise/{suite}/seed{seed}/{run}")),
    log:
        "results/logs/finetune_premise/{suite}/seed{seed}/{run}.log",
    benchmark:
        "results/benchmarks/finetune_premise/{suite}/seed{seed}/{run}.tsv"
    resources:
        mem_mb=memory(2500, per_input=6),
        runtime=minutes(60),
    params:
        spec=spec(settings=premise_settings),
    message:
        "finetune_premise: {wildcards.suite}, {wildcards.run}, seed {wildcards.seed}"


rule measure_premise:
    input:
        base=base_model,
        dataset=dataset_of,
        head=head_of,
        checkpoint=rules.finetune_premise.output,
    output:
        "results/premise/{suite}/seed{seed}/{run}.json",
    log:
        "results/logs/measure_premise/{suite}/seed{seed}/{run}.log",
    benchmark:
        "results/benchmarks/measure_premise/{suite}/seed{seed}/{run}.tsv"
    conda:
        environment
    resources:
        mem_mb=memory(2000, per_input=3),
        runtime=minutes(30),
    params:
        spec=spec(run=premise_run, layout=layout),
        family=family,
        code=code_with_family("scripts.measure_premise"),
    message:
        "measure_premise: {wildcards.suite}, {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m scripts.measure_premise --family {params.family:q} --base {input.base:q} --checkpoint {input.checkpoint:q}"
        " --dataset {input.dataset:q} --head {input.head:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule gather_premise:
    input:
        lambda wildcards: collect(
            rules.measure_premise.output,
            suite=wildcards.suite,
            seed=SEEDS,
            run=list(experiment.premise_runs(wildcards.suite)),
        ),
    output:
        "results/premise/{suite}.tsv",
    log:
        "results/logs/gather_premise/{suite}.log",
    benchmark:
        "results/benchmarks/gather_premise/{suite}.tsv"
    localrule: True
    conda:
        environment_file("report")
    params:
        code=code("scripts.gather_premise"),
    message:
        "gather_premise: {wildcards.suite}"
    shell:
        "python -m scripts.gather_premise --runs {input:q} --output {output:q} 2>&1 | tee {log:q}"
