"""What several processes do in the tests of rlcore.distributed: ``python tests/ranks.py OUT``, once for each rank.

Every rank writes ``OUT/<rank>.pt``: what each part found, by name.
"""

import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import torch
from compare import same
from gymnasium.spaces import Box, Discrete
from torch import nn
from trainers import TRAINERS, make_trainer

from rlcore import Trainer, checkpoint, distributed
from rlcore.agents import autoencoder
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.ppo import PPO
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.agents.trpo import TRPO
from rlcore.errors import InputError
from rlcore.gym_environment import GymEnvironment
from rlcore.normalization import RunningMoments
from rlcore.optimizers import SGD
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

N, UPDATES, STEPS = 8, 8, 64
MLP = {"name": "mlp", "hidden": [8]}
MOMENTS = {"normalize_observations": True, "normalize_rewards": True}


class Walk(gymnasium.Env):
    """A walk that begins where its first seed says, in every episode, and draws nothing else.

    It ends beyond 1, and is cut after 12 steps.
    """

    observation_space, action_space = Box(-9, 9, (3,)), Discrete(2)

    def __init__(self):
        self.start = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.start is None:
            self.start = self.np_random.uniform(-0.5, 0.5)
        self.x, self.t = self.start, 0
        return self.seen(), {}

    def seen(self):
        return np.array([self.x, self.x**2, self.t / 12], np.float32)

    def step(self, action):
        self.x, self.t = self.x + (0.3 if action else -0.2), self.t + 1
        return self.seen(), 1 - abs(self.x), abs(self.x) > 1, self.t == 12, {"distance": abs(self.x)}


class Uneven(Walk):
    """It ends after one step if its first seed is even."""

    even = None

    def reset(self, *, seed=None, options=None):
        if self.even is None:
            self.even = seed % 2 == 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or self.even, truncated, info


class SharedDraws:
    """Draws of all N environments from a table, of which each process has its part; another one for each rollout."""

    def __init__(self, agent):
        self.head, self.rollouts, self.t = getattr(agent, "policy_head", None), 0, 0
        if self.head is not None:  # else it draws nothing
            self.head.draw = self

    def __call__(self, outputs):
        table = torch.rand(STEPS, N, generator=torch.Generator().manual_seed(self.rollouts))
        draw = table[self.t][distributed.rank() * len(outputs) :][: len(outputs)]
        self.t += 1
        return (self.head.distribution(outputs).logits.softmax(1).cumsum(1) < draw[:, None]).sum(1)


ROLLOUTS = {
    "ppo": (PPO, {"horizon": 16, "num_epochs": 2, "minibatch_size": None, "target_kl": 0.01, **MOMENTS}),
    "episodes": (PPO, {"horizon": None, "num_epochs": 2, "minibatch_size": None, **MOMENTS}),
    "reinforce": (Reinforce, {"baseline": True, "value_steps": 3, **MOMENTS}),
    "recurrent": (
        RecurrentPPO,
        {"horizon": 16, "num_epochs": 2, "minibatch_size": None, "network": {"name": "gru", "size": 8, "body": MLP}},
    ),
    "one row": (Reinforce, MOMENTS),
    "random_search": (RandomSearch, {}),
    "trpo": (TRPO, {"horizon": 16, "value_minibatch_size": 128, "value_epochs": 1, **MOMENTS}),
}


def of_rollouts(name):
    """A trainer of an agent whose draws do not depend on how many processes there are."""
    kind, settings = ROLLOUTS[name]
    walk, num_envs = (Uneven, 2) if name == "one row" else (Walk, N)
    env = GymEnvironment(walk, num_envs=distributed.share(num_envs, "N"))
    torch.manual_seed(1)
    agent = kind(env, kind.Settings.model_validate({"network": MLP, **settings}))
    draws = SharedDraws(agent)
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=10**6, eval_every=None), seed=3)
    for _ in range(UPDATES):
        metrics = trainer.update()
        draws.rollouts, draws.t = draws.rollouts + 1, 0
    return trainer, metrics


def of_examples(name):
    """A trainer of an agent that learns from a data set."""
    env_kind, given, kind, settings = {
        "supervised": (SupervisedEnv, {"dataset": "iris", "num_envs": 40}, Supervised, {"network": MLP}),
        "vae": (
            ReconstructionEnv, {"dataset": "digits", "num_envs": 16}, AutoencoderAgent,
            {"network": {"name": "vae", "latent": 2, "hidden": [8]}, "free_bits": 0.05},
        ),
    }[name]  # fmt: skip
    given = {**given, "num_envs": distributed.share(given["num_envs"], "N")}
    env = env_kind(env_kind.Settings.model_validate(given))
    torch.manual_seed(1)
    agent = kind(env, kind.Settings.model_validate(settings))
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=10**6, eval_every=None), seed=3)
    for update in range(UPDATES):
        autoencoder.torch.randn_like, kept = _noise(update), torch.randn_like
        metrics = trainer.update()
        autoencoder.torch.randn_like = kept
    return trainer, metrics


