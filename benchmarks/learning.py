"""Learning compared with Stable-Baselines3, at rl-zoo's settings (ppo.yml): python benchmarks/learning.py [NUM_SEEDS]

CartPole, Acrobot (cut from 1M steps to 300k) and Pendulum, seed by seed and rival by rival in one process on one
thread; the shipped configs have other settings. Evaluations, 20 greedy episodes of gymnasium's own environment with the
same seeds for all, stop the clock: the CPU time of the process. Draws docs/images/learning.png: return against steps
and against seconds, interquartile mean and range over the seeds.

CartPole is stepped as a user of each would: rlcore by its own batched environment, Stable-Baselines3 by gymnasium's.
Its linear schedules use the steps after a rollout, ours those before it. Rl-zoo's Pendulum explores by gSDE, which
rlcore does not have; Stable-Baselines3 is shown with and without it.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from matplotlib.figure import Figure
from results import digits, iqm
from stable_baselines3 import PPO as SB3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rlcore import registry
from rlcore.agents.ppo import PPO
from rlcore.config import EnvironmentChoice
from rlcore.trainer import Trainer

Curve = list[tuple[int, float, float]]
"""Steps, seconds and mean return of each evaluation."""

NUM_EVALUATIONS = 20
TASKS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 100_000, "num_envs": 8, "horizon": 32, "minibatch_size": 256, "num_epochs": 20, "gamma": 0.98,
        "gae_lambda": 0.8, "learning_rate": 1e-3, "linear": True,
    },
    "Acrobot-v1": {
        "steps": 300_000, "num_envs": 16, "horizon": 256, "minibatch_size": 64, "num_epochs": 4, "gamma": 0.99,
        "gae_lambda": 0.94, "learning_rate": 3e-4, "normalize": True,
    },
    "Pendulum-v1": {
        "steps": 100_000, "num_envs": 4, "horizon": 1024, "minibatch_size": 64, "num_epochs": 10, "gamma": 0.9,
        "gae_lambda": 0.95, "learning_rate": 1e-3,
    },
}  # fmt: skip
SHARED = ("horizon", "minibatch_size", "num_epochs", "gamma", "gae_lambda", "learning_rate")


def evaluate(env_id: str, policy: Callable[[np.ndarray], Any]) -> float:
    """Mean return of 20 parallel episodes; a policy maps observations [20, *O] to actions."""
    envs = gymnasium.make_vec(env_id, 20)
    obs, _ = envs.reset(seed=10_000)
    total, running = np.zeros(20), np.ones(20, dtype=bool)
    while running.any():
        space = envs.single_action_space
        action = policy(obs)
        if isinstance(space, gymnasium.spaces.Box):
            action = np.clip(action, space.low, space.high)
        obs, reward, terminated, truncated, _ = envs.step(action)
        total += reward * running
        running &= ~(terminated | truncated)
    envs.close()
    return float(total.mean())


def rlcore_curve(env_id: str, seed: int) -> Curve:
    task = TASKS[env_id]
    choice = {"name": "cartpole"} if env_id == "CartPole-v1" else {"name": "gym", "id": env_id}
    chosen = EnvironmentChoice.model_validate({**choice, "num_envs": task["num_envs"]})
    env = registry.envs[chosen.name](chosen.settings)
    schedule = "linear" if task.get("linear") else "constant"
    torch.manual_seed(seed)
    settings = PPO.Settings.model_validate(
        {
            **{key: task[key] for key in SHARED},
            "learning_rate_schedule": schedule,
            "clip_range_schedule": schedule,
            **dict.fromkeys(("normalize_observations", "normalize_rewards"), task.get("normalize", False)),
        }
    )
    trainer = Trainer(PPO(env, settings), env, total_steps=task["steps"], seed=seed)

    def play(obs: np.ndarray) -> np.ndarray:
        return trainer.agent.predict(torch.as_tensor(obs, dtype=torch.float32)).action.numpy()

    def evaluations() -> Iterator[tuple[int, Callable[[np.ndarray], Any]]]:
        while trainer.steps < task["steps"]:
            trainer.update()
            yield trainer.steps, play

    return timed(env_id, evaluations())


def sb3_curve(env_id: str, seed: int, **options: Any) -> Curve:
    task = TASKS[env_id]
    envs: Any = make_vec_env(env_id, task["num_envs"], seed=seed)
    if task.get("normalize"):
        envs = VecNormalize(envs, gamma=task["gamma"])
    schedule = (lambda rate: lambda left: left * rate) if task.get("linear") else (lambda rate: rate)
    model = SB3(
        "MlpPolicy", envs, n_steps=task["horizon"], batch_size=task["minibatch_size"], n_epochs=task["num_epochs"],
        gamma=task["gamma"], gae_lambda=task["gae_lambda"], learning_rate=schedule(task["learning_rate"]),
        clip_range=schedule(0.2), seed=seed, device="cpu", **options,
    )  # fmt: skip

    def play(obs: np.ndarray) -> np.ndarray:
        seen = envs.normalize_obs(obs) if task.get("normalize") else obs
        return model.predict(seen, deterministic=True)[0]

    class Clock(BaseCallback):
        """Collects a point before each rollout except the first, when all data so far has been learned from."""

        def __init__(self) -> None:
            super().__init__()
            self.stopwatch = Stopwatch(env_id)

        def _on_rollout_start(self) -> None:
            self.stopwatch.look(self.num_timesteps, play)

        def _on_step(self) -> bool:
            return True

    clock = Clock()
    model.learn(task["steps"], callback=clock)
    clock.stopwatch.look(model.num_timesteps, play)
    return clock.stopwatch.curve


class Stopwatch:
    """Evaluates after every twentieth of the steps, with the clock stopped."""

    def __init__(self, env_id: str):
        self.env_id, self.curve = env_id, Curve()
        self.every = TASKS[env_id]["steps"] // NUM_EVALUATIONS
        self.start = time.process_time()

    def look(self, steps: int, policy: Callable[[np.ndarray], Any]) -> None:
        """Evaluates if it is due."""
        before = self.curve[-1][0] if self.curve else 0
        if steps // self.every == before // self.every:
            return
        now = time.process_time()
        self.curve.append((steps, now - self.start, evaluate(self.env_id, policy)))
        self.start += time.process_time() - now


def timed(env_id: str, updates: Iterator[tuple[int, Callable[[np.ndarray], Any]]]) -> Curve:
    stopwatch = Stopwatch(env_id)
    for steps, policy in updates:
        stopwatch.look(steps, policy)
    return stopwatch.curve


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    num_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(2, len(TASKS))
    print(f"{'':14s}{'':28s}{'steps':>9s}{'return, IQM':>13s}{'each seed':>42s}{'seconds':>9s}")
    for column, (env_id, task) in enumerate(TASKS.items()):
        rivals: dict[str, Callable[[int], Curve]] = {
            "rlcore": lambda seed, env_id=env_id: rlcore_curve(env_id, seed),
            "Stable-Baselines3": lambda seed, env_id=env_id: sb3_curve(env_id, seed),
        }
        if env_id == "Pendulum-v1":
            rivals["Stable-Baselines3, gSDE"] = lambda seed: sb3_curve(
                "Pendulum-v1", seed, use_sde=True, sde_sample_freq=4
            )
        curves: dict[str, list[Curve]] = {name: [] for name in rivals}
        for seed in range(1, num_seeds + 1):
            for name, run in rivals.items():
                curves[name].append(run(seed))
        for name, runs in curves.items():
            last = [run[-1] for run in runs]
            returns = np.array([value for _, _, value in last])
            seconds = np.mean([value for _, value, _ in last])
            each = ", ".join(map(digits, returns))
            print(
                f"{env_id:14s}{name:28s}{task['steps']:9,}{digits(float(iqm(returns))):>13s}{each:>42s}{seconds:9.1f}"
            )
            values = np.array([[point[2] for point in run[:NUM_EVALUATIONS]] for run in runs])
            for row, unit in enumerate((1000, 1)):
                x = np.mean([[point[row] / unit for point in run[:NUM_EVALUATIONS]] for run in runs], axis=0)
                panels[row, column].plot(x, iqm(values, axis=0), label=name)
                panels[row, column].fill_between(x, values.min(0), values.max(0), alpha=0.2)
        panels[0, column].set(title=env_id, xlabel="thousand environment steps")
        panels[1, column].set(xlabel="seconds of one core")
        panels[0, column].legend(fontsize=7)
    figure.supylabel("mean return of 20 greedy episodes")
    figure.savefig(Path(__file__).parent.parent / "docs" / "images" / "learning.png", dpi=90)


if __name__ == "__main__":
    main()
