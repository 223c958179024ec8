"""What a vector step of CartPole costs, compared with gymnasium's: python benchmarks/envs.py

Random actions; one process, the rivals alternating, process CPU time; torch on one thread.
"""

import gymnasium
import numpy as np
import torch
from measure import interleave, table

from rlcore.envs.cartpole import CartPole

SIZES = (1, 8, 64, 1024, 4096)


def ours(num_envs: int, num_steps: int):
    env = CartPole(CartPole.Settings(num_envs=num_envs))
    env.reset(seed=1)
    actions = torch.randint(2, (num_steps, num_envs))

    def block() -> int:
        for action in actions:
            env.step(action)
        return num_steps

    return block


def gymnasiums(num_envs: int, num_steps: int, mode: str):
    env = gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode=mode)
    env.reset(seed=1)
    actions = np.random.default_rng(1).integers(2, size=(num_steps, num_envs))

    def block() -> int:
        for action in actions:
            env.step(action)
        return num_steps

    return block


def main() -> None:
    torch.set_num_threads(1)
    for num_envs in SIZES:
        num_steps = max(20, min(400, 40_000 // num_envs))
        speeds = interleave(
            {
                "rlcore CartPole": ours(num_envs, num_steps),
                "gymnasium SyncVectorEnv": gymnasiums(num_envs, num_steps, "sync"),
                "gymnasium CartPoleVectorEnv": gymnasiums(num_envs, num_steps, "vector_entry_point"),
            }
        )
        best = "   ".join(f"{name} {1e6 / max(speed):.0f} us" for name, speed in speeds.items())
        print(f"{num_envs} environments, per vector step: {best}")
        print(table(speeds, "rlcore CartPole", "vec steps/s"))


if __name__ == "__main__":
    main()
