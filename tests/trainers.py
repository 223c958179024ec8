"""Small trainers, one for every kind of content that a checkpoint has."""

from pathlib import Path

import torch

from rlcore import Trainer, config, registry
from rlcore.agents.alphazero import AlphaZero
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.discrete_sac import DiscreteSAC
from rlcore.agents.dqn import DQN
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.ppo import PPO
from rlcore.agents.pqn import PQN
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.sac import SAC
from rlcore.agents.supervised import Supervised
from rlcore.agents.td3 import TD3
from rlcore.agents.trpo import TRPO
from rlcore.envs.cartpole import CartPole
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.games.versus import VersusEnv
from rlcore.envs.probes import Target, TwoStep
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

EXAMPLE = Path(__file__).parent.parent / "examples/dqn.yaml"
MLP = {"name": "mlp", "hidden": [4]}
CARTPOLE = {"num_envs": 4, "max_episode_steps": 12, "length": {"low": 0.4, "high": 0.6}}
IRIS = {"dataset": "iris", "num_envs": 30}
DIGITS = {"dataset": "digits", "num_envs": 16}
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
MEMBER = {"name": "ppo", "horizon": 8, "minibatch_size": 16, "network": MLP}

TRAINERS = {
    "ppo": (CartPole, CARTPOLE, PPO, {**NORMALIZED, "network": MLP}),
    "probe": (TwoStep, {"num_envs": 4}, PPO, {"horizon": 5, "minibatch_size": 10, "network": MLP}),
    "reinforce": (CartPole, CARTPOLE, Reinforce, {"baseline": True, "value_steps": 2, "network": MLP}),
    "recurrent_ppo": (CartPole, CARTPOLE, RecurrentPPO, RECURRENT),
    "supervised": (SupervisedEnv, IRIS, Supervised, {"network": MLP}),
    "momentum": (SupervisedEnv, IRIS, Supervised, {"network": MLP, "optimizer": "sgd", "momentum": 0.9}),
    "autoencoder": (
        ReconstructionEnv, {**DIGITS, "binarize": "dynamic", "action": "log_odds"}, AutoencoderAgent,
        {"network": {"name": "vae", "latent": 2, "hidden": [4]}},
    ),
    "ensemble": (CartPole, CARTPOLE, Ensemble, {"agent": MEMBER, "members": 2}),
    "alphazero": (SelfPlayEnv, TICTACTOE, AlphaZero, PLAYER),
    "versus": (VersusEnv, {**TICTACTOE, "save_every": 2}, Reinforce, {"gamma": 1.0, "network": MLP}),
    "trpo": (CartPole, CARTPOLE, TRPO, {**NORMALIZED_TRPO, "network": MLP}),
    "random_search": (CartPole, CARTPOLE, RandomSearch, {}),
    "example_dqn": (CartPole, CARTPOLE, None, EXAMPLE_DQN),
    "dqn": (CartPole, CARTPOLE, DQN, REPLAY),
    "pqn": (CartPole, CARTPOLE, PQN, {"horizon": 8, "minibatch_size": 16, "network": {**MLP, "layer_norm": True}}),
    "discrete_sac": (CartPole, CARTPOLE, DiscreteSAC, REPLAY),
    "sac": (Target, {"num_envs": 4}, SAC, REPLAY),
    "td3": (Target, {"num_envs": 4}, TD3, REPLAY),
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
