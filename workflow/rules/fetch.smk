# Needs config/assets.yaml and its lock. Makes results/assets and results/models: the only rules that touch the network.


rule fetch_asset:
    output:
        directory("results/assets/{asset}"),
    log:
        "results/logs/fetch_asset/{asset}.log",
    cache: "omit-software"
    localrule: True
    conda:
        environment_file("workflow")
    resources:
        downloads=1,
    params:
        spec=spec(entry=asset_entry, lock=asset_lock),
    message:
        "fetch_asset: {wildcards.asset}"
    shell:
        "python -m scripts.fetch_asset --asset {wildcards.asset:q} --store results/downloads --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule fetch_model:
    output:
        directory("results/models/{suite}/{model}"),
    log:
        "results/logs/fetch_model/{suite}/{model}.log",
    benchmark:
        "results/benchmarks/fetch_model/{suite}/{model}.tsv"
    wildcard_constraints:
        suite=any_of(experiment.models),
    localrule: True
    conda:
        environment_file("merge")
    params:
        model=place_of_model,
        files=files_of_model,
        code=code("scripts.fetch_model"),
    message:
        "fetch_model: {params.model}"
    shell:
        "HF_HUB_OFFLINE=0 python -m scripts.fetch_model --model {params.model:q} --output {output:q} 2>&1 | tee {log:q}"
