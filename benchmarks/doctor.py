"""Planted defects, and what `rlcore doctor` says of them: python benchmarks/doctor.py [--seeds 2] [--only NAME ...]

Each case is a run with one defect, of the settings, the environment, the network or the data, and the check that should
name it. Prints a row for each: in how many seeds it was named, and what else was. ``--runs FOLDER`` keeps the runs, and
examines those that are there without training again. ``--healthy`` trains the shipped configs instead, or those named,
each for ``--seconds`` of CPU at most, and prints what is found in them: nothing should be.
"""

import argparse
import contextlib
import io
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from rlcore import commands, doctor, registry
from rlcore.config import shipped_names
from rlcore.envs.cartpole import CartPole
from rlcore.errors import InputError
from rlcore.gym_environment import GymEnvironment
from rlcore.networks import Network


@registry.envs.register("loud_cartpole")
class LoudCartPole(CartPole):
    """A reward of 1,000 for each step."""

    def step(self, actions: Tensor) -> Any:
        obs, reward, *rest = super().step(actions)
        return obs, 1000 * reward, *rest


@registry.envs.register("silent_cartpole")
class SilentCartPole(CartPole):
    """No reward."""

    def step(self, actions: Tensor) -> Any:
        obs, reward, *rest = super().step(actions)
        return obs, 0 * reward, *rest


@registry.envs.register("micrometre_cartpole")
class MicrometreCartPole(CartPole):
    """Positions and velocities in micrometres beside angles in radians."""

    def reset(self, **options: Any) -> Any:
        obs, info = super().reset(**options)
        return self._scaled(obs), info

    def step(self, actions: Tensor) -> Any:
        obs, reward, terminated, truncated, info = super().step(actions)
        info = {key: self._scaled(x) if key == "final_obs" else x for key, x in info.items()}
        return self._scaled(obs), reward, terminated, truncated, info

    def _scaled(self, obs: Tensor) -> Tensor:
        return obs * torch.tensor([1e6, 1e6, 1.0, 1.0])


@registry.envs.register("deadly_gym")
class DeadlyGym(GymEnvironment):
    """Episodes that the time limit cuts are told to have ended."""

    def step(self, actions: Tensor) -> Any:
        obs, reward, terminated, truncated, info = super().step(actions)
        return obs, reward, terminated | truncated, torch.zeros_like(truncated), info


class Locks(gymnasium.Env):  # type: ignore[type-arg]
    """Ten doors, of which three, that change, can be opened: which is told, but not as a mask."""

    observation_space = Dict({"door": Box(0.0, 1.0, (10,)), "legal_moves": MultiBinary(10)})
    action_space = Discrete(10)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._observed(), {}

    def step(self, action: Any) -> Any:
        reward, self.time = float(self.legal[action]) - 0.5, self.time + 1
        return self._observed(), reward, self.np_random.random() < 0.05, self.time == 40, {}

    def _observed(self) -> Any:
        self.legal = np.zeros(10, np.int8)
        self.legal[self.np_random.choice(10, 3, replace=False)] = 1
        return {"door": self.np_random.random(10).astype(np.float32), "legal_moves": self.legal}


class TwoRooms(gymnasium.Env):  # type: ignore[type-arg]
    """A small reward at once on the left, ten times as much after eight steps to the right."""

    observation_space, action_space = Box(0.0, 1.0, (9,)), Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = 0
        return np.eye(9, dtype=np.float32)[0], {}

    def step(self, action: Any) -> Any:
        self.place += int(action)
        is_end = self.place == 8 or not action
        reward = (10.0 if self.place == 8 else 1.0) if is_end else 0.0
        return np.eye(9, dtype=np.float32)[self.place], reward, is_end, False, {}


gymnasium.register("Locks-v0", Locks)
gymnasium.register("TwoRooms-v0", TwoRooms)