def _noise(update):
    def drawn(x):
        all_of_it = torch.randn(
            len(x) * distributed.size(), *x.shape[1:], generator=torch.Generator().manual_seed(update)
        )
        return all_of_it[distributed.rank() * len(x) :][: len(x)]

    return drawn


def outcome(trainer, metrics):
    """What must not depend on the number of processes."""
    trainer.episodes.flush()
    return {
        "parameters": nn.utils.parameters_to_vector(trainer.agent.parameters()).detach(),
        "moments": [
            torch.cat([module.count.view(1), module.mean.flatten(), module.var.flatten()])
            for module in trainer.agent.modules()
            if isinstance(module, RunningMoments)
        ],
        "episodes": (trainer.episodes.means(), trainer.episodes.num_episodes, trainer.episodes._latest),
        "steps": trainer.steps,
        "metrics": trainer._read(metrics),
    }


EQUAL = {**dict.fromkeys(ROLLOUTS, of_rollouts), "supervised": of_examples, "vae": of_examples}


def resumed(name, folder):
    """Whether an agent goes on bit for bit, each process from its own state; on one rank at least, what differs."""
    straight, before = make_trainer(name), make_trainer(name)
    before.write_to(folder)
    for _ in range(6):
        straight.update()
    for _ in range(3):
        before.update()
    before.save("last")
    after = make_trainer(name)
    path = distributed.broadcast_object(str(folder))
    notes = after.restore(checkpoint.load(Path(path) / "checkpoints/last.pt"))
    for _ in range(3):
        after.update()
    for one in (straight, after):
        one.episodes.flush()
    here, there = (one._of_all_ranks(one.checkpoint()) for one in (straight, after))
    of_all = distributed.all_gather_object(nn.utils.parameters_to_vector(straight.agent.parameters()).detach())
    try:
        assert notes == []
        assert all(torch.equal(of_all[0], one) for one in of_all), "ranks have other parameters"
        same(here, there)
    except AssertionError as error:
        return str(error)
    return None


def refused(work):
    """The message of an InputError that every rank raises."""
    try:
        work()
    except InputError as error:
        return str(error)
    return None


def starts(num_envs):
    """Where the walks of N environments begin."""
    env = GymEnvironment(Walk, num_envs=distributed.share(num_envs, "N"))
    agent = PPO(env, PPO.Settings(horizon=4, minibatch_size=16))
    return env.collector(3).collect(agent).obs[0, :, 0]


def draws():
    """What a rank draws once it has begun to train."""
    make_trainer("ppo").update()
    return torch.rand(4)


def alike():
    """The parameters of an agent that each rank has made from another seed, after an update."""
    env = GymEnvironment(Walk, num_envs=1)
    torch.manual_seed(distributed.rank())
    trainer = Trainer(PPO(env, PPO.Settings(horizon=4, minibatch_size=8)), env, total_steps=8)
    trainer.update()
    return nn.utils.parameters_to_vector(trainer.agent.parameters()).detach()


def batch_norm():
    """Running statistics of rows with means 0 and 2, and variance 1."""
    norm = nn.BatchNorm1d(1)
    norm.running_mean.fill_(2.0 * distributed.rank())
    distributed.weigh(1)
    distributed.average_statistics(norm)
    return norm.running_mean.item(), norm.running_var.item()


def weights(rows):
    """The gradient of theta in the mean over all rows, of which each rank has another number."""
    env = GymEnvironment(Walk, num_envs=1)
    agent = RandomSearch(env, RandomSearch.Settings())
    theta = nn.Parameter(torch.zeros(2))
    agent.optimizer = SGD([theta], lr=1.0)
    x = torch.arange(2.0 * sum(rows)).view(-1, 2).split(rows)[distributed.rank()]
    distributed.weigh(len(x))
    metrics = agent.minimize((x * theta).sum(1).mean() + x.mean())
    return theta.detach(), metrics["loss"]


def main() -> None:
    """All parts, in the same order on every rank."""
    torch.set_num_threads(1)
    out, found = Path(sys.argv[1]), {}
    with distributed.joined():
        for name, work in EQUAL.items():
            distributed.calls.clear()
            found[name] = outcome(*work(name))
            found[name]["calls"] = dict(distributed.calls)
        with tempfile.TemporaryDirectory() as folder:
            for name in TRAINERS:
                found[f"resumed {name}"] = resumed(name, Path(folder) / name)
        found["weights"] = weights([3, 5])
        found["starts"], found["draws"] = starts(4), draws()
        found["alike"], found["batch norm"] = alike(), batch_norm()
        found["largest"] = distributed.largest(torch.tensor(1.0 * distributed.rank())).item()
        found["other"] = refused(lambda: distributed.require_alike([torch.tensor([1.0 * distributed.rank()])]))
        found["shares"] = refused(lambda: distributed.share(3, "env.num_envs"))
        found["apart"] = refused(apart)
        torch.save(found, out / f"{distributed.rank()}.pt")


def apart():
    """Ranks of which each takes another way."""
    if distributed.is_main():
        distributed.total(1, "left")
    else:
        distributed.mean(torch.ones(9000), "right")


if __name__ == "__main__":
    main()
