PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench docs clean

help:
	@echo "make setup   create $(VENV) with everything the other targets need (PYTHON=python3.12 chooses the interpreter)"
	@echo "make demo    distil a real teacher on real text, a few minutes on two cores"
	@echo "make test    run the tests"
	@echo "make check   lint, types, import floors, changelog"
	@echo "make bench   measure speed, quality, growth and start-up, and write the tables of docs/performance.md"
	@echo "make docs    build the documentation into build/site"
	@echo "make clean   remove $(VENV) and every tool's cache"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e ".[demo,dev]"
	touch $@

demo: setup
	$(VENV)/bin/stillhouse demo

test: setup
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

check: setup
	scripts/check

# Results of an interrupted run stay. For a GPU: python -m benchmarks gpu
bench: setup
	$(VENV)/bin/python -m benchmarks speed quality scaling startup $(BENCH)
	$(VENV)/bin/python -m benchmarks.table

docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find stillhouse tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
