# Needs config/assets.yaml and its lock. Makes results/assets/<asset>/: the only rule that touches the network.


rule fetch_asset:
    output:
        directory("results/assets/{asset}"),
    log:
        "results/logs/fetch_asset/{asset}.log",
    localrule: True
    conda:
        "../../envs/workflow.yaml"
    params:
        wish=lambda wildcards: canonical(plan.assets[wildcards.asset]),
        lock=lambda wildcards: canonical({k: v for k, v in plan.lock.items() if k == wildcards.asset}),
    message:
        "fetch_asset: {wildcards.asset}"
    shell:
        "python -m scripts.fetch_asset --asset {wildcards.asset} --wish {params.wish:q} --lock {params.lock:q}"
        " --output {output} 2>&1 | tee {log}"
