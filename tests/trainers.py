"""Small trainers, one for every kind of content that a checkpoint has."""

from pathlib import Path

import torch
from gymnasium.spaces import Box, Discrete

from rlcore import Trainer, config, registry
from rlcore.agents.alphazero import AlphaZero
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.bc import BC
from rlcore.agents.cql import CQL
from rlcore.agents.discrete_cql import DiscreteCQL
from rlcore.agents.discrete_sac import DiscreteSAC
from rlcore.agents.dqn import DQN
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.iql import IQL
from rlcore.agents.muzero import MuZero
from rlcore.agents.ppo import PPO
from rlcore.agents.pqn import PQN
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.sac import SAC
from rlcore.agents.supervised import Supervised
from rlcore.agents.td3 import TD3
from rlcore.agents.td3_bc import TD3BC
from rlcore.agents.trpo import TRPO
from rlcore.envs.cartpole import CartPole
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.games.versus import VersusEnv
from rlcore.envs.offline import OfflineEnv
from rlcore.envs.probes import Target, TwoStep
from rlcore.experience import Episode, Recorded
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

EXAMPLE = Path(__file__).parent.parent / "examples/dqn.yaml"
MLP = {"name": "mlp", "hidden": [4]}
CARTPOLE = {"num_envs": 4, "max_episode_steps": 12, "length": {"low": 0.4, "high": 0.6}}
IRIS = {"dataset": "iris", "num_envs": 30}
DIGITS = {"dataset": "digits", "num_envs": 16}
RECORDED = {"num_envs": 16}
TICTACTOE = {"game": "tictactoe", "num_envs": 8, "random_openings": 2}
NORMALIZED = {"horizon": 8, "minibatch_size": 16, "normalize_observations": True, "normalize_rewards": True}
NORMALIZED_TRPO = {"horizon": 8, "value_minibatch_size": 16, "normalize_observations": True, "normalize_rewards": True}
RECURRENT = {"horizon": 8, "minibatch_size": 16, "network": {"name": "lstm", "size": 4, "body": MLP}}
REPLAY = {
    "network": MLP,
    "horizon": 2,
    "batch_size": 8,
    "learning_starts": 24,
    "replay_size": 40,
    "updates_per_step": 0.3,
}
EXAMPLE_DQN = {
    "network": MLP,
    "horizon": 4,
    "num_updates": 2,
    "batch_size": 8,
    "learning_starts": 16,
    "replay_size": 40,
}
PLAYER = {"network": MLP, "simulations": 4, "eval_simulations": 4, "batch_size": 16, "replay_size": 40, "horizon": 6,
          "gate_every": 3, "gate_games": 4}  # fmt: skip
MUZERO = {
    "latent_size": 4, "representation": MLP, "dynamics": MLP, "prediction": MLP, "unroll_steps": 3,
    "simulations": 4, "eval_simulations": 4, "batch_size": 16, "replay_size": 40, "horizon": 6,
}  # fmt: skip
MEMBER = {"name": "ppo", "horizon": 8, "minibatch_size": 16, "network": MLP}


class RecordedTarget(OfflineEnv):
    """Steps of Target that were recorded, in episodes of five steps."""

    space = Box(-2.0, 2.0, (1,))

    def __init__(self, settings, device="cpu"):
        generator = torch.Generator().manual_seed(1)
        last = torch.arange(5) == 4
        episodes = []
        for e in range(12):
            obs = torch.rand(6, 1, generator=generator)
            action = torch.rand(5, 1, generator=generator)
            if isinstance(self.space, Discrete):
                action = (3 * action).long().squeeze(1)
            reward = torch.rand(5, generator=generator)
            episodes.append(Episode(obs, action, reward, last & (e % 2 == 0), last & (e % 2 == 1)))
        super().__init__(settings, device, Recorded.of(episodes, Box(-1.0, 1.0, (1,)), self.space))


class RecordedChoice(RecordedTarget):
    """The same with three actions."""

    space = Discrete(3)


TRAINERS = {
    "ppo": (CartPole, CARTPOLE, PPO, {**NORMALIZED, "network": MLP}),
    "probe": (TwoStep, {"num_envs": 4}, PPO, {"horizon": 5, "minibatch_size": 10, "network": MLP}),
    "reinforce": (CartPole, CARTPOLE, Reinforce, {"baseline": True, "value_steps": 2, "network": MLP}),
    "recurrent_ppo": (CartPole, CARTPOLE, RecurrentPPO, RECURRENT),
    "supervised": (SupervisedEnv, IRIS, Supervised, {"network": MLP}),
    "momentum": (SupervisedEnv, IRIS, Supervised, {"network": MLP, "optimizer": "sgd", "momentum": 0.9}),
    "numbers": (
        SupervisedEnv, {"dataset": "x_sin_x", "num_envs": 50, "action": "normal", "target_scaling": "standard"},
        Supervised, {"network": MLP, "beta_nll": 0.5},
    ),
    "autoencoder": (
        ReconstructionEnv, {**DIGITS, "binarize": "dynamic", "action": "log_odds"}, AutoencoderAgent,
        {"network": {"name": "vae", "latent": 2, "hidden": [4]}},
    ),
    "ensemble": (CartPole, CARTPOLE, Ensemble, {"agent": MEMBER, "members": 2}),
    "alphazero": (SelfPlayEnv, TICTACTOE, AlphaZero, PLAYER),
    "muzero": (SelfPlayEnv, TICTACTOE, MuZero, MUZERO),
    "versus": (VersusEnv, {**TICTACTOE, "save_every": 2}, Reinforce, {"gamma": 1.0, "network": MLP}),
    "trpo": (CartPole, CARTPOLE, TRPO, {**NORMALIZED_TRPO, "network": MLP}),
    "random_search": (CartPole, CARTPOLE, RandomSearch, {}),
    "example_dqn": (CartPole, CARTPOLE, None, EXAMPLE_DQN),
    "dqn": (CartPole, CARTPOLE, DQN, REPLAY),
    "pqn": (CartPole, CARTPOLE, PQN, {"horizon": 8, "minibatch_size": 16, "network": {**MLP, "layer_norm": True}}),
    "discrete_sac": (CartPole, CARTPOLE, DiscreteSAC, REPLAY),
    "sac": (Target, {"num_envs": 4}, SAC, REPLAY),
    "td3": (Target, {"num_envs": 4}, TD3, REPLAY),
    "bc": (RecordedChoice, RECORDED, BC, {"network": MLP}),
    "td3_bc": (RecordedTarget, RECORDED, TD3BC, {"network": MLP, "normalize_observations": True}),
    "iql": (RecordedTarget, RECORDED, IQL, {"network": MLP}),
    "cql": (RecordedTarget, RECORDED, CQL, {"network": MLP, "num_draws": 2}),
    "discrete_cql": (RecordedChoice, RECORDED, DiscreteCQL, {"network": MLP}),
}  # fmt: skip


def make_trainer(name, **settings):
    """A trainer as any other of that name, before its first update; with settings of the trainer."""
    return make(*TRAINERS[name], **settings)


def make(make_env, env_settings, make_agent, agent_settings, **settings):
    """A trainer of an agent in an environment."""
    if make_agent is None:
        config.load(EXAMPLE)  # which registers it
        make_agent = registry.agents["example_dqn"]
    env = make_env(make_env.Settings.model_validate(env_settings))
    torch.manual_seed(1)
    agent = make_agent(env, make_agent.Settings.model_validate(agent_settings))
    settings = {"total_steps": 2000, "eval_episodes": 4, **settings}
    return Trainer(agent, env, Trainer.Settings.model_validate(settings), seed=4)
