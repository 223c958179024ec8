"""What the docs show, runs."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import gymnasium
import pytest
import torch
from compare import same

import rlcore
from rlcore import checkpoint, config, registry
from rlcore.agents.ppo import PPO
from rlcore.envs.cartpole import CartPole
from rlcore.evaluation import Report, ReportChoice
from rlcore.run import Run
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.trainer import Trainer

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


def test_the_environment_of_the_docs_keeps_the_contract_and_is_learned():
    by_gymnasium, guess = blocks("docs/environments.md", "python")
    exec(by_gymnasium, {})
    exec(guess, {})
    kind = registry.envs["guess"]
    env = kind(kind.Settings(num_envs=16))
    rlcore.check_environment(env, num_steps=20)
    agent = PPO(env, PPO.Settings(horizon=16, minibatch_size=64, learning_rate=1e-2))
    assert Trainer(agent, env, total_steps=8192, seed=1).fit().scalars["return"] > 0.9


@pytest.mark.parametrize("agent", ["ppo", "reinforce"])
def test_the_network_of_the_docs_serves_every_agent(agent):
    exec(blocks("docs/networks.md", "python")[0], {})
    env = registry.envs["cartpole"](registry.envs["cartpole"].Settings(num_envs=4))
    kind = registry.agents[agent]
    made = kind(env, kind.Settings.model_validate({"network": {"name": "residual", "width": 8}}))
    assert made.body.num_features == 8
    rlcore.check_agent(made, env)
    assert rlcore.networks.build("residual", (4,), 2)(torch.zeros(3, 4)).shape == (3, 2)
    exec(blocks("docs/networks.md", "python")[1], {})


def test_the_game_of_the_docs_is_played_and_learned():
    exec(blocks("docs/selfplay.md", "python")[0], {})
    envs, agents = registry.envs, registry.agents
    env = envs["selfplay"](envs["selfplay"].Settings(game="nim", num_envs=32, positions="all", random_openings=2))
    rlcore.check_environment(env, num_steps=30)
    truth = env.truth
    nim_sum = truth.state[:, 0] ^ truth.state[:, 1] ^ truth.state[:, 2]
    assert torch.equal(truth.score.amax(1) > 0, nim_sum != 0)  # Bouton 1901
    network = {"name": "policy_value", "hidden": [32], "head": 16}
    settings = {"network": network, "simulations": 8, "eval_simulations": 30, "learning_rate": 1e-2, "batch_size": 64}
    agent = agents["alphazero"](env, agents["alphazero"].Settings.model_validate(settings))
    once = Trainer.Settings(total_steps=6000, eval_every=6000)
    assert Trainer(agent, env, once).fit().scalars["search_right"] > 0.95


def test_the_readmes_python_runs(workdir):
    (code,) = [code for code in blocks("README.md", "python") if "Trainer(" in code]
    given = {}
    exec(code.replace("rlcore.Trainer(", "report = rlcore.Trainer(").replace("100_000", "30_000"), given)
    assert given["report"].scalars["return"] > 100


def test_an_agent_is_asked_how_sure_it_is_as_the_readme_says(workdir):
    (code,) = [code for code in blocks("README.md", "python") if "MCDropout" in code]
    loaded = config.load("digits_lenet", ["agent.network.dropout=0.5", "trainer.epochs=1"])
    made, _ = config.build(loaded.config)
    made.write_to(Run.create(loaded, "run").path)
    made.fit()
    given = {"obs": made.env.reset(seed=1)[0]}
    exec(code.replace("runs/mnist_dropout/...", "run"), given)
    assert given["found"].mutual_information.shape == (made.env.num_envs,)


MEASURED = {"mnist_vae_binarized", "connect4_alphazero", "connect4_alphago"}
"""Rows whose figure is measured after the run, and not in its results."""


@pytest.mark.parametrize("path", ["README.md", "docs/ten_days.md", "docs/latent.md"])
def test_tables_tell_what_the_results_hold(path):
    """Mean and range over the seeds, as ``| `config` ... 99.20 % (99.07 to 99.30)``."""
    found = re.findall(
        r"^\| `(\w+)`.*? \**([\d.]+)( %|)\** \(([\d.]+)(?: %)? to ([\d.]+)", (ROOT / path).read_text(), re.MULTILINE
    )
    rows = [row for row in found if (RESULTS / f"{row[0]}.json").is_file() and row[0] not in MEASURED]
    assert len(rows) > 3
    for name, mean, percent, low, high in rows:
        seeds = json.loads((RESULTS / f"{name}.json").read_text())["seeds"].values()
        columns = zip(*(seed["figures"].values() for seed in seeds), strict=True)
        scale = 100 if percent else 1
        held = [[scale * statistic(column) for statistic in (fmean, min, max)] for column in columns]
        assert any(all(map(rounds_to, one, (mean, low, high))) for one in held), (name, mean, low, high, held)


def rounds_to(value, shown):
    return abs(value - float(shown)) <= 0.51 * 10 ** -len(shown.partition(".")[2])


def test_an_agent_answers_gymnasium_as_the_readme_says(workdir):
    (code,) = [code for code in blocks("README.md", "python") if "gymnasium.make" in code]
    made, _ = config.build(config.load("cartpole_ppo", ["agent.horizon=32", "trainer.total_steps=256"]).config)
    run = Run.create(config.load("cartpole_ppo"), "run")
    made.write_to(run.path)
    made.fit()
    given = {}
    exec(code.replace("runs/cartpole_ppo/...", "run"), given)
    first, _ = given["env"].reset(seed=1)
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=1)
    action = made.agent.distribution(torch.as_tensor(obs)[None]).mode
    assert given["agent"](first) == action
    assert (given["obs"] == env.step(int(action))[0]).all()


def test_the_python_of_the_agents_docs_runs(workdir, monkeypatch):
    _, by_hand, of_config, _, report = blocks("docs/agents.md", "python")
    given = {}
    exec(by_hand.replace("20_000", "4_000").replace("10_000", "2_000"), given)
    assert {path.name for path in Path("runs/mine/checkpoints").iterdir()} >= {"half.pt", "last.pt", "best.pt"}
    saved = checkpoint.load(Path("runs/mine/checkpoints/last.pt"))
    assert saved["steps"] >= 4_000 > checkpoint.load(Path("runs/mine/checkpoints/half.pt"))["steps"] >= 2_000
    assert given["found"]["return"] == saved["learns"]["figures"]["eval/return"]
    exec(of_config, {})
    agent = rlcore.load("runs/seven", "last")
    same(agent.state_dict(), checkpoint.load(Path("runs/seven/checkpoints/last.pt"))["agent"]["parameters"])
    monkeypatch.delitem(registry.reports._registered, "actions", raising=False)
    exec(report, {})
    env = given["env"]
    made = ReportChoice.model_validate("actions").make()(agent, env, Report({}))
    obs, _ = env.reset(seed=1)
    assert made.scalars["first"] == (agent.predict(obs).action == 0).float().mean()


def test_the_yaml_and_the_python_of_supervised_learning_are_true(workdir):
    lenet, *others = blocks("docs/supervised.md", "yaml")
    assert (ROOT / "configs/mnist_lenet.yaml").read_text().startswith(lenet)
    (workdir / "validated.yaml").write_text(next(text for text in others if "best_by" in text))
    assert (
        rlcore.commands.train(
            "validated.yaml", ["env.dataset=digits", "agent.network=mlp", "trainer.epochs=1"], "run", None, 1
        )
        == 0
    )
    assert {"eval/f1", "eval/top_k_3", "test/accuracy"} <= Run("run").result["figures"].keys()
    given = {"inputs": torch.randn(50, 3), "targets": torch.randint(0, 2, (50,))}
    for text in blocks("docs/supervised.md", "python"):
        if "rlcore.load(" not in text and "cifar" not in text:  # whose files test_colours makes
            exec(text, given)
    assert given["env"].single_observation_space.shape == (3,)
    metrics = {"num_envs": 10, "action": "values", "metrics": ["within_one"], "augment": ["darker"]}
    data = from_arrays(given["inputs"], torch.rand(50))
    env = SupervisedEnv(SupervisedEnv.Settings(**metrics), dataset=data)
    assert "within_one" in Trainer(given["Huber"](env), env, total_steps=40).fit().scalars


def test_the_table_of_the_page_is_learned_from(workdir):
    pytest.importorskip("polars")
    exec(next(text for text in blocks("docs/supervised.md", "python") if "wine.csv" in text), {})
    (workdir / "wine.yaml").write_text(
        next(text for text in blocks("docs/supervised.md", "yaml") if "wine.csv" in text)
    )
    assert rlcore.commands.train("wine.yaml", [], "run", None, 1) == 0
    assert Run("run").result["figures"]["eval/accuracy"] > 0.9


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(path):
    for target in re.findall(r"\[[^\]\"]+\]\(([^)#]+)\)", (ROOT / path).read_text()):
        assert (ROOT / path).parent.joinpath(target).exists(), target


def test_nothing_is_to_be_installed_from_where_rlcore_is_not():
    paths = [path for folder in ("rlcore", "docs", "examples") for path in (ROOT / folder).rglob("*.*")]
    paths += [path for folder in ("agents", "envs", "supervised", "configs") for path in (ROOT / folder).glob("*.*")]
    texts = {path: path.read_text() for path in [ROOT / "README.md", *paths] if path.suffix in (".py", ".md", ".yaml")}
    assert [path for path, text in texts.items() if re.search(r"install ['\"]?rlcore", text)] == []


@pytest.mark.parametrize("name", ["uncertainty", "latent"])
def test_the_runs_behind_a_page_can_begin(name, workdir):
    command = [sys.executable, str(ROOT / "benchmarks/experiments.py"), name, "--list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    trained = [shlex.split(line)[4:] for line in lines if " train " in line]
    assert len(trained) > 10
    for source, *rest in trained:
        overrides = [x for x in rest if re.match(r"[a-z_.]+=", x)]
        assert config.load(source, overrides).config.agent.name
    others = [Path(shlex.split(line)[1]) for line in lines if " train " not in line]
    assert others
    assert all(path.is_file() for path in others)


def test_the_example_of_a_doubtful_policy_measures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    measured = importlib.import_module("uncertain_policy").clipped_without_masks
    env = CartPole(CartPole.Settings(num_envs=8))
    network = {"name": "mlp", "hidden": [16], "dropout": 0.5}
    assert measured(PPO(env, PPO.Settings.model_validate({"network": network}))) < 1
