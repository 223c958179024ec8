"""Networks that drop in many ways, [B, 64] to logits of three classes; also for benchmarks/uncertainty.py."""

import random

import torch
from torch import nn
from torch.nn import functional as F

import rlcore
from rlcore.distributions import Categorical
from rlcore.envs.cartpole import CartPole
from rlcore.evaluation import evaluating
from rlcore.networks import NetworkChoice
from rlcore.trees import stack
from rlcore.uncertainty import answers_of

INPUTS, TOKENS, WIDTH, CLASSES, P = 64, 8, 32, 3, 0.3


class Asked(rlcore.Agent):
    """A network as an agent that can be asked."""

    def __init__(self, network):
        super().__init__(CartPole())
        self.network = network

    def distribution(self, obs):
        return Categorical(3 * self.network(obs))

    def act(self, obs, state=None):
        return rlcore.Step(self.distribution(obs).sample())

    def learn(self, rollout):
        return {}


def by_loop(agent, obs, passes):
    """What MC dropout is: as many passes in training mode, but for batch norm's statistics; fields [T, B, ...]."""
    with evaluating(agent):
        agent.train()
        for module in agent.modules():
            module.training &= not isinstance(module, nn.modules.batchnorm._BatchNorm)
        return stack([answers_of(agent.distribution(obs)) for _ in range(passes)])


def num_calls(network, ask):
    """Forward passes of a network while it is asked."""
    calls = []
    hook = network.register_forward_hook(lambda *call: calls.append(call))
    ask()
    hook.remove()
    return len(calls)


class TwoLayers(nn.Module):
    """Its hidden layer drops; how, subclasses say."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.dropout = nn.Dropout(P)

    def forward(self, x):
        return self.last(self.drop(self.first(x).relu()))

    def drop(self, x):
        return self.dropout(x)


class SharedMask(TwoLayers):
    def drop(self, x):
        return x * self.dropout(torch.ones(1, x.shape[1]))


class SharedChoice(TwoLayers):
    """A shared mask that has forgotten its numbers: no NaN gets through the comparison."""

    def drop(self, x):
        return x * (self.dropout(torch.ones(1, x.shape[1])) > 0)


class DropConnect(TwoLayers):
    def forward(self, x):
        return self.last(F.linear(x, self.dropout(self.first.weight), self.first.bias).relu())


class Mixture(DropConnect):
    """Some units are dropped, and many weights."""

    def __init__(self):
        super().__init__()
        self.few = nn.Dropout(0.02)

    def forward(self, x):
        return self.few(super().forward(self.few(x)))


class FirstMaskForAll(nn.Dropout):
    """Draws a mask for each row, and uses the first."""

    def forward(self, x):
        return x * super().forward(torch.ones_like(x))[:1]


class OwnClass(TwoLayers):
    def __init__(self):
        super().__init__()
        self.dropout = FirstMaskForAll(P)


class Functional(TwoLayers):
    def drop(self, x):
        return F.dropout(x, P, self.training)


class OwnNoise(TwoLayers):
    """One decision for all rows, by Python's generator."""

    def drop(self, x):
        return x * (random.random() > P) / (1 - P) if self.training else x


class BatchStatistics(TwoLayers):
    """Rows meet after the dropout, in the statistics of the batch."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH, track_running_stats=False)

    def drop(self, x):
        return self.norm(self.dropout(x))


class Convolutions(nn.Module):
    """Images of one channel; drops channels, then units, and has running statistics."""

    def __init__(self):
        super().__init__()
        convolutions = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(P), nn.MaxPool2d(2)
        self.layers = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(72, WIDTH), nn.ReLU(), nn.Dropout(P))
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.last(self.layers(x.view(-1, 1, 8, 8)))


class Sequences(nn.Module):
    """Tokens [B, L, F], read by a layer, and averaged."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.last = layer, nn.Linear(INPUTS // TOKENS, CLASSES)

    def forward(self, x):
        x = self.read(x.view(-1, TOKENS, INPUTS // TOKENS)).mean(1)
        return self.last(x / x.std(1, keepdim=True))

    def read(self, x):
        return self.layer(x)


class Attention(Sequences):
    def read(self, x):
        return self.layer(x, x, x)[0]


class Recurrent(Sequences):
    def __init__(self, layer):
        super().__init__(layer)
        for weight in layer.parameters():
            nn.init.normal_(weight)

    def read(self, x):
        return self.layer(x)[0]


class BatchSecond(Sequences):
    """Tokens as [L, B, F]."""

    def read(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class CausalAttention(nn.Module):
    """Attention whose mask is a buffer, and whose dropout an argument, if there is any."""

    def __init__(self, p):
        super().__init__()
        self.p, self.project = p, nn.Linear(8, 24)
        self.register_buffer("mask", torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril())

    def forward(self, x):
        q, k, v = self.project(x).unsqueeze(1).chunk(3, -1)  # one head
        return F.scaled_dot_product_attention(q, k, v, self.mask, self.p if self.training else 0.0).squeeze(1)


def mlp(**settings):
    choice = {"name": "mlp", "hidden": [WIDTH, WIDTH], "activation": "relu", "init": "torch", "dropout": P, **settings}
    return NetworkChoice.model_validate(choice).build((INPUTS,), CLASSES)


KINDS = {
    "mlp": mlp,
    "mlp with batch norm": lambda: mlp(batch_norm=True),
    "CNN, nn.Dropout2d and nn.Dropout": Convolutions,
    "nn.Dropout on [L, B, F]": lambda: BatchSecond(nn.Sequential(nn.Linear(8, 8), nn.Dropout(P))),
    "attention that drops nothing, nn.Dropout": lambda: Sequences(nn.Sequential(CausalAttention(0.0), nn.Dropout(P))),
    "nn.TransformerEncoderLayer": lambda: Sequences(nn.TransformerEncoderLayer(8, 2, WIDTH, P, batch_first=True)),
    "nn.MultiheadAttention(dropout=)": lambda: Attention(nn.MultiheadAttention(8, 2, P, batch_first=True)),
    "scaled_dot_product_attention(dropout_p=)": lambda: Sequences(CausalAttention(P)),
    "nn.LSTM(dropout=)": lambda: Recurrent(nn.LSTM(8, 8, 2, batch_first=True, dropout=P)),
    "F.dropout": Functional,
    "a mask that all rows share": SharedMask,
    "such a mask, compared with 0": SharedChoice,
    "DropConnect": DropConnect,
    "DropConnect and nn.Dropout": Mixture,
    "a subclass of nn.Dropout": OwnClass,
    "Python's random numbers": OwnNoise,
    "nn.Dropout, then statistics of the batch": BatchStatistics,
}
"""Ways to drop, by name."""
BATCHED = list(KINDS)[:5]
"""Those of which one pass over repeated rows is as good as several passes."""