class Hidden(Network):
    """A layer of 128 units, of which a subclass spoils one part."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Any):
        super().__init__()
        self.layer = nn.Linear(int(np.prod(in_shape)), 128)
        self.output = self._end(128, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.activate(self.layer(x.flatten(1))))

    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x)


@registry.networks.register("dead")
class Dead(Hidden):
    """ReLUs that a bias of -10 has killed."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Any):
        super().__init__(in_shape, out_features, settings)
        nn.init.constant_(self.layer.bias, -10.0)


@registry.networks.register("restless")
class Restless(Hidden):
    """Dropout that never ends: without a further argument, it is on."""

    def activate(self, x: Tensor) -> Tensor:
        return F.dropout(F.relu(x), 0.5)


@registry.networks.register("sociable")
class Sociable(Hidden):
    """Batch norm by the statistics of the batch, also in evaluation."""

    def activate(self, x: Tensor) -> Tensor:
        return F.relu(F.batch_norm(x, None, None, training=True))


def digits(path: Path, shuffled: bool = False, leaked: int = 0) -> str:
    """scikit-learn's digits as a file: with training labels in another order, or test rows among those of training."""
    x, y = load_digits(return_X_y=True)
    x, random = (16 * x).astype(np.uint8).reshape(-1, 8, 8), np.random.default_rng(1)
    order = random.permutation(len(x))
    x, y = x[order], y[order]
    train_x, train_y, test_x, test_y = x[:1400], y[:1400], x[1400:], y[1400:]
    train_x, train_y = np.concatenate([train_x, test_x[:leaked]]), np.concatenate([train_y, test_y[:leaked]])
    if shuffled:
        train_y = random.permutation(train_y)
    np.savez(path, inputs=train_x, targets=train_y, test_inputs=test_x, test_targets=test_y)
    return str(path)


class Case(NamedTuple):
    """A planted defect."""

    expected: str
    """The check that should name it."""
    where: str
    """In a few words."""
    config: dict[str, Any]
    seeds: int = 1
    """Runs of one case: several for what only a folder of them shows."""


CARTPOLE = {"name": "cartpole", "num_envs": 8}
PENDULUM = {"name": "gym", "id": "Pendulum-v1", "num_envs": 4}
PPO = {"name": "ppo", "horizon": 64, "minibatch_size": 128, "num_epochs": 4, "learning_rate": 3e-3, "gamma": 0.98}
DQN = {"name": "dqn", "learning_rate": 1e-3, "learning_starts": 1000, "horizon": 4, "updates_per_step": 0.25,
       "batch_size": 64, "target_every": 500, "network": {"hidden": [64, 64]}}  # fmt: skip
SAC = {"name": "sac", "learning_rate": 1e-3, "updates_per_step": 0.25, "batch_size": 64, "horizon": 4,
       "network": {"hidden": [64, 64]}}  # fmt: skip
DIGITS = {"name": "supervised", "dataset": "digits", "num_envs": 64}
MLP = {"name": "supervised", "network": {"name": "mlp", "hidden": [128], "activation": "relu", "init": "he"}}


def case(expected: str, where: str, env: Any, agent: Any, seeds: int = 1, **trainer: Any) -> Case:
    """A case of a config."""
    return Case(expected, where, {"env": env, "agent": agent, "trainer": {"eval_episodes": 5, **trainer}}, seeds)


