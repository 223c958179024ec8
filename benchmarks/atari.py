"""Steps a second of Atari's Pong by each way to step it: python benchmarks/atari.py [NUM_ENVS]

Random actions, 84 x 84 grey, stacks of 4 frames, each action for 4; wall time, as others work in threads and processes:
nothing else may run. Needs the extras atari and envpool; what is not installed is left out.
"""

import statistics
import sys
import time

import torch

from rlcore.environment import Environment
from rlcore.envs.envpool import EnvPool
from rlcore.errors import InputError
from rlcore.gym_environment import GymEnvironment

WRAPPERS = [{"name": "AtariPreprocessing"}, {"name": "FrameStackObservation", "stack_size": 4}]
GAME = "ale_py:ALE/Pong-v5"


def made(way: str, num_envs: int) -> Environment:
    """N environments, stepped in that way."""
    if way == "envpool":
        return EnvPool(EnvPool.Settings(id="Pong-v5", num_envs=num_envs, options={"stack_num": 4}))
    if way == "vector_entry_point":
        return GymEnvironment(GAME, num_envs=num_envs, vectorization="vector_entry_point")
    options = {"frameskip": 1, "repeat_action_probability": 0.0}
    return GymEnvironment(GAME, num_envs=num_envs, vectorization=way, options=options, wrappers=WRAPPERS)


def main() -> None:
    """Prints the median of five blocks of each."""
    num_envs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    torch.set_num_threads(1)
    for way in ("sync", "async", "vector_entry_point", "envpool"):
        try:
            env = made(way, num_envs)
        except InputError as error:
            print(f"{way}: {error}")
            continue
        env.reset(seed=1)
        rates = []
        for _ in range(6):
            start = time.perf_counter()
            for _ in range(100):
                env.step(env.random_actions())
            rates.append(100 * num_envs / (time.perf_counter() - start))
        print(f"{way}: {statistics.median(rates[1:]):,.0f} steps/s of {num_envs} environments")
        env.close()


if __name__ == "__main__":
    main()
