"""The speed of the variational autoencoder compared with a loop written by hand.

python benchmarks/autoencoder.py

Random data of MNIST's shape; ``mnist_vae``'s network (784-400-20-400-784), batch 128; a block is a quarter of an epoch;
torch on one thread; one process, the rivals alternating block by block, process CPU time.
"""

import copy
from typing import Any

import torch
from measure import Block, interleave, table
from torch.nn import functional as F

from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.optimizers import Adam
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.reconstruction import ReconstructionEnv
from rlcore.trainer import Trainer

BATCH = 128
STEPS = 60_000 // BATCH // 4


class HandWritten:
    """Slices tensors by a permutation; nothing is checked, counted or kept."""

    def __init__(self, images: torch.Tensor, network: Any, optimizer: type):
        self.images, self.network = images, copy.deepcopy(network)
        self.optimizer = optimizer(self.network.parameters(), lr=1e-3)
        self.order = torch.empty(0, dtype=torch.int64)

    def __call__(self) -> int:
        for _ in range(STEPS):
            if len(self.order) < BATCH:
                self.order = torch.randperm(len(self.images))
            rows, self.order = self.order[:BATCH], self.order[BATCH:]
            x = self.images[rows].float().div_(255)
            mean, log_var = self.network.code(self.network.encoder(x)).chunk(2, 1)
            z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
            bce = F.binary_cross_entropy_with_logits(self.network.decoder(z), x, reduction="sum")
            kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()
            loss = (bce + kl) / len(x)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return STEPS * BATCH


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8)
    dataset = from_arrays(images, torch.arange(len(images)) % 10)
    env = ReconstructionEnv(ReconstructionEnv.Settings(num_envs=BATCH, test_fraction=0), dataset=dataset)
    settings = {"network": {"name": "vae", "latent": 20}, "learning_rate": 1e-3}
    agent = AutoencoderAgent(env, AutoencoderAgent.Settings.model_validate(settings))
    trainer = Trainer(agent, env, total_steps=10**12)

    def ours() -> int:
        for _ in range(STEPS):
            trainer.update()
        return STEPS * BATCH

    rivals: dict[str, Block] = {
        "rlcore": ours,
        "by hand, the same step": HandWritten(images, agent.network, Adam),
        "by hand, torch.optim.Adam": HandWritten(images, agent.network, torch.optim.Adam),
    }
    print(f"784-400-20-400-784, batch {BATCH}, torch {torch.__version__}, one thread")
    print(table(interleave(rivals), "rlcore", "examples/s"))


if __name__ == "__main__":
    main()
