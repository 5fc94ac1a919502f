# Raw files and prepared tables. The raw files of a recipe are known by name only to the recipe, hence a rule for each.
for fetched in JOBS.get("fetch", {}).values():

    rule:
        name:
            f"fetch_{fetched.name.replace('-', '_')}"
        input:
            settings=settings_of(fetched),
            code=relative(fetched.source_files()),
        output:
            fetched_files(fetched),
        log:
            f"<logs>/fetch/{fetched.name}.log",
        benchmark:
            f"<benchmarks>/fetch/{fetched.name}.tsv"
        retries: 0 if fetched.provenance else 3
        threads: requested("fetch").threads
        resources:
            mem_mb=requested("fetch").mem_mb,
            runtime=requested("fetch").runtime,
            dvc=0 if fetched.provenance else 1,
        params:
            recipe=fetched.name,
        message:
            f"raw files of {fetched.name}"
        # The profile is not a parameter: raw files are shared, and another profile must not make them anew.
        shell:
            'gemsbench data fetch {params.recipe} --config "$GEMSBENCH_CONFIG" > {log} 2>&1'


rule prepare:
    input:
        raw=files("prepare"),
        settings="<results>/settings/prepare/{recipe}.json",
        code=code("prepare"),
    output:
        ensure("<results>/prepared/{recipe}/items.parquet", non_empty=True),
        ensure("<results>/prepared/{recipe}/queries.parquet", non_empty=True),
        ensure("<results>/prepared/{recipe}/users.parquet", non_empty=True),
        ensure("<results>/prepared/{recipe}/interactions.parquet", non_empty=True),
        ensure("<results>/prepared/{recipe}/cases.parquet", non_empty=True),
        ensure("<results>/prepared/{recipe}/candidates.parquet", non_empty=True),
        stats=ensure("<results>/prepared/{recipe}/stats.json", non_empty=True),
        provenance=ensure("<results>/prepared/{recipe}/provenance.json", non_empty=True),
    log:
        "<logs>/prepare/{recipe}.log",
    benchmark:
        "<benchmarks>/prepare/{recipe}.tsv"
    threads: requested("prepare").threads
    resources:
        mem_mb=requested("prepare").mem_mb,
        runtime=requested("prepare").runtime,
    params:
        config=CONFIG,
        folder=lambda wildcards, output: os.path.dirname(output.stats),
    message:
        "prepare {wildcards.recipe}"
    shell:
        "gemsbench data prepare {wildcards.recipe} --config {params.config} --out {params.folder} --quiet > {log} 2>&1"
