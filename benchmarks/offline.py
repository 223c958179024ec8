"""Offline agents beside d3rlpy's, on the same data set: python benchmarks/offline.py DATASET [--env ENV_ID] [--help]

The data set is in Minari's format, of observations that are vectors, and of actions of one kind: bc and discrete_cql
where they are discrete, else bc, td3_bc, iql and cql. d3rlpy 2.8.1 (``pip install d3rlpy``) is given the same
transitions, which is asserted of 2,000 of them; of an episode that was cut short it leaves out the last one, whose
successor it has no place for. Networks of 256 and 256 units, batches of 256, the settings of both in `OURS`, `THEIRS`.

Speed: updates per second of CPU time, torch on one thread, one process, the rivals alternating block by block. An
update is all of `Trainer.update`; of d3rlpy's ``sample_transition_batch`` and ``update``, without its logs. ``of it
drawing`` is what d3rlpy takes beyond an update on a batch that is drawn already.

Score, with --env: mean return of greedy episodes of gymnasium's environment after --updates updates, the same episodes
for all, as mean and standard error over the seeds; with --reference, of a random and an expert policy, also D4RL's
normalised score (Fu et al. 2020).

What there are no settings for: d3rlpy's bc of continuous actions minimises the squared error of a tanh, ours maximises
a normal's likelihood; its iql begins at a standard deviation of exp(-1.5), ours at 1; its cql's target is of the
policy's middle, ours of a draw; its discrete_cql copies the target network now and then and bounds the gradient of an
error, in ours the target follows; it does not clip normalised observations, ours are in [-10, 10].
"""

import argparse
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from gpu_parts import machine
from gymnasium.spaces import Box, Discrete
from measure import Block, interleave
from torch import Tensor

from rlcore import registry
from rlcore.agent import Agent, Metrics
from rlcore.envs.offline import OfflineEnv
from rlcore.evaluation import play
from rlcore.experience.recorded import Recorded
from rlcore.gym_environment import GymEnvironment
from rlcore.normalization import EPSILON
from rlcore.rollout import Rollout, Step
from rlcore.trainer import Trainer
from rlcore.trees import Tree

BATCH = 256
SECONDS = 1.0
"""CPU time of a block."""
FIRST_EPISODE = 1000
"""Seed of the first of the episodes; the others' follow it."""
LOOKED_AT = 2000
"""Transitions that are compared."""

NETWORK = {"name": "mlp", "hidden": [256, 256], "activation": "relu", "init": "torch"}
"""What d3rlpy's are by default."""
SHARED = {"network": NETWORK, "gamma": 0.99}
TWO_CRITICS = {"critics": 2, "tau": 0.005}
OURS: dict[str, dict[str, Any]] = {
    "bc": {"learning_rate": 1e-3, "network": NETWORK},
    "td3_bc": {
        **SHARED, **TWO_CRITICS, "learning_rate": 3e-4, "alpha": 2.5, "policy_delay": 2, "target_noise": 0.2,
        "target_noise_clip": 0.5,
    },
    "iql": {
        **SHARED, **TWO_CRITICS, "learning_rate": 3e-4, "learning_rate_schedule": "cosine", "expectile": 0.7,
        "beta": 3.0, "largest_weight": 100.0,
    },
    "cql": {
        **SHARED, **TWO_CRITICS, "learning_rate": 1e-4, "critic_learning_rate": 3e-4, "alpha": "auto",
        "conservative_weight": 5.0, "num_draws": 10,
    },
    "discrete_cql": {**SHARED, "learning_rate": 3e-4, "conservative_weight": 1.0, "tau": 0.005},
}  # fmt: skip
THEIR_CRITICS = {"gamma": 0.99, "n_critics": 2, "tau": 0.005, "critic_learning_rate": 3e-4}
THEIRS: dict[str, dict[str, Any]] = {
    "BC": {"learning_rate": 1e-3},
    "DiscreteBC": {"learning_rate": 1e-3, "beta": 0.0},
    "TD3PlusBC": {
        **THEIR_CRITICS, "actor_learning_rate": 3e-4, "alpha": 2.5, "update_actor_interval": 2,
        "target_smoothing_sigma": 0.2, "target_smoothing_clip": 0.5,
    },
    "IQL": {**THEIR_CRITICS, "actor_learning_rate": 3e-4, "expectile": 0.7, "weight_temp": 3.0, "max_weight": 100.0},
    "CQL": {
        **THEIR_CRITICS, "actor_learning_rate": 1e-4, "temp_learning_rate": 1e-4, "initial_temperature": 1.0,
        "conservative_weight": 5.0, "n_action_samples": 10, "initial_alpha": 1.0, "alpha_learning_rate": 0.0,
    },
    # its Huber loss is half the square, so half the weight; a copy every 200 updates is as old as tau=0.005 makes it
    "DiscreteCQL": {"gamma": 0.99, "n_critics": 1, "learning_rate": 3e-4, "alpha": 0.5, "target_update_interval": 200},
}  # fmt: skip
DISCRETE = {"bc": "DiscreteBC", "discrete_cql": "DiscreteCQL"}
CONTINUOUS = {"bc": "BC", "td3_bc": "TD3PlusBC", "iql": "IQL", "cql": "CQL"}
NORMALIZED = {"td3_bc"}
"""Agents whose observations are normalised."""