def cases(folder: Path) -> list[Case]:
    """All of them; their data sets go into a folder."""
    shuffled = digits(folder / "shuffled.npz", shuffled=True)
    leaked = digits(folder / "leaked.npz", leaked=60)
    vae = {"name": "reconstruction", "dataset": "digits", "num_envs": 32}
    return [
        case("rewards_unscaled", "cartpole, rewards of 1,000", CARTPOLE | {"name": "loud_cartpole"},
             PPO, total_steps=15_000),
        case("rewards_constant", "cartpole, no reward", CARTPOLE | {"name": "silent_cartpole"}, PPO,
             total_steps=15_000),
        case("values_out_of_range", "dqn on cartpole, rewards of 1,000", CARTPOLE | {"name": "loud_cartpole"},
             DQN, total_steps=10_000),
        case("entropy_never_falls", "cartpole, entropy_coefficient 2", CARTPOLE, PPO | {"entropy_coefficient": 2.0},
             total_steps=15_000),
        case("entropy_collapses", "acrobot, learning rate 0.1 without clipping", PENDULUM | {"id": "Acrobot-v1"},
             PPO | {"learning_rate": 0.1, "clip_range": None}, total_steps=10_000),
        case("kl_spikes", "cartpole, 30 epochs without clipping", CARTPOLE,
             PPO | {"num_epochs": 30, "clip_range": None, "learning_rate": 1e-2}, total_steps=20_000),
        case("clip_fraction_high", "cartpole, clip_range 0.01 and 20 epochs", CARTPOLE,
             PPO | {"num_epochs": 20, "clip_range": 0.01}, total_steps=20_000),
        case("learning_rate_too_large", "ppo on cartpole, 0.3", CARTPOLE, PPO | {"learning_rate": 0.3},
             total_steps=15_000),
        case("learning_rate_too_large", "dqn on cartpole, 0.1", CARTPOLE, DQN | {"learning_rate": 0.1},
             total_steps=10_000),
        case("learning_rate_too_large", "digits, Adam at 0.3", DIGITS, MLP | {"learning_rate": 0.3}, epochs=10),
        case("learning_rate_too_small", "ppo on cartpole, 1e-6", CARTPOLE, PPO | {"learning_rate": 1e-6},
             total_steps=15_000),
        case("learning_rate_too_small", "sac on pendulum, 3e-7", PENDULUM, SAC | {"learning_rate": 3e-7},
             total_steps=6_000),
        case("learning_rate_too_small", "digits, Adam at 1e-6", DIGITS, MLP | {"learning_rate": 1e-6}, epochs=10),
        case("dead_units", "digits, biases of -10", DIGITS, MLP | {"network": "dead"}, epochs=10),
        case("dead_units", "dqn on cartpole, biases of -10", CARTPOLE, DQN | {"network": "dead"}, total_steps=6_000),
        case("saturated_units", "cartpole, weights ten times too large", CARTPOLE,
             PPO | {"network": {"init": "normal", "gain": 10.0}}, total_steps=10_000),
        case("log_std_explodes", "pendulum, entropy_coefficient 2", PENDULUM,
             PPO | {"entropy_coefficient": 2.0, "normalize_rewards": True, "horizon": 256}, total_steps=16_000),
        case("observations_unscaled", "cartpole in micrometres", CARTPOLE | {"name": "micrometre_cartpole"}, PPO,
             total_steps=10_000),
        case("mask_unused", "an environment whose mask has another name", PENDULUM | {"id": "Locks-v0"},
             PPO | {"network": "multi_input"}, total_steps=8_000),
        case("time_limit_as_death", "pendulum", PENDULUM | {"name": "deadly_gym"},
             PPO | {"normalize_rewards": True, "horizon": 256}, total_steps=8_000),
        case("too_few_updates", "cartpole, one epoch of 16,384 rows", CARTPOLE,
             PPO | {"horizon": 2048, "minibatch_size": None, "num_epochs": 1}, total_steps=60_000),
        case("replay_ratio", "dqn on cartpole, a batch of 8 each 1,000 steps", CARTPOLE,
             DQN | {"updates_per_step": 0.001, "batch_size": 8}, total_steps=15_000),
        case("posterior_collapse", "digits, beta 100", vae,
             {"name": "autoencoder", "beta": 100.0, "network": {"latent": 8, "hidden": [128]}}, epochs=20),
        case("leakage", "digits, 60 test rows in training", DIGITS | {"dataset": leaked}, MLP, epochs=5),
        case("labels_shuffled", "digits", DIGITS | {"dataset": shuffled}, MLP, epochs=60),
        case("evaluation_random", "digits, dropout that never ends", DIGITS, MLP | {"network": "restless"}, epochs=10),
        case("evaluation_depends_on_company", "digits, batch norm by the batch", DIGITS, MLP | {"network": "sociable"},
             epochs=10),
        case("units_alike", "digits, weights that begin at 0.1", DIGITS,
             MLP | {"network": {"name": "mlp", "init": "constant", "gain": 0.1, "activation": "tanh"}}, epochs=10),
        case("seeds_disagree", "two rooms, eight seeds", PENDULUM | {"id": "TwoRooms-v0", "num_envs": 8},
             PPO | {"learning_rate": 1e-3}, seeds=8, total_steps=4_000),
    ]  # fmt: skip


