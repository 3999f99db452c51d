# `make demo` and `make test` do all the set-up themselves. PYTHON needs to be 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test lint format bench chase proof clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1	/'

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nnvit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## the whole path, three arms and the report; own data: make demo IMAGES=… MASKS=… [MASK_SUFFIX=…] [OUT=…]
	@$(BIN)/nnvit demo --out $(or $(OUT),demo) $(if $(IMAGES),--images $(IMAGES)) $(if $(MASKS),--masks $(MASKS)) \
	  $(if $(MASK_SUFFIX),--mask-suffix $(MASK_SUFFIX))

test: $(INSTALLED)  ## all tests, with real nnU-Net runs; two files at a time, or make JOBS=4 test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses $(or $(JOBS),2) --dist loadfile --durations=15

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## speed, memory and disk against the references, ours and theirs in turn: bench/results, docs/bench.svg
	$(BIN)/python bench/table.py --keep

chase: $(INSTALLED)  ## one table of examples/chase_db1: make chase TABLE=pretraining|heads|detail DATA=… (goes on where it stopped)
	$(BIN)/python examples/chase_db1/run.py $(or $(TABLE),pretraining) --data $(or $(DATA),../shared/data/chase_db1)

proof: $(INSTALLED)  ## every figure of README and examples, one after the other: make proof DATA=… (hours; goes on where it stopped)
	$(BIN)/python proofs/verdict_rates.py
	$(BIN)/python proofs/resume.py --data $(or $(DATA),../shared/data/chase_db1)
	for table in detail heads pretraining; do $(MAKE) chase TABLE=$$table || exit 1; done
	$(BIN)/python examples/chase_db1/comparison.py --data $(or $(DATA),../shared/data/chase_db1)
	$(BIN)/python bench/heads.py --json bench/results/heads.json
	$(BIN)/python bench/scoring.py
	$(MAKE) bench

clean:  ## remove the virtual environment and the demo
	rm -rf $(VENV) demo
