"""Where the time of self-play goes: python benchmarks/selfplay.py [CONFIG ...]

Positions per second of process CPU time of the shipped AlphaZero configs, torch on one thread, once learning has begun;
and the shares of the network, which evaluates leaves, of the rest of the search, and of learning.
"""

import sys
import time

import torch

from rlcore import config
from rlcore.agents.alphazero import AlphaZero

UPDATES = 6


def measure(name: str) -> str:
    loaded = config.load(name, ["threads=1", "trainer.tensorboard=false", "env.positions=null", "seed=1"])
    trainer, _ = config.build(loaded.config)
    agent = trainer.agent
    assert isinstance(agent, AlphaZero)
    spent = {"network": 0.0}
    evaluate = agent.policy_and_value

    def timed(*arguments):
        start = time.process_time()
        result = evaluate(*arguments)
        spent["network"] += time.process_time() - start
        return result

    agent.policy_and_value = timed  # type: ignore[method-assign]
    while len(agent.replay) < agent.settings.batch_size:
        trainer.update()
    spent["network"], steps = 0.0, trainer.steps
    collected, learned, start = trainer.collect_seconds, trainer.learn_seconds, time.process_time()
    for _ in range(UPDATES):
        trainer.update()
    seconds = time.process_time() - start
    wall = trainer.collect_seconds - collected + trainer.learn_seconds - learned
    learning = (trainer.learn_seconds - learned) / wall
    network = spent["network"] / seconds
    speed = (trainer.steps - steps) / seconds
    return f"{name:24s}{speed:12,.0f}{network:10.0%}{1 - network - learning:10.0%}{learning:10.0%}"


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':24s}{'positions/s':>12s}{'network':>10s}{'search':>10s}{'learning':>10s}")
    for name in sys.argv[1:] or ["tictactoe_alphazero", "connect4_alphazero"]:
        print(measure(name))


if __name__ == "__main__":
    main()
