# make up: the platform on this machine, with a first recommendation. make test: the fast tests. Each does its own set-up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help up down status test test-all test-servers lint types lock bench clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

$(INSTALLED): requirements.lock pyproject.toml scripts/install.sh
	@PYTHON="$(PYTHON)" scripts/install.sh $(VENV)
	@touch $@

install: $(INSTALLED) ## the virtual environment in .venv

up: $(INSTALLED) ## start stores, Dagster and the API; print a first recommendation
	@$(BIN)/persona up

down: $(INSTALLED) ## stop all of it
	@$(BIN)/persona down

status: $(INSTALLED) ## what runs
	@$(BIN)/persona status

# two at a time, each with servers of its own
PYTEST = $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED) ## the fast tests
	$(PYTEST) -m "not slow"

test-all: $(INSTALLED) ## every test
	$(PYTEST)

# of the servers of production: `installed`, local ones standing in for the rest, or `all`
SERVERS ?= installed

test-servers: $(INSTALLED) ## the stores' contracts, the fault drill and the whole platform on Neo4j, Milvus, PostgreSQL, Redis and MongoDB
	$(BIN)/python -m tests.servers fetch
	$(PYTEST) --servers $(SERVERS) tests/servers tests/stores tests/serving/test_drill.py tests/test_end_to_end.py

lint: $(INSTALLED) ## format, lint, arrows between packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(INSTALLED) ## strict types
	$(BIN)/mypy

lock: $(INSTALLED) ## pin the newest versions that fit together
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --no-header --no-emit-index-url \
		--upgrade --quiet --output-file requirements.lock pyproject.toml

bench: $(INSTALLED) ## the speed of pipeline, intake, ranking and serving
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.intake
	$(BIN)/python -m benchmarks.mentions
	$(BIN)/python -m benchmarks.intents
	$(BIN)/python -m benchmarks.ranking
	$(BIN)/python -m benchmarks.serving

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .servers .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
