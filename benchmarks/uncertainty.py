"""The speed of Monte Carlo dropout, and of an ensemble of five: python benchmarks/uncertainty.py

Monte Carlo dropout compared with a loop of 50 passes, and with the usual one pass over the inputs repeated 50 times;
torch on one thread, one process, the rivals alternating, process CPU time. Then the networks of the tests, which drop
in many ways, compared with the loop also in their answers. Then the members of an ensemble one by one compared with
``torch.func.vmap`` over them.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from measure import Block, interleave, table
from torch.func import functional_call, stack_module_state, vmap

from rlcore.agents.supervised import Supervised
from rlcore.networks import NetworkChoice
from rlcore.networks.dropout import dropouts
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.uncertainty import Classes, uncertainty
from rlcore.uncertainty.mc_dropout import MCDropout

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from dropout_kinds import INPUTS, KINDS, Asked, by_loop, num_calls

PASSES, MANY_PASSES, MEMBERS = 50, 2000, 5
NETWORKS: dict[str, dict[str, Any]] = {
    "784-300-50-10, dropout at 50": {"name": "mlp", "hidden": [300, 50], "activation": "relu", "dropout": [0, 0.1]},
    "784-300-50-10, dropout at 300 and 50": {"name": "mlp", "hidden": [300, 50], "activation": "relu", "dropout": 0.1},
    "LeNet, dropout at 84": {"name": "lenet", "dropout": 0.1},
}


def asking(network: dict[str, Any], batch: int) -> dict[str, Block]:
    images = from_arrays(torch.randint(0, 256, (100, 1, 28, 28), dtype=torch.uint8), torch.arange(100) % 10)
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=1, test_fraction=0), dataset=images)
    agent = Supervised(env, Supervised.Settings(network=NetworkChoice.model_validate(network)))
    obs = torch.randint(0, 256, (batch, 1, 28, 28), dtype=torch.uint8)
    repeated, rounds = obs.repeat(PASSES, 1, 1, 1), max(1, 64 // batch)
    mc = MCDropout(agent, PASSES)
    agent.eval()
    for module in dropouts(agent):
        module.train()

    @torch.no_grad()
    def ours() -> None:
        mc.uncertainty(obs)

    @torch.no_grad()
    def loop() -> None:
        uncertainty(Classes(torch.stack([agent(obs).softmax(1) for _ in range(PASSES)])))

    @torch.no_grad()
    def whole() -> None:
        uncertainty(Classes(agent(repeated).softmax(1).unflatten(0, (PASSES, batch))))

    def block(ask: Any) -> Block:
        def run() -> int:
            for _ in range(rounds):
                ask()
            return rounds * batch

        return run

    return {"rlcore": block(ours), "a loop of 50 passes": block(loop), "the inputs repeated": block(whole)}


def kind_of_dropout(name: str) -> str:
    """A row of a table: how the network is asked, how fast, and its mutual information, ours and the loop's."""
    agent, obs = Asked(KINDS[name]()), 2 * torch.randn(16, INPUTS)
    mc = MCDropout(agent, PASSES)
    mc.answers(obs)
    passes = "one pass" if num_calls(agent.network, lambda: mc.answers(obs)) == 1 else "T passes"

    def ours() -> int:
        mc.uncertainty(obs)
        return len(obs)

    def loop() -> int:
        uncertainty(by_loop(agent, obs, PASSES))
        return len(obs)

    speeds = interleave({"rlcore": ours, "loop": loop})
    both = MCDropout(agent, MANY_PASSES).uncertainty(obs), uncertainty(by_loop(agent, obs, MANY_PASSES))
    found, expected = (x.mutual_information.mean().item() for x in both)
    return f"| {name} | {passes} | {max(speeds['rlcore']) / max(speeds['loop']):.1f} | {found:.4f} | {expected:.4f} |"


def members(network: dict[str, Any], batch: int) -> dict[str, Block]:
    networks = [NetworkChoice.model_validate(network).build((1, 28, 28), 10).eval() for _ in range(MEMBERS)]
    parameters, buffers = stack_module_state(networks)
    base = copy.deepcopy(networks[0]).to("meta")
    batched = vmap(lambda p, b, x: functional_call(base, (p, b), (x,)), (0, 0, None))
    obs, rounds = torch.rand(batch, 1, 28, 28), max(1, 256 // batch)

    @torch.no_grad()
    def one_by_one() -> int:
        for _ in range(rounds):
            torch.stack([network(obs) for network in networks])
        return rounds * batch

    @torch.no_grad()
    def at_once() -> int:
        for _ in range(rounds):
            batched(parameters, buffers, obs)
        return rounds * batch

    return {"members one by one": one_by_one, "torch.func.vmap": at_once}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, network in NETWORKS.items():
        for batch in (1, 16, 256):
            print(f"{name}, batch {batch}, {PASSES} passes, torch {torch.__version__}, one thread")
            print(table(interleave(asking(network, batch)), "rlcore", "examples/s"))
            print()
    print(f"batch 16, {PASSES} passes (mutual information: {MANY_PASSES})")
    print("| dropout | asked by | speed, ours / a loop | mutual information, nats | of the loop |")
    print("|---|---|---|---|---|")
    for name in KINDS:
        print(kind_of_dropout(name))
    print()
    for name in ("784-300-50-10, dropout at 50", "LeNet, dropout at 84"):
        for batch in (1, 16, 256):
            print(f"{name.partition(',')[0]}, ensemble of {MEMBERS}, batch {batch}")
            print(table(interleave(members(NETWORKS[name], batch)), "members one by one", "examples/s"))
            print()


if __name__ == "__main__":
    main()
