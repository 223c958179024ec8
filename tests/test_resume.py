"""A run that was interrupted ends in the bits of one that was not: every shipped agent, and every hook."""

import pytest
import torch
from compare import same
from trainers import (
    CARTPOLE,
    DIGITS,
    IRIS,
    MEMBER,
    MLP,
    NORMALIZED,
    PLAYER,
    RECURRENT,
    REPLAY,
    TICTACTOE,
    TRAINERS,
    make,
    make_trainer,
)  # fmt: skip

from rlcore import checkpoint, legacy, registry
from rlcore.agents.alphazero import AlphaZero
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.crossq import CrossQ
from rlcore.agents.dqn import DQN
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.ppo import PPO
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.sac import SAC
from rlcore.agents.supervised import Supervised
from rlcore.agents.td3 import TD3
from rlcore.envs.cartpole import CartPole
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.games.versus import VersusEnv
from rlcore.envs.probes import Target
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

DROPOUT = {**MLP, "dropout": 0.2}
LABELS = {**IRIS, "action": "label"}
FRAMES = {**RECURRENT, "network": {"name": "frame_stack", "frames": 3, "body": MLP}, "shared": True}
RARE = {"recompute_advantages": True, "squash": True, "target_kl": 0.01, "value_clip": 0.2, "shared": True}


class LongTarget(Target):
    """Target, five times in an episode."""

    length = 5


RAINBOW = {
    "double": True, "dueling": True, "noisy": True, "quantiles": 4, "n_step": 3, "priority_alpha": 0.6,
    "target_every": 20,
}  # fmt: skip
VARIANTS = {
    "alphazero puct": (SelfPlayEnv, TICTACTOE, AlphaZero, {**PLAYER, "search": "puct"}),
    "alphazero katago": (
        SelfPlayEnv, {**TICTACTOE, "game": "einstein"}, AlphaZero,
        {**PLAYER, "search": "puct", "fast_simulations": 2, "surprise": 0.5, "value_mix": 0.3, "forced_visits": 2.0},
    ),
    "alphazero tree": (SelfPlayEnv, TICTACTOE, AlphaZero, {**PLAYER, "search": "puct", "reuse_tree": True}),
    "alphazero resnet": (
        SelfPlayEnv, TICTACTOE, AlphaZero,
        {**PLAYER, "network": {"name": "policy_value_resnet", "channels": 8, "blocks": 1}},
    ),
    "vae dynamic": (
        ReconstructionEnv, {**DIGITS, "binarize": "dynamic"}, AutoencoderAgent,
        {"network": {"name": "vae", "latent": 2, "hidden": [4]}, "kl_warmup": 0.3},
    ),
    "frame_stack": (CartPole, CARTPOLE, RecurrentPPO, {**FRAMES, "normalize_rewards": True}),
    "versus pool": (
        VersusEnv, {**TICTACTOE, "save_every": 2, "pool": [{"name": "random"}], "pool_size": 2}, Reinforce,
        {"gamma": 1.0, "network": MLP, "baseline": True},
    ),
    "ppo squashed": (Target, {"num_envs": 4}, PPO, {**NORMALIZED, **RARE, "network": MLP}),
    "ppo smooth": (Target, {"num_envs": 4}, PPO, {**NORMALIZED, "network": MLP, "state_dependent_noise": True}),
    "ppo dropout": (CartPole, CARTPOLE, PPO, {**NORMALIZED, "network": DROPOUT}),
    "ppo labels": (SupervisedEnv, LABELS, PPO, {"horizon": 2, "minibatch_size": 12, "network": MLP}),
    "reinforce dropout": (CartPole, CARTPOLE, Reinforce, {"network": DROPOUT}),
    "reinforce labels": (SupervisedEnv, LABELS, Reinforce, {"network": MLP, "baseline": True}),
    "supervised dropout": (
        SupervisedEnv, {**IRIS, "scaling": "standard"}, Supervised, {"network": {**DROPOUT, "batch_norm": True}},
    ),
    "search labels": (SupervisedEnv, LABELS, RandomSearch, {}),
    "ensemble labels": (SupervisedEnv, IRIS, Ensemble, {"agent": {"name": "supervised", "network": MLP}, "members": 2}),
    "dqn all": (CartPole, CARTPOLE, DQN, {**REPLAY, **RAINBOW, "normalize_observations": True}),
    "dqn half": (CartPole, CARTPOLE, DQN, {**REPLAY, "replay_size": 400, "n_step": 5, "normalize_rewards": True}),
    "sac smooth": (Target, {"num_envs": 4}, SAC, {**REPLAY, "state_dependent_noise": True, "horizon": 4}),
    "crossq": (Target, {"num_envs": 4}, CrossQ, {**REPLAY, "state_dependent_noise": True, "horizon": 4}),
    "redq": (Target, {"num_envs": 4}, SAC, {**REPLAY, "critics": 4, "target_critics": 2}),
    "tqc": (Target, {"num_envs": 4}, SAC, {**REPLAY, "quantiles": 5, "policy_delay": 2, "priority_alpha": 0.6}),
    "ddpg": (
        LongTarget, {"num_envs": 4}, TD3,
        {**REPLAY, "critics": 1, "policy_delay": 1, "target_noise": 0.0, "noise_kind": "ornstein_uhlenbeck"},
    ),
    "ensemble": (CartPole, CARTPOLE, Ensemble, {"agent": {**MEMBER, "network": DROPOUT}, "members": 2}),
}  # fmt: skip
NEW = (
    "example_dqn", "crossq", "discrete_sac", "dqn", "muzero", "pqn", "sac", "td3", "trpo",
    "bc", "td3_bc", "iql", "cql", "discrete_cql",
)  # fmt: skip
"""Not in 0.1, or saved otherwise there."""
HOOKS = {
    "early_stopping": {"figure": "eval/return", "patience": 2},
    "ema": {"decay": 0.9},
    "curriculum": {
        "figure": "steps",
        "stages": [
            {"until": 64, "env": {"max_episode_steps": 4}},
            {"until": 128, "env": {"max_episode_steps": 8}},
            {"env": {}},
        ],
    },
    "doctor": {},
    "grad_norm": {},
    "monitor": {},
}


