# The verbs of this project. CI calls `make test` and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# torch first and alone: a resolver that sees it only as a dependency may take another build.
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install install-dev demo check test bench prove clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("pixmend needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

demo: install
	$(BIN)/pixmend demo --out demo

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest -n auto --dist loadfile

# Every table of docs/benchmarks.md; PROFILE=full takes hours, and TRAIN=RECORDS HELD_OUT=RECORDS real data.
PROFILE ?= small
bench: install-dev
	$(PIP) install --quiet -c constraints.txt -e '.[bench,metrics]'
	$(BIN)/python benchmarks/everything.py --profile $(PROFILE) $(if $(TRAIN),--train $(TRAIN)) $(if $(HELD_OUT),--held-out $(HELD_OUT))

# What docs/guarantees.md promises, tried by force; PROFILE=full takes hours. Writes prove.json.
prove: PROFILE = quick
prove: install-dev
	$(BIN)/python -m prove --profile $(PROFILE)

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
