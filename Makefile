PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

# Processes that tests start read the bytecode of the package.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install search test test-quick test-faults test-avx2 check bench bench-gpu golden clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

search: install
	$(BIN)/autodistill search --student mobilenetv2 --budget 20

test: install
	$(PYTEST) -m "not faults"

# Small real studies whose workers, coordinator or Ray node are killed.
test-faults: install
	$(PYTEST) -m faults

# Without tests marked slow, which train studies or start processes.
test-quick: install
	$(PYTEST) -m "not slow"

# Quick tests with the instruction set of processors without AVX-512.
test-avx2: install
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -m "not slow"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	for file in verdict replay policy screening rules step memory images report study eta start; do $(BIN)/python tests/bench/$$file.py || exit 1; done

bench-gpu: install
	for file in gpu_step gpu_many gpu_targets; do $(BIN)/python tests/bench/$$file.py || exit; done

golden: install
	$(BIN)/python -m pytest --update-golden

clean:
	rm -rf .venv build *.egg-info
