"""Optimizer steps without the bookkeeping.

For small networks ``torch.optim.Adam.step`` and ``clip_grad_norm_`` spend most of their time in Python: for 12 tensors
with 9,000 numbers they take 134 and 129 microseconds, of which the arithmetic takes 10 and 30. The versions here call
the same kernels, and their results are bit-identical.
"""

import inspect
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from rlcore.checkpoint import restored, restored_number

Params = Iterable[Tensor] | Iterable[dict[str, Any]]

LONG_AGO = 1e9
"""A step count at which Adam's bias corrections, 1 - beta^t, are 1 to the last bit."""


class FusedOptimizer(torch.optim.Optimizer):
    """Steps all parameters of a group by one kernel; its state has the layout of torch's own optimizers.

    Parameters without a gradient are left alone; those with one must be on one device.
    """

    def __init__(self, params: Params, defaults: dict[str, Any]):
        super().__init__(params, defaults)
        self._columns: dict[int, tuple[list[Tensor], ...]] = {}
        self.found_inf: Tensor | None = None
        """0-d float32: 1 makes the kernel change nothing, without involving the host."""

    @abstractmethod
    def _columns_of(self, params: list[Tensor], group: dict[str, Any]) -> tuple[list[Tensor], ...]:
        """Parameters and the parts of their state as lists; creates missing state."""

    @abstractmethod
    def _apply(self, group: dict[str, Any], grads: list[Tensor], columns: tuple[list[Tensor], ...]) -> None:
        """One call of the kernel."""

    def __getstate__(self) -> dict[str, Any]:
        """For copies; torch's own drops the attributes of subclasses."""
        return {**self.__dict__, "_columns": {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores settings and state, as the kernel needs it: on each parameter's device, in its memory layout."""
        inspect.unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)
        for param, state in self.state.items():
            for name, value in state.items():
                if value.stride() != param.stride() and value.shape == param.shape:
                    state[name] = torch.empty_like(param).copy_(value)
                else:
                    state[name] = value.to(param.device)
        self._columns.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step along the gradients; ``closure`` must be None."""
        for index, group in enumerate(self.param_groups):
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            known = self._columns.get(index, ([],))[0]
            if len(known) != len(params) or not all(map(operator.is_, known, params)) or not self.state:
                self._columns[index] = self._columns_of(params, group)
            self._apply(group, [param.grad for param in params], self._columns[index])

    step.hooked = True  # type: ignore[attr-defined] # else torch wraps it in a profiler range that costs more than the step

    # As torch wraps them, their first call imports torch.compile's tracer and sympy, of which nothing here has any use.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class SGD(FusedOptimizer):
    """Gradient descent with optional momentum (Polyak 1964); bit-identical to ``torch.optim.SGD(fused=True)``.

    Args:
        params: parameters or parameter groups.
        lr: step size.
        momentum: decay of the running sum of gradients, [0, 1).
        weight_decay: L2 penalty, added to the gradient.
    """

    def __init__(self, params: Params, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def _columns_of(self, params: list[Tensor], group: dict[str, Any]) -> tuple[list[Tensor], ...]:
        if group["momentum"] == 0:
            return params, []
        for param in params:
            if param not in self.state:
                self.state[param] = {"momentum_buffer": torch.zeros_like(param)}
        return params, [self.state[param]["momentum_buffer"] for param in params]

    def _apply(self, group: dict[str, Any], grads: list[Tensor], columns: tuple[list[Tensor], ...]) -> None:
        params, sums = columns
        torch._fused_sgd_(
            params,
            grads,
            sums,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,  # the sums begin at zero
            found_inf=self.found_inf,
        )


class Adam(FusedOptimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), or AdamW (Loshchilov & Hutter 2019); bit-identical to torch's fused ones.

    Parameters with a gradient share one step count.

    Args:
        params: parameters or parameter groups.
        lr: step size.
        betas: decay of the running means of the gradient and of its square, [0, 1).
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.
        decoupled_weight_decay: subtract it from the parameters instead, outside the moments (AdamW).
        bias_correction: divide the running means, which begin at 0, by 1 - beta^t. Without it early steps are longer,
            the first by a factor of sqrt(10) with the default betas.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._kernel = torch._fused_adamw_ if decoupled_weight_decay else torch._fused_adam_
        self._bias_correction = bias_correction

    def _columns_of(self, params: list[Tensor], group: dict[str, Any]) -> tuple[list[Tensor], ...]:
        step = next((self.state[param]["step"] for param in params if param in self.state), None)
        if step is None:
            step = torch.full((), 0.0 if self._bias_correction else LONG_AGO, device=params[0].device)
        for param in params:
            if param not in self.state:
                self.state[param] = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
            self.state[param]["step"] = step
        means, squares = ([self.state[param][name] for param in params] for name in ("exp_avg", "exp_avg_sq"))
        return params, means, squares, [step] * len(params)

    def _apply(self, group: dict[str, Any], grads: list[Tensor], columns: tuple[list[Tensor], ...]) -> None:
        params, means, squares, steps = columns
        steps[0] += 1  # the same tensor in every place
        self._kernel(
            params,
            grads,
            means,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=self.found_inf,
        )
        if self.found_inf is not None:
            steps[0] -= self.found_inf


class Accumulation:
    """Averages the gradients of several losses before an optimizer steps; each graph is freed at once.

    Args:
        parameters: returns those that the optimizer steps.
        num_losses: of one step.
    """

    def __init__(self, parameters: Callable[[], Iterable[Tensor]], num_losses: int):
        self.parameters, self.num_losses = parameters, num_losses
        self.num_done = 0
        """Losses since the last step."""

    def add(self, loss: Tensor) -> bool:
        """Adds the gradient of a loss, 0-d; returns whether it is time to step."""
        if not self.num_done:
            for param in self.parameters():
                param.grad = None
        (loss / self.num_losses).backward()
        self.num_done = (self.num_done + 1) % self.num_losses
        return not self.num_done

    def state_dict(self) -> dict[str, Any]:
        """The gradients so far; none between two steps."""
        grads = [param.grad for param in self.parameters()] if self.num_done else []
        return {"num_done": self.num_done, "grads": grads}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Goes on with what `state_dict` returned."""
        self.num_done = restored_number(saved["num_done"], "accumulation", high=self.num_losses - 1)
        for param, grad in zip(self.parameters(), saved["grads"], strict=False):  # none between two steps
            param.grad = None if grad is None else restored(grad, param.detach(), "accumulation")


def clip_grad_norm(grads: list[Tensor], max_norm: float) -> Tensor:
    """Scales gradients in place so that their joint 2-norm is at most ``max_norm`` (Pascanu et al. 2013).

    Args:
        grads: gradients, all on one device.
        max_norm: > 0.

    Returns:
        0-d, the norm before scaling.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp_(max=1.0))
    return norm
