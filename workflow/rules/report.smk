# Needs scores, coefficients, measures and data set records. Makes results/scores.tsv, comparisons, tables, figures, report.


rule gather_scores:
    input:
        scores(),
        cross_checks(),
    output:
        report("results/scores.tsv", caption="../report/scores.rst", category="Scores", labels={"file": "all scores"}),
    log:
        "results/logs/gather_scores.log",
    benchmark:
        "results/benchmarks/gather_scores.tsv"
    localrule: True
    conda:
        environment_file("report")
    params:
        code=code("scripts.gather_scores"),
    message:
        "gather_scores"
    shell:
        "python -m scripts.gather_scores --scores {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule compare_methods:
    input:
        scores=scores(),
        datasets=files(["datasets"], experiment.suites),
    output:
        "results/comparisons.tsv",
    log:
        "results/logs/compare_methods.log",
    benchmark:
        "results/benchmarks/compare_methods.tsv"
    localrule: True
    conda:
        environment_file("report")
    params:
        spec=spec(pairs=experiment.pairs(), suites=suites_of_comparisons()),
        flags=flags(["datasets"], experiment.suites),
        code=code("scripts.compare_methods"),
    message:
        "compare_methods"
    shell:
        "python -m scripts.compare_methods --scores {input.scores:q} {params.flags:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule render_table:
    input:
        scores=rules.gather_scores.output,
        material=material("tables", "table"),
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
        environment_file("report")
    params:
        spec=spec(table=report_entry("tables", "table"), suite=suite_record_of, methods=method_records()),
        flags=flags_of("tables", "table"),
        prefix=subpath(output.md, strip_suffix=".md"),
        script="render_table",
        code=code("scripts.render_table"),
    message:
        "render_table: {wildcards.table}, {wildcards.suite}"
    shell:
        "python -m scripts.{params.script:q} --scores {input.scores:q} {params.flags:q} --output {params.prefix:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule render_published:
    input:
        numbers=PUBLISHED,
        scores=rules.gather_scores.output if experiment.suites else [],
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
        environment_file("report")
    params:
        spec=spec(table=report_entry("published", "table"), suites=suite_records(), methods=method_records()),
        scores=words("scores", ["results/scores.tsv"] if experiment.suites else []),
        prefix=subpath(output.md, strip_suffix=".md"),
        code=code("scripts.render_published"),
    message:
        "render_published: {wildcards.table}"
    shell:
        "python -m scripts.render_published --published {input.numbers:q} {params.scores:q} --output {params.prefix:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


use rule render_table as draw_figure with:
    input:
        scores=rules.gather_scores.output,
        material=material("figures", "figure"),
    output:
        svg=report(
            "results/figures/{figure}_{suite}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"suite": "{suite}", "figure": "{figure}"},
        ),
        pdf="results/figures/{figure}_{suite}.pdf",
        png="results/figures/{figure}_{suite}.png",
    log:
        "results/logs/draw_figure/{figure}_{suite}.log",
    benchmark:
        "results/benchmarks/draw_figure/{figure}_{suite}.tsv"
    params:
        spec=spec(figure=report_entry("figures", "figure"), suite=suite_record_of, methods=method_records()),
        flags=flags_of("figures", "figure"),
        prefix=subpath(output.svg, strip_suffix=".svg"),
        script="draw_figure",
        code=code("scripts.draw_figure"),
    message:
        "draw_figure: {wildcards.figure}, {wildcards.suite}"


rule decode_examples:
    input:
        tokenizer=tokenizer,
        datasets=datasets_of_suite,
    output:
        "results/examples/{suite}.json",
    log:
        "results/logs/decode_examples/{suite}.log",
    benchmark:
        "results/benchmarks/decode_examples/{suite}.tsv"
    localrule: True
    conda:
        environment
    params:
        tokenizer=option("tokenizer"),
        code=code("scripts.decode_examples"),
    message:
        "decode_examples: {wildcards.suite}"
    shell:
        "python -m scripts.decode_examples --suite {wildcards.suite:q} {params.tokenizer:q}"
        " --datasets {input.datasets:q} --output {output:q} 2>&1 | tee {log:q}"


rule write_claims:
    input:
        scores=rules.gather_scores.output,
        material=listed(files(NUMBERS, experiment.suites)),
    output:
        md=report(
            "results/claims.md",
            caption="../report/claims.rst",
            category="Report",
            labels={"file": "claims of the papers"},
        ),
        csv="results/claims.csv",
    log:
        "results/logs/write_claims.log",
    benchmark:
        "results/benchmarks/write_claims.tsv"
    localrule: True
    conda:
        environment_file("report")
    params:
        spec=spec(suites=suite_records(), methods=method_records(), claims=experiment.registered_claims),
        flags=flags(NUMBERS, experiment.suites),
        prefix=subpath(output.md, strip_suffix=".md"),
        code=code("scripts.write_claims"),
    message:
        "write_claims"
    shell:
        "python -m scripts.write_claims --scores {input.scores:q} {params.flags:q} --output {params.prefix:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule write_report:
    input:
        scores=rules.gather_scores.output,
        predictions=listed(test_scores()),
        examples=examples(),
        tables=of_each_suite("tables"),
        figures=of_each_suite("figures"),
        published=published(),
        material=listed(files(NUMBERS, experiment.suites)),
    output:
        report(
            "results/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"file": "findings in words"},
        ),
    log:
        "results/logs/write_report.log",
    benchmark:
        "results/benchmarks/write_report.tsv"
    localrule: True
    conda:
        environment_file("report")
    params:
        spec=spec(
            suites=suite_records(),
            methods=method_records(),
            provenance=provenance,
            claims=experiment.registered_claims,
        ),
        flags=flags(NUMBERS, experiment.suites),
        code=code("scripts.write_report"),
    message:
        "write_report"
    shell:
        "python -m scripts.write_report --scores {input.scores:q} --tables {input.tables:q} --figures {input.figures:q}"
        " --predictions {input.predictions:q} --examples {input.examples:q} --published {input.published:q} {params.flags:q} --output {output:q}"
        " --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"


rule write_run_config:
    output:
        "results/run_config.yaml",
    log:
        "results/logs/write_run_config.log",
    benchmark:
        "results/benchmarks/write_run_config.tsv"
    localrule: True
    conda:
        environment_file("workflow")
    params:
        spec=lambda wildcards: canonical(experiment.record()),  # a function: in a text Snakemake replaces {names}
        code=code("scripts.write_run_config"),
    message:
        "write_run_config"
    shell:
        "python -m scripts.write_run_config --output {output:q} --spec /dev/stdin <<< {params.spec:q} 2>&1 | tee {log:q}"
