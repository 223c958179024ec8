"""Monte Carlo dropout: the uncertainty of any agent whose network has dropout."""

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
from rlcore.evaluation import evaluating
from rlcore.networks.dropout import INDEPENDENT, dropouts
from rlcore.rollout import Step
from rlcore.trees import Tree, leaves, stack, take, tree_map
from rlcore.uncertainty import Answers, ClassUncertainty, NumberUncertainty, answers_of, best_answer, uncertainty

MEBIBYTE = 2**20


class MCDropout:
    """Asks a trained agent T times, each time with different units dropped.

    Gal & Ghahramani 2016, "Dropout as a Bayesian Approximation". The networks are in training mode, so that they drop
    all they drop there: by modules, by ``torch.nn.functional.dropout``, by the argument of an attention or a recurrent
    layer. Modules that write to their own parameters or buffers in training mode stay in evaluation mode, with what
    they drop themselves: batch norm uses its running statistics. The agent does not change: modes and random
    generators are restored.

    The T passes are one pass over a batch of T B rows, and that only from the first dropout on: what comes before is
    the same for all. This is exact if every random number is drawn by a dropout module of torch's or rlcore's own
    classes, each draws in proportion to the rows, and what is drawn for one row reaches no other. Otherwise (all rows
    share a mask or dropped weights, dropout is not a module or of a class of one's own, rows meet in statistics of the
    batch) there are T passes over the B rows. The first question finds out, by small passes over copies of one row.

    Args:
        agent: a trained one, with `Agent.distribution` and dropout.
        passes: T, at least 2.
        seed: of the masks; the same observations get the same answers.
        memory_mib: memory for the outputs of all layers for one batch; larger batches are split, but the T passes of
            one observation are not, where they are one.

    Raises:
        InputError: the agent has a memory, there are too few passes, or ``memory_mib`` is not above 0.
    """

    def __init__(self, agent: Agent, passes: int = 20, seed: int = 1, memory_mib: float = 512):
        if passes < 2:
            raise InputError(f"passes: a single answer does not show uncertainty; at least 2, got {passes}")
        if memory_mib <= 0:
            raise InputError(f"memory_mib: must be above 0, got {memory_mib}")
        if agent.initial_state(1) is not None:
            raise InputError(f"{type(agent).__name__} has a memory of its episode, which MC dropout cannot ask about")
        self.agent, self.passes, self.seed, self.memory_mib = agent, passes, seed, memory_mib
        self.dropouts = dropouts(agent)
        self._shares_prefix = True
        self._findings: _Findings | None = None

    def uncertainty(self, obs: Tree) -> ClassUncertainty | NumberUncertainty:
        """The uncertainty of all passes together about observations [B, *O]."""
        return uncertainty(self.answers(obs))

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The combined answer of all passes; obs [N, *O]."""
        return Step(best_answer(self.uncertainty(obs), self.agent.action_space))

    def answers(self, obs: Tree) -> Answers:
        """Each pass's answers to observations [B, *O], fields [T, B, ...].

        Raises:
            InputError: the agent has no distribution over its answers, nothing is dropped, or to no effect.
        """
        with evaluating(self.agent):
            found = self._findings
            if found is None:
                self._seed()
                found = _examine(self.agent, take(obs, slice(1)))
            for module in found.on:
                module.training = True
            self._seed()
            ask, rows = (self._ask_at_once, self.passes) if found.batched else (self._ask_in_turn, 1)
            size = max(1, int(self.memory_mib * MEBIBYTE / (rows * found.bytes_per_row)))
            starts = range(0, len(next(leaves(obs))), size)
            pieces = [ask(take(obs, slice(start, start + size))) for start in starts]
        answers: Answers = pieces[0] if len(pieces) == 1 else tree_map(lambda *x: torch.cat(x, 1), *pieces)
        if self._findings is None and not found.matters and all((x == x[0]).all() for x in leaves(answers)):
            raise InputError(
                f"all {self.passes} passes of {type(self.agent).__name__} gave the same answers: what it drops has no "
                "say in them, or is too little for so few passes"
            )
        self._findings = found
        return answers

    def _ask_at_once(self, obs: Tree) -> Answers:
        """All passes over one batch, as one pass."""
        num_rows, T = len(next(leaves(obs))), self.passes
        if self._shares_prefix:
            repeat = _Repeat(num_rows, T)
            hooks = [module.register_forward_pre_hook(repeat) for module in self.dropouts]
            try:
                answers = answers_of(self.agent.distribution(obs))
                self._shares_prefix = len(answers[0]) == T * num_rows
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # a path around dropout met one through it, and their batches differ
                self._shares_prefix = False
            finally:
                for hook in hooks:
                    hook.remove()
            if not self._shares_prefix:
                self._seed()  # masks were drawn
        if not self._shares_prefix:
            answers = answers_of(self.agent.distribution(_repeated(obs, T)))
        return tree_map(lambda x: x.unflatten(0, (T, num_rows)), answers)

    def _ask_in_turn(self, obs: Tree) -> Answers:
        """All passes over one batch, one after another."""
        return stack([answers_of(self.agent.distribution(obs)) for _ in range(self.passes)])

    def _seed(self) -> None:
        """Seeds the generators that a network may draw from; ``evaluating`` puts them back.

        ``torch.manual_seed`` would record a traceback at every call, in case CUDA is initialized later.
        """
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(self.seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(self.seed)


class _Repeat:
    """A hook of the dropouts: the first one that a pass reaches gets each row T times."""

    def __init__(self, num_rows: int, passes: int):
        self.num_rows, self.passes = num_rows, passes

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        return (_repeated(x, self.passes),) if len(x) == self.num_rows else inputs


def _repeated(obs: Tree, times: int) -> Tree:
    """[B, ...] to [times B, ...], all rows once before any comes again."""
    return tree_map(lambda x: x.repeat(times, *[1] * (x.ndim - 1)), obs)


class _Findings(NamedTuple):
    """How an agent is to be asked."""

    on: list[nn.Module]
    """Modules to put into training mode."""
    batched: bool
    """Whether one pass over repeated rows is as good as several passes."""
    matters: bool
    """Whether an answer is known to depend on dropout."""
    bytes_per_row: int
    """Of the outputs of all layers, at least 1."""


def _examine(agent: Agent, row: Tree) -> _Findings:
    """Finds out how to ask an agent, from observations [1, *O].

    Raises:
        InputError: nothing is dropped.
    """
    agent.training = True
    for network in agent.children():  # not agent.train, which for self-play is evaluation mode
        network.train()
    for module in _writers(agent, _repeated(row, 3)):
        module.training = False
    before = _generators_beside_torch()
    two, three = (_watched(agent, _repeated(row, num_rows)) for num_rows in (2, 3))
    beside_torch = _generators_beside_torch() != before
    if not three.draws and not beside_torch:
        raise InputError(
            f"the answers of {type(agent).__name__} pass through no dropout, so all passes would be the same; "
            "train one with dropout, e.g. agent.network.dropout=0.1"
        )
    known = two.all_known and three.all_known and not beside_torch
    in_proportion = [3 * number for number in two.draws] == [2 * number for number in three.draws]
    apart = not (two.reached[1:].any() or three.reached[1:].any())
    return _Findings(
        on=[module for module in agent.modules() if module.training],
        batched=known and in_proportion and apart,
        matters=bool(three.reached.any()),
        bytes_per_row=max(1, three.bytes - two.bytes),
    )


def _writers(agent: Agent, obs: Tree) -> set[nn.Module]:
    """The modules to whose own parameters or buffers a pass writes; this one writes to copies."""
    held: list[tuple[nn.Module, dict[str, Any], str, Tensor | None]] = []
    for module in agent.modules():
        held += [(module, own, name, x) for own in (module._parameters, module._buffers) for name, x in own.items()]
    with torch.inference_mode(False):  # its tensors have no versions
        copies = [None if x is None else x.detach().clone() for *_, x in held]
    for (_, own, name, _), copy in zip(held, copies, strict=True):
        own[name] = copy
    try:
        agent.distribution(obs)
        found = zip(held, copies, strict=True)
        return {module for (module, own, name, x), copy in found if own[name] is not copy or _differs(copy, x)}
    finally:
        for _, own, name, x in held:
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
