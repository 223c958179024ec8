import random

import numpy as np
import pytest
import torch
from compare import same
from dropout_kinds import BATCHED, INPUTS, KINDS, Asked, DropConnect, Functional, TwoLayers, by_loop, mlp, num_calls
from torch import nn
from torch.nn import functional as F

from rlcore.agents.ppo import PPO
from rlcore.distributions import Categorical
from rlcore.envs.cartpole import CartPole
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.binarized import BinarizedLinear
from rlcore.seeding import rng_state
from rlcore.uncertainty import uncertainty
from rlcore.uncertainty.mc_dropout import MCDropout


def observations(num=16):
    return 2 * torch.randn(num, INPUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_passes_are_those_of_a_loop(kind):
    agent, obs, T = Asked(KINDS[kind]()), observations(), 600
    asker = MCDropout(agent, passes=T)
    random.seed(2)
    found, expected = asker.uncertainty(obs), uncertainty(by_loop(agent, obs, T))
    assert expected.mutual_information.mean() > 0.01  # nats
    torch.testing.assert_close(found.probabilities, expected.probabilities, atol=0.07, rtol=0)
    torch.testing.assert_close(found.mutual_information.mean(), expected.mutual_information.mean(), atol=0, rtol=0.12)
    assert num_calls(agent.network, lambda: asker.answers(obs)) == (1 if kind in BATCHED else T)


class NumpysNoise(TwoLayers):
    def drop(self, x):
        return x * np.random.binomial(1, 0.5) if self.training else x  # noqa: NPY002


@pytest.mark.parametrize("kind", [*KINDS, "numpy's random numbers"])
def test_asking_changes_nothing_and_is_repeatable(kind):
    agent, obs = Asked(KINDS.get(kind, NumpysNoise)()), observations()
    before = {name: x.clone() for name, x in agent.state_dict().items()}, rng_state()
    modes = [module.training for module in agent.modules()]
    first = MCDropout(agent, passes=4, seed=3).answers(obs)
    asker = MCDropout(agent, passes=4, seed=3)
    for _ in range(2):
        same(first, asker.answers(obs))
    same(before, (dict(agent.state_dict()), rng_state()))
    assert modes == [module.training for module in agent.modules()]


def test_a_policy_with_a_value_network_is_asked_in_one_pass():
    env = CartPole(CartPole.Settings(num_envs=4))
    network = NetworkChoice.model_validate({"name": "mlp", "hidden": [16], "dropout": 0.3})
    agent = PPO(env, PPO.Settings(network=network))
    obs, _ = env.reset(seed=1)
    asker = MCDropout(agent)
    asker.answers(obs)
    assert num_calls(agent.body, lambda: asker.answers(obs)) == 1


class OwnNorm(nn.Module):
    """Running statistics that nobody counts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(32))
        self.register_buffer("var", torch.ones(32))

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.var, training=self.training)


class Upkeep(nn.Module):
    """Layers that look after their weights or statistics in training mode, around a dropout."""

    def __init__(self):
        super().__init__()
        self.binarized, last = BinarizedLinear(INPUTS, 32), nn.utils.parametrizations.spectral_norm(nn.Linear(32, 3))
        self.layers = nn.Sequential(self.binarized, OwnNorm(), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), last)

    def forward(self, x):
        return self.layers(x)


def test_layers_that_write_to_their_weights_or_statistics_stay_in_evaluation_mode():
    agent, obs = Asked(Upkeep()), observations()
    asker = MCDropout(agent)
    for _ in range(2):
        before = {name: x.clone() for name, x in agent.state_dict().items()}
        assert asker.uncertainty(obs).mutual_information.min() > 0
        same(before, dict(agent.state_dict()))
        with torch.no_grad():
            agent.network.binarized.weight.mul_(100)  # beyond what training mode would clamp it to


class Partly(nn.Module):
    """A part that never drops in training, and one that does."""

    def __init__(self):
        super().__init__()
        self.frozen, self.learning = mlp(), TwoLayers()

    def forward(self, x):
        return self.frozen(x) + 1e-9 * self.learning(x)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self


class Evaluated(Asked):
    """Keeps evaluation mode while acting, as agents that search do."""

    def train(self, mode=True):
        return super().train(False)


def test_what_a_network_keeps_in_evaluation_mode_stays_there():
    obs = observations()
    frozen, learning = (MCDropout(Asked(network)).uncertainty(obs) for network in (Partly(), mlp()))
    assert frozen.mutual_information.max() < 1e-6 < learning.mutual_information.min()
    assert MCDropout(Evaluated(Functional())).uncertainty(obs).mutual_information.min() > 1e-3


def test_memory_bounds_the_rows_of_a_pass():
    agent, obs, seen = Asked(DropConnect()), observations(20), []
    agent.network.last.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    bytes_a_row = 4 * 3  # the output layer's: the weights that are dropped are not counted
    answers = MCDropout(agent, passes=5, memory_mib=bytes_a_row * 8.5 / 2**20).answers(obs)
    assert seen == [3, 2, 3] + [8] * 10 + [4] * 5
    assert answers.p.shape == (5, 20, 3)
    assert len(answers.p.flatten(1).unique(dim=0)) == 5


class Parts(Asked):
    """Observations are dicts."""

    def distribution(self, obs):
        return Categorical(self.network(obs["left"]) + obs["bias"])


@pytest.mark.parametrize("kind", [TwoLayers, Functional])
def test_observations_may_be_dicts(kind):
    obs = {"left": observations(5), "bias": torch.zeros(5, 3)}
    answers = MCDropout(Parts(kind()), passes=7).answers(obs)
    assert answers.p.shape == (7, 5, 3)
    assert len(answers.p.unique(dim=0)) == 7


class Unheard(TwoLayers):
    """Drops what no answer depends on."""

    def drop(self, x):
        self.aside = self.dropout(x)
        return x


def test_equal_answers_are_refused():
    obs = observations()
    with pytest.raises(InputError, match="all 20 passes of Asked gave the same answers: what it drops has no say"):
        MCDropout(Asked(Unheard())).answers(obs)
    with pytest.raises(InputError, match="the answers of Asked pass through no dropout"):
        MCDropout(Asked(nn.Linear(INPUTS, 3))).answers(obs)


def test_one_answer_that_is_certain_is_no_error():
    class OneChoice(Asked):
        def distribution(self, obs):
            return Categorical(self.network(obs) + torch.tensor([0.0, -1e9, -1e9]))

    assert not MCDropout(OneChoice(mlp())).uncertainty(observations(1)).mutual_information.any()
