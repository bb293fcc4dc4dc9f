# `make demo` and `make test` set everything up by themselves and are quick the second time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow style quality wheel clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Installed again only when what is installed has changed.
$(VENV)/.installed: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,dev]"
	@touch $@

install: $(VENV)/.installed ## Make .venv and install the package with what training and tests need

demo: install ## Inspect the example pictures with the embedded checkpoint
	$(BIN)/anomalygpt inspect examples/capsules/query --references examples/capsules/good --category capsules --output results/demo

test: install ## Run the tests (under ten minutes on two cores)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q

test-slow: install ## Run the slow tests as well
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m "slow or not slow"

style: install ## Format the code and sort the imports
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

quality: install ## Check style without changing anything
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

wheel: install ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist .

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist results *.egg-info
