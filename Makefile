VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/ready

.PHONY: setup demo test test-slow test-gpu check format bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $(READY)

setup: $(READY)

demo: setup
	$(BIN)/compressor run digits

test: setup
	$(BIN)/pytest -q -n 2 --dist loadfile -m 'not slow and not gpu'

test-slow: setup
	$(BIN)/pytest -q -n 2 --dist loadfile -m slow

test-gpu: setup
	$(BIN)/pytest -q -m gpu -rs

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python benchmarks/masked_training.py
	$(BIN)/python benchmarks/onnx_load.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/rewinding.py
	$(BIN)/python benchmarks/asni.py
	$(BIN)/python benchmarks/reproduction.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
