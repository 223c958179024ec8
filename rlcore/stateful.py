"""What is saved of an object: whatever among its attributes has a state."""

import copy
import math
from abc import ABCMeta
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from rlcore.checkpoint import MOST, restored, restored_number
from rlcore.errors import CheckpointError
from rlcore.schedules import INITIAL_RATE
from rlcore.seeding import restore_generator

LEARNS = "optimizers", "generators", "states", "numbers"
"""The parts of what `saved_state` returns."""
UNLISTED = {"params", INITIAL_RATE}
"""Keys of a parameter group that are no settings of its optimizer."""
OWN_TO_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has; parameters and buffers among them are in its ``state_dict``."""
WHEN_MADE = "_numbers_when_made"


@runtime_checkable
class Stateful(Protocol):
    """Has a state, as ``torch.distributed.checkpoint.stateful.Stateful`` defines it: tensors and plain containers."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restores what `state_dict` returned; raises a CheckpointError, or any error, if it does not fit."""


class CountersKept(ABCMeta):
    """Of a class whose counters are saved: numbers among an object's attributes that have changed since it was made."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes an object."""
        made = super().__call__(*args, **kwargs)
        vars(made)[WHEN_MADE] = _numbers(made)
        return made


def attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object and their dotted names, with those in its lists and dicts.

    Of a module also those of the modules within it.
    """
    modules = owner.named_modules() if isinstance(owner, nn.Module) else [("", owner)]
    for prefix, module in modules:
        for name, thing in vars(module).items():
            if not (isinstance(module, nn.Module) and name in OWN_TO_MODULES):
                yield from _with_inner(f"{prefix}.{name}" if prefix else name, thing)


def attributes_of_type(owner: Any, kind: Any) -> list[tuple[str, Any]]:
    """Those of `attributes` that are of a type, each object once."""
    found = {id(thing): (name, thing) for name, thing in attributes(owner) if isinstance(thing, kind)}
    return list(found.values())


def saved_state(owner: Any) -> dict[str, Any]:
    """The states of optimizers, generators and everything else `Stateful` among an object's attributes.

    If its class keeps counters (`CountersKept`), also the numbers that have changed since it was made. Modules are
    included unless the object is itself one, whose parameters and buffers are saved apart.
    """
    return {
        "optimizers": {name: thing.state_dict() for name, thing in attributes_of_type(owner, torch.optim.Optimizer)},
        "generators": {name: thing.get_state() for name, thing in attributes_of_type(owner, torch.Generator)},
        "states": {name: thing.state_dict() for name, thing in stateful_parts(owner)},
        "numbers": dict(_changed_numbers(owner)),
    }


def restore_state(owner: Any, saved: dict[str, Any], changed: bool = False) -> None:
    """Restores what `saved_state` returned, or as much of it as there is.

    Args:
        owner: an object with the same attributes.
        saved: what `saved_state` returned.
        changed: the settings have changed; optimizers follow the new ones.

    Raises:
        CheckpointError: something does not fit.
        Exception: as anything may be raised by what is not as it should be; see `rlcore.checkpoint.fitting`.
    """
    if "optimizers" in saved:
        for name, optimizer in attributes_of_type(owner, torch.optim.Optimizer):
            _restore_optimizer(optimizer, saved["optimizers"][name], changed)
    if "generators" in saved:
        for name, generator in attributes_of_type(owner, torch.Generator):
            restore_generator(generator, saved["generators"][name])
    if "states" in saved:
        for name, thing in stateful_parts(owner):
            thing.load_state_dict(saved["states"][name])
            if isinstance(thing, LRScheduler):  # whose rates stay, also where the optimizer follows new settings
                for group, rate in zip(thing.optimizer.param_groups, thing.get_last_lr(), strict=True):
                    group["lr"] = rate
    if "numbers" in saved:
        for _, one in _counting(owner):
            vars(one).update(vars(one)[WHEN_MADE])
        for name, number in saved["numbers"].items():
            _restore_number(owner, name, number)


def stateful_parts(owner: Any) -> list[tuple[str, Any]]:
    """What has a state, and is neither an optimizer nor a part of the module that the owner is."""
    apart = (torch.optim.Optimizer, nn.Module) if isinstance(owner, nn.Module) else torch.optim.Optimizer
    found = attributes_of_type(owner, Stateful)
    return [(name, thing) for name, thing in found if not isinstance(thing, (apart, type))]


def _with_inner(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    yield name, thing
    if isinstance(thing, (dict, list)):
        inner = thing.items() if isinstance(thing, dict) else enumerate(thing)
        for key, found in inner:
            yield from _with_inner(f"{name}.{key}", found)


def _numbers(owner: Any) -> dict[str, int | float | bool]:
    numbers = {name: x.item() if isinstance(x, np.generic) else x for name, x in vars(owner).items()}
    return {name: x for name, x in numbers.items() if type(x) in (int, float, bool) and name != "training"}


def _counting(owner: Any) -> Iterator[tuple[str, Any]]:
    """The object, and those within a module, whose counters are kept, with their dotted names."""
    modules = owner.named_modules() if isinstance(owner, nn.Module) else [("", owner)]
    return ((prefix, one) for prefix, one in modules if WHEN_MADE in vars(one))


def _changed_numbers(owner: Any) -> Iterator[tuple[str, int | float | bool]]:
    for prefix, one in _counting(owner):
        before = vars(one)[WHEN_MADE]
        for name, number in _numbers(one).items():
            if number != before.get(name):
                yield (f"{prefix}.{name}" if prefix else name), number


def _restore_number(owner: Any, name: str, number: Any) -> None:
    prefix, _, own = name.rpartition(".")
    one = dict(_counting(owner)).get(prefix)
    if one is None or type(number) not in (int, float, bool) or own in OWN_TO_MODULES:
        raise CheckpointError(f"the checkpoint does not fit: {name} is no number of {type(owner).__name__}")
    here = vars(one).get(own)
    setattr(one, own, type(here)(number) if isinstance(here, np.generic) else number)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], keep_settings: bool) -> None:
    made = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    for here, there in zip(made, saved["param_groups"], strict=True):
        unknown, missing = there.keys() - here.keys() - UNLISTED, here.keys() - there.keys() - UNLISTED
        if unknown and missing:
            raise ValueError(f"its optimizer has {', '.join(sorted(unknown))}, this one {', '.join(sorted(missing))}")
    optimizer.load_state_dict(_checked(optimizer, saved, keep_settings))
    for group, new in zip(optimizer.param_groups, made, strict=True):
        if keep_settings:
            group.pop(INITIAL_RATE, None)
            group.update(new)
        elif INITIAL_RATE not in group and group.get("lr") != (rate := new.get(INITIAL_RATE, new.get("lr"))):
            group[INITIAL_RATE] = rate  # annealed by rlcore 0.1


def _checked(optimizer: torch.optim.Optimizer, saved: dict[str, Any], keep_settings: bool) -> dict[str, Any]:
    """A copy of an optimizer's saved state: kernels do not look whether a tensor is as large as its parameter."""
    groups = optimizer.state_dict()["param_groups"]
    for group, kept in zip(groups, saved["param_groups"], strict=True):
        if kept["params"] != group["params"]:
            raise ValueError("its optimizer is of other parameters")
        if not keep_settings:
            group |= {key: _setting(kept[key], value, key) for key, value in group.items() if key in kept}
            if INITIAL_RATE in kept:
                group[INITIAL_RATE] = _setting(kept[INITIAL_RATE], group["lr"], INITIAL_RATE)
    wanted = _state_after_a_step(optimizer, groups)
    state = {}
    for index, kept in saved["state"].items():
        restored_number(index, "the number of an optimizer's parameter", high=groups[-1]["params"][-1])
        state[index] = copy.deepcopy(kept)
        for key, like in wanted.get(index, {}).items():
            low, high = (0, MOST) if key == "step" else (-math.inf, math.inf)  # a count, or moments
            state[index][key] = restored(kept[key], like, f"the optimizer's {key} {index}", low=low, high=high)
    return {"state": state, "param_groups": groups}


def _state_after_a_step(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> dict[int, dict[str, Tensor]]:
    """The tensors, by the number of their parameter, that an optimizer with such groups keeps after its first step."""
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict({"state": {}, "param_groups": groups})
    for group in twin.param_groups:
        for param in group["params"]:
            param.grad = torch.zeros_like(param)
    try:
        twin.step()
    except TypeError:  # it asks for more than gradients, as L-BFGS does
        return {}
    kept = twin.state_dict()["state"]
    return {index: {key: x for key, x in each.items() if isinstance(x, Tensor)} for index, each in kept.items()}


def _setting(saved: Any, here: Any, name: str) -> Any:
    """A saved setting of an optimizer, if it may stand in the place of the present one."""
    if isinstance(here, Tensor):
        return restored(saved, here, f"the optimizer's {name}", low=0.0, high=MOST)
    if isinstance(here, (list, tuple)):
        return type(here)(_setting(*pair, name) for pair in zip(saved, here, strict=True))
    if type(here) in (int, float):
        return restored_number(saved, f"the optimizer's {name}", whole=False)
    if saved is not None and here is not None and type(saved) is not type(here):
        raise ValueError(f"its optimizer's {name} is {saved!r}, not {here!r}")
    return copy.deepcopy(saved)
