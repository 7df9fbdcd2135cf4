# make demo: environment, distillation of the embedded teacher, samples, report.  make test: environment, all tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# a thread for each process: small networks gain nothing from more, and lose much where the cores are busy
ONE_THREAD := OMP_NUM_THREADS=1
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; use make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(VENV)/.installed ## distil the embedded digits teacher, draw samples, write runs/digits/version_N/report.md
	$(ONE_THREAD) $(BIN)/freeflow fit --config configs/digits.yaml
	$(ONE_THREAD) $(BIN)/freeflow report runs/digits --reference digits

test: $(VENV)/.installed ## all tests
	$(ONE_THREAD) $(BIN)/pytest -n auto

check: $(VENV)/.installed ## format, lint, types, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(ONE_THREAD) $(BIN)/pytest -n auto -m "not slow"

format: $(VENV)/.installed ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

digits-teacher: $(VENV)/.installed ## train the embedded teacher again (up to an hour)
	$(BIN)/freeflow fit --config configs/digits_teacher.yaml

notebooks: $(VENV)/.installed ## run the notebooks
	$(BIN)/pytest tests/test_notebooks.py

clean: ## remove the environment, runs and caches
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache

.PHONY: help demo test check format digits-teacher notebooks clean