class Player(Agent):
    """An algorithm of d3rlpy as an agent that plays."""

    def __init__(self, env: GymEnvironment, algo: Any):
        super().__init__(env)
        self.algo = algo

    def act(self, obs: Tree, state: Tree = None) -> Step:
        return Step(torch.from_numpy(self.algo.predict(obs.numpy())))

    def learn(self, rollout: Rollout) -> Metrics:
        raise NotImplementedError


def ours(name: str, env: OfflineEnv, seed: int, updates: int, normalize: bool) -> Trainer:
    """A trainer of an agent of rlcore, for a run of so many updates."""
    kind = registry.agents[name]
    given = OURS[name] | ({"normalize_observations": True} if normalize else {})
    torch.manual_seed(seed)
    settings = Trainer.Settings(total_steps=updates * BATCH, eval_every=None)
    return Trainer(kind(env, kind.Settings.model_validate(given)), env, settings, seed=seed)


def theirs(kind: str, recorded: Recorded, dataset: Any, seed: int, updates: int, normalize: bool) -> Any:
    """An algorithm of d3rlpy, for a run of so many updates."""
    import d3rlpy
    from d3rlpy.optimizers import AdamFactory
    from d3rlpy.optimizers.lr_schedulers import CosineAnnealingLRFactory
    from d3rlpy.preprocessing import MinMaxActionScaler, StandardObservationScaler

    given: dict[str, Any] = {"batch_size": BATCH} | THEIRS[kind]
    if kind == "IQL":
        falling = CosineAnnealingLRFactory(T_max=updates)
        given["actor_optim_factory"] = AdamFactory(lr_scheduler_factory=falling)
    space = recorded.action_space
    if isinstance(space, Box) and not ((space.low == -1) & (space.high == 1)).all():
        given["action_scaler"] = MinMaxActionScaler(minimum=space.low, maximum=space.high)
    if normalize:
        obs = recorded.obs[recorded.place].double()
        std = (obs.var(0, correction=0) + EPSILON).sqrt()
        given["observation_scaler"] = StandardObservationScaler(mean=obs.mean(0).numpy(), std=std.numpy(), eps=0.0)
    d3rlpy.seed(seed)
    algo = getattr(d3rlpy.algos, f"{kind}Config")(**given).create()
    algo.build_with_dataset(dataset)
    return algo


def cuts(recorded: Recorded) -> Tensor:
    """Which steps are the last of an episode that had not reached its end, [S] bool."""
    return (recorded.last == torch.arange(len(recorded))) & ~recorded.terminated


def as_theirs(recorded: Recorded) -> Any:
    """What was recorded as a data set of d3rlpy, which has one observation for each step."""
    import structlog
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import MDPDataset

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    space = recorded.action_space
    is_discrete = isinstance(space, Discrete)
    return MDPDataset(
        observations=recorded.obs[recorded.place].float().numpy(),
        actions=recorded.action.numpy(),
        rewards=recorded.reward.numpy(),
        terminals=recorded.terminated.float().numpy(),
        timeouts=cuts(recorded).float().numpy(),
        action_space=ActionSpace.DISCRETE if is_discrete else ActionSpace.CONTINUOUS,
        action_size=int(space.n) if is_discrete else space.shape[0],
    )


