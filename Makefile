# `make demo` and `make test` need nothing but Python 3.11+ and a package registry:
# every target sets itself up.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test lint types pytest docs chaos bench lock clean

help:            ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(STAMP)  ## prepare .venv with the locked dependencies

# One stamp stands for "the locked set is installed"; it is rebuilt when the lock or the
# project's metadata changes. The check comes first, so that an old Python says so in one line.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "penstock needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "setting up $(VENV) (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup      ## a stream and a batch, live, with nothing installed beforehand (ARGS=--keep, ARGS=--live)
	@$(BIN)/penstock demo $(ARGS)

test: lint types pytest  ## ruff, mypy --strict, pytest

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

pytest: setup
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

docs: setup      ## the documentation site, into site/ (ARGS=serve: on 127.0.0.1:8000, as you write)
	@$(BIN)/python -m docs.site $(ARGS)

chaos: setup     ## streams, then jobs, under faults, kills and outages (STREAMS="--streams 200" JOBS="--times 2")
	@$(BIN)/python -m tests.chaos.run $(STREAMS)
	@$(BIN)/python -m tests.chaos.batch_run $(JOBS)
	@$(BIN)/python -m tests.chaos.batch_run --trouble 200

bench: setup     ## the figures, one JSON line each (ARGS=--quick)
	@$(BIN)/python -m benchmarks $(ARGS)

lock:            ## resolve requirements*.txt anew (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --extra dev --no-annotate -o requirements.txt pyproject.toml
	@# the same versions without the tools, for the image
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --extra worker --extra spool --extra simulator --no-annotate \
		--constraint requirements.txt -o requirements-worker.txt pyproject.toml

clean:           ## remove what setup and tests made
	@rm -rf $(VENV) dist build site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
