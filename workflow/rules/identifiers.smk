# What stands between the prepared tables and the runs that write identifiers: one job per recipe and encoder for the item
# vectors, one per recipe and scheme for the code table.
rule encoder:
    input:
        data=files("encoder"),
        settings="<results>/settings/encoder/{recipe}/{encoder}.json",
        code=code("encoder"),
    output:
        vectors=ensure("<results>/encoders/{recipe}/{encoder}/vectors.safetensors", non_empty=True),
        log="<results>/encoders/{recipe}/{encoder}/log.jsonl",
        stats=ensure("<results>/encoders/{recipe}/{encoder}/stats.json", non_empty=True),
        provenance=report(
            ensure("<results>/encoders/{recipe}/{encoder}/provenance.json", non_empty=True),
            category="Provenance",
            subcategory="{recipe}",
            labels={"method": "{encoder}", "backbone": "none", "seed": "none"},
        ),
    log:
        "<logs>/encoder/{recipe}/{encoder}.log",
    benchmark:
        "<benchmarks>/encoder/{recipe}/{encoder}.tsv"
    threads: requested("encoder").threads
    resources:
        mem_mb=requested("encoder").mem_mb,
        runtime=requested("encoder").runtime,
        gpu=requested("encoder").gpu,
    params:
        config=CONFIG,
        folder=lambda wildcards, output: os.path.dirname(output.vectors),
    message:
        "vectors {wildcards.encoder} of {wildcards.recipe}"
    shell:
        "gemsbench encoder {wildcards.encoder} {wildcards.recipe} --config {params.config} --out {params.folder} --quiet"
        " > {log} 2>&1"


rule identifiers:
    input:
        data=files("identifiers"),
        settings="<results>/settings/identifiers/{recipe}/{scheme}.json",
        code=code("identifiers"),
    output:
        codes=ensure("<results>/identifiers/{recipe}/{scheme}/codes.parquet", non_empty=True),
        header=ensure("<results>/identifiers/{recipe}/{scheme}/codes.json", non_empty=True),
        log="<results>/identifiers/{recipe}/{scheme}/log.jsonl",
        stats=ensure("<results>/identifiers/{recipe}/{scheme}/stats.json", non_empty=True),
        provenance=report(
            ensure("<results>/identifiers/{recipe}/{scheme}/provenance.json", non_empty=True),
            category="Provenance",
            subcategory="{recipe}",
            labels={"method": "{scheme}", "backbone": "none", "seed": "none"},
        ),
    log:
        "<logs>/identifiers/{recipe}/{scheme}.log",
    benchmark:
        "<benchmarks>/identifiers/{recipe}/{scheme}.tsv"
    threads: requested("identifiers").threads
    resources:
        mem_mb=requested("identifiers").mem_mb,
        runtime=requested("identifiers").runtime,
        gpu=requested("identifiers").gpu,
    params:
        config=CONFIG,
        folder=lambda wildcards, output: os.path.dirname(output.codes),
    message:
        "identifiers {wildcards.scheme} of {wildcards.recipe}"
    shell:
        "gemsbench ids {wildcards.scheme} {wildcards.recipe} --config {params.config} --out {params.folder} --quiet"
        " > {log} 2>&1"
