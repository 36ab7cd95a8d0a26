# Needs scores, coefficients, measures and data set records. Makes results/scores.tsv, comparisons, tables, figures, report.


rule gather_scores:
    input:
        scores(),
    output:
        report("results/scores.tsv", caption="../report/scores.rst", category="Scores", labels={"file": "all scores"}),
    log:
        "results/logs/gather_scores.log",
    benchmark:
        "results/benchmarks/gather_scores.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        code=code("scripts.gather_scores"),
    message:
        "gather_scores"
    shell:
        "python -m scripts.gather_scores --scores {input} --output {output} 2>&1 | tee {log}"


rule compare_methods:
    input:
        scores=scores(),
        datasets=[file for suite in experiment.suites for file in MATERIAL["datasets"](suite)],
    output:
        "results/comparisons.tsv",
    log:
        "results/logs/compare_methods.log",
    benchmark:
        "results/benchmarks/compare_methods.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        pairs=canonical(experiment.pairs()),
        suites=canonical(
            [{key: suite_json(suite)[key] for key in ("id", "data", "tasks")} for suite in experiment.suites]
        ),
        flags=flags(["datasets"], experiment.suites),
        code=code("scripts.compare_methods"),
    message:
        "compare_methods"
    shell:
        "python -m scripts.compare_methods --scores {input.scores} --pairs {params.pairs:q}"
        " --suites {params.suites:q} {params.flags} --output {output} 2>&1 | tee {log}"


rule render_table:
    input:
        scores="results/scores.tsv",
        material=material("table"),
    output:
        csv="results/tables/{table}_{suite}.csv",
        md=report(
            "results/tables/{table}_{suite}.md",
            caption="../report/table.rst",
            category="Tables",
            labels={"suite": "{suite}", "table": "{table}"},
        ),
        tex="results/tables/{table}_{suite}.tex",
    log:
        "results/logs/render_table/{table}_{suite}.log",
    benchmark:
        "results/benchmarks/render_table/{table}_{suite}.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        table=record_json("table"),
        suite=lambda wildcards: canonical(suite_json(wildcards.suite)),
        methods=canonical(methods_json()),
        flags=flags_of("table"),
        prefix=subpath(output.md, strip_suffix=".md"),
        code=code("scripts.render_table"),
    message:
        "render_table: {wildcards.table}, {wildcards.suite}"
    shell:
        "python -m scripts.render_table --table {params.table:q} --suite {params.suite:q} --methods {params.methods:q}"
        " --scores {input.scores} {params.flags} --output {params.prefix} 2>&1 | tee {log}"


rule render_published:
    input:
        numbers=PUBLISHED,
        scores="results/scores.tsv" if experiment.suites else [],
    output:
        csv="results/published/{table}.csv",
        md=report(
            "results/published/{table}.md",
            caption="../report/published.rst",
            category="Printed tables",
            labels={"table": "{table}"},
        ),
        tex="results/published/{table}.tex",
    log:
        "results/logs/render_published/{table}.log",
    benchmark:
        "results/benchmarks/render_published/{table}.tsv"
    wildcard_constraints:
        table=any_of(experiment.reports.get("published", {})),
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        table=record_json("table", "published"),
        scores="--scores results/scores.tsv" if experiment.suites else "",
        suites=canonical([suite_json(suite) for suite in experiment.suites]),
        methods=canonical(methods_json()),
        prefix=subpath(output.md, strip_suffix=".md"),
        code=code("scripts.render_published"),
    message:
        "render_published: {wildcards.table}"
    shell:
        "python -m scripts.render_published --table {params.table:q} --published {input.numbers} {params.scores}"
        " --suites {params.suites:q} --methods {params.methods:q} --output {params.prefix} 2>&1 | tee {log}"


rule draw_figure:
    input:
        scores="results/scores.tsv",
        material=material("figure"),
    output:
        svg=report(
            "results/figures/{figure}_{suite}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"suite": "{suite}", "figure": "{figure}"},
        ),
        png="results/figures/{figure}_{suite}.png",
    log:
        "results/logs/draw_figure/{figure}_{suite}.log",
    benchmark:
        "results/benchmarks/draw_figure/{figure}_{suite}.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        figure=record_json("figure"),
        suite=lambda wildcards: canonical(suite_json(wildcards.suite)),
        methods=canonical(methods_json()),
        flags=flags_of("figure"),
        prefix=subpath(output.svg, strip_suffix=".svg"),
        code=code("scripts.draw_figure"),
    message:
        "draw_figure: {wildcards.figure}, {wildcards.suite}"
    shell:
        "python -m scripts.draw_figure --figure {params.figure:q} --suite {params.suite:q} --methods {params.methods:q}"
        " --scores {input.scores} {params.flags} --output {params.prefix} 2>&1 | tee {log}"


rule write_report:
    input:
        scores="results/scores.tsv",
        tables=tables(),
        figures=figures(),
        published=published(),
        material=[file for suite in experiment.suites for name in MATERIAL for file in MATERIAL[name](suite)],
    output:
        report(
            "results/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"file": "what was found, in words"},
        ),
    log:
        "results/logs/write_report.log",
    benchmark:
        "results/benchmarks/write_report.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        suites=canonical([suite_json(suite) for suite in experiment.suites]),
        methods=canonical(methods_json()),
        flags=flags(MATERIAL, experiment.suites),
        provenance=canonical(provenance()),
        code=code("scripts.write_report"),
    message:
        "write_report"
    shell:
        "python -m scripts.write_report --suites {params.suites:q} --methods {params.methods:q} --scores {input.scores}"
        " --tables {input.tables} --figures {input.figures} --published {input.published} {params.flags} --provenance {params.provenance:q}"
        " --output {output} 2>&1 | tee {log}"


rule write_run_config:
    output:
        "results/run_config.yaml",
    log:
        "results/logs/write_run_config.log",
    benchmark:
        "results/benchmarks/write_run_config.tsv"
    localrule: True
    conda:
        "../../envs/workflow.yaml"
    params:
        run=canonical(run_config()),
        code=code("scripts.write_run_config"),
    message:
        "write_run_config"
    shell:
        "python -m scripts.write_run_config --run {params.run:q} --output {output} 2>&1 | tee {log}"


rule plan:
    # Asked for by name: `snakemake plan`.
    log:
        "results/logs/plan.log",
    benchmark:
        "results/benchmarks/plan.tsv"
    localrule: True
    conda:
        "../../envs/workflow.yaml"
    params:
        config=canonical(config),
        jobs=workflow.nodes or workflow.resource_settings.cores or 1,
    message:
        "plan: what a run would fetch, write, do and take"
    shell:
        "python -m scripts.plan_run --config {params.config:q} --jobs {params.jobs} 2>&1 | tee {log}"
