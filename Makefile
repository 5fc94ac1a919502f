# `make` lists the targets. Each sets up .venv first where it is missing or older than the locks.
CONFIG ?= config/mini.yaml
PYTHON ?= python3
COMPILE = uv pip compile --quiet pyproject.toml --python-version 3.11 --constraint envs/torch.txt --no-emit-package torch \
	--no-emit-find-links --no-header --no-annotate --extra methods --extra workflow --extra dev

VENV := .venv
READY := $(VENV)/.ready
BIN := $(CURDIR)/$(VENV)/bin
PROFILE = $(shell sed -n 's/^profile: *//p' $(CONFIG))
TABLES = results/$(PROFILE)/tables

export PATH := $(BIN):$(PATH)
export PYTHONHASHSEED := 0

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test lint repro report plan unlock lock schema prune cards

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

reproduce: $(READY) ## raw files in, tables out (CONFIG=config/mini.yaml); keeps what is still valid
	@gemsbench sync --config $(CONFIG)
	@snakemake --cores all --configfile $(CONFIG)
	@echo
	@cat $(TABLES)/table1.md
	@echo "All tables: $(TABLES)/ (.tex, .md, .html, .json); open $(TABLES)/index.html"

test: $(READY) ## the whole test suite
	pytest -n 2 --dist worksteal

lint: $(READY) ## style, types, layers, workflow, file length
	ruff check
	ruff format --check
	mypy --strict src
	lint-imports
	@snakemake --lint 2>&1 | tee /dev/stderr | grep -q Congratulations
	snakefmt --line-length 120 --check Snakefile workflow
	@echo "files of more than 400 lines:" && ! git ls-files --cached --others --exclude-standard -- '*.py' '*.smk' Snakefile \
		| xargs wc -l | awk '$$2 != "total" && $$1 > 400 {print; long = 1} END {exit !long}'

setup: $(READY) ## only the environment, in .venv

$(READY): envs/requirements.lock envs/constraints.txt envs/torch.txt envs/install.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) envs/install.sh
	@touch $@

repro: $(READY) ## dvc repro: rerun the stages whose inputs changed
	dvc repro

report: $(READY) ## report.html: tables, logs, run times in one page
	snakemake --cores all --configfile $(CONFIG) --report report.html

cards: $(READY) ## docs/datasets/*.md, from the recipes
	python -m gemsbench.report.dataset_card docs/datasets

plan: $(READY) ## what would run, with time and memory; runs nothing
	@gemsbench plan --config $(CONFIG)

unlock: $(READY) ## after a kill or a power loss; then run the same command again
	snakemake --cores all --configfile $(CONFIG) --unlock

prune: $(READY) ## list files that the profile does not produce; gemsbench prune --yes removes them
	@gemsbench prune --config $(CONFIG)

schema: $(READY) ## workflow/schemas/config.schema.yaml, from the dataclasses of a profile
	python -m gemsbench.pipeline.schema workflow/schemas/config.schema.yaml

lock: $(READY) ## the locks, from pyproject.toml (needs uv; UV_TORCH_BACKEND=cpu keeps CUDA packages out)
	$(COMPILE) --generate-hashes --output-file envs/requirements.lock
	$(COMPILE) --output-file envs/constraints.txt
	@! grep -E '^(nvidia|triton|cuda)' envs/constraints.txt || \
		{ echo "the locks hold CUDA packages: set UV_TORCH_BACKEND=cpu and run make lock again" >&2; exit 1; }
