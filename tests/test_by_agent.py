"""Runs that name an agent and settings, and no file."""

import sys
from pathlib import Path

import pytest

from rlcore import cli, config
from rlcore.errors import InputError


@pytest.fixture
def rlcore_(workdir, monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["rlcore", *words])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return call


def test_an_agent_trains_in_an_environment_of_gymnasiums(rlcore_):
    status, out, err = rlcore_("train", "ppo", "env.id=Acrobot-v1", "trainer.total_steps=1024")
    assert (status, err) == (0, "")
    assert out.startswith("assumed: env.name=gym\n")
    (run,) = Path("runs/ppo-Acrobot-v1").iterdir()
    saved = config.load(run / "config.yaml").config
    assert (saved.agent.name, saved.env.settings.id, saved.trainer.total_steps) == ("ppo", "Acrobot-v1", 1024)
    assert rlcore_("resume", str(run), "trainer.total_steps=2048")[0] == 0


@pytest.mark.parametrize(
    ("overrides", "name", "env", "steps", "note"),
    [
        (["env.id=Acrobot-v1"], "ppo-Acrobot-v1", "gym", 100_000, "env.name=gym, trainer.total_steps=100000"),
        (["env=cartpole"], "ppo-cartpole", "cartpole", 100_000, "trainer.total_steps=100000"),
        (["env.name=cartpole"], "ppo-cartpole", "cartpole", 100_000, "trainer.total_steps=100000"),
        (["env=cartpole", "env.num_envs=4", "trainer.total_steps=7"], "ppo-cartpole", "cartpole", 7, None),
        (["env={name: gym, id: CartPole-v1}", "trainer={total_steps: 9}"], "ppo-CartPole-v1", "gym", 9, None),
        (["env.id=ALE/Pong-v5", "trainer.total_steps=9"], "ppo-ALE-Pong-v5", "gym", 9, "env.name=gym"),
        (["env.id=a_pkg.envs:Mine", "trainer.total_steps=9"], "ppo-a_pkg.envs-Mine", "gym", 9, "env.name=gym"),
        (["env={name: supervised, dataset: iris}", "trainer.epochs=3"], "ppo-supervised", "supervised", None, None),
    ],
)
def test_what_is_assumed_is_said(workdir, overrides, name, env, steps, note):
    loaded = config.load("ppo", overrides)
    assert (loaded.name, loaded.config.env.name, loaded.config.trainer.total_steps) == (name, env, steps)
    assert loaded.notes == ((f"assumed: {note}",) if note else ())
    assert loaded.origin["agent.name"] == "command line"


def test_it_is_shown_and_trained_with_seeds(rlcore_):
    status, out, _ = rlcore_("show", "ppo", "env.id=CartPole-v1", "agent.gamma=0.9")
    assert status == 0
    assert "assumed: env.name=gym, trainer.total_steps=100000" in out
    for row in (("agent.name", "ppo", "command line"), ("trainer.total_steps", "100000", "assumed")):
        assert any(row == tuple(cell.strip() for cell in line.strip("│").split("│")) for line in out.splitlines())
    status, out, err = rlcore_("train", "reinforce", "env=cartpole", "trainer.total_steps=256", "--seeds", "2")
    assert (status, err) == (0, "")
    assert len(list(Path("runs/reinforce-cartpole").iterdir())) == 2


def test_an_agent_of_ones_own_is_named_too(workdir):
    (workdir / "by_name.py").write_text(
        "import rlcore\nfrom rlcore.agents.ppo import PPO\nrlcore.registry.agents.register('named')(PPO)\n"
    )
    loaded = config.load("named", ["imports=[by_name]", "env=cartpole"])
    assert (loaded.name, loaded.config.imports) == ("named-cartpole", [str(workdir / "by_name.py")])


def test_a_file_goes_first(workdir):
    Path("ppo").write_text("env: cartpole\nagent: reinforce\ntrainer: {total_steps: 5}\n")
    assert config.load("ppo").config.agent.name == "reinforce"
    Path("ppo").unlink()
    Path("ppo").mkdir()
    assert config.load("ppo", ["env=cartpole"]).config.agent.name == "ppo"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ppo"], "ppo: needs an environment: env.id=CartPole-v1 for one of gymnasium's, or env=NAME"),
        (["ppo", "env.num_envs=3"], "ppo: needs an environment"),
        (["ppo", "env=gym"], "ppo: needs an environment"),
        (["ppo", "env.id=null"], "ppo: needs an environment"),
        (["ppo", "env=null"], "command line: env: "),
        (["ppo", "env=cartpol"], "command line: env: unknown environment 'cartpol' (did you mean 'cartpole'?)"),
        (["ppo", "env.id=CartPol-v1"], "did you mean 'CartPole-v1'"),
        (["ppo", "env.id=3"], "command line: env.id: give an id, a class, or a function"),
        (["ppo", "env.id=CartPole-v1", "agent.gama=1"], "agent.gama: unknown key (did you mean 'gamma'?)"),
        (["ppo", "env.id=CartPole-v1", "trainer=3"], "command line: trainer: "),
        (["ppo", "env.id=CartPole-v1", "trainer.total_steps=0"], "trainer.total_steps: must be greater than 0"),
        (
            ["pppo", "env.id=CartPole-v1"],
            "unknown config 'pppo' (did you mean 'ppo'?): neither a file, nor an agent (al",
        ),
        (["ppo.yaml", "env.id=CartPole-v1"], "there is no file ppo.yaml"),
        (["./ppo", "env.id=CartPole-v1"], "there is no file ./ppo"),
        (["", "env.id=CartPole-v1"], "unknown config ''"),
        (["ppo", "Acrobot-v1"], "'Acrobot-v1' is not KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_line(rlcore_, words, message):
    status, out, err = rlcore_("show", *words)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert message in err


def test_a_config_file_assumes_nothing(workdir):
    Path("mine.yaml").write_text("env: cartpole\nagent: ppo\ntrainer: {}\n")
    with pytest.raises(InputError, match="needs either total_steps or epochs"):
        config.load("mine.yaml")
