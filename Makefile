# Everything works on a machine that has only Python (3.10 or newer), pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train test lint fuzz bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with everything the project needs

# panopticapi's metadata pins an old numpy: it goes in by itself, without dependencies.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps panopticapi-lite
	touch $@

train: $(READY) ## set up, then train detection, classification and embedding with codes on shapes
	$(BIN)/unified train experiment=ijde 'task=[detection,classification,embedding]' \
	  optim=adamw_joint trainer.max_epochs=12 $(ARGS)

# In the order of the folders: by the number of its tests a file that takes minutes would come last.
test: $(READY) ## lint, types, import arrows and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile \
	  --no-loadscope-reorder $(ARGS)

lint: $(READY) ## fix what can be fixed, then check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

fuzz: $(READY) ## feed bad and unusual inputs to every command (an hour or more)
	$(BIN)/python tests/fuzz

bench: $(READY) ## the measurements of docs/results, one after the other (hours on two cores)
	$(BIN)/python tests/bench

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist
