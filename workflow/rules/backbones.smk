# One job per backbone that some run tunes. The files of a backbone are known by name only to its description, hence a
# rule for each. A missing backbone is made only when a run that needs it runs.
for backbone in JOBS.get("backbone", {}).values():

    rule:
        name:
            f"backbone_{re.sub(r'[^a-z0-9]', '_', backbone.name)}"
        input:
            corpus=data_files(backbone),
            settings=settings_of(backbone),
            code=relative(backbone.source_files()),
        output:
            backbone_files(backbone),
        log:
            f"<logs>/backbone/{backbone.name}.log",
        benchmark:
            f"<benchmarks>/backbone/{backbone.name}.tsv"
        threads: requested("backbone").threads
        resources:
            mem_mb=requested("backbone").mem_mb,
            runtime=requested("backbone").runtime,
            gpu=requested("backbone").gpu,
        params:
            backbone=backbone.name,
            config=CONFIG,
            folder=lambda wildcards, output: os.path.dirname(output[0]),
        message:
            f"backbone {backbone.name}"
        shell:
            "gemsbench backbone {params.backbone} --config {params.config} --out {params.folder} --quiet > {log} 2>&1"
