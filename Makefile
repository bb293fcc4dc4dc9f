# `make demo` and `make test` set everything up by themselves and are quick the second time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo space test test-slow style quality wheel image train-tiny train-small cad-parts bench gpu fuzz \
  audit clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python must be 3.11 or newer (transformers 5.21 needs it), got " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
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

space: install ## Assemble a complete Space in build/space (MODEL=user/name: with a model from the Hub)
	$(BIN)/anomalygpt push-space anomalygpt --output build/space $(if $(MODEL),--model $(MODEL))

# A file of tests a process, on at most four cores, each with one thread.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

test: install ## Run the tests
	$(PYTEST)

test-slow: install ## Run the slow tests as well
	$(PYTEST) -m "slow or not slow"

# The embedded checkpoint from nothing (recipes/tiny/README.md): PHOTOGRAPHS=DIR LITE0=FILE DINOV2=FILE SMOLLM2=DIR
TINY ?= build/tiny
RECIPE := $(BIN)/python -m recipes.tiny
train-tiny: $(TINY)/final/model.safetensors ## Make the embedded checkpoint (a few hours on two cores)

$(TINY)/tokenizer/tokenizer.json: | $(VENV)/.installed
	$(RECIPE).tokenizer --base $(SMOLLM2) --output $(@D)
$(TINY)/vision/model.safetensors: | $(VENV)/.installed
	$(RECIPE).vision $(LITE0) $(DINOV2) --photographs $(PHOTOGRAPHS) --output $(@D)
$(TINY)/start/model.safetensors: $(TINY)/tokenizer/tokenizer.json $(TINY)/vision/model.safetensors
	$(RECIPE).assemble start --vision $(TINY)/vision --tokenizer $(TINY)/tokenizer --output $(@D)
$(TINY)/language/model.safetensors: $(TINY)/start/model.safetensors
	$(RECIPE).language --checkpoint $(TINY)/start --output $(@D) --steps 6000 --threads 2 --resume
$(TINY)/rendered.npz: $(TINY)/start/model.safetensors
	$(RECIPE).evidence --checkpoint $(TINY)/start --output $@ --products 600 --threads 2
$(TINY)/photographs.npz: $(TINY)/start/model.safetensors
	$(RECIPE).evidence --checkpoint $(TINY)/start --output $@ --products 0 --photographs $(PHOTOGRAPHS) --views 300 --threads 2
$(TINY)/localized/model.safetensors: $(TINY)/language/model.safetensors $(TINY)/rendered.npz $(TINY)/photographs.npz
	$(RECIPE).localizer --checkpoint $(TINY)/language --evidence $(TINY)/rendered.npz $(TINY)/photographs.npz --output $(@D) --threads 2
$(TINY)/kinds/model.safetensors: $(TINY)/localized/model.safetensors
	$(RECIPE).kinds --checkpoint $(TINY)/localized --output $(@D)
$(TINY)/final/model.safetensors: $(TINY)/kinds/model.safetensors
	$(RECIPE).assemble finish --checkpoint $(TINY)/kinds --output $(@D)

# The adapter of `--model small`: SMOLLM2=DIR_OR_ID
SMALL ?= build/small
train-small: $(SMALL)/adapter_model.safetensors ## Make the adapter of --model small (some hours on two cores)
$(SMALL)/adapter_model.safetensors: | $(VENV)/.installed
	$(BIN)/python -m recipes.small.language --language $(SMOLLM2) --output $(@D) --threads 2 --resume

# Goes on where it was stopped. With Debian's libllvm19 (or any from 16 on) it is four times as fast as without.
CAD ?= build/cad_parts
cad-parts: install ## Render the pictures of CAD parts and pack them (about three hours on two cores)
	$(BIN)/python -m pip install --quiet --editable ".[cad]"
	$(BIN)/python -m recipes.cad_parts.render --output $(CAD) --workers 2
	$(BIN)/python -m recipes.cad_parts.pack --pictures $(CAD)

style: install ## Format the code and sort the imports
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

quality: install ## Check style without changing anything
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

wheel: install ## Build the wheel into dist/
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --wheel --outdir dist .

# Podman: make image CONTAINER="podman build --format docker", without which it leaves out the health check.
CONTAINER ?= docker build
image: wheel ## Build the container image of the service from the wheel (needs docker or podman)
	$(CONTAINER) --tag anomalygpt .

bench: install ## Measure speed and memory (half an hour), write the tables
	$(BIN)/python -m benchmarks.speed && $(BIN)/python -m benchmarks.documents

gpu: ## Measure on a GPU with random weights at full size (under ten minutes)
	sh benchmarks/gpu.sh

# A test that stands still for half an hour is ended, with a trace of where it stood.
FUZZ ?= 3000
fuzz: install ## Read thousands of damaged and strange files (FUZZ=3000 for each kind)
	HF_HUB_OFFLINE=1 ANOMALYGPT_FUZZ=$(FUZZ) $(BIN)/python -m pytest -q tests/test_fuzzing.py \
	  -o faulthandler_timeout=1800 -o faulthandler_exit_on_timeout=true --hypothesis-show-statistics

ADVISORIES ?= https://pypi.org
audit: install ## Look up known weaknesses of the installed packages (needs the network)
	@$(BIN)/python -c "import json, urllib.request as r; json.load(r.urlopen('$(ADVISORIES)/pypi/pip/24.0/json', timeout=10))['vulnerabilities']" 2>/dev/null || \
	  { echo "make audit: $(ADVISORIES), the list of known weaknesses, cannot be read (no network, or a mirror without it). Nothing was audited."; exit 2; }
	@$(BIN)/python -m pip install --quiet "pip-audit>=2.10,<3"
	$(BIN)/python -m pip_audit --local --skip-editable

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist results *.egg-info
