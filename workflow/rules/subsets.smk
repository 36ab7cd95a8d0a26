# Needs bases, experts, measurements, data sets and heads. Makes results/subsets: merges of random subsets of the experts, scored.


rule score_subset:
    # One process merges and scores all methods of a subset, merge by merge; what is measured of an expert is that of the suite.
    input:
        base=base_model,
        experts=folders_of_subset,
        datasets=datasets_of_subset,
        heads=heads_of_subset,
        measured=measured_for_subset,
    output:
        scores="results/subsets/{suite}/{subset}/seed{seed}.json",
        predictions="results/subsets/{suite}/{subset}/seed{seed}.npz",
    log:
        "results/logs/score_subset/{suite}/{subset}/seed{seed}.log",
    benchmark:
        "results/benchmarks/score_subset/{suite}/{subset}/seed{seed}.tsv"
    conda:
        environment
    threads:
        lambda wildcards, input: max(
            threads_for_models(wildcards, input), experiment.blas_threads(*methods_of_subset(wildcards))
        )
    resources:
        gpu=max(GPU_OF_MODELS, GPU_OF_MERGES),
        mem_mb=memory(2000, per_input=3),
        runtime=minutes(240),
    params:
        spec=spec(methods=merges_of_subset, layout=layout, examples=stated_examples_of_subset),
        experts=named_experts_of_subset,
        merge_device=experiment.config.get("device", "cpu"),
        computing=lambda wildcards: experiment.computing(*methods_of_subset(wildcards)),
        scoring=SCORING,
        family=family,
        code=code_with_family("scripts.score_subset"),
    message:
        "score_subset: {wildcards.suite}, {wildcards.subset}, seed {wildcards.seed}"
    shell:
        "python -m scripts.score_subset --family {params.family:q} --base {input.base:q} --experts {params.experts:q}"
        " --datasets {input.datasets:q} --heads {input.heads:q} {params.scoring:q} --merge-device {params.merge_device:q}"
        " {params.computing:q}"
        " --suite {wildcards.suite:q} --subset {wildcards.subset:q} --seed {wildcards.seed:q} --threads {threads}"
        " --scores {output.scores:q} --predictions {output.predictions:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"