def train(config: dict[str, Any], folder: Path, seed: int) -> None:
    """A run in this process, in silence."""
    source = folder.parent / f"{folder.name}.yaml"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(json.dumps({"imports": [__file__], **config}))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        commands.train(str(source), [f"seed={seed}", "threads=1", "device=cpu"], str(folder), None, 1)


def cut(config: str, folder: Path, seconds: float) -> str:
    """A run of a shipped config, ended as by Ctrl-C after so much CPU time; returns why there is none, or nothing."""
    signal.signal(signal.SIGPROF, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            commands.train(config, ["threads=1", "device=cpu"], str(folder), None, 1)
    except InputError as error:
        return str(error)
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "" if (folder / "checkpoints/last.pt").exists() else f"no checkpoint in {seconds:g} s"


def trained(one: Case, folder: Path, seed: int) -> Path:
    """The run of a case, or the folder of its seeds, which is trained unless it is there."""
    for n in range(one.seeds):
        part = folder / f"seed{n}" if one.seeds > 1 else folder
        if not (part / "result.json").exists():
            train(one.config, part, seed + 100 * n)
    return folder


def named(folder: Path) -> list[str]:
    """The checks that find something in a run, or a folder of them."""
    return sorted({finding.name for diagnosis in doctor.examine_all(folder).values() for finding in diagnosis.findings})


def planted(folder: Path, seeds: int, only: list[str]) -> Iterator[tuple[Case, list[list[str]]]]:
    """Each case, and the names of what was found in the run of each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(cases(folder)):
        if not only or one.expected in only:
            runs = [trained(one, folder / f"{number:02}-{one.expected}-{seed}", seed) for seed in range(1, seeds + 1)]
            yield one, [named(run) for run in runs]


def healthy(folder: Path, configs: list[str], seconds: float) -> Iterator[tuple[str, str]]:
    """Each shipped config, and what was found in a run of it, or why there is none."""
    for config in configs or shipped_names():
        why = "" if (folder / config / "config.yaml").exists() else cut(config, folder / config, seconds)
        yield config, why or ", ".join(named(folder / config)) or "nothing"


def main() -> None:
    """Trains, examines, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="checks")
    parser.add_argument("--runs", type=Path, default=None)
    parser.add_argument("--healthy", nargs="*", default=None, help="shipped configs; none named: all")
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.runs or Path(temporary)).absolute()
        if arguments.healthy is not None:
            for config, found in healthy(folder, arguments.healthy, arguments.seconds):
                print(f"{config}: {found}", flush=True)
            return
        hits_of_all = []
        print("| defect | in | named | beside it |\n|---|---|---|---|")
        for one, found in planted(folder, arguments.seeds, arguments.only):
            hits = sum(one.expected in names for names in found)
            others = sorted({name for names in found for name in names} - {one.expected})
            hits_of_all.append(hits == len(found))
            print(f"| `{one.expected}` | {one.where} | {hits} of {len(found)} | {', '.join(others)} |", flush=True)
    number, seconds = len(hits_of_all), time.process_time() - start
    print(f"\n{sum(hits_of_all)} of {number} defects named in all seeds; {seconds:.0f} s of CPU")


if __name__ == "__main__":
    main()
