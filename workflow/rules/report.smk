# The tables of the paper, from all metrics of the profile.
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
