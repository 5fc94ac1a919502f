# One job per backbone, and side of its layers, that some run's tuner must keep what it knows of. Like the backbone itself
# a missing basis is made only when a run that needs it runs.
rule basis:
    input:
        data=files("basis"),
        settings="<results>/settings/basis/{basis}.json",
        code=code("basis"),
    output:
        basis=ensure("<results>/basis/{basis}.safetensors", non_empty=True),
        provenance=report(
            ensure("<results>/basis/{basis}.provenance.json", non_empty=True),
            category="Provenance",
            subcategory="knowledge bases",
            labels={"method": "basis", "backbone": "{basis}", "seed": "none"},
        ),
    log:
        "<logs>/basis/{basis}.log",
    benchmark:
        "<benchmarks>/basis/{basis}.tsv"
    threads: requested("basis").threads
    resources:
        mem_mb=requested("basis").mem_mb,
        runtime=requested("basis").runtime,
        gpu=requested("basis").gpu,
    params:
        backbone=lambda wildcards: job_of("basis", wildcards).settings["backbone"],
        side=lambda wildcards: job_of("basis", wildcards).settings["side"],
        config=CONFIG,
        folder=lambda wildcards, output: os.path.dirname(output.basis),
    message:
        "knowledge basis {wildcards.basis}"
    shell:
        "gemsbench basis {params.backbone} --side {params.side} --config {params.config} --out {params.folder} --quiet"
        " > {log} 2>&1"
