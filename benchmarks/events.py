"""What TensorBoard costs: python benchmarks/events.py

PPO on CartPole with the settings of benchmarks/ppo.py and the defaults of logging (500 points in a run of 400
rollouts), events on against off, alternating, process CPU time.
"""

import tempfile
from pathlib import Path

import torch
from measure import interleave, table

from rlcore.agents.ppo import PPO
from rlcore.envs.cartpole import CartPole
from rlcore.tracking import Tracker
from rlcore.trainer import Trainer

ROLLOUTS = 8
STEPS = 8 * 128


def make(folder: str | None):
    env = CartPole()
    torch.manual_seed(1)
    run_dir = Path(folder) if folder else None
    settings = Trainer.Settings(total_steps=400 * STEPS)
    trainer = Trainer(PPO(env), env, settings, seed=1, tracker=Tracker(run_dir))

    def block() -> int:
        for _ in range(ROLLOUTS):
            before = trainer.steps
            metrics = trainer.update()
            if trainer._due(trainer.log_every, before):
                trainer._log(metrics)
        return ROLLOUTS * STEPS

    return block


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        speeds = interleave({"TensorBoard off": make(None), "TensorBoard on": make(folder)}, num_blocks=25)
    print(table(speeds, "TensorBoard off"))


if __name__ == "__main__":
    main()
