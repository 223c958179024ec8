"""Checkpoints whose content is wrong: each is refused by one line, or does no harm."""

import math
import random
import zlib

import pytest
import torch
from torch import Tensor
from trainers import TRAINERS, make_trainer

from rlcore import InputError, Trainer
from rlcore.agents.ppo import PPO
from rlcore.envs.cartpole import CartPole
from rlcore.trees import describe, difference

pytestmark = pytest.mark.filterwarnings("ignore")

LONG = 20
"""Of longer lists, only the first and the last item are changed."""
SAMPLE = 40
"""Changes of each checkpoint that are tried if not all are."""
ELSE = (None, "text", [], {"a": 1}, -1, 2.5, 10**30, math.nan, True, torch.ones(2, 3))
MISSING = object()
BEGUN_ANEW = ("reward_normalizer.running",)
"""What may have another shape: the returns of another number of environments."""


def places(tree, path=()):
    """The path of every dict, list and leaf in a tree."""
    yield path
    keys = range(len(tree)) if isinstance(tree, (list, tuple)) else list(tree) if isinstance(tree, dict) else ()
    for key in (keys[0], keys[-1]) if isinstance(tree, (list, tuple)) and len(keys) > LONG else keys:
        yield from places(tree[key], (*path, key))


def wrong(value):
    """What stands in the place of a value, instead of it."""
    yield from (other for other in ELSE if type(other) is not type(value) or not isinstance(value, (str, dict)))
    yield MISSING
    if isinstance(value, Tensor):
        yield from (value.new_zeros(3, 7, 5), value[None], value.new_zeros(0), value.flatten()[:-1])
        yield from (value.to(torch.float64), value.to(torch.int32), value.to(torch.complex64), value.to_sparse())
        yield from (torch.full_like(value, number) for number in (-1, 100))
        if value.ndim:
            yield torch.cat([value, value])
            yield value[:1].expand(10**12, *value.shape[1:])
        if value.is_floating_point():
            yield from (torch.full_like(value, number) for number in (math.nan, math.inf, -1e30))
        elif value.dtype == torch.int64:
            yield from (torch.full_like(value, number) for number in (2**62, -(2**62)))
    if isinstance(value, dict):
        yield {**value, "additional": 1}
        yield {**value, 0: torch.ones(2)}
    if isinstance(value, (list, tuple)):
        yield from (value[:-1], [*value, *value[-1:]], [*value, 1])


def edited(tree, path, value):
    """A copy of a tree with another value in one place."""
    if not path:
        return value
    key, *rest = path
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if value is MISSING and not rest:
        del copy[key]
    else:
        copy[key] = edited(copy[key], rest, value)
    return copy if isinstance(tree, (dict, list)) else tuple(copy)


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def changes(saved):
    """Every change of a checkpoint: its place and the value there; but numbers that only the example knows about."""
    found = [(path, value) for path in places(saved) if path for value in wrong(at(saved, path))]
    action = ("learns", "agent", "states", "replay", "rows", 1)
    kept = saved["learns"]["agent"]["states"].get("replay", {}).get("rows")
    known = kept[1] if isinstance(kept, tuple) else None
    return [one for one in found if one[0] != action or difference(one[1], known)]


def refused(name, saved, path, value):
    """Whether a changed checkpoint is refused, in one line; if not, the next update does no harm."""
    trainer = make_trainer(name)
    line = ""
    try:
        trainer.restore(edited(saved, path, value))
        trainer.update()
    except InputError as error:
        line = str(error)
    except Exception as error:
        raise AssertionError(f"{path} as {describe(value)} of {describe(at(saved, path))}: {error!r}") from error
    assert "\n" not in line, path
    return bool(line)


def saved_by(name):
    trainer = make_trainer(name)
    for _ in range(5):
        trainer.update()
    saved = trainer.checkpoint()
    assert not refused(name, saved, ("steps",), saved["steps"])
    return saved


@pytest.mark.parametrize("name", TRAINERS)
def test_content_that_is_wrong_is_refused_or_harmless(name):
    saved, draws = saved_by(name), random.Random(zlib.crc32(name.encode()))
    for change in draws.sample(changes(saved), SAMPLE):
        refused(name, saved, *change)


@pytest.mark.parametrize("name", TRAINERS)
def test_tensors_of_another_shape_or_dtype_are_refused(name):
    saved, draws = saved_by(name), random.Random(zlib.crc32(name.encode()))
    tensors = [path for path in places(saved) if isinstance(at(saved, path), Tensor) and path[-1] not in BEGUN_ANEW]
    for path in draws.sample(tensors, SAMPLE // 4):
        value = at(saved, path)
        for other in (value.new_zeros(3, 7, 5), value.half()):
            assert refused(name, saved, path, other), path


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_all_content_that_is_wrong_is_refused_or_harmless(name):
    saved = saved_by(name)
    tried = [refused(name, saved, *change) for change in changes(saved)]
    print(f"{name}: {sum(tried):,} of {len(tried):,} refused")


def test_episodes_are_counted_across_a_change_of_the_horizon():
    def trainer(horizon):
        env = CartPole(CartPole.Settings(num_envs=4, max_episode_steps=12))
        return Trainer(PPO(env, PPO.Settings(horizon=horizon, minibatch_size=None)), env, total_steps=1000)

    one, other = trainer(1), trainer(8)
    for _ in range(6):
        one.update()
    other.restore(one.checkpoint())
    other.update()
    assert other.episodes.count() >= 4
    assert 0 < other.episodes.means()["length"] <= 12
