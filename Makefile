# Needs Python 3.11 or newer and nothing else. Everything goes into .venv and runs/.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
DOCS ?= docs/_build
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
DEVINTERP = $(VENV)/.devinterp

.PHONY: demo test docs lint setup clean

demo: setup ## set up and run the main job; the report is runs/demo/report.html
	$(BIN)/llc-dynamics demo --out $(RUNS)/demo

test: setup $(DEVINTERP) ## set up, check style and types, run the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2

docs: setup ## build the pages of docs/ into docs/_build; any warning is an error
	$(BIN)/sphinx-build -W --keep-going -q docs $(DOCS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# The tests run its optimisers, which need torch and numpy alone; the thirty other packages it asks for are 400 MB.
$(DEVINTERP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt devinterp
	touch $(DEVINTERP)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
