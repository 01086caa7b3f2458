# The verbs of this project. CI calls `make test` and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# torch first and alone: a resolver that sees it only as a dependency may take another build.
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install install-dev demo check test test-long test-lowest test-newest test-pythons docs bench prove fuzz mutants supply smoke lock install-locked clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("pixmend needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e '.[train]'
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
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not long"

# What waits for minutes for a cluster's workers to come and go.
test-long: install-dev
	$(BIN)/python -m pytest -m long

# The documentation as a site. A warning, such as a broken link, is an error; no page loads anything from elsewhere.
docs: install
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env -b html -c docs . build/site
	@echo "open build/site/docs/index.html"

# Every table of docs/benchmarks.md; PROFILE=full takes hours, and TRAIN=RECORDS HELD_OUT=RECORDS real data.
PROFILE ?= small
bench: install-dev
	$(PIP) install --quiet -c constraints.txt -e '.[bench,metrics]'
	$(BIN)/python benchmarks/everything.py --profile $(PROFILE) $(if $(TRAIN),--train $(TRAIN)) $(if $(HELD_OUT),--held-out $(HELD_OUT))

# What docs/guarantees.md promises, tried by force; PROFILE=full takes hours. Writes prove.json.
prove: PROFILE = quick
prove: install-dev
	$(BIN)/python -m tools.prove --profile $(PROFILE)

# The floors of pyproject.toml, and whatever is newest; torch alone is the one of constraints.txt, whose build fits the machine.
test-lowest:
	$(MAKE) --no-print-directory VENV=.venv-lowest .venv-lowest/.torch
	.venv-lowest/bin/python -m pip --disable-pip-version-check install --quiet packaging
	.venv-lowest/bin/python -m tools.supply floors > .venv-lowest/floors.txt
	.venv-lowest/bin/python -m pip --disable-pip-version-check install --quiet -c .venv-lowest/floors.txt -e '.[test]'
	.venv-lowest/bin/python -m pytest -n auto --dist loadfile $(TESTS)

test-newest:
	$(MAKE) --no-print-directory VENV=.venv-newest .venv-newest/.torch
	.venv-newest/bin/python -m pip --disable-pip-version-check install --quiet --upgrade --upgrade-strategy eager -e '.[test]' \
	  "$$(.venv-newest/bin/python -m pip freeze | grep ^torch==)"
	.venv-newest/bin/python -m pytest -n auto --dist loadfile $(TESTS)

# Every Python that is here, in an environment of its own.
PYTHONS ?= python3.11 python3.12 python3.13
test-pythons:
	for python in $(PYTHONS); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then $(MAKE) --no-print-directory PYTHON=$$python VENV=.venv-$$python test || exit 1; \
	  else echo "$$python is not here"; fi; \
	done

# Coverage-guided fuzzing, all targets in turn; FUZZ="index manifest" for some.
SECONDS ?= 600
fuzz: install-dev
	$(PIP) install --quiet -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tools.fuzz hunt --seconds $(SECONDS) $(FUZZ)

# Do the tests notice a fault? SAMPLE=0 tries every mutant.
SAMPLE ?= 60
mutants: install-dev
	$(BIN)/python -m tools.mutation --sample $(SAMPLE) $(ROOMS)

# What is shipped and what it stands on: see tools/supply/.
supply: build/dist
	$(BIN)/python -m tools.supply contents build/dist/*
	$(BIN)/python -m tools.supply licences
	$(BIN)/python -m tools.supply sizes
	$(BIN)/python -m tools.supply imports
	$(BIN)/python -m tools.supply lock
	$(BIN)/python -m tools.supply sbom

smoke: build/dist
	$(BIN)/python -m tools.supply smoke build/dist/*

build/dist: install-dev $(shell find src -type f -not -name '*.pyc') pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e '.[supply]'
	rm -rf $@
	$(BIN)/python -m hatchling build -d $@

# Hashes of all files of every package of the development set but torch, whose hashes are in requirements-torch.lock.
# From an environment of its own: what somebody put into theirs besides is no part of the set.
lock:
	$(MAKE) --no-print-directory VENV=.venv-lock .venv-lock/.installed-dev
	.venv-lock/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e '.[supply]'
	.venv-lock/bin/python -m pip --disable-pip-version-check freeze --exclude-editable | grep -v -e ^torch -e ^uv= | \
	  .venv-lock/bin/uv pip compile --quiet --no-deps --generate-hashes --no-header $(UV_OPTIONS) -o requirements.lock -

install-locked:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes -r requirements-torch.lock -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