def updated(trainer, updates):
    """After that many updates, with evaluations on the way."""
    for n, _ in enumerate(trainer.updates(), 1):
        if n == updates:
            break
    return trainer


def check(make, *arguments, **named):
    whole, cut, rest = (make(*arguments, **named, eval_every=96) for _ in range(3))
    updated(whole, 7)
    saved = updated(cut, 4).checkpoint()
    torch.manual_seed(99)  # whatever happened in this process
    assert rest.restore(saved) == []
    updated(rest, 3)
    same(whole.checkpoint(), rest.checkpoint())
    same(whole.checkpoint(learns=False), rest.checkpoint(learns=False))


@pytest.mark.parametrize("name", TRAINERS)
def test_every_agent(name):
    check(make_trainer, name)


@pytest.mark.parametrize("name", VARIANTS)
def test_their_variants(name):
    check(make, *VARIANTS[name])


def test_every_shipped_agent_and_hook_is_here():
    here = {kind for _, _, kind, _ in (*TRAINERS.values(), *VARIANTS.values())}
    shipped = [registry.agents[name] for name in registry.agents.names() if name != "alphago"]  # which needs a run
    assert {kind for kind in shipped if kind.__module__.startswith("rlcore.")} == here - {None}
    hooks = [name for name in registry.hooks.names() if registry.hooks[name].__module__.startswith("rlcore.")]
    assert hooks == sorted(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("agent", ["ppo", "supervised"])
def test_every_hook(name, agent):
    if (name, agent) == ("curriculum", "supervised"):
        pytest.skip("data sets have no settings that a curriculum would change")
    settings = dict(HOOKS[name])
    if agent == "supervised" and name == "early_stopping":
        settings["figure"] = "eval/accuracy"
    check(make_trainer, agent, hooks=[{"name": name, **settings}])


def as_0_1(saved):
    """A checkpoint as rlcore 0.1 wrote it, schema 2."""
    learns = saved["learns"]
    agent = {**saved["agent"], **{part: learns["agent"][part] for part in ("optimizers", "generators")}}
    states, numbers = learns["agent"]["states"], learns["agent"]["numbers"]
    if "replay" in states and "waiting" in states["replay"]:
        agent |= states["replay"]
    if "num_rollouts" in numbers:
        agent["num_rollouts"] = numbers["num_rollouts"]
    if any(name.startswith("members.") for name in agent["parameters"]):
        agent = {"members": [member(agent, k) for k in range(2)]}
    rest = {key: value for key, value in learns.items() if key not in ("agent", "hooks", "collector", "stopped")}
    kept = {key: saved[key] for key in ("name", "steps", "observation_shape")}
    return {"schema": 2, **kept, **rest, **learns["collector"], "agent": agent}


def member(agent, k):
    prefix = f"members.{k}."
    return {
        part: {name.removeprefix(prefix): value for name, value in agent[part].items() if name.startswith(prefix)}
        for part in ("parameters", "optimizers", "generators")
    }


@pytest.mark.parametrize("name", [name for name in TRAINERS if name not in NEW])
def test_checkpoints_of_0_1_are_read(name, tmp_path):
    rest, trainer = make_trainer(name), make_trainer(name)
    checkpoint.save(tmp_path / "old.pt", as_0_1(updated(trainer, 3).checkpoint()))
    updated(trainer, 2)
    old = checkpoint.load(tmp_path / "old.pt")
    rest.restore(old)
    updated(rest, 2)
    same(trainer.checkpoint(), rest.checkpoint())
    assert legacy.upgraded(trainer.checkpoint()).keys() == trainer.checkpoint().keys()
