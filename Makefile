# From a fresh clone to anything, with python3 (and its pip), make and git. All that is installed stays in this folder;
# only asv keeps a note on the machine in your home.
# ARGS="..." is handed on, e.g. make test ARGS="-k conv2d".

PYTHON ?= python3
UV := .tools/bin/uv
RUN := $(UV) run --frozen
BENCH := $(RUN) --group bench
ASV := $(BENCH) asv --config asv_benchmarks/asv.conf.json
ASV_SMOKE := $(BENCH) asv --config asv_benchmarks/smoke.conf.json
SOURCES = $(wildcard numba_nn/*.py numba_nn/*/*.py numba_nn/*/*/*.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo digits report test lint format parity compare isa-avx2 isa-sse2 isa-check cuda-check cuda-table gpu-check bench bench-smoke publish dashboard clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r t h; do printf '  %-12s %s\n' "$$t" "$$h"; done

$(UV):
	$(PYTHON) -m pip install --quiet --upgrade --target .tools uv

setup: $(UV) ## install the package and its development tools into .venv
	$(UV) sync --frozen

demo: $(UV) ## train an autoencoder on photographs (ARGS="--data DIR": on CIFAR-10)
	$(RUN) --extra demo numba-nn demo autoencoder $(ARGS)

digits: $(UV) ## train a net on handwritten digits, in seconds
	$(RUN) --extra demo numba-nn demo digits $(ARGS)

report: $(UV) ## measure every layer and write docs/layer_report.md and .json (ARGS="--against REV", "--only REGEX", "--quick")
	$(RUN) numba-nn report --output docs $(ARGS)

# Two processes that share the cache of kernels: most of the time goes into compiling. Threads that wait leave the cores to them.
IN_TWO = --numprocesses 2 --dist worksteal

test: $(UV) ## run the tests (those that need PyTorch or CUDA tools: parity, cuda-check)
	OMP_WAIT_POLICY=passive $(RUN) --extra demo pytest $(IN_TWO) --ignore tests/parity --ignore tests/cuda $(ARGS)

lint: $(UV) ## check style, types and docstrings
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) numpydoc lint $(SOURCES)

format: $(UV) ## rewrite the sources in the common style
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# PyTorch is a peer, not a dependency: plain pip and this very version, in an environment of its own. Other packages as locked.
PEERS := .peers/bin/python

.peers/stamp: Makefile pyproject.toml uv.lock | $(UV)
	$(UV) venv --quiet --clear --seed .peers
	$(UV) export --quiet --frozen --no-hashes --no-emit-project --no-default-groups --group test --group compare --output-file .peers/locked.txt
	$(PEERS) -m pip install --quiet torch==2.13.0 -r .peers/locked.txt -e .
	touch $@

parity: .peers/stamp ## compute what PyTorch computes
	OMP_WAIT_POLICY=passive $(PEERS) -m pytest $(IN_TWO) tests/parity tests/test_threads.py $(ARGS)

compare: .peers/stamp ## time the same work in numba_nn, PyTorch, onnxruntime and NumPy (ARGS="--only REGEX", "--quick", "--output docs")
	$(PEERS) -m asv_benchmarks.compare $(ARGS)

# Tiles and vectors follow the instructions that Numba compiles for. What the layers compute is checked for those of other x86
# CPUs too: AVX2, and the narrowest vectors (SSE2).
AVX2 = NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma,+avx,+sse4.2,+sse4.1,+ssse3,+sse3,+sse2,+sse,+bmi,+bmi2,+f16c,+popcnt
SSE2 = NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES=
COMPUTED = pytest tests/test_contract.py tests/test_fusion.py tests/test_gemm.py tests/test_winograd.py -k "formula or derivative or rounds or nan or fused or product or errors"

isa-avx2: $(UV)
	$(AVX2) $(RUN) $(COMPUTED) $(ARGS)

isa-sse2: $(UV)
	$(SSE2) $(RUN) $(COMPUTED) $(ARGS)

isa-check: $(UV) ## check what the layers compute with AVX2, and with SSE2
	$(MAKE) --jobs 2 --output-sync isa-avx2 isa-sse2

cuda-check: $(UV) ## compile the CUDA twins and read their machine code; no GPU needed
	NUMBA_NN_CUDA_TOOLS=required UV_PROJECT_ENVIRONMENT=.cuda $(RUN) --no-default-groups --group cuda-check --group test pytest $(IN_TWO) tests/cuda $(ARGS)

cuda-table: $(UV) ## write docs/gpu_kernels.md: registers, shared memory and instructions of every CUDA kernel
	UV_PROJECT_ENVIRONMENT=.cuda PYTHONPATH=. $(RUN) --no-default-groups --group cuda-check --group test python tests/cuda/kernel_table.py docs/gpu_kernels.md

# Beside PyTorch where `make parity` has installed it, with whatever of CUDA's packages it wants.
gpu-check: $(UV) ## check the library on this machine's GPU, and time it (ARGS="--output FILE --only REGEX --quick")
	@if test -x $(PEERS); then $(PEERS) -m pip install --quiet -e '.[cuda]' && $(PEERS) -m numba_nn.gpu_check $(ARGS); \
	else $(RUN) --extra cuda python -m numba_nn.gpu_check $(ARGS); fi

# The name of this machine in the record: that of its CPU, or MACHINE=...
ASV_RUN_OPTIONS = --show-stderr --machine "$$($(BENCH) python asv_benchmarks/machine.py $(MACHINE))"

bench: $(UV) ## measure the newest commit and add it to the record
	$(ASV) run $(ASV_RUN_OPTIONS) $(ARGS)

bench-smoke: $(UV) ## run every benchmark once, to see that it runs
	$(ASV_SMOKE) check
	$(ASV_SMOKE) run --quick --dry-run $(ASV_RUN_OPTIONS) $(ARGS)
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory publish; else echo "no npm: the page is not made"; fi

# Scripts and styles of the page come from npm once; then it needs no network. Browsers refuse its data from file://.
DASHBOARD_PORT ?= 8642

asv_benchmarks/node_modules: asv_benchmarks/package.json
	npm install --prefix asv_benchmarks --no-package-lock --no-audit --no-fund --silent
	touch $@

publish: $(UV) asv_benchmarks/node_modules ## make the dashboard's page in asv_benchmarks/html (needs npm once)
	$(ASV) publish
	$(BENCH) python asv_benchmarks/offline.py

dashboard: publish ## the history of speed as a web page, served until Ctrl-C
	@echo "open http://localhost:$(DASHBOARD_PORT)"
	$(BENCH) python -m http.server --bind 127.0.0.1 --directory asv_benchmarks/html $(DASHBOARD_PORT)

clean: ## remove all that these targets made
	rm -rf .tools .venv .peers .cuda .asv build dist .pytest_cache .mypy_cache .ruff_cache asv_benchmarks/env asv_benchmarks/html asv_benchmarks/node_modules
