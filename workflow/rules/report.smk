# The tables of the paper, from all metrics of the profile; the figures, from all logs.
rule tables:
    input:
        measured=files("tables"),
        settings="<results>/settings/tables/all.json",
        code=code("tables"),
    output:
        tables=reported_tables(),
        provenance=ensure("<results>/tables/provenance.json", non_empty=True),
    log:
        "<logs>/tables/all.log",
    benchmark:
        "<benchmarks>/tables/all.tsv"
    threads: requested("tables").threads
    resources:
        mem_mb=requested("tables").mem_mb,
        runtime=requested("tables").runtime,
    params:
        config=CONFIG,
        folder=lambda wildcards, output: os.path.dirname(output.provenance),
    message:
        "tables"
    shell:
        "gemsbench tables --config {params.config} --out {params.folder} --quiet > {log} 2>&1"


rule figures:
    input:
        logs=files("figures"),
        settings="<results>/settings/figures/all.json",
        code=code("figures"),
    output:
        figures=reported_figures(),
        provenance=ensure("<results>/figures/provenance.json", non_empty=True),
    log:
        "<logs>/figures/all.log",
    benchmark:
        "<benchmarks>/figures/all.tsv"
    threads: requested("figures").threads
    resources:
        mem_mb=requested("figures").mem_mb,
        runtime=requested("figures").runtime,
    params:
        config=CONFIG,
        folder=lambda wildcards, output: os.path.dirname(output.provenance),
    message:
        "figures"
    shell:
        "gemsbench figures --config {params.config} --out {params.folder} --quiet > {log} 2>&1"
