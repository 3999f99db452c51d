# Every target installs what it needs into VENV first. PYTHON has to be 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo check test lint format bench chase proof clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1	/'

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nnvit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## from photographs to a report on four arms; own data: make demo IMAGES=… MASKS=… [MASK_SUFFIX=…] [OUT=…]
	@$(BIN)/nnvit demo --out $(or $(OUT),demo) $(if $(IMAGES),--images $(IMAGES)) $(if $(MASKS),--masks $(MASKS)) \
	  $(if $(MASK_SUFFIX),--mask-suffix $(MASK_SUFFIX))

check: lint  ## lint, types and the tests that need no training: under 3 minutes on 2 cores; make JOBS=4 check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses $(or $(JOBS),2) --dist loadfile

test: $(INSTALLED)  ## all tests, with real nnU-Net runs; two processes, or make JOBS=4 test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses $(or $(JOBS),2) --dist loadfile --durations=15

lint: $(INSTALLED)  ## check style and types with ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## fix style and formatting with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## measure speed, memory and disk against stock nnU-Net: bench/results, docs/performance.md, docs/bench.svg
	$(BIN)/python bench/table.py --keep

chase: $(INSTALLED)  ## train one table of examples/chase_db1: make chase TABLE=pretraining|heads|detail DATA=… (continues if interrupted)
	$(BIN)/python examples/chase_db1/run.py $(or $(TABLE),pretraining) --data $(or $(DATA),../shared/data/chase_db1)

proof: $(INSTALLED)  ## reproduce every figure of README, docs and examples: make proof DATA=… (hours; continues if interrupted)
	$(BIN)/python proofs/verdict_rates.py
	$(BIN)/python proofs/resume.py --data $(or $(DATA),../shared/data/chase_db1)
	for table in detail heads pretraining; do $(MAKE) chase TABLE=$$table || exit 1; done
	$(BIN)/python examples/chase_db1/comparison.py --data $(or $(DATA),../shared/data/chase_db1)
	$(BIN)/python bench/heads.py --json bench/results/heads.json
	$(BIN)/python bench/scoring.py
	$(MAKE) bench

clean:  ## remove the virtual environment and the demo's folder
	rm -rf $(VENV) demo
