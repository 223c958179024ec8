"""Checks of the networks: their units, and whether an answer depends on anything but the question."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from rlcore.agent import Agent
from rlcore.doctor.examination import Examination, Finding, Unseen
from rlcore.trees import num_rows, take

FLAT = {"tanh": 0.0, "sigmoid": 0.5}
"""Where bounded activations are steepest; their bounds are 1 away, or 0.5."""


def dead_units(x: Examination) -> Finding | None:
    """Rectified units that are 0 whatever is shown, so that no gradient reaches them."""
    shares = [(layer.units == 0).all(1).double().mean().item() for layer in x.layers if layer.name == "relu"]
    if not shares:
        raise Unseen("no ReLU was seen")
    if max(shares) < 0.8:  # dormant ones are usual, to a half (Sokar et al. 2023, figure 2)
        return None
    evidence = f"{max(shares):.0%} of the units of a layer are 0 for each of {num_rows(x.obs)} observations"
    return Finding(evidence, "lower agent.learning_rate; other initial weights (agent.network.init=he) or activation")


def saturated_units(x: Examination) -> Finding | None:
    """Bounded units at their bounds, where they have no slope."""
    shares = [
        ((layer.out - FLAT[layer.name]).abs() > 0.99 * (1 - FLAT[layer.name])).double().mean().item()
        for layer in x.layers
        if layer.name in FLAT
    ]
    if not shares:
        raise Unseen("no tanh or sigmoid was seen")
    if max(shares) < 0.9:  # small layers of a policy that is sure reach 70 %
        return None
    evidence = f"{max(shares):.0%} of what a layer says is within 1 % of the bounds of its activation"
    return Finding(evidence, "scale the inputs (agent.normalize_observations=true) and smaller initial weights")


def units_alike(x: Examination) -> Finding | None:
    """Units of a layer that all say the same, as weights that begin alike do for ever."""
    for layer in x.layers:
        units = layer.units
        if len(units) >= 4 and units.any() and (units - units[0]).abs().max() <= 1e-6 * units.abs().max():
            evidence = f"the {len(units)} units of a layer say the same of each of {num_rows(x.obs)} observations"
            return Finding(evidence, "random initial weights: agent.network.init=orthogonal or he")
    return None


def evaluation_random(x: Examination) -> Finding | None:
    """Two answers to the same question differ in evaluation: dropout is on."""
    if type(x.agent).predict is Agent.predict:
        raise Unseen("the agent draws its answers, as it has no predict of its own")
    first, second = x.outputs(x.obs), x.outputs_again(x.obs)
    if _same(first, second):
        return None
    evidence = f"two answers to the same observations differ by {_difference(first, second):.2g}, in evaluation mode"
    return Finding(evidence, "F.dropout needs training=self.training; nn.Dropout follows agent.eval() by itself")


def evaluation_depends_on_company(x: Examination) -> Finding | None:
    """The answer to a question depends on the others that are asked beside it: batch norm by the batch."""
    if num_rows(x.obs) < 8:
        raise Unseen("too few observations")
    half = num_rows(x.obs) // 2
    alone, among = x.outputs(take(x.obs, slice(0, half))), x.outputs(x.obs)[:half]
    if _same(alone, among) or not _same(among, x.outputs_again(x.obs)[:half]):
        return None
    evidence = f"answers differ by {_difference(alone, among):.2g} if other observations are beside them"
    return Finding(
        evidence, "batch norm must use running statistics in evaluation: nn.BatchNorm1d, and no train() in forward"
    )


def dropout_never_drops(x: Examination) -> Finding | None:
    """Dropout that stays off while the agent learns."""
    with x.undisturbed():
        x.agent.train()
        parts = [module for module in x.agent.modules() if isinstance(module, _DropoutNd) and module.p > 0]
        off = [module for module in parts if not module.training]
    if not parts:
        raise Unseen("no dropout")
    if not off:
        return None
    return Finding(
        f"{len(off)} of {len(parts)} dropouts are off in training mode", "let train() of the agent reach them"
    )


def batch_norm_unused(x: Examination) -> Finding | None:
    """Batch norm whose running statistics are those that it began with."""
    parts = [one for one in x.agent.modules() if isinstance(one, _BatchNorm)]
    norms: list[Any] = [one for one in parts if one.running_mean is not None]
    if not norms:
        raise Unseen("no batch norm")
    if not x.num_updates:
        raise Unseen("there was no update")
    if any(one.running_mean.any() or (one.running_var != 1).any() for one in norms):  # a copy may be untouched
        return None
    evidence = f"the statistics of all {len(norms)} batch norms are 0 and 1 after {x.num_updates:,} updates"
    return Finding(evidence, "they are updated in training mode only: let train() of the agent reach them")


def posterior_collapse(x: Examination) -> Finding | None:
    """The code of a variational autoencoder says nothing of what was encoded."""
    agent: Any = x.agent
    if not hasattr(agent, "encode"):
        raise Unseen("no autoencoder")
    x.require_progress(0.5)
    with x.undisturbed():
        code = agent.encode(x.obs)
    if code.log_var is None:
        raise Unseen("the code is no distribution")
    active = (code.mean.flatten(1).var(0) > 0.01).double().mean().item()  # Burda et al. 2016, section 5.2
    if active > 0.1:
        return None
    size, beta = code.mean[0].numel(), x.setting("beta")
    evidence = f"of {size} coordinates of the code {active * size:.0f} vary with the input (by more than 0.01)"
    return Finding(evidence, f"lower agent.beta={beta:g}; agent.kl_warmup=0.3 or agent.free_bits=0.1")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether answers [B, D] are equal, but for what other batch sizes do to the rounding of sums."""
    return torch.allclose(one, other, rtol=1e-2, atol=1e-3 * max(1e-6, one.abs().mean().item()))


def _difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()
