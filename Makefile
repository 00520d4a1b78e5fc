# Everything here needs Python (3.11 or newer) and pip alone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# On Linux the package index gives torch's CUDA build, with some gigabytes of nvidia packages beside it that
# constraints.txt does not pin. For a machine without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the
# CPU build: for torch itself alone, the rest still comes from the usual index.
TORCH_INDEX ?=
# Threads of one test process; two run side by side, and one that has finished takes what the other has left.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: demo test quick figures gpu bench bench-gpu check train-tiny clean

demo: $(VENV)/.core  ## set everything up and animate the example photograph
	$(BIN)/stillmotion generate examples/rocket.jpg -o outputs

test: $(VENV)/.dev  ## set everything up and run every test but the long figures
	$(TEST) -m "not figures and not gpu"

quick: $(VENV)/.dev  ## the suite for every edit
	$(TEST) -m "not slow and not figures and not gpu"

figures: $(VENV)/.dev  ## the long figures, recorded in benchmarks/results
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -s -m figures

gpu: $(VENV)/.dev  ## the tests that need CUDA; each skips with its reason elsewhere
	$(BIN)/python -m pytest -q -s tests/gpu -m gpu

bench: $(VENV)/.dev  ## every figure of a processor against diffusers, in about an hour; resumes where it stopped
	$(BIN)/python benchmarks/bench.py

bench-gpu: $(VENV)/.dev  ## every figure of a GPU
	$(BIN)/python benchmarks/bench.py --suite gpu

check: $(VENV)/.dev  ## lint, types, architecture
	VENV=$(VENV) scripts/check

train-tiny: $(VENV)/.dev  ## train a model of the embedded kind from nothing: hours on two cores
	$(BIN)/stillmotion train-tiny runs/tiny --export src/stillmotion/weights/tiny

# torch first and alone, so that no other package's wish pulls in a build for another machine.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml hatch_build.py $(wildcard src/stillmotion/kernels/*.[ch])
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) outputs
