"""The report ``packed``: a binarized network on bits."""

import torch

from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker
from rlcore.networks.binarized import BinarizedMLP, PackedMLP
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reports.common import classified


class PackedReport(ReportMaker):
    """A binarized network on bytes and bits: whether it answers as on floats, and its size."""

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        _binarized(agent, env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`."""
        env, network = _binarized(agent, env)
        split = env.dataset.test
        assert split is not None
        packed = PackedMLP(network)
        answers = torch.cat(
            [
                torch.from_numpy(packed(env.scaled(x.to(env.device)).byte().cpu().numpy()).argmax(1))
                for x in split.inputs.split(env.evaluation_batch)
            ]
        )
        same = (answers == torch.tensor(evaluation.columns["answer"])).double().mean().item()
        accuracy = (answers == env.targets.cpu()).double().mean().item()
        floats = 4 * sum(parameter.numel() for parameter in network.parameters())
        text = (
            f"on bits: accuracy {accuracy:.2%}; {same:.2%} of {len(answers):,} answers match those on floats\n"
            f"{packed.num_bytes:,} bytes, {8 * packed.num_bytes / packed.num_weights:.2f} bits per weight in total; "
            f"as float32 {floats:,} bytes, {floats / packed.num_bytes:.1f} times as many"
        )
        return Report({"packed_accuracy": accuracy, "packed_same_answers": same}, text)


def _binarized(agent: Agent, env: Environment) -> tuple[SupervisedEnv, BinarizedMLP]:
    """A data set of raw bytes, and a binarized network; InputError if they are not."""
    env, _ = classified("packed", env)
    network, is_bytes = getattr(agent, "network", None), env.dataset.train.inputs.dtype == torch.uint8
    if not isinstance(network, BinarizedMLP) or not is_bytes or env.settings.scaling != "raw":
        raise InputError(
            "report packed: needs the agent supervised with the network binarized_mlp, trained on raw bytes "
            "(env.scaling=raw)"
        )
    return env, network
