PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: run test lint evidence check clean

run: $(STAMP)  ## set up and run the main job on the embedded model and problems
	$(BIN)/python -m avpbench $(ARGS)

test: $(STAMP)  ## set up and run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

evidence: $(STAMP)  ## is BENCHMARKS.md what the published records give? (python -m analysis makes it)
	$(BIN)/python -m analysis check

check: lint evidence test  ## what CI runs

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "avpbench needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
