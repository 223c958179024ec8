"""The speed of SBX's SAC (Stable-Baselines3 in JAX) at the work of off_policy.py: PYTHON benchmarks/sac_in_jax.py

It needs an older JAX than mctx does, so its own environment: pip install sbx-rl "jax<0.6" "gymnasium[classic-control]".
One thread, process CPU time, ten blocks of 100 steps; run off_policy.py sac before and after it.
"""

import os
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium
import jax
import sbx


def main() -> None:
    """Measures SAC on Pendulum: two hidden layers of 256, batches of 256, one update a step."""
    os.sched_setaffinity(0, {0})
    model = sbx.SAC("MlpPolicy", gymnasium.make("Pendulum-v1"), seed=1, policy_kwargs={"net_arch": [256, 256]})
    model.learn(1_100)  # compiles
    rates = []
    for _ in range(10):
        start = time.process_time()
        model.learn(100, reset_num_timesteps=False)
        rates.append(100 / (time.process_time() - start))
    rates.sort()
    print(f"SBX {sbx.__version__}, JAX {jax.__version__}: best {rates[-1]:.0f} steps/s, median {rates[5]:.0f}")


if __name__ == "__main__":
    main()
