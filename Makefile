# make run: set up, train PPO on CartPole, evaluate it.    make test: set up, run the tests.
# make lint | bench | verify | results [NAME=config] | uncertainty | latent | fuzz | mutants. Everything is installed into .venv; only make, git
# and python3 are assumed.    make gpu [OUT=gpu.json]: check and measure on a GPU, by $(PYTHON) as it is.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test lint bench gpu verify results uncertainty latent fuzz mutants clean

run: .venv/installed
	@set -e; run="runs/cartpole_ppo/$$(date +%Y%m%d-%H%M%S)"; \
	$(BIN)/rlcore train cartpole_ppo --run-dir "$$run"; \
	$(BIN)/rlcore eval "$$run" --episodes 100; \
	echo "Look at it: $(BIN)/tensorboard --logdir runs    (everything of this run is in $$run)"

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/snippets.py
	@# A type error planted in agents/ must be seen: mypy once skipped that folder in silence.
	@trap 'rm -f agents/planted_type_error.py' EXIT; \
	printf '"""Planted by make lint."""\n\nnumber: int = "no number"\n' > agents/planted_type_error.py; \
	if $(BIN)/mypy | grep -q planted_type_error; then echo "mypy sees agents/"; \
	else echo "mypy does not see agents/"; exit 1; fi

bench: .venv/installed-bench
	cd benchmarks && for one in ppo.py "ppo.py Acrobot-v1" "ppo.py Pendulum-v1" envs.py scaling.py events.py supervised.py memory_layout.py uncertainty.py autoencoder.py \
	  "search.py 1" "search.py 2" selfplay.py solve.py; do \
	  ../$(BIN)/python $$one || exit 1; echo; done

# On a machine with a GPU, in six minutes. Nothing is installed: torch with CUDA is that machine's, and so are the other modules.
gpu:
	$(PYTHON) benchmarks/gpu.py $(if $(OUT),--out $(OUT)) $(ARGS)

# One seed of the short configs: those in benchmarks/results of which a run took less than five minutes, but for connect4_alphago where the
# run that it begins with is not there; MNIST's read its files, or fetch them. All: rlcore verify --all.
verify: .venv/installed-all
	@set -e; short=$$($(BIN)/python benchmarks/results.py under 300); $(BIN)/rlcore verify $$short --jobs 2

# docs/results.md; with NAME the seeds of that config first (SEEDS="6 7 8": others), from where they were cut.
results: .venv/installed-all
	$(BIN)/python benchmarks/results.py $(if $(NAME),run $(NAME) $(if $(SEEDS),--seeds $(SEEDS)),page)

# The tables of docs/uncertainty.md; some three hours on two cores.
UNCERTAIN := runs/uncertainty
uncertainty: .venv/installed
	@set -e; train="$(BIN)/rlcore train"; \
	for classes in null "['0','1','2','3','4','5','6','7']"; do \
	  of=$$([ "$$classes" = null ] || echo -8); \
	  $$train mnist_lenet_dropout agent.network.batch_norm=false threads=1 --seeds 5 --jobs 2 "env.classes=$$classes" \
	    --run-dir $(UNCERTAIN)/mnist_lenet_dropout$$of; \
	  $$train mnist_lenet_ensemble threads=1 --seeds 5 --jobs 2 "env.classes=$$classes" \
	    --run-dir $(UNCERTAIN)/mnist_lenet_ensemble$$of; \
	done; \
	$$train mnist_ask_threshold threads=1 --seeds 3 --jobs 2 --run-dir $(UNCERTAIN)/threshold; \
	for cost in 1 9 99; do for agent in reinforce ppo; do \
	  $$train mnist_ask_$$agent env.wrong=$$cost threads=1 --seeds 3 --jobs 2 --run-dir $(UNCERTAIN)/$$agent-$$cost; \
	done; done; \
	$$train cartpole_ppo_dropout --seeds 5 --jobs 2 --run-dir $(UNCERTAIN)/cartpole; \
	$(BIN)/python benchmarks/doubt.py $(UNCERTAIN); \
	$(BIN)/python benchmarks/asking.py $(UNCERTAIN); \
	$(BIN)/python examples/uncertain_policy.py $(UNCERTAIN)/cartpole/*-seed*

# The runs of docs/latent.md, and codes.png; three to four hours on two cores. For its other tables and figures, the reports named there.
LATENT := runs/latent
latent: .venv/installed
	@set -e; train="$(BIN)/rlcore train"; \
	for name in mnist_vae mnist_vae_2d mnist_conv_vae mnist_beta_vae mnist_autoencoder mnist_vae_binarized; do \
	  $$train $$name threads=1 --seeds 5 --jobs 2 --run-dir $(LATENT)/$$name; done; \
	$$train mnist_beta_vae agent.beta=1 threads=1 --seeds 5 --jobs 2 --run-dir $(LATENT)/mnist_beta1_vae; \
	for beta in 0 4; do $$train mnist_vae_2d agent.beta=$$beta --run-dir $(LATENT)/mnist_vae_2d_beta$$beta; done; \
	for seed in 1 2 3 4 5; do for name in mnist_beta1_vae mnist_beta_vae; do \
	  $$train mnist_reinforce seed=$$seed trainer.eval_every=100_000 --run-dir $(LATENT)/codes/$$name/seed$$seed \
	    "agent.network={name: encoder_of, run: $$(ls -d $(LATENT)/$$name/*-seed$$seed), body: {name: mlp, hidden: [256, 128], activation: relu}}"; \
	done; $$train mnist_reinforce seed=$$seed trainer.eval_every=100_000 --run-dir $(LATENT)/codes/pixels/seed$$seed; done; \
	$(BIN)/python benchmarks/curves.py $(LATENT)/codes/pixels $(LATENT)/codes/mnist_beta1_vae $(LATENT)/codes/mnist_beta_vae \
	  --names "784 pixels" "10-D code, beta 1" "10-D code, beta 4" --tag eval/accuracy --label accuracy \
	  --title "REINFORCE on MNIST" --out docs/images/codes.png --from 0.8

# Configs at random, damaged checkpoints and data, kills, commands at once: ten minutes on two cores. ARGS: see tests/fuzz. What failed goes
# into $(OUT), or runs/fuzz.
fuzz: .venv/installed-dev
	cd tests && ../$(BIN)/python -m fuzz $(if $(OUT),--out $(abspath $(OUT))) $(ARGS)

# Changes of one sign, factor or constant, each of which the tests must find; some ten minutes.
mutants: .venv/installed-dev
	$(BIN)/python tests/mutants.py $(ARGS)

clean:
	rm -rf .venv *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[dev]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(PIP) -e '.[bench]'
	@touch $@

.venv/installed-all: .venv/installed
	$(PIP) -e '.[box2d,mujoco]'
	@touch $@
