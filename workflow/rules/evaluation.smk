# Metrics and ranks of one score file; loads no model and no torch.
rule evaluate:
    input:
        scores="<results>/runs/{recipe}/{backbone}/{method}/{seed}/scores.parquet",
        pack=files("evaluate"),
        code=code("evaluate"),
    output:
        metrics=ensure("<results>/runs/{recipe}/{backbone}/{method}/{seed}/metrics.json", non_empty=True),
        ranks=ensure("<results>/runs/{recipe}/{backbone}/{method}/{seed}/ranks.parquet", non_empty=True),
        provenance=ensure("<results>/runs/{recipe}/{backbone}/{method}/{seed}/metrics.provenance.json", non_empty=True),
    log:
        "<logs>/evaluate/{recipe}/{backbone}/{method}/{seed}.log",
    benchmark:
        "<benchmarks>/evaluate/{recipe}/{backbone}/{method}/{seed}.tsv"
    threads: requested("evaluate").threads
    resources:
        mem_mb=requested("evaluate").mem_mb,
        runtime=requested("evaluate").runtime,
    params:
        data=lambda wildcards, input: os.path.dirname(input.pack[-1]),
        folder=lambda wildcards, output: os.path.dirname(output.metrics),
    message:
        "evaluate {wildcards.method} on {wildcards.recipe} (backbone {wildcards.backbone}, seed {wildcards.seed})"
    shell:
        "gemsbench evaluate {input.scores} --data {params.data} --out {params.folder} --quiet > {log} 2>&1"
