# On a fresh machine: `make demo` and `make test`. Everything lives in .venv and .envs; `make clean` removes both.

.PHONY: help demo test test-all coverage check lint mypy pyright examples docs bench torture test-wheel test-oldest clean
.DEFAULT_GOAL := help

# The Python that .venv is made with; empty: the first one that will do.
PYTHON ?=
# Which other Pythons test-wheel runs on: empty for all that are here, or "newest".
PYTHONS ?=
# Which campaigns, and how long each goes on.
TORTURE ?= tests
TORTURE_SECONDS ?= 60

bin := .venv/bin
python := $(bin)/python
# Half of their time the slow tests wait, for servers, processes and time-outs: four workers keep two cores busy. A page
# of the docs is one script, so a file stays on one worker. A worker that dies ends the run: pytest-xdist would start
# another one and wait for ever (pytest-xdist #784, #1323, #1378). tests/conftest.py says which files begin first.
by_file := --dist loadfile --no-loadscope-reorder --max-worker-restart 0
in_parallel := -n 4 $(by_file)
# The others seldom wait, and a worker more has all of them to collect, which takes it seven seconds of work. What
# `make check` runs is not run twice.
quick := -n 3 $(by_file) -m "not slow and not other_half and not torture" --ignore tests/test_structure.py --ignore tests/torture tests
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Most of what is installed is never imported: Python compiles the rest when it is.
pip_install := -m pip install -qq --no-compile
# Where images of containers turn it off, each worker and each child of a test would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/has-demo ## run the demonstration
	$(bin)/fapilog demo

test: .venv/has-dev ## run the tests on asyncio and trio, but for the slow ones and those of `make check`
	$(python) -m pytest $(quick)

test-all: .venv/has-dev ## run the slow tests too: real servers, databases, browsers and processes
	$(python) -m pytest $(in_parallel)

# Measured, tests take more than twice as long, and the slow ones reach one line in a hundred that the others do not.
coverage: .venv/has-dev ## run all tests but those of `make check`, and measure the coverage of those that are not slow
	@rm -f .coverage .coverage.*
	$(python) -m coverage run -m pytest $(quick)
	@$(python) -m coverage combine --quiet
	$(python) -m coverage report
	$(python) -m pytest $(in_parallel) -m "slow and not torture" tests

check: .venv/has-dev ## lint, types, docs, examples, structure
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint mypy pyright docs examples

lint:
	$(bin)/ruff check
	$(bin)/ruff format --check

mypy:
	$(bin)/mypy

pyright:
	PATH="$(CURDIR)/$(bin):$$PATH" basedpyright
	PATH="$(CURDIR)/$(bin):$$PATH" $(python) .ci/typed

examples:
	$(python) -m pytest -q $(in_parallel) docs README.md tests/test_structure.py

docs: .venv/has-dev ## build the docs into docs/_build
	$(python) -m sphinx -E -n -W --keep-going -q -b html docs docs/_build

bench: .venv/has-dev ## measure against the peers
	$(python) -m benchmarks

torture: .venv/has-dev ## kill, tear, flip and fill up, in long campaigns of TORTURE_SECONDS each
	$(python) -m pytest -m torture -n 4 --max-worker-restart 0 --hypothesis-profile full \
		-o faulthandler_timeout=0 --torture-seconds $(TORTURE_SECONDS) $(TORTURE)

test-wheel: .venv/has-dev ## run the tests against the built wheel: without extras, and with all on every other CPython here
	bash .ci/test-wheel $(python) $(PYTHONS)

test-oldest: .venv/has-dev ## run the tests of the integrations with the oldest frameworks that the group test allows
	bash .ci/test-oldest $(python) .envs/oldest

clean: ## remove everything that make has made
	rm -rf .venv .envs .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/has-pip:
	python=$$(bash .ci/find-python $(PYTHON)) && "$$python" -m venv --clear .venv
	$(python) $(pip_install) --upgrade pip  # --group needs pip 25.1
	@touch $@

.venv/has-demo: .venv/has-pip pyproject.toml
	$(python) $(pip_install) --editable '.[cli]'
	@touch $@

.venv/has-dev: .venv/has-pip pyproject.toml
	$(python) $(pip_install) --editable '.[all]' --group dev
	@touch .venv/has-demo $@
