"""What it gains to keep convolutions' channels last in memory: python benchmarks/memory_layout.py

The networks with convolutions, which do so, compared with copies whose weights have channels first, torch's default;
torch on one thread, process CPU time, the two alternating. Inputs are random, in torch's default layout.
"""

import copy

import torch
from measure import Block, interleave, table
from torch import nn

from rlcore import networks

CASES = {
    "lenet": ((1, 28, 28), 64),
    "depthwise_cnn": ((1, 28, 28), 128),
    "policy_value_resnet": ((2, 6, 7), 256),
    "nature_cnn": ((4, 84, 84), 64),
    "impala_cnn": ((3, 64, 64), 32),
}
"""Shape of an input, and inputs in a batch."""


def answering(network: nn.Module, inputs: torch.Tensor) -> Block:
    network = copy.deepcopy(network).eval()

    @torch.no_grad()
    def block() -> int:
        network(inputs)
        return len(inputs)

    return block


def learning(network: nn.Module, inputs: torch.Tensor) -> Block:
    network = copy.deepcopy(network).train()

    def block() -> int:
        network.zero_grad()
        network(inputs).square().mean().backward()
        return len(inputs)

    return block


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (shape, batch) in CASES.items():
        ours = networks.build(name, shape, 10)
        theirs = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        inputs = torch.rand(batch, *shape)
        for what, block in ("forward", answering), ("forward and backward", learning):
            rivals = {"channels last": block(ours, inputs), "channels first": block(theirs, inputs)}
            print(f"{name}, {what}, batch {batch}, torch {torch.__version__}, one thread")
            print(table(interleave(rivals), "channels last", "examples/s"))
            print()


if __name__ == "__main__":
    main()
