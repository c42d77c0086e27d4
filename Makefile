# `make compare` and `make test` are the two commands of the README. Both set up .venv when needed.
PYTHON ?= python3
BIN := .venv/bin

# Where the results stand that the README quotes, and the commands that make them.
STORED := --results benchmarks/stored
COMPARE = $(BIN)/lfp-bench compare $(STORED)
A := 1 2 3 4 5 6 7 8 9
CARD_GRID := $(shell printf '%se-5,' $(A))$(shell printf '%se-4,' $(A))1e-3
GENERAL := lfp,sgd,wsgd,fa,eg,madam,surrogate
EPSILONS := 1e-6 0.03 0.1 0.3 1

.PHONY: compare test lint types peer coverage perf dashboard gate reproduce clean

compare: .venv/ready
	$(BIN)/lfp-bench compare

# The hash seed gives sets one order in all processes, which have to collect the same tests.
test: .venv/ready lint types
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/ready
	$(BIN)/mypy

peer: .venv/ready
	$(BIN)/tox -e peer

# Which models the engine trains: docs/coverage.md. For timm and transformers, install them first.
coverage: .venv/ready
	$(BIN)/lfp-bench coverage $(STORED)

# The performance history: measure HEAD into it on an idle machine, show it, compare with a release.
perf: .venv/ready
	$(BIN)/python -m benchmarks.performance.history

dashboard: .venv/ready
	$(BIN)/python -m benchmarks.performance.dashboard

gate: .venv/ready
	$(BIN)/python -m benchmarks.performance.gate $(BASE)

# All that the README quotes: about eight hours on two cores. `speed` runs in the environment that has
# the authors' package. Delete a study's folder to make it again; what is there is not repeated.
reproduce: peer
	$(COMPARE) --study digits --methods $(GENERAL),pso,pso-torch,rstdp,rstdp-batched,rstdp-dense \
	  --seconds pso=10 --seconds pso-torch=10
	$(COMPARE) --study mnist-mlp --dataset mnist --model mlp --threads 1 --epochs 5 --sweep-seeds 1 \
	  --methods $(GENERAL),pso-torch,rstdp,rstdp-dense --seconds pso-torch=60 \
	  --seconds rstdp=120
	$(COMPARE) --study mnist-swarms --dataset mnist --model mlp --activations relu --epochs 100 \
	  --methods pso-stable,pso-torch-stable --seeds 1 --threads 1 \
	  --seconds pso-stable=590 --seconds pso-torch-stable=590
	$(BIN)/python -m benchmarks.experiments.swarm_ablation $(STORED)
	$(COMPARE) --study mnist-rstdp --dataset mnist --model mlp --methods rstdp-tuned \
	  --activations lif --epochs 10 --threads 1
	for beta in 0.3 0.6 0.9; do for T in 5 15 25; do $(COMPARE) \
	  --study mnist-snn-beta-$$beta-T-$$T --beta $$beta --time-steps $$T --dataset mnist \
	  --model mlp-1000 --methods lfp --activations lif --epochs 3 --schedule one-cycle \
	  --adaptive-clip 0.06 --max-norm --clip-norm 0 --learning-rate lfp=0.1 --threads 1 \
	  || exit; done; done
	$(BIN)/python -m benchmarks.performance.swarms > speed.tmp \
	  && mv speed.tmp benchmarks/stored/speed-pso.json
	$(BIN)/python -m benchmarks.performance.rstdp > speed.tmp \
	  && mv speed.tmp benchmarks/stored/speed-rstdp.json
	.tox/peer/bin/python -m benchmarks.performance.spiking > speed.tmp \
	  && mv speed.tmp benchmarks/stored/speed-spiking.json
	for set in blobs circles swirls; do $(COMPARE) --study toy-$$set --dataset $$set \
	  --methods lfp,sgd --activations relu --seeds 5 --sweep-seeds 5 --momentum 0.95 \
	  --clip-norm 0 --reduction sum --learning-rates $(CARD_GRID) || exit; done
	$(COMPARE) --study mnist-lenet-lfp --dataset mnist --methods lfp --activations relu \
	  --epochs 5 --learning-rate lfp=0.01 --reduction sum --threads 1
	$(COMPARE) --study mnist-lenet-sgd --dataset mnist --methods sgd --activations relu \
	  --epochs 5 --learning-rate sgd=0.1 --threads 1
	for epsilon in $(EPSILONS); do $(COMPARE) --study mnist-mlp-epsilon-$$epsilon --dataset mnist \
	  --model mlp --methods lfp --activations sigmoid,heaviside --epochs 5 --sweep-epochs 2 \
	  --sweep-seeds 1 --learning-rates 0.001,0.003,0.01,0.03,0.1 --reduction sum \
	  --epsilon $$epsilon || exit; done
	$(COMPARE) --study mnist-mlp-sgd --dataset mnist --model mlp --methods sgd,wsgd \
	  --activations sigmoid,heaviside --epochs 5 --sweep-epochs 2 --sweep-seeds 1 \
	  --learning-rates 0.001,0.003,0.01,0.03,0.1,0.3
	for epsilon in 1e-6 0.3; do $(BIN)/lfp-bench diagnose $(STORED) \
	  --study diagnosis-epsilon-$$epsilon --epsilon $$epsilon \
	  --activations relu,tanh,sigmoid,heaviside --learning-rate 0.003 || exit; done
	.tox/peer/bin/lfp-bench speed $(STORED) --study speed-lenet --models lenet \
	  --peer --threads 1 --repeats 60
	.tox/peer/bin/lfp-bench speed $(STORED) --study speed-vgg-like --models vgg-like \
	  --activations relu,silu,elu,tanh,sigmoid,heaviside \
	  --peer --threads 1 --repeats 20
	.tox/peer/bin/lfp-bench speed $(STORED) --study speed-mlp --models toy-mlp,mlp \
	  --activations relu,silu,elu,tanh,sigmoid,heaviside \
	  --methods lfp,sgd,wsgd,fa,eg,madam --peer --threads 1 --repeats 300
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.performance.steps \
	  benchmarks/stored/speed-compiled.json cpu 200 mlp lenet
	$(BIN)/python -m benchmarks.performance.roofline
	$(BIN)/python -m benchmarks.performance.scaling
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.performance.weak_scaling \
	  benchmarks/stored/weak-scaling --steps 50 --batch-size 64 --processes 1 2
	for study in gates units normalisation; do OMP_NUM_THREADS=1 $(BIN)/python \
	  -m benchmarks.experiments.treatments $$study || exit; done
	for study in pruning regression transfer language vit; do \
	  $(BIN)/lfp-bench run $$study --size cpu $(STORED) || exit; done

# Written last, so that an interrupted installation is done again.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .tox .asv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
