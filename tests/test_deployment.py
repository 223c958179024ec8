"""An agent stands alone: loaded without its environment, asked with what the user has, answering inside its space."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from compare import same
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from one_step import NETWORKS, PROBES, OneStep
from trainers import MLP, TRAINERS, make_trainer

import rlcore
from rlcore import EnvSpec, GymEnvironment, InputError, commands
from rlcore.agents.ppo import PPO
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.env_spec import plain_of, space_from
from rlcore.spaces import Image, Logits, LogOdds, Means, Normals, Planes, Positions, Values

SIMULATOR = """
import gymnasium, numpy as np

class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Box(np.float32([-1, 0]), np.float32([1, 5]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        return self.np_random.normal(size=2).astype(np.float32), float(action[0]), self.t == 5, False, {}

gymnasium.register("Walk-v0", Walk)
"""
DEPLOYED = """
import sys
import numpy as np
import rlcore
agent = rlcore.load("run")
assert agent.action_space.contains(agent(np.array([0.3, -0.2])))
assert agent(np.zeros((7, 2), np.float32)).shape == (7, 2)
assert not any("simulator" in name or name == "rlcore.gym_environment" for name in sys.modules), "an environment"
print("acts")
"""


def trained(folder, **env):
    tree = {
        "env": {"name": "gym", "num_envs": 2, **env},
        "agent": {"name": "ppo", "horizon": 8, "minibatch_size": None, "network": MLP, "normalize_observations": True},
        "trainer": {"total_steps": 64, "eval_episodes": 2},
    }
    if env["id"] == "Walk-v0":
        (folder / "simulator.py").write_text(SIMULATOR)
        tree["imports"] = ["simulator"]
    (folder / "config.yml").write_text(yaml.safe_dump(tree))
    assert commands.train("config.yml", [], "run", None, 1) == 0


def test_an_agent_is_loaded_where_its_simulator_is_not(workdir):
    trained(workdir, id="Walk-v0")
    Path("simulator.py").unlink()
    Path("config.yml").unlink()
    done = subprocess.run([sys.executable, "-c", DEPLOYED], capture_output=True, text=True, check=False)
    assert done.stdout == "acts\n", done.stderr
    sys.modules.pop("simulator", None)
    with pytest.raises(InputError, match="imports"):
        rlcore.run.Run("run").load()  # the environment itself needs it


def test_what_the_agent_itself_is_made_of_must_be_there(workdir):
    (workdir / "mine.py").write_text(
        "import rlcore\nfrom rlcore.agents.ppo import PPO\n\n"
        "@rlcore.registry.agents.register('mine')\nclass Mine(PPO):\n    pass\n"
    )
    tree = {"env": "cartpole", "agent": {"name": "mine"}, "trainer": {"total_steps": 2048, "eval_every": None}}
    (workdir / "mine.yaml").write_text(yaml.safe_dump({**tree, "imports": ["mine"]}))
    assert commands.train("mine.yaml", [], "run", None, 1) == 0
    rlcore.load("run")
    Path("mine.py").unlink()
    sys.modules.pop("mine")
    rlcore.registry.agents._registered.pop("mine")
    with pytest.raises(InputError, match=r"imports: cannot import '.*mine\.py'"):
        rlcore.load("run")


@pytest.mark.parametrize("name", TRAINERS)
def test_every_agent_is_made_of_its_spec_alone(name):
    trainer = make_trainer(name)
    trainer.update()
    saved = trainer.checkpoint(learns=False)
    assert saved["spec"] is not None
    spec = EnvSpec.from_plain(saved["spec"], torch.device("cpu"))
    assert spec == EnvSpec.of(trainer.env)
    agent = type(trainer.agent)(spec, trainer.agent.settings)
    agent.restore(saved["agent"])
    same(agent.state_dict(), trainer.agent.state_dict())


SPACES = [
    Box(-1, np.inf, (3,), np.float32),
    Box(np.float32([-1, 0]), np.float32([1, 5])),
    Box(0, 255, (4, 5, 3), np.uint8),
    Box(-np.inf, np.inf, (2,), np.int64),
    Image(Box(0, 255, (4, 5, 3), np.uint8), "last"),
    Discrete(4, start=-2),
    MultiDiscrete([2, 5], start=[1, 0]),
    MultiBinary(6),
    MultiBinary((2, 3)),
    Dict({"a": Discrete(3), "action_mask": MultiBinary(3)}),
    Logits(4),
    LogOdds((2, 2)),
    Means((3,), 0.1),
    Values((2,), 3.0, [1.0, 2.0]),
    Normals((2, 2), 0.5),
    Positions("tictactoe"),
    Dict({"observation": Planes("connect4"), "action_mask": MultiBinary(7)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_is_saved_and_read(space, tmp_path):
    rlcore.checkpoint.save(tmp_path / "space.pt", {"space": plain_of(space)})
    read = space_from(rlcore.checkpoint.load(tmp_path / "space.pt")["space"])
    assert type(read) is type(space)
    assert read == space
    assert repr(read) == repr(space)
    for name in ("channels", "std", "name", "start", "shift", "scale"):
        assert np.array_equal(getattr(read, name, None), getattr(space, name, None))
    if isinstance(space, Box):
        assert np.array_equal(read.bounded_below, space.bounded_below)
        assert np.array_equal(read.bounded_above, space.bounded_above)


def test_a_space_of_ones_own_needs_the_environment(workdir):
    class Mine(Box):
        pass

    env = OneStep(Mine(-1, 1, (2,), np.float32), *PROBES["target"][1:])
    assert EnvSpec.of(env).plain() is None


def test_actions_lie_inside_their_space():
    env = GymEnvironment("Pendulum-v1", num_envs=2)
    agent = PPO(env, PPO.Settings(log_std_init=1.0, scale_actions=False, network=MLP))
    agent.policy_head.weight.data.mul_(1000)
    obs = np.random.default_rng(0).normal(size=(1000, 3))
    action = agent(obs)
    assert action.dtype == np.float32
    assert all(map(env.single_action_space.contains, action))
    assert (np.abs(action) == 2).mean() > 0.5
    same(torch.from_numpy(action), agent.predict(obs).action.detach())


def test_an_agent_of_ones_own_is_kept_inside_too():
    class Far(rlcore.Agent):
        def act(self, obs, state=None):
            return rlcore.Step(obs[:, :1] * 0 + 7.5)

        def learn(self, rollout):
            return {}

    for space, expected in ((Box(-2, 2, (1,)), 2.0), (Box(-9, 9, (1,), np.int32), 8)):
        agent = Far(EnvSpec(1, Box(-1, 1, (3,)), space, torch.device("cpu")))
        answer = agent(np.zeros(3))
        assert answer == expected
        assert space.contains(answer)
    agent = Far(EnvSpec(1, Box(-1, 1, (3,)), Box(-2, 2, (1,)), torch.device("cpu")))
    assert agent.predict(torch.zeros(5, 3)).action.eq(2).all()


@pytest.mark.parametrize("probe", PROBES)
def test_one_row_is_answered_as_in_a_batch(probe):
    env = OneStep(*PROBES[probe])
    agent = PPO(env, PPO.Settings.model_validate({"network": NETWORKS.get(probe, MLP)}))
    obs, _ = env.reset(seed=1)
    arrays = {key: x.numpy() for key, x in obs.items()} if isinstance(obs, dict) else obs.numpy()
    row = {key: x[0] for key, x in arrays.items()} if isinstance(arrays, dict) else arrays[0]
    batch, single = agent(arrays), agent(row)
    assert isinstance(batch, np.ndarray)
    np.testing.assert_allclose(batch[0], single, rtol=1e-5)
    assert env.single_action_space.contains(single)
    torch.testing.assert_close(agent(obs), torch.from_numpy(batch), check_dtype=False)


def test_an_agent_with_a_memory_gives_it_back():
    env = GymEnvironment("CartPole-v1", num_envs=2)
    settings = {"horizon": 8, "minibatch_size": 16, "network": {"name": "gru", "size": 4, "body": MLP}}
    agent = RecurrentPPO(env, RecurrentPPO.Settings.model_validate(settings))
    obs = np.random.default_rng(0).normal(size=(3, 4))
    state, actions = None, []
    for row in obs:
        action, state = agent(row, state)
        actions.append(action)
        assert env.single_action_space.contains(action)
    with torch.no_grad():
        step_state, expected = agent.initial_state(1), []
        for row in torch.from_numpy(obs).float():
            step = agent.predict(row[None], step_state)
            step_state = step.state
            expected.append(step.action[0].item())
    assert actions == expected


def test_a_discrete_action_is_counted_from_the_start_of_its_space():
    class Shifted(gymnasium.Env):
        observation_space, action_space = Discrete(3), Discrete(4, start=5)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return 0, {}

        def step(self, action):
            assert 5 <= action < 9
            return 0, 0.0, True, False, {}

    env = GymEnvironment(Shifted, num_envs=2)
    agent = PPO(env, PPO.Settings(network=MLP))
    assert env.single_action_space.contains(agent(1))
    assert agent.predict(1).action in range(4)
    env.reset(seed=1)
    env.step(agent.predict(np.array([0, 2])).action)


@pytest.mark.parametrize(
    ("obs", "told"),
    [
        (np.zeros((2, 5)), r"observations must be \[B, 4\] or one row; got \(2, 5\)"),
        (np.zeros((2, 2, 4)), r"observations must be \[B, 4\] or one row; got \(2, 2, 4\)"),
        (1.0, r"observations must be \[B, 4\] or one row; got \(\)"),
    ],
)
def test_observations_of_another_shape_are_one_line(obs, told):
    env = GymEnvironment("CartPole-v1", num_envs=2)
    with pytest.raises(InputError, match=told):
        PPO(env, PPO.Settings(network=MLP))(obs)


def test_observations_of_another_kind_are_one_line():
    space = Box(0, 255, (4, 4, 3), np.uint8)
    agent = PPO(EnvSpec(2, space, Discrete(2), torch.device("cpu")), PPO.Settings(network=MLP))
    with pytest.raises(InputError, match=r"observations must be torch\.uint8, as Box.*; got torch\.float64"):
        agent(np.zeros((4, 4, 3)))  # which may be divided by 255
    parts = Dict({"a": Box(-1, 1, (2,)), "b": Box(-1, 1, (3,))})
    settings = PPO.Settings.model_validate({"network": "multi_input"})
    agent = PPO(EnvSpec(2, parts, Discrete(2), torch.device("cpu")), settings)
    with pytest.raises(InputError, match="observations must be a dict of a, b; got a dict of a"):
        agent({"a": np.zeros(2)})
    with pytest.raises(InputError, match="observations must be of one row, or of a batch, in all their parts"):
        agent({"a": np.zeros(2), "b": np.zeros((1, 3))})


def test_the_parts_of_a_dict_keep_their_order():
    """`multi_input` reads them in it; a Dict of a plain dict is sorted, one of pairs is not."""
    parts = Dict([("z", Box(-1, 1, (3,))), ("a", Box(-1, 1, (3,)))])
    assert list(space_from(plain_of(parts))) == list(parts) == ["z", "a"]


def test_it_answers_in_evaluation_mode_whatever_mode_it_is_in():
    env = GymEnvironment("CartPole-v1", num_envs=2)
    network = {"name": "mlp", "hidden": [32], "dropout": 0.5}
    agent = PPO(env, PPO.Settings.model_validate({"network": network}))
    agent.policy_head.weight.data.mul_(100)
    agent.train()
    obs = np.random.default_rng(0).normal(size=(50, 4))
    assert all((agent(obs) == agent(obs)).all() for _ in range(5))
    assert agent.training
    assert agent.body.training


def test_bounds_of_float64_are_kept():
    class Far(rlcore.Agent):
        def act(self, obs, state=None):
            return rlcore.Step(obs[:, :1] * 0 + 7.5)

        def learn(self, rollout):
            return {}

    space = Box(-0.1, 0.1, (1,), np.float64)  # float32 rounds 0.1 up
    agent = Far(EnvSpec(1, Box(-1, 1, (3,)), space, torch.device("cpu")))
    assert space.contains(agent(np.zeros(3)))


class Old(rlcore.Agent):
    """Of rlcore 0.1: sets its device, and sees more than the environment shows, in a predict upon another."""

    def __init__(self, env, settings=None):
        super().__init__(env, settings)
        self.device = env.device
        self.weight = torch.nn.Parameter(torch.ones(5))
        self.optimizer = torch.optim.SGD(self.parameters(), 0.1)

    def act(self, obs, state=None):
        return rlcore.Step((obs @ self.weight[: obs.shape[1]] > 0).long())

    def predict(self, obs, state=None):
        return super().predict(torch.cat([obs, obs[:, :1]], 1))

    def learn(self, rollout):
        return {}


def test_agents_of_0_1_work():
    agent = Old(GymEnvironment("CartPole-v1", num_envs=2))
    assert agent(np.ones((3, 4))).tolist() == [1, 1, 1]
    assert agent.device == torch.device("cpu")


def test_an_agent_that_reads_more_of_its_environment_is_loaded_with_it(workdir):
    (workdir / "mine.py").write_text(
        "import rlcore\nfrom rlcore.agents.ppo import PPO\n\n"
        "@rlcore.registry.agents.register('reads')\nclass Reads(PPO):\n"
        "    def __init__(self, env, settings=None):\n"
        "        super().__init__(env, settings)\n"
        "        self.limit = env.settings.max_episode_steps\n"
    )
    tree = {"env": {"name": "cartpole"}, "agent": {"name": "reads"}, "imports": ["mine"]}
    (workdir / "mine.yaml").write_text(yaml.safe_dump({**tree, "trainer": {"total_steps": 1024, "eval_every": None}}))
    assert commands.train("mine.yaml", [], "run", None, 1) == 0
    assert rlcore.load("run").limit == 500
    sys.modules.pop("mine")


@pytest.mark.parametrize(
    ("obs", "told"),
    [
        (None, "observations must be numbers, got None"),
        ("abc", "observations must be numbers, got 'abc'"),
        (np.full((4, 4, 3), 300), r"observations must be bytes, in \[0, 255\]; got 300 to 300"),
    ],
)
def test_what_is_no_observation_is_one_line(obs, told):
    agent = PPO(
        EnvSpec(2, Box(0, 255, (4, 4, 3), np.uint8), Discrete(2), torch.device("cpu")), PPO.Settings(network=MLP)
    )
    with pytest.raises(InputError, match=told):
        agent(obs)
