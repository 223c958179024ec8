# make run: set up, train PPO on CartPole, evaluate it.    make test: set up, run the tests.
# make docs: the documentation as a site, site/index.html.
# make lint | bench | verify | results [NAME=config] | uncertainty | latent | fuzz | mutants. Everything is installed into
# .venv; only make, git and python3 are assumed.    make gpu [OUT=gpu.json]: check and measure on a GPU, by $(PYTHON) as it is.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test lint docs bench gpu verify results uncertainty latent fuzz mutants clean

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

docs: .venv/installed-docs
	$(BIN)/mkdocs build
	@echo "Read it: site/index.html; with the search, which needs a server: $(BIN)/python -m http.server -d site"

bench: .venv/installed-bench
	cd benchmarks && for one in ppo.py "ppo.py Acrobot-v1" "ppo.py Pendulum-v1" envs.py scaling.py events.py supervised.py memory_layout.py uncertainty.py autoencoder.py \
	  "search.py 1" "search.py 2" selfplay.py solve.py off_policy.py; do \
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

# The runs and tables of docs/uncertainty.md and docs/latent.md; three to four hours each on two cores.
uncertainty latent: .venv/installed
	$(BIN)/python benchmarks/experiments.py $@ $(ARGS)

# Configs at random, damaged checkpoints and data, kills, commands at once: ten minutes on two cores. ARGS: see tests/fuzz. What failed goes
# into $(OUT), or runs/fuzz.
fuzz: .venv/installed-dev
	cd tests && ../$(BIN)/python -m fuzz $(if $(OUT),--out $(abspath $(OUT))) $(ARGS)

# Changes of one sign, factor or constant, each of which the tests must find; some ten minutes.
mutants: .venv/installed-dev
	$(BIN)/python tests/mutants.py $(ARGS)

clean:
	rm -rf .venv *.egg-info .mypy_cache .pytest_cache .ruff_cache site

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[dev]'
	@touch $@

.venv/installed-docs: .venv/installed
	$(PIP) -e '.[docs]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(PIP) -e '.[bench]'
	@touch $@

.venv/installed-all: .venv/installed
	$(PIP) -e '.[box2d,mujoco]'
	@touch $@
