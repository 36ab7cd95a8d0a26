# Each target is a line that a person could type.
SHELL := bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# A kernel lock instead of Snakemake's lock files: it ends with its process, so a killed run needs no unlocking.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" flock --exclusive .run.lock snakemake --nolock --cores all --logger rich

SAY = @flock --nonblock --conflict-exit-code 9 .run.lock true || [ $$? != 9 ] || echo "another run is at work in this folder; waiting for it to end"

# The table of a suite, and where the report is: the last lines of a run, also where nothing had to be done.
SHOW = @echo && $(BIN)/python -m scripts.show_table results/tables/main_$(1).csv && echo && echo results/report.html

PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" pytest

.PHONY: help demo study demo-vision demo-language archive language bench check test test-slow lint docs format pins
.DELETE_ON_ERROR:

help:  ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 22

demo: $(BIN)/.installed  ## the text suite, from nothing to results/report.html
	$(SAY)
	$(RUN)
	$(call SHOW,text)

study: $(BIN)/.installed  ## every method on the text suite: half an hour and more
	$(SAY)
	$(RUN) --configfile config/study/every_method.yaml
	$(call SHOW,text)

demo-vision: $(BIN)/.installed  ## the image suite
	$(SAY)
	$(RUN) --configfile config/vision.yaml
	$(call SHOW,vision)

demo-language: $(BIN)/.language  ## a small language model on benchmarks of lm_eval
	$(SAY)
	$(RUN) --configfile config/language.yaml
	$(call SHOW,smollm)

archive: $(BIN)/.installed  ## the finished run as results.zip, for others, who check it by `nan-merge verify`
	PATH="$(CURDIR)/$(BIN):$$PATH" nan-merge archive results.zip

language: $(BIN)/.language  ## installs what benchmarks of language models need besides

MATRIX := --methods tsv_m ace actmat wudi_exact --rounds 1 --limit 7200

bench: $(BIN)/.installed .bench/mergekit/.installed .bench/fusion-bench/.installed  ## what merges cost: benchmarks/README.md
	$(BIN)/python -m benchmarks.norms
	$(BIN)/python -m benchmarks.matrices --size ViT-B-32 --rounds 1
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.merge --peer-rounds 3 ties=1 dare_ties=1 --mergekit .bench/mergekit/bin/python
	$(BIN)/python -m benchmarks.merge --name vision --size ViT-B-32 --experts 8 --methods task_arithmetic nan ties \
	  --peer-rounds 3 ties=1 --fusionbench .bench/fusion-bench/bin/python
	$(BIN)/python -m benchmarks.merge --name language --layers 0 2 $(MATRIX) --fusionbench .bench/fusion-bench/bin/python
	$(BIN)/python -m benchmarks.merge --name language_13B --size 13B/8 13B/4 13B/2 --experts 2 --layers 0 1 $(MATRIX)
	$(BIN)/python -m benchmarks.parity --fusionbench .bench/fusion-bench/bin/python --mergekit .bench/mergekit/bin/python
	$(BIN)/python -m benchmarks.parity.imports --mergekit .bench/mergekit/bin/python
	$(BIN)/python -m benchmarks.merge --name scale --size 1B 7B --methods task_arithmetic --cold --rounds 2

check: lint $(BIN)/.language  ## make lint and the unit tests: two minutes
	$(PYTEST) -n 2 tests/unit

test: $(BIN)/.language  ## all tests; with SLURM=1 (as root on Debian) it installs SLURM for those that need one
	$(PYTEST) -n 2 tests/unit
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder tests/workflow tests/slurm

test-slow: $(BIN)/.language  ## the whole demo, locally and through SLURM, and faults of a cluster: an hour and more; SLURM=1 as above
	$(PYTEST) -m slow

lint: $(BIN)/.installed  ## style, types and layout of all sources
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint
	if command -v shellcheck > /dev/null; then shellcheck tests/slurm/*.sh; fi

docs: $(BIN)/.installed  ## the generated tables of docs/ and config/README.md
	$(BIN)/python -m scripts.write_docs

format: $(BIN)/.installed  ## lay out all sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

pins: .bench/snakedeploy/.installed  ## envs/*.linux-64.pin.txt, which `--sdm conda` takes before the YAML; needs conda and its channels
	@command -v conda > /dev/null || { echo "make pins: no conda here; install Miniforge, then run this again" >&2; exit 1; }
	.bench/snakedeploy/bin/snakedeploy pin-conda-envs --conda-frontend conda $(wildcard envs/*.yaml)

$(BIN)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet -r requirements.txt --editable .
	touch $@

$(BIN)/.language: $(BIN)/.installed requirements-language.txt
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet -r requirements.txt -r requirements-language.txt
	touch $@

# Programs that are compared, or used once, live in environments of their own, with our versions of what they share with us;
# roc-validator needs an older version of one.
.bench/mergekit/.installed: PEER := mergekit==0.1.5
.bench/fusion-bench/.installed: PEER := fusion-bench==0.2.33
.bench/snakedeploy/.installed: PEER := snakedeploy==0.17.1
.bench/roc-validator/.installed: PEER := roc-validator==0.13.0
.bench/roc-validator/.installed: SHARED :=
.bench/%/.installed: SHARED := -c requirements.txt
.bench/%/.installed: requirements.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --progress-bar off --quiet $(SHARED) $(PEER)
	touch $@
