"""Monte Carlo dropout: the uncertainty of any agent whose network has dropout."""

from typing import Any

import torch
from torch import Tensor, nn

from rlcore.agent import Agent
from rlcore.errors import InputError
from rlcore.evaluation import evaluating
from rlcore.networks.dropout import dropouts
from rlcore.rollout import Step
from rlcore.trees import Tree, leaves, take, tree_map
from rlcore.uncertainty import Answers, ClassUncertainty, NumberUncertainty, answers_of, best_answer, uncertainty

MEBIBYTE = 2**20


class MCDropout:
    """Asks a trained agent T times, each time with different units dropped.

    Gal & Ghahramani 2016, "Dropout as a Bayesian Approximation". The T passes are one pass over a batch of T B rows,
    and that only from the first dropout on: what comes before is the same for all. The agent does not change: modes and
    random generators are restored; batch norm uses its running statistics.

    Args:
        agent: a trained one, with `Agent.distribution` and at least one dropout module. Dropout that is not a module
            (``torch.nn.functional.dropout``, the argument of ``nn.LSTM``) stays off.
        passes: T, at least 2.
        seed: of the masks; the same observations get the same answers.
        memory_mib: memory for the outputs of all layers for one batch; larger batches are split, but the T passes of
            one observation are not.

    Raises:
        InputError: the network has no dropout module, the agent has a memory, there are too few passes, or
            ``memory_mib`` is not above 0.
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
        if not self.dropouts:
            raise InputError(
                f"the network of {type(agent).__name__} has no dropout module, so all passes would be the same; "
                "train one with dropout, e.g. agent.network.dropout=0.1"
            )
        self._shares_prefix = True
        self._batch_size: int | None = None

    def uncertainty(self, obs: Tree) -> ClassUncertainty | NumberUncertainty:
        """The uncertainty of all passes together about observations [B, *O]."""
        return uncertainty(self.answers(obs))

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The combined answer of all passes; obs [N, *O]."""
        return Step(best_answer(self.uncertainty(obs), self.agent.action_space))

    def answers(self, obs: Tree) -> Answers:
        """Each pass's answers to observations [B, *O], fields [T, B, ...].

        Raises:
            InputError: the agent has no distribution over its answers, or dropout does not affect it.
        """
        with evaluating(self.agent):
            self._seed()
            size = self._batch_size = self._batch_size or self._fitting_batch(obs)
            for module in self.dropouts:
                module.train()
            starts = range(0, len(next(leaves(obs))), size)
            pieces = [self._ask(take(obs, slice(start, start + size))) for start in starts]
        return pieces[0] if len(pieces) == 1 else tree_map(lambda *x: torch.cat(x, 1), *pieces)

    def _ask(self, obs: Tree) -> Answers:
        """All passes over one batch."""
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
                self._seed()  # masks were drawn
            finally:
                for hook in hooks:
                    hook.remove()
            if not repeat.was_called:
                raise InputError(f"the answers of {type(self.agent).__name__} do not pass through its dropout")
        if not self._shares_prefix:
            answers = answers_of(self.agent.distribution(tree_map(lambda x: _repeated(x, T), obs)))
        return tree_map(lambda x: x.unflatten(0, (T, num_rows)), answers)

    def _seed(self) -> None:
        """Seeds the generators that dropout draws from; ``evaluating`` puts them back.

        ``torch.manual_seed`` would record a traceback at every call, in case CUDA is initialized later.
        """
        torch.default_generator.manual_seed(self.seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(self.seed)

    def _fitting_batch(self, obs: Tree) -> int:
        """How many observations fit in the memory with all their passes; measured by asking about one of them."""
        outputs = 0

        def add(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal outputs
            if isinstance(output, Tensor) and not list(module.children()):
                outputs += output.numel() * output.element_size()

        hooks = [module.register_forward_hook(add) for module in self.agent.modules()]
        self.agent.distribution(take(obs, slice(1)))
        for hook in hooks:
            hook.remove()
        return max(1, int(self.memory_mib * MEBIBYTE / max(1, self.passes * outputs)))


class _Repeat:
    """A hook of the dropouts: the first one that a pass reaches gets each row T times."""

    def __init__(self, num_rows: int, passes: int):
        self.num_rows, self.passes, self.was_called = num_rows, passes, False

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.was_called = True
        (x,) = inputs
        return (_repeated(x, self.passes),) if len(x) == self.num_rows else inputs


def _repeated(x: Tensor, passes: int) -> Tensor:
    """[B, ...] to [T B, ...], all rows of the first pass first."""
    return x.repeat(passes, *[1] * (x.ndim - 1))
