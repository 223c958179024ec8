"""Networks that are given in Python, as a class, a function or a module."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from compare import same
from gymnasium.spaces import Box, Discrete
from pydantic import PositiveInt, ValidationError
from torch import nn

import rlcore
from rlcore import GymEnvironment, InputError, Trainer, checkpoint, config, registry
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.ppo import PPO
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.envs.cartpole import CartPole
from rlcore.networks import Network, NetworkChoice
from rlcore.networks.mlp import MLP
from rlcore.networks.recurrent import GRU
from rlcore.supervised.environment import SupervisedEnv


class Plain(nn.Module):
    """Knows nothing of rlcore."""

    def __init__(self, in_shape, out_features):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_shape[0], 16), nn.Tanh(), nn.Linear(16, out_features or 8))

    def forward(self, x):
        return self.layers(x)


class Own(Network):
    """A network as rlcore has them, not registered."""

    class Settings(rlcore.Settings):
        width: PositiveInt = 8

    def __init__(self, in_shape, out_features, settings):
        super().__init__()
        self.layer = nn.Linear(in_shape[0], settings.width)
        self.output = self._end(settings.width, out_features)

    def forward(self, x):
        return self.output(self.layer(x).tanh())


class Needy(Own):
    class Settings(rlcore.Settings):
        width: int


def body(inputs=4):
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh())


def make(in_shape, out_features):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[0], 16), nn.ReLU(), nn.Linear(16, out_features or 16))


def cartpole(num_envs=8):
    return CartPole(CartPole.Settings(num_envs=num_envs))


def circles():
    return SupervisedEnv(SupervisedEnv.Settings(dataset="circles", num_envs=32))


def agent_of(kind, network):
    rlcore.seed_everything(1)
    if kind is PPO:
        env, settings = cartpole(), PPO.Settings(network=network, horizon=32, learning_rate=3e-3)
    elif kind is Reinforce:
        settings = Reinforce.Settings(network=network, baseline=True, learning_rate=1e-2, value_steps=4)
        env = cartpole()
    else:
        env, settings = circles(), Supervised.Settings(network=network, learning_rate=3e-2)
    return env, kind(env, settings)


@pytest.mark.parametrize("kind", [PPO, Reinforce, Supervised])
@pytest.mark.parametrize("form", ["module", "class", "own", "function"])
def test_agents_learn_with_it_and_a_checkpoint_restores(tmp_path, kind, form):
    module = body(2 if kind is Supervised else 4)
    network = {"module": module, "class": Plain, "own": Own, "function": make}[form]
    before = copy.deepcopy(module.state_dict())

    def trainer():
        env, agent = agent_of(kind, network)
        return Trainer(agent, env, total_steps=8_000, run_dir=tmp_path)

    one = trainer()
    first = {name: value.clone() for name, value in one.agent.state_dict().items()}
    figures = one.fit().scalars
    assert figures["accuracy"] > 0.9 if kind is Supervised else figures["return"] > 40
    assert all(not torch.equal(value, first[name]) for name, value in one.agent.named_parameters())
    same(module.state_dict(), before)  # the user's own is not trained
    again = trainer()
    assert again.restore(checkpoint.load(tmp_path / "checkpoints/last.pt")) is not None
    same(again.agent.state_dict(), one.agent.state_dict())
    obs, _ = one.env.reset(seed=1)
    same(again.agent.predict(obs).action, one.agent.predict(obs).action)


def test_policy_and_value_have_a_copy_each_that_begin_alike():
    module = body()
    env, agent = agent_of(PPO, module)
    assert agent.body.num_features == 16
    assert torch.equal(agent.body.module[0].weight, module[0].weight)
    assert torch.equal(agent.value_body.module[0].weight, module[0].weight)
    assert len({p.data_ptr() for net in (module, agent.body, agent.value_body) for p in net.parameters()}) == 6
    rlcore.check_agent(agent, env)


def test_a_module_is_a_body_everywhere_and_a_class_or_a_function_is_the_whole_network():
    _, agent = agent_of(Supervised, body(2))
    assert (agent.network.output.in_features, agent.network.output.out_features) == (16, 2)
    _, agent = agent_of(Supervised, make)
    assert isinstance(agent.network.output, nn.Identity)
    env = cartpole()
    assert RandomSearch(env, RandomSearch.Settings(network=body())).kept.num_features == 2
    ensemble = Ensemble(env, Ensemble.Settings(agent={"name": "ppo", "network": Plain}, members=2))
    assert len({member.body.module.layers[0].weight[0, 0].item() for member in ensemble.members}) == 2


def test_modules_of_several_kinds_are_read():
    def features(module, shape=(4,)):
        return NetworkChoice.model_validate(module).build(shape).num_features

    assert features(nn.Sequential(nn.LazyLinear(7), nn.ReLU())) == 7
    assert features(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 4)) == 5
    assert features(rlcore.networks.build("mlp", (4,), hidden=[9])) == 9
    assert features(nn.Identity()) == 4
    normed = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    built = NetworkChoice.model_validate(normed).build((4,))
    assert built.num_features == 3
    assert built.training
    assert not built.module[0].running_mean.any()
    assert built.module[0].num_batches_tracked == 0


class Pixels(gymnasium.Env):
    """Shows bytes, channels last."""

    observation_space, action_space = Box(0, 255, (12, 10, 3), np.uint8), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((12, 10, 3), 255, np.uint8), {}

    def step(self, action):
        return np.full((12, 10, 3), 255, np.uint8), 1.0, bool(self.np_random.random() < 0.2), False, {}


def test_a_convolution_reads_images_with_channels_first_in_0_to_1():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6))
    env = GymEnvironment(Pixels, num_envs=2)
    agent = PPO(env, PPO.Settings(network=module, horizon=8, minibatch_size=None))
    seen = []
    agent.body.network.module[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    Trainer(agent, env, total_steps=32).fit()
    assert {x.shape[1:] for x in seen} == {(3, 12, 10)}
    assert all((x == 1).all() for x in seen)


def test_a_registered_class_keeps_its_name_and_an_entry_points_class_too(monkeypatch):
    monkeypatch.setitem(registry.networks._registered, "own", Own)
    assert PPO.Settings(network=Own).network.model_dump() == {"name": "own", "width": 8}
    assert PPO.Settings(network=MLP) == PPO.Settings()
    assert RecurrentPPO.Settings(network=GRU).network.name == "gru"


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (body(), "Sequential( (0): Linear(in_features=4, out_features=16, bias=True) (1): Tanh() )"),
        (Plain, f"{__name__}:Plain"),
        (Own, f"{__name__}:Own"),
        (make, f"{__name__}:make"),
        (lambda in_shape, out_features: body(), f"{__name__}:<lambda>"),
    ],
)
def test_it_is_saved_by_a_name_that_builds_nothing_and_says_so(network, name, workdir):
    settings = PPO.Settings(network=network)
    for mode in ("json", "python"):
        assert settings.model_dump(mode=mode)["network"]["name"] == name
    whole = config.Config(
        env={"name": "cartpole"}, agent={"name": "ppo", "network": network}, trainer=Trainer.Settings(total_steps=99)
    )
    (workdir / "saved.yaml").write_text(config.dump(whole))
    with pytest.raises(InputError, match=r"saved.yaml: agent.network: the network '.*' was given in Python") as caught:
        config.load("saved.yaml")
    assert "\n" not in str(caught.value)
    trainer, _ = config.build(whole)
    assert trainer.fit().scalars["return"] > 0


def test_a_long_module_has_a_name_of_bounded_length():
    choice = NetworkChoice.model_validate(nn.Sequential(*(nn.Linear(4, 4) for _ in range(50))))
    assert len(choice.name) == 200
    assert choice.name.endswith("...")


@pytest.mark.parametrize(
    ("kind", "network", "message"),
    [
        (PPO, body(3), r"Sequential.* cannot read observations \[2, 4\]: RuntimeError: mat1 and mat2"),
        (PPO, nn.Sequential(nn.Unflatten(1, (2, 2))), r"must turn \[B, 4\] into \[B, features\]; .* makes \[2, 2, 2\]"),
        (PPO, nn.GRU(4, 3), r"must turn \[B, 4\] into \[B, features\]; of 2 observations it makes tuple"),
        (PPO, body().double(), r"cannot read observations \[2, 4\]: RuntimeError: .*dtype"),
        (PPO, nn.Linear, r"Linear\(\(4,\), None\) fails: TypeError: .*called with the shape of an observation"),
        (PPO, lambda in_shape, out_features: 3, r"<lambda> must return a torch.nn.Module, got int"),
        (Supervised, lambda in_shape, out_features: body(2), r"must have 2 outputs, as out_features says; got 16"),
        (PPO, GRU, r"agent.network.name: gru has a memory; choose an agent that keeps one"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(kind, network, message):
    with pytest.raises(InputError, match=message) as caught:
        agent_of(kind, network)
    assert "\n" not in str(caught.value)


def test_agents_that_need_more_of_a_network_say_so():
    with pytest.raises(InputError, match=r"Plain has no memory; gru, lstm and frame_stack have one"):
        RecurrentPPO(cartpole(), RecurrentPPO.Settings(network=Plain))
    env = registry.envs["reconstruction"](registry.envs["reconstruction"].Settings(dataset="digits"))
    with pytest.raises(InputError, match=r"Flatten.* has no encode and decode"):
        AutoencoderAgent(env, AutoencoderAgent.Settings(network=nn.Flatten()))


@pytest.mark.parametrize(
    ("network", "message"),
    [(Needy, r"Needy needs settings \(width\); give a function that makes it"), (3, "network"), ([body()], "network")],
)
def test_what_is_no_network_is_refused(network, message):
    with pytest.raises(ValidationError, match=message):
        PPO.Settings(network=network)
