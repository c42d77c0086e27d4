# `make compare` and `make test` are the two commands of the README. Both set up .venv when needed.
PYTHON ?= python3
BIN := .venv/bin

# Where the results stand that the README quotes, and the commands that make them.
STORED := --results benchmarks/stored
# The studies in benchmarks/studies that `reproduce` makes at size cpu; each says what it is.
STUDIES := all-methods authors-epsilon epsilon toy lenet snn snn-losses rstdp swarms pso-ablation pruning \
  regression transfer language vit units gates initial-feedback normalisation alignment \
  output-epsilon noise depth two-weights importance samples searches cifar10 forward-forward

.PHONY: compare test test-fast test-thorough lint types docs peer coverage perf dashboard gate reproduce clean

compare: .venv/native
	LFP_JOBS=auto $(BIN)/lfp-bench compare

# The hash seed gives sets one order in all processes, which have to collect the same tests.
test: .venv/ready lint types
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n auto --dist worksteal

# Under two minutes on two cores.
test-fast: .venv/ready
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n auto --dist worksteal \
	  -m "not slow and not compiled and not coverage"
	@echo "Left out: lint and types, and the tests that are marked slow (those of more than two seconds:"
	@echo "studies, processes, training, stored results) and compiled (torch.compile). make test runs them."

# Every combination of which `test` has a few, and ten times as many random examples, which differ each
# time; the nightly workflow runs the same (tox.ini).
test-thorough: .venv/ready
	PYTHONHASHSEED=0 LFP_PROFILE=explore $(BIN)/python -m pytest -n auto --dist worksteal \
	  -m "thorough or not (slow or compiled or coverage or soak)"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/ready
	$(BIN)/mypy

# The documentation site, into .site, with warnings as errors.
docs: .venv/ready
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/mkdocs build --strict

peer: .venv/ready
	$(BIN)/tox -e peer

# Which models the engine trains: docs/coverage.md. For timm and transformers, install them first.
coverage: .venv/ready
	$(BIN)/lfp-bench coverage $(STORED)

# The performance history: measure HEAD into it on an idle machine, show it, compare with a release.
perf: .venv/ready
	$(BIN)/lfp-bench perf history

dashboard: .venv/ready
	$(BIN)/lfp-bench perf dashboard

gate: .venv/ready
	$(BIN)/lfp-bench perf gate $(BASE)

# All that the README quotes: about eight hours on two cores. `speed` runs in the environment that has
# the authors' package. Delete a study's folder to make it again; what is there is not repeated.
reproduce: peer .venv/native
	for study in $(STUDIES); do \
	  $(BIN)/lfp-bench run $$study --size cpu --threads 1 $(STORED) || exit; done
	$(BIN)/lfp-bench pack benchmarks/stored
	for epsilon in 1e-6 0.3; do $(BIN)/lfp-bench diagnose $(STORED) \
	  --study diagnosis-epsilon-$$epsilon --epsilon $$epsilon \
	  --activations relu,tanh,sigmoid,heaviside --learning-rate 0.003 || exit; done
	.tox/peer/bin/lfp-bench speed $(STORED) --study speed-lenet --models lenet \
	  --peer --threads 1 --repeats 60
	.tox/peer/bin/lfp-bench speed $(STORED) --study speed-vgg-like --models vgg-like \
	  --activations relu,silu,elu,tanh,sigmoid,heaviside \
	  --peer --threads 1 --repeats 20
	$(BIN)/lfp-bench speed $(STORED) --study speed-mlp --models toy-mlp,mlp \
	  --activations relu,silu,elu,tanh,sigmoid,heaviside --methods lfp,sgd --threads 1 --repeats 500
	.tox/peer/bin/lfp-bench speed $(STORED) --study speed-mlp-peer --models toy-mlp,mlp \
	  --activations relu,silu,elu,tanh,sigmoid,heaviside --methods lfp,sgd --peer --threads 1 --repeats 500
	OMP_NUM_THREADS=1 .tox/peer/bin/lfp-bench perf spiking $(STORED)
	MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000 OMP_NUM_THREADS=1 \
	  .tox/peer/bin/lfp-bench perf spiking --results benchmarks/stored/kept-memory
	for what in swarms rstdp roofline scaling "weak-scaling --steps 50" \
	  "steps --models mlp,lenet --rounds 200 --device cpu --threads 1"; do \
	  $(BIN)/lfp-bench perf $$what $(STORED) || exit; done

# Written last, so that an interrupted installation is done again. The first help of `compare` imports
# the methods, to learn their options; what it learns is kept, and all that follow come at once.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/lfp-bench compare --help > /dev/null
	touch $@

# Optional: small networks learn faster by them, and the same bits. Without a compiler it says so.
.venv/native: .venv/ready lfp_core/native.cpp
	-$(BIN)/python -m lfp_core.build_native
	touch $@

clean:
	rm -rf lfp_core/_native.* .venv .tox .asv .site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
