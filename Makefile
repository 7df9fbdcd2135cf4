# make demo: environment, distillation of the embedded faces teacher, samples, report.  make test: environment, all tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# a thread for each process: small networks gain nothing from more, and lose much where the cores are busy
ONE_THREAD := OMP_NUM_THREADS=1
# a report draws batches of hundreds, which take half the time on two cores; its figures are the same
TWO_THREADS := OMP_NUM_THREADS=2
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; use make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(VENV)/.installed ## distil the embedded faces teacher, draw samples, write runs/faces_final/version_N/report.md
	$(ONE_THREAD) $(BIN)/freeflow fit --config configs/faces.yaml
	$(ONE_THREAD) $(BIN)/freeflow fit --config configs/faces_final.yaml --ckpt_path runs/faces
	$(TWO_THREADS) $(BIN)/freeflow report runs/faces_final --reference faces --num_samples 640

demo-digits: $(VENV)/.installed ## the same with the embedded digits teacher: runs/digits/version_N/report.md
	$(ONE_THREAD) $(BIN)/freeflow fit --config configs/digits.yaml
	$(TWO_THREADS) $(BIN)/freeflow report runs/digits --reference digits

test: $(VENV)/.installed ## all tests
	$(ONE_THREAD) $(BIN)/pytest -n auto --dist worksteal

check: $(VENV)/.installed ## format, lint, types, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(ONE_THREAD) $(BIN)/pytest -n auto --dist worksteal -m "not slow"

format: $(VENV)/.installed ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

faces-data: $(VENV)/.installed ## draw the faces that the embedded teacher was trained on (needs node)
	npm install --no-package-lock --prefix notebooks/tools/faces
	mkdir -p runs
	node notebooks/tools/faces/draw_faces.mjs 50000 runs/faces.jsonl
	$(BIN)/python notebooks/tools/faces/rasterize.py runs/faces.jsonl runs/faces.npz

faces-teacher: $(VENV)/.installed ## train the embedded faces teacher again (an hour); make faces-data comes first
	$(ONE_THREAD) $(BIN)/freeflow fit --config configs/faces_teacher.yaml

digits-teacher: $(VENV)/.installed ## train the embedded digits teacher again (up to an hour)
	$(BIN)/freeflow fit --config configs/digits_teacher.yaml

docs: $(VENV)/.installed ## build the documentation into site/ (python -m http.server -d site shows it, with its search)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

notebooks: $(VENV)/.installed ## run the notebooks
	$(BIN)/pytest tests/test_notebooks.py

clean: ## remove the environment, runs and caches
	rm -rf $(VENV) runs site .pytest_cache .mypy_cache .ruff_cache

.PHONY: help demo demo-digits test check format faces-data faces-teacher digits-teacher docs notebooks clean
