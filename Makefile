VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/ready
ASAN := build/asan
FUZZ := build/fuzz
FUZZ_SECONDS ?= 600
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all
RUNTIMES = $(foreach lib,libasan.so libubsan.so libstdc++.so.6,$(shell $(CXX) -print-file-name=$(lib)))

.PHONY: setup demo test test-slow test-gpu test-asan fuzz check format bench clean

$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard core/*)
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

# The C++ core with sanitizers, in an installation of its own, under the tests of the core.
test-asan: setup
	rm -rf $(ASAN)/tree
	$(BIN)/python -m pip install --quiet --no-deps --target $(ASAN)/tree -C build-dir=$(ASAN)/cmake \
	    -C cmake.build-type=RelWithDebInfo -C cmake.define.COMPRESSOR_SANITIZE=ON .
	ls $(ASAN)/tree/compressor/packed/_core.*.so
	LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(BIN)/pytest -q -o pythonpath=$(ASAN)/tree tests/packed/test_core.py

# libFuzzer on the decoders; wants clang. A crash leaves its input beside the corpus.
fuzz:
	mkdir -p $(FUZZ)/corpus
	clang++ -std=c++20 -O1 -g -fsanitize=fuzzer $(SANITIZE) core/fuzz.cpp -o $(FUZZ)/fuzz
	$(FUZZ)/fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 \
	    -artifact_prefix=$(FUZZ)/ $(FUZZ)/corpus

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
	rm -f compressor/packed/_core.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