def assert_same(recorded: Recorded, dataset: Any) -> int:
    """Compares transitions, of an evenly spaced choice; returns how many d3rlpy leaves out."""
    is_cut = cuts(recorded)
    steps = (~is_cut).nonzero().squeeze(1)
    assert dataset.transition_count == len(steps)
    for number in range(0, len(steps), max(1, len(steps) // LOOKED_AT)):
        step, found = steps[number], dataset.transition_picker(*dataset.buffer[number])
        place, terminated = recorded.place[step], bool(recorded.terminated[step])
        assert bool(found.terminal) == terminated
        next_obs = recorded.obs[place + 1] * (not terminated)  # after an end theirs is 0, and counts for nothing
        mine = recorded.obs[place], recorded.action[step], recorded.reward[step], next_obs
        pairs = zip(mine, (found.observation, found.action, found.reward, found.next_observation), strict=True)
        assert all(torch.equal(a.float().flatten(), torch.from_numpy(b).float().flatten()) for a, b in pairs)
    return int(is_cut.sum())


def timed(update: Callable[[], Any]) -> Block:
    """A block of updates that takes a second."""

    def block() -> int:
        num, start = 0, time.process_time()
        while time.process_time() - start < SECONDS:
            update()
            num += 1
        return num

    return block


def speed(name: str, trainer: Trainer, algo: Any, dataset: Any, num_blocks: int) -> str:
    """A row of the first table."""
    batch = dataset.sample_transition_batch(BATCH)
    rivals = {
        "ours": timed(trainer.update),
        "theirs": timed(lambda: algo.update(dataset.sample_transition_batch(BATCH))),
        "drawn": timed(lambda: algo.update(batch)),
    }
    found = interleave(rivals, num_blocks)
    best = {rival: max(speeds) for rival, speeds in found.items()}
    mine, other, drawn = (1000 / best[rival] for rival in rivals)
    median = statistics.median(a / b for a, b in zip(found["ours"], found["theirs"], strict=True))
    return (
        f"{name:14s}{best['ours']:12,.0f}{best['theirs']:12,.0f}{mine:12.2f}{other:12.2f}{other - drawn:16.2f}"
        f"{best['ours'] / best['theirs']:14.2f}{median:9.2f}"
    )


def mean_return(agent: Agent, env: GymEnvironment) -> float:
    """Of one greedy episode in each of the environments."""
    env.on_attach(agent)
    return play(agent, env, env.num_envs, FIRST_EPISODE).scalars["return"]


def compared(name: str, a: list[float], b: list[float]) -> str:
    """Means and standard errors over the seeds, and of the difference."""
    means = [statistics.mean(scores) for scores in (a, b)]
    errors = [statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else math.nan for scores in (a, b)]
    pairs = zip([*means, means[0] - means[1]], [*errors, math.hypot(*errors)], strict=True)
    cells = [f"{mean:.1f}" + ("" if math.isnan(error) else f" +- {error:.1f}") for mean, error in pairs]
    each = " | ".join(", ".join(f"{score:.1f}" for score in scores) for scores in (a, b))
    return f"{name:14s}" + "".join(f"{cell:>20s}" for cell in cells) + f"   {each}"


def main() -> None:
    """Measures the speed, then the score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="its folder, or the id of a local one")
    parser.add_argument("--env", help="gymnasium's id of where to play; without it there are no scores")
    parser.add_argument("--agents", nargs="+", choices=OURS)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=10, help="of a second of each rival; 0: no speed")
    parser.add_argument("--reference", nargs=2, type=float, metavar=("LOW", "HIGH"))
    parser.add_argument("--no-normalize", action="store_true", help="td3_bc sees observations as they are")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the command line does; here its peer gains from it, too

    env = OfflineEnv(OfflineEnv.Settings(dataset=given.dataset, num_envs=BATCH))
    recorded = env.recorded
    kinds, space = DISCRETE if isinstance(recorded.action_space, Discrete) else CONTINUOUS, recorded.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        parser.error(f"observations must be vectors, got {space}")
    names = given.agents or list(kinds)
    if unfit := [name for name in names if name not in kinds]:
        parser.error(f"{', '.join(unfit)}: not for the actions {recorded.action_space}")
    normalized = set() if given.no_normalize else NORMALIZED
    dataset = as_theirs(recorded)
    num_missing = assert_same(recorded, dataset)
    print(f"{machine('cpu')['processor']}, torch {torch.__version__}, one thread")
    print(f"{given.dataset}: {len(recorded):,} transitions; d3rlpy leaves out the {num_missing:,} of cuts")

    if given.blocks:
        print(f"\n{'':14s}{'updates/s':>24s}{'CPU ms an update':>24s}{'of it drawing':>16s}{'rlcore/d3rlpy':>23s}")
        print(f"{'':14s}" + 2 * f"{'rlcore':>12s}{'d3rlpy':>12s}" + f"{'d3rlpy':>16s}{'best':>14s}{'median':>9s}")
        for name in names:
            trainer = ours(name, env, 1, 10**9, name in normalized)
            algo = theirs(kinds[name], recorded, dataset, 1, 10**9, name in normalized)
            print(speed(name, trainer, algo, dataset, given.blocks), flush=True)
    if given.env is None:
        return

    stage = GymEnvironment(given.env, num_envs=given.episodes)
    scores: dict[str, tuple[list[float], list[float]]] = {}
    head = f"\n{{:14s}}{'rlcore':>20s}{'d3rlpy':>20s}{'difference':>20s}   each seed"
    print(f"\nReturn in {given.env} after {given.updates:,} updates, {given.episodes} episodes" + head.format(""))
    for name in names:
        scores[name] = [], []
        for seed in given.seeds:
            trainer = ours(name, env, seed, given.updates, name in normalized)
            for _ in range(given.updates):
                trainer.update()
            scores[name][0].append(mean_return(trainer.agent, stage))
            algo = theirs(kinds[name], recorded, dataset, seed, given.updates, name in normalized)
            for _ in range(given.updates):
                algo.update(dataset.sample_transition_batch(BATCH))
            scores[name][1].append(mean_return(Player(stage, algo), stage))
        print(compared(name, *scores[name]), flush=True)
    if given.reference:
        low, high = given.reference
        print(f"\nNormalised score, 0 at {low:g} and 100 at {high:g}" + head.format(""))
        for name, pair in scores.items():
            print(compared(name, *([100 * (score - low) / (high - low) for score in found] for found in pair)))
    stage.close()


if __name__ == "__main__":
    main()
