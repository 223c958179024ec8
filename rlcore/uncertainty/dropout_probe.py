"""Whether T passes with dropout may be one pass over T copies of each row: found out by watching small passes."""

import math
import pickle
import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlcore.agent import Agent
from rlcore.errors import InputError
from rlcore.module_internals import buffers_of, parameters_of
from rlcore.networks.dropout import INDEPENDENT, dropouts
from rlcore.trees import Tree, leaves, repeated
from rlcore.uncertainty import answers_of


class Findings(NamedTuple):
    """How an agent is to be asked."""

    on: list[nn.Module]
    """Modules to put into training mode."""
    batched: bool
    """Whether one pass over repeated rows is as good as several passes."""
    matters: bool
    """Whether an answer is known to depend on dropout."""
    bytes_per_row: int
    """Of the outputs of all layers, at least 1."""


def examine(agent: Agent, row: Tree) -> Findings:
    """Finds out how to ask an agent, from observations [1, *O].

    Raises:
        InputError: nothing is dropped.
    """
    agent.training = True
    for network in agent.children():  # not agent.train, which for self-play is evaluation mode
        network.train()
    for module in _writers(agent, repeated(row, 3)):
        module.training = False
    before = _generators_beside_torch()
    two, three = (_watched(agent, repeated(row, num_rows)) for num_rows in (2, 3))
    beside_torch = _generators_beside_torch() != before
    if not three.draws and not beside_torch:
        raise InputError(
            f"the answers of {type(agent).__name__} pass through no dropout, so all passes would be the same; "
            "train one with dropout, e.g. agent.network.dropout=0.1"
        )
    known = two.all_known and three.all_known and not beside_torch
    in_proportion = [3 * number for number in two.draws] == [2 * number for number in three.draws]
    apart = not (two.reached[1:].any() or three.reached[1:].any())
    return Findings(
        on=[module for module in agent.modules() if module.training],
        batched=known and in_proportion and apart,
        matters=bool(three.reached.any()),
        bytes_per_row=max(1, three.bytes - two.bytes),
    )


def _writers(agent: Agent, obs: Tree) -> set[nn.Module]:
    """The modules to whose own parameters or buffers a pass writes; this one writes to copies."""
    tensors: list[tuple[nn.Module, dict[str, Any], str, Tensor | None]] = []
    for module in agent.modules():
        tensors += [
            (module, own, name, x) for own in (parameters_of(module), buffers_of(module)) for name, x in own.items()
        ]
    with torch.inference_mode(False):  # its tensors have no versions
        copies = [None if x is None else x.detach().clone() for *_, x in tensors]
    for (_, own, name, _), copy in zip(tensors, copies, strict=True):
        own[name] = copy
    try:
        agent.distribution(obs)
        found = zip(tensors, copies, strict=True)
        return {module for (module, own, name, x), copy in found if own[name] is not copy or _differs(copy, x)}
    finally:
        for _, own, name, x in tensors:
            own[name] = x


def _differs(copy: Tensor | None, original: Tensor | None) -> bool:
    """Whether a copy was written to; not every write counts as a version, not every one changes a number."""
    return copy is not None and original is not None and (copy._version > 0 or not torch.equal(copy, original))


def _generators_beside_torch() -> bytes:
    """The state of Python's and numpy's global random generators."""
    return pickle.dumps((random.getstate(), np.random.get_state()))  # noqa: NPY002


def _watched(agent: Agent, obs: Tree) -> "_Watch":
    """A pass over observations [B, *O], and what was seen of it."""
    watch = _Watch()
    hooks = [module.register_forward_hook(watch.measure) for module in agent.modules()]
    for module in dropouts(agent):
        if type(module) in INDEPENDENT:
            hooks += [module.register_forward_pre_hook(watch.enter), module.register_forward_hook(watch.leave)]
    try:
        with watch:
            answers = answers_of(agent.distribution(obs))
    finally:
        for hook in hooks:
            hook.remove()
    watch.reached = answers[0].flatten(1).isnan().any(1)
    return watch


class _Watch(TorchDispatchMode):
    """Sees each draw of random numbers in a pass, and which rows a dropout's first element reaches, which it makes NaN.

    In any layout, the first element is of the first row.
    """

    reached: Tensor
    """[B] bool, rows of the answers that are NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[int] = []
        """How many random numbers, draw by draw."""
        self.all_known = True
        """Whether all draws were those of `INDEPENDENT` modules."""
        self.bytes = 0
        """Of the outputs of all layers."""
        self._known = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Executes one of torch's operators."""
        output = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and not _drops_nothing(func, args, kwargs or {}):
            self.draws.append(next(leaves(output)).numel())
            self.all_known &= self._known
        return output

    def measure(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A hook of all modules."""
        if isinstance(output, Tensor) and not list(module.children()):
            self.bytes += output.numel() * output.element_size()

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """A hook of `INDEPENDENT` modules, before their pass."""
        self._known = True

    def leave(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """A hook of `INDEPENDENT` modules, after their pass."""
        self._known = False
        output = output.clone()
        output[(0,) * output.ndim] = math.nan
        return output


def _drops_nothing(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator that could drop something, of an attention or a recurrent layer, is told not to."""
    parameters = func._schema.arguments
    given = {x.name: x.default_value for x in parameters} | dict(zip([x.name for x in parameters], args, strict=False))
    given |= kwargs
    return any(given.get(name) == 0 for name in ("dropout_p", "dropout"))
