# One job per recipe, backbone, method and seed: fit (tune the backbone), then score the test candidates.
rule train:
    input:
        data=files("train"),
        settings="<results>/settings/train/{recipe}/{backbone}/{method}/{seed}.json",
        code=code("train"),
    output:
        scores=ensure("<results>/runs/{recipe}/{backbone}/{method}/{seed}/scores.parquet", non_empty=True),
        log=report(
            ensure("<results>/runs/{recipe}/{backbone}/{method}/{seed}/log.jsonl", non_empty=True),
            category="Training logs",
            subcategory="{recipe}",
            labels={"method": "{method}", "backbone": "{backbone}", "seed": "{seed}"},
        ),
        provenance=report(
            ensure("<results>/runs/{recipe}/{backbone}/{method}/{seed}/provenance.json", non_empty=True),
            category="Provenance",
            subcategory="{recipe}",
            labels={"method": "{method}", "backbone": "{backbone}", "seed": "{seed}"},
        ),
        model=directory("<results>/runs/{recipe}/{backbone}/{method}/{seed}/model"),
    log:
        "<logs>/train/{recipe}/{backbone}/{method}/{seed}.log",
    benchmark:
        "<benchmarks>/train/{recipe}/{backbone}/{method}/{seed}.tsv"
    threads: requested("train").threads
    resources:
        mem_mb=requested("train").mem_mb,
        runtime=requested("train").runtime,
        gpu=requested("train").gpu,
    params:
        config=CONFIG,
        folder=lambda wildcards, output: os.path.dirname(output.scores),
        basis=basis_option,
    message:
        "train {wildcards.method} on {wildcards.recipe} (backbone {wildcards.backbone}, seed {wildcards.seed})"
    shell:
        "gemsbench train {wildcards.method} {wildcards.recipe} --backbone {wildcards.backbone} --seed {wildcards.seed}"
        " {params.basis} --config {params.config} --out {params.folder} --quiet > {log} 2>&1"
