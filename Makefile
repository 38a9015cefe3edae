# `make demo` and `make test` need only Python 3.11+ and a package registry: every target
# creates its environment first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test lint types pytest docs chaos soak mutants bench lock sbom audit clean

help:            ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(STAMP)  ## create .venv with the locked dependencies

# The stamp file marks an installed environment; a change of the lock file or of the project's
# metadata rebuilds it. The version check comes first, so that an old Python fails with one line.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "penstock needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "Creating $(VENV) (first run only; takes a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup      ## run a stream and a batch on this machine, without any setup (ARGS=--keep, ARGS=--live)
	@$(BIN)/penstock demo $(ARGS)

test: lint types pytest  ## run ruff, mypy --strict and pytest

lint: setup      ## run ruff, as a linter and as a formatter that changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup     ## run mypy --strict
	@$(BIN)/mypy

pytest: setup    ## run the tests (ARGS="tests/unit -k words")
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

docs: setup      ## build the documentation into site/ (ARGS=serve: preview on 127.0.0.1:8000)
	@$(BIN)/python -m docs.site $(ARGS)

chaos: setup     ## run streams and jobs under faults, kills and outages (STREAMS="--streams 200" JOBS="--times 2")
	@$(BIN)/python -m tests.chaos.run $(STREAMS)
	@$(BIN)/python -m tests.chaos.run --kinds refusals,stalls,lies $(STREAMS)
	@$(BIN)/python -m tests.chaos.run --kinds all $(STREAMS)
	@$(BIN)/python -m tests.chaos.malformed_run $(STREAMS)
	@$(BIN)/python -m tests.chaos.batch_run $(JOBS)
	@$(BIN)/python -m tests.chaos.batch_run --trouble 200
	@$(BIN)/python -m tests.chaos.batch_run --trouble 200 --kinds all

soak: setup      ## run streams and jobs for 15 minutes; fails if memory, descriptors or keys grow (ARGS="--minutes 2")
	@$(BIN)/python -m tests.chaos.soak_run $(ARGS)

mutants: setup   ## plant small faults and list those that no test notices (ARGS="--sample 100 --seed 1")
	@$(BIN)/python -m tests.mutants.run $(ARGS)

bench: setup     ## run the benchmarks; prints one JSON object per line (ARGS=--quick)
	@$(BIN)/python -m benchmarks $(ARGS)

lock:            ## update requirements*.txt (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --extra dev --no-annotate -o requirements.txt pyproject.toml
	@# the same versions without development tools, for the image
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --extra worker --extra spool --extra simulator --no-annotate \
		--constraint requirements.txt -o requirements-worker.txt pyproject.toml

sbom: build/tools/.sbom  ## write build/sbom.cdx.json: the packages of the image (CycloneDX)
	@build/tools/bin/cyclonedx-py requirements requirements-worker.txt -o build/sbom.cdx.json

audit: build/tools/.audit  ## compare the packages of the image with known vulnerabilities (needs PyPI)
	@build/tools/bin/pip-audit --strict --disable-pip --require-hashes -r requirements-worker.txt \
		|| { echo "a package has an advisory, or the advisories of PyPI could not be read: see above"; exit 1; }

# Tools that nothing else needs, in an environment of their own; needed once, from the registry.
build/tools/.sbom build/tools/.audit:
	@test -x build/tools/bin/python || $(PYTHON) -m venv build/tools
	@build/tools/bin/python -m pip install --quiet --disable-pip-version-check \
		$(if $(findstring sbom,$@),cyclonedx-bom,pip-audit)
	@touch $@

clean:           ## remove everything that setup, tests and builds have created
	@rm -rf $(VENV) dist build site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
