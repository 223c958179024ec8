"""How long it takes to solve CartPole: python benchmarks/solve.py

Stable-Baselines3 with its zoo's settings (8 x 32, batch 256, 20 epochs, lambda 0.8, gamma 0.98, learning rate and clip
range from 1e-3 and 0.2 linearly to 0 over 100,000 steps), rlcore with the same, and rlcore with those of
configs/cartpole_ppo.yaml. Every 2,048 steps 20 episodes are played greedily; CartPole is solved when all reach 500.
Five seeds each, alternating, each in its own process on one thread. CPU and wall seconds are those of training only,
without imports and evaluation; "from start" is the wall time from the start of the process, with both.
"""

import json
import statistics
import subprocess
import sys
import time

CHUNK, LIMIT, EPISODES = 2048, 100_000, 20


class Clock:
    """Adds up the seconds spent inside ``with``."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> None:
        self.start = time.process_time(), time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.cpu += time.process_time() - self.start[0]
        self.wall += time.perf_counter() - self.start[1]


ZOO = (
    "agent.horizon=32", "agent.num_epochs=20", "agent.gae_lambda=0.8", "agent.learning_rate=1e-3",
)  # fmt: skip
"""What turns configs/cartpole_ppo.yaml into the zoo's settings."""


def rlcore(seed: int, clock: Clock, overrides: tuple[str, ...] = ()) -> int | None:
    import torch

    from rlcore import config

    trainer, _ = config.build(config.load("cartpole_ppo", [f"seed={seed}", *overrides]).config)
    torch.set_num_threads(1)
    twin = trainer.env.evaluation(EPISODES)
    while trainer.steps < LIMIT:
        with clock:
            goal = trainer.steps + CHUNK
            while trainer.steps < goal:
                trainer.update()
        if twin.score(trainer.agent, EPISODES, seed=seed).scalars["return_min"] == 500:
            return trainer.steps
    return None


def sb3(seed: int, clock: Clock) -> int | None:
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy", make_vec_env("CartPole-v1", 8, seed=seed), n_steps=32, batch_size=256, n_epochs=20, gae_lambda=0.8,
        gamma=0.98, ent_coef=0.0, learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.2 * left, seed=seed,
        device="cpu",
    )  # fmt: skip
    twin = make_vec_env("CartPole-v1", EPISODES, seed=1000 + seed)
    solved: list[int] = []

    class Evaluate(BaseCallback):
        def _on_step(self) -> bool:
            return not solved

        def _on_rollout_start(self) -> None:
            if model.num_timesteps and model.num_timesteps % CHUNK == 0 and not solved:
                clock.__exit__()
                returns, _ = evaluate_policy(model, twin, EPISODES, return_episode_rewards=True)
                if min(returns) == 500:
                    solved.append(model.num_timesteps)
                clock.__enter__()

    with clock:
        model.learn(LIMIT, callback=Evaluate())
    return solved[0] if solved else None


def main() -> None:
    if len(sys.argv) > 1:
        clock = Clock()
        seed = int(sys.argv[2])
        if sys.argv[1] == "sb3":
            steps = sb3(seed, clock)
        else:
            steps = rlcore(seed, clock, ZOO if sys.argv[1] == "rlcore-zoo" else ())
        print(json.dumps({"steps": steps, "cpu": clock.cpu, "wall": clock.wall}))
        return
    rows: dict[str, list[dict[str, float]]] = {"rlcore": [], "rlcore-zoo": [], "sb3": []}
    for seed in range(1, 6):
        for name, results in rows.items():
            start = time.perf_counter()
            words = [sys.executable, "-W", "ignore", __file__, name, str(seed)]
            out = subprocess.run(words, capture_output=True, text=True, check=True)
            results.append({**json.loads(out.stdout.splitlines()[-1]), "from start": time.perf_counter() - start})
            print(name, "seed", seed, results[-1], flush=True)
    medians = {
        name: {key: statistics.median(row[key] or LIMIT for row in results) for key in results[0]}
        for name, results in rows.items()
    }
    for name, row in medians.items():
        print(f"{name:10s} median: " + "  ".join(f"{key} {value:,.2f}" for key, value in row.items()))
    for name in ("rlcore", "rlcore-zoo"):
        ratios = (f"{key} {medians['sb3'][key] / medians[name][key]:.2f}" for key in ("cpu", "wall", "from start"))
        print(f"Stable-Baselines3 / {name}: " + "  ".join(ratios))


if __name__ == "__main__":
    main()
