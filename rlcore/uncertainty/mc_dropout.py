"""Monte Carlo dropout: the uncertainty of any agent whose network has dropout."""

import random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from rlcore.agent import Agent
from rlcore.errors import InputError
from rlcore.evaluation import evaluating
from rlcore.networks.dropout import BY_CHANNEL, BY_UNIT, ConsistentDropout, dropouts, switched_off
from rlcore.rollout import Step
from rlcore.trees import Tree, leaves, repeated, stack, take, tree_map
from rlcore.uncertainty import Answers, ClassUncertainty, NumberUncertainty, answers_of, best_answer, uncertainty
from rlcore.uncertainty.dropout_probe import Findings, examine

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
        shared: whether a pass drops the same units for all observations, also for those of later questions: a sample of
            the parameters, as probabilities of several answers together need (Kirsch et al. 2019, section 3.3).

    Raises:
        InputError: the agent has a memory, there are too few passes, or ``memory_mib`` is not above 0.
    """

    def __init__(self, agent: Agent, passes: int = 20, seed: int = 1, memory_mib: float = 512, shared: bool = False):
        if passes < 2:
            raise InputError(f"passes: a single answer does not show uncertainty; at least 2, got {passes}")
        if memory_mib <= 0:
            raise InputError(f"memory_mib: must be above 0, got {memory_mib}")
        if agent.initial_state(1) is not None:
            raise InputError(f"{type(agent).__name__} has a memory of its episode, which MC dropout cannot ask about")
        self.agent, self.passes, self.seed, self.memory_mib = agent, passes, seed, memory_mib
        self.shared, self.dropouts = shared, dropouts(agent)
        self._shares_prefix = True
        self._findings: Findings | None = None

    def uncertainty(self, obs: Tree) -> ClassUncertainty | NumberUncertainty:
        """The uncertainty of all passes together about observations [B, *O]."""
        return uncertainty(self.answers(obs))

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The combined answer of all passes; obs [N, *O]."""
        return Step(best_answer(self.uncertainty(obs), self.agent.action_space))

    def answers(self, obs: Tree) -> Answers:
        """Each pass's answers to observations [B, *O], fields [T, B, ...].

        Raises:
            InputError: the agent has no distribution over its answers, nothing is dropped, or to no effect; or passes
                are to drop the same for all observations, and something else than a module's units is dropped.
        """
        with evaluating(self.agent):
            found = self._findings
            if found is None:
                self._seed()
                found = examine(self.agent, take(obs, slice(1)))
                self._check_shared(found.batched)
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
                answers = self._answers(obs, num_rows)
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
            answers = self._answers(repeated(obs, T), num_rows)
        return tree_map(lambda x: x.unflatten(0, (T, num_rows)), answers)

    def _answers(self, obs: Tree, num_rows: int) -> Answers:
        """One pass in which dropout sees each of the rows T times; if `shared`, with T masks."""
        if not self.shared:
            return answers_of(self.agent.distribution(obs))
        drop = _DropAlike(num_rows, self.passes)
        hooks = [module.register_forward_hook(drop) for module in self.dropouts]
        try:
            with switched_off(self.dropouts):
                return answers_of(self.agent.distribution(obs))
        finally:
            for hook in hooks:
                hook.remove()

    def _check_shared(self, batched: bool) -> None:
        """Raises an InputError if the same cannot be dropped for all observations, and is to be."""
        masks = (*BY_UNIT, *BY_CHANNEL, ConsistentDropout)
        others = [type(module).__name__ for module in self.dropouts if not isinstance(module, masks)]
        if self.shared and (others or not batched):
            kind = others[0] if others else "more than modules of units or channels"
            raise InputError(f"shared: {type(self.agent).__name__} drops by {kind}; use nn.Dropout or nn.Dropout2d")

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
        return (repeated(x, self.passes),) if len(x) == self.num_rows else inputs


class _DropAlike:
    """A hook of the dropouts, which are off: each of T passes drops the same of all its rows."""

    def __init__(self, num_rows: int, passes: int):
        self.num_rows, self.passes = num_rows, passes

    def __call__(self, module: _DropoutNd, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if len(output) != self.passes * self.num_rows:
            raise InputError(f"shared: the input of dropout must be [B, ...], its shape is {tuple(output.shape)}")
        rows = output.unflatten(0, (self.passes, self.num_rows))
        by_channel = isinstance(module, BY_CHANNEL) or (isinstance(module, ConsistentDropout) and module.by_channel)
        places = (1,) * (rows.ndim - 3) if by_channel else rows.shape[3:]
        mask = F.dropout(rows.new_ones(self.passes, 1, rows.shape[2], *places), module.p)
        return (rows * mask).flatten(0, 1)
