import os
import re
from itertools import islice
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import PositiveInt, ValidationError

import rlcore
from rlcore import commands, config, registry
from rlcore.agents.bc import BC
from rlcore.agents.ppo import PPO
from rlcore.agents.supervised import Supervised
from rlcore.commands.record import Player, _acted, _played
from rlcore.errors import InputError
from rlcore.experience.writing import EpisodeWriter
from rlcore.networks import NetworkChoice, build
from rlcore.settings import mistakes

MNIST = Path(os.environ.get("RLCORE_DATA", "")) / "mnist"

GOOD = """\
env: {name: cartpole, num_envs: 8}
agent: {name: ppo, horizon: 32}
trainer: {total_steps: 1_000}
"""


@pytest.fixture
def write(workdir):
    def to_file(text, name="mine.yaml"):
        path = workdir / name
        path.write_text(text)
        return path

    return to_file


def fails(path, *overrides):
    with pytest.raises(InputError) as caught:
        config.build(config.load(path, overrides).config)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1e6", 1_000_000), ("1.5e6", 1.5e6), ("-2.5", -2.5), (".5", 0.5), ("1_000", 1000),
        ("007", "007"), ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("true", True), ("null", None), ("", None),
        ("2020-01-01", "2020-01-01"), ("1:30", "1:30"), ("[1, 2]", [1, 2]), ("'1'", "1"), ("0x10", "0x10"),
        ("+3", 3), ("1e", "1e"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    got = config.parse_yaml(text, "x")
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("name", config.shipped_names())
def test_shipped_configs_load_and_build(name, workdir, monkeypatch):
    loaded = config.load(name)
    if name == "connect4_alphago":  # it is made upon the run of another
        small = ["trainer.total_steps=200", "env.num_envs=8", "env.positions=null"]
        commands.train("connect4_pool_reinforce", small, "runs/connect4_policy", None, 1)
    if getattr(loaded.config.env.settings, "dataset", None) == "mnist" and not MNIST.is_dir():
        pytest.skip("needs RLCORE_DATA")
    if extra := re.search(r"extra `(\w+)`", config.find(name).read_text()):
        pytest.importorskip({"box2d": "Box2D", "atari": "ale_py", "offline": "minari"}.get(extra[1], extra[1]))
    if loaded.config.env.name == "offline":
        recorded_at_random(loaded.config.env.settings, workdir, monkeypatch)
    trainer, notes = config.build(loaded.config)
    assert trainer.steps == 0
    assert any(note.startswith("torch threads: ") for note in notes)
    for bound in loaded.config.expect.values():
        assert bound.source
    trainer.env.close()


def recorded_at_random(settings, folder, monkeypatch):
    """Makes the data set that a config names, of random actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    env = settings.env.build("cpu")
    writer = EpisodeWriter(folder / settings.dataset, env)
    for step in islice(_acted(env, 1, 0, Player(BC(env), env, "random")), 50):
        writer.add(_played(step, env))
    writer.close({})


@pytest.mark.parametrize("name", config.shipped_names())
def test_the_saved_settings_load_as_the_same(name, write):
    loaded = config.load(name)
    again = config.load(write(config.dump(loaded.config)))
    assert again.config == loaded.config


def test_overrides_and_where_settings_come_from(write):
    loaded = config.load(write(GOOD), ["agent.learning_rate=1e-2", "seed=7", "agent.network={name: mlp, hidden: [3]}"])
    assert loaded.config.agent.settings.learning_rate == 0.01
    assert loaded.config.agent.settings.network.settings.hidden == [3]
    assert loaded.config.seed == 7
    assert loaded.origin["agent.learning_rate"] == "command line"
    assert loaded.origin["agent.network.hidden"] == "command line"
    assert loaded.origin["agent.horizon"] == "mine.yaml"
    assert "agent.gamma" not in loaded.origin


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("horizon: 32", "horizn: 32", r"mine.yaml: agent.horizn: unknown key \(did you mean 'horizon'\?\)"),
        ("horizon: 32", "horizon: many", r"mine.yaml: agent.horizon: must be a valid integer, got 'many'"),
        ("horizon: 32", "horizon: 32.5", r"mine.yaml: agent.horizon: must be a valid integer, got 32.5"),
        ("horizon: 32", "gamma: 1.5", r"mine.yaml: agent.gamma: must be less than or equal to 1, got 1.5"),
        ("horizon: 32", "learning_rate: .nan", r"mine.yaml: agent.learning_rate: must be a finite number, got nan"),
        ("horizon: 32", "network: {name: mlp, hiden: [3]}", r"network.hiden: unknown key \(did you mean 'hidden'\?\)"),
        ("horizon: 32", "network: {name: mpl}", r"agent.network: unknown network 'mpl' \(did you mean 'mlp'\?\)"),
        ("horizon: 32", "network: mpl", r"agent.network: unknown network 'mpl' \(did you mean 'mlp'\?\)"),
        ("horizon: 32", "network: [mlp]", r"agent.network: must be a mapping .*got \['mlp'\]"),
        ("horizon: 32", "minibatch_size: 1", r"one advantage cannot be normalized"),
        ("horizon: 32", "minibatch_size: 100", r"100 does not divide horizon x num_envs = 128 x 8 = 1024"),
        ("name: ppo", "name: pp0", r"agent: unknown agent .pp0. \(did you mean .ppo.\?\); known: .*ppo, pqn, random_s"),
        ("name: ppo, ", "", r"mine.yaml: agent: needs a name, one of: .*ppo, pqn, random_search"),
        ("name: cartpole", "name: cartpool", r"env: unknown environment 'cartpool' \(did you mean 'cartpole'\?\)"),
        ("name: cartpole", "name: gym", r"mine.yaml: env.id: missing"),
        ("name: cartpole", "name: gym, id: CartPol-v1", r"did you mean 'CartPole-v1'"),
        ("name: cartpole", "name: gym, id: Blackjack-v1", r"the observations, Tuple.*cannot be read as an array"),
        ("num_envs: 8", "num_envs: 0", r"env.num_envs: must be greater than 0, got 0"),
        ("trainer: {total_steps: 1_000}", "", r"mine.yaml: trainer: missing"),
        ("total_steps: 1_000", "total_steps: 1e-3", r"trainer.total_steps: must be a valid integer, got 0.001"),
        ("trainer:", "threads: 0\ntrainer:", r"mine.yaml: threads: must be 'auto' or greater than 0, got 0"),
        ("agent:", "agnt:", r"mine.yaml: agnt: unknown key \(did you mean 'agent'\?\).*; also wrong: agent$"),
        ("trainer:", "trainr: 3\ntrainer:", r"mine.yaml: trainr: unknown key \(did you mean 'trainer'\?\)"),
        ("trainer:", "seed: -1\ntrainer:", r"seed: must be greater than or equal to 0, got -1"),
        ("trainer:", "threads: 1000\ntrainer:", r"threads: must be 'auto' or less than or equal to 256, got 1000"),
        ("horizon: 32", "adam_eps: 1e300, horizon: 32", r"adam_eps: must be within 1e\+30, which float32"),
        ("trainer:", "device: gpu\ntrainer:", r"device: must be auto, cpu, cuda or cuda:<number>, got 'gpu'"),
        ("trainer:", "device: cuda:99\ntrainer:", r"device: there is no cuda:99; torch sees \d+ CUDA devices"),
        ("trainer:", "expect: {eval/return: {source: x}}\ntrainer:", r"expect.eval/return: needs either at_least"),
        ("trainer:", "imports: [no_such_module]\ntrainer:", r"imports: cannot import 'no_such_module'"),
        ("trainer:", "seed: 1\nseed: 2\ntrainer:", r"mine.yaml:4: the key 'seed' is duplicated"),
        ("trainer:", "seed: !!int 1.5\ntrainer:", r"mine.yaml: 1.5 is not a whole number"),
        ("trainer:", "[3: 4\ntrainer:", r"mine.yaml:\d+: "),
        ("trainer:", "x: !!python/object/apply:os.system [ls]\ntrainer:", r"mine.yaml:3: could not determine"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_file_key_and_remedy(write, old, new, message):
    assert old in GOOD
    got = fails(write(GOOD.replace(old, new)))
    assert re.search(message, got), got


def test_a_name_alone_is_a_choice_and_1e3_a_whole_number(write):
    overrides = [
        "agent.network=lenet",
        "agent.network.batch_norm=true",
        "trainer.total_steps=1e3",
        "agent.learning_rate=1e0",
    ]
    loaded = config.load(write(GOOD), overrides)
    assert loaded.config.agent.settings.network.name == "lenet"
    assert loaded.config.agent.settings.network.settings.batch_norm
    assert loaded.config.trainer.total_steps == 1000
    assert loaded.config.agent.settings.learning_rate == 1


def test_a_choice_without_a_name_changes_the_default_one(write):
    network = config.load(write(GOOD), ["agent.network.hidden=[3]"]).config.agent.settings.network
    assert (network.name, network.settings.hidden, network.settings.activation) == ("mlp", [3], "tanh")
    assert Supervised.Settings(network={"hidden": [3]}).network.settings.init == "he"  # as in its default

    class Nested(rlcore.Settings):
        network: NetworkChoice = NetworkChoice.model_validate({"name": "gru", "body": {"name": "mlp", "hidden": [7]}})

    inner = Nested(network={"body": {"activation": "relu"}}).network.settings.body
    assert (inner.name, inner.settings.hidden, inner.settings.activation) == ("mlp", [7], "relu")
    assert Nested(network={"body": {"name": "lenet"}}).network.settings.body.name == "lenet"
    assert "known: name, " in fails(write(GOOD), "agent.network={nmae: lenet}")


def test_a_mistake_within_a_choice_is_told_in_python_too():
    with pytest.raises(ValidationError, match=r"hiden: unknown key \(did you mean 'hidden'"):
        PPO.Settings(network={"name": "mlp", "hiden": [8]})


def test_a_mapping_where_a_number_belongs_is_one_line():
    with pytest.raises(ValidationError, match="gain"):
        PPO.Settings(network={"gain": {"x": 1}})


def test_what_no_member_of_a_union_takes_is_one_mistake():
    class Unions(rlcore.Settings):
        either: Literal["auto"] | PositiveInt = 1
        many: PositiveInt | list[PositiveInt] = 1

    def told(**given):
        with pytest.raises(ValidationError) as caught:
            Unions(**given)
        return mistakes(caught.value, Unions)

    assert told(either=0) == [(("either",), "must be 'auto' or greater than 0, got 0")]
    assert told(either=0, many=0)[0] == (("either",), "must be 'auto' or greater than 0, got 0")
    assert (("many",), "must be greater than 0, got -1") in told(many=[3, -1])


def test_a_mistake_on_the_command_line_is_named_so(write):
    path = write(GOOD)
    assert fails(path, "agent.gamma=2").startswith("command line: agent.gamma: must be less than")
    assert "is not KEY=VALUE" in fails(path, "gamma")
    assert "env.num_envs.x: env.num_envs is 8, not a mapping" in fails(path, "env.num_envs.x=3")


@pytest.mark.parametrize("text", ["- a\n- b\n", "3\n", "", "just words\n"])
def test_yaml_that_is_no_mapping_is_refused(write, text):
    assert "must be a mapping of keys to values" in fails(write(text))


def test_a_missing_or_unreadable_file_is_named(workdir):
    assert fails("nothing.yaml") == "there is no file nothing.yaml"
    assert "did you mean 'cartpole_ppo'" in fails("cartpole_pp")
    (workdir / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in fails(workdir / "bytes.yaml")


def test_an_import_that_fails_is_one_line(write):
    write("1 / 0\n", "broken_module.py")
    path = write(GOOD + "imports: [broken_module]\n")
    got = fails(path)
    assert re.search(r"imports: 'broken_module' fails: ZeroDivisionError: .*broken_module\.py:1\)", got)
    write("import gone_package\n", "broken_module.py")  # mended, but not yet well
    assert "'broken_module' fails: ModuleNotFoundError: No module named 'gone_package'" in fails(path)
    write("", "broken_module.py")
    assert config.load(path).config.seed == 1


def test_an_action_space_that_no_head_serves_is_named(write):
    write(
        "import rlcore\nfrom gymnasium.spaces import Box\nfrom rlcore.envs.probes import Probe\n"
        "@rlcore.registry.envs.register('odd')\nclass Odd(Probe):\n"
        "    def __init__(self, settings, device):\n"
        "        super().__init__(settings, 2, Box(0, 9, (3,), 'int64'), device)\n",
        "odd_env.py",
    )
    got = fails(write(GOOD.replace("cartpole", "odd") + "imports: [odd_env]\n"))
    assert "no policy head supports the action space Box(0, 9, (3,), int64); supported: Discrete, MultiDiscrete" in got


def test_registry_by_entry_point(monkeypatch):
    from importlib.metadata import EntryPoint

    fresh = registry.Registry("rlcore.agents", "agent")
    point = EntryPoint("mine", "rlcore.agents.ppo:PPO", "rlcore.agents")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "rlcore.agents" else [])
    assert fresh.names() == ["mine"]
    assert fresh["mine"] is PPO


def test_an_entry_point_that_cannot_be_imported_is_one_line(monkeypatch):
    from importlib.metadata import EntryPoint

    fresh = registry.Registry("rlcore.agents", "agent")
    point = EntryPoint("gone", "no_such_package:Thing", "rlcore.agents")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(InputError, match=r"the agent 'gone' \(no_such_package:Thing\) cannot be imported"):
        fresh["gone"]


def test_flatten_leaves_keys_with_dots_whole():
    assert config.flatten({"a": {"b.c": 1, "d": {}}, "e": [2]}) == {"a.b.c": 1, "e": [2]}


def test_networks_are_built_by_name():
    body = build("mlp", (2, 3), hidden=[5, 7], activation="relu")
    assert body.num_features == 7
    assert body(torch.randn(4, 2, 3)).shape == (4, 7)
    assert build("mlp", (3,), 2)(torch.randn(4, 3)).shape == (4, 2)


def test_what_has_no_settings_is_named(monkeypatch, write):
    monkeypatch.setitem(registry.networks._registered, "bare", object)
    got = fails(write(GOOD), "agent.network=bare")
    assert "agent.network: the network 'bare' has no nested class Settings(rlcore.Settings)" in got


def test_a_run_finds_its_own_file_where_both_were_moved(write, tmp_path, monkeypatch):
    source = (
        "import rlcore\nfrom rlcore.envs.cartpole import CartPole\nrlcore.registry.envs.register('moving')(CartPole)\n"
    )
    (tmp_path / "before").mkdir()
    (tmp_path / "before/moving_env.py").write_text(source)
    path = write(GOOD.replace("cartpole", "moving") + f"imports: [{tmp_path}/before/moving_env.py]\n")
    config.load(path)
    (tmp_path / "before").rename(tmp_path / "after")
    with pytest.raises(InputError, match="imports: cannot import"):
        config.load(path)
    monkeypatch.chdir(tmp_path / "after")
    (found,) = config.load(path).config.imports
    assert found == str(tmp_path / "after/moving_env.py")


@pytest.mark.parametrize(
    ("name", "is_meta"),
    [
        ("cartpole_ppo", True),
        ("cartpole_recurrent_ppo", True),
        ("cartpole_reinforce", True),
        ("cartpole_random_search", True),
        ("digits_lenet", False),  # looks whether any input is shifted
        ("tictactoe_alphazero", False),
    ],
)
def test_parameters_are_counted_and_no_generator_notices(name, is_meta, monkeypatch):
    wanted = config.load(name).config
    env = registry.envs[wanted.env.name](wanted.env.settings)
    made = wanted.agent.build(env)
    built, inner = [], config._make_agent
    monkeypatch.setattr(config, "_make_agent", lambda *arguments: built.append(inner(*arguments)) or built[-1])
    before = torch.get_rng_state()
    assert config.num_parameters(wanted, env) == sum(param.numel() for param in made.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert [all(param.is_meta for param in agent.parameters()) for agent in built] == [is_meta]
