# Everything runs in .venv; a stamp file for each set of extras makes repeated calls quick.
#   make demo   run the quickstart notebook on a local cluster and show what it did
#   make test   lint, types, tests: what .ci/run runs
#   make lab    open the quickstart in JupyterLab; LAB="--no-browser"
#   make bench  compare with other systems on this machine; BENCH="--quick", BENCH="--all"
#   make clean  remove all that these made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test lab bench clean
.DELETE_ON_ERROR:

demo: $(STAMPS)/demo
	$(BIN)/python -m parallelkit.jupyter.demo build/demo

test: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest $(PYTEST)

lab: $(STAMPS)/notebook
	$(BIN)/jupyter lab $(LAB) notebooks/quickstart.ipynb

bench: $(STAMPS)/bench
	$(BIN)/python benchmarks/run.py $(BENCH)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis notebooks/quickstart-report.html
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "parallelkit needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/notebook $(STAMPS)/bench: pyproject.toml | $(STAMPS)/created
	$(PIP) install --editable '.[$(notdir $@)]'
	@touch $@
