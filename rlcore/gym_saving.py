"""The state of gymnasium's environments: of one, and whether what goes on from it equals what was saved."""

import pickle
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlcore.checkpoint import fitting
from rlcore.errors import InputError, one_line
from rlcore.plain_state import UnsavedError, put_back, state_of
from rlcore.seeding import restore_rng_state, rewinder, rng_state
from rlcore.trees import Tree, leaves

if TYPE_CHECKING:
    from rlcore.gym_environment import GymEnvironment

STEPS_BEFORE, STEPS_AFTER = 20, 40
"""Of the trial, before and after the state is saved."""


class Saving:
    """A mix-in of wrappers by which a state goes in and out, also of another process.

    Both methods return a reason rather than raise an error, of which gymnasium's processes would die.
    """

    env: Any
    unwrapped: Any
    in_worker = False
    """Whether this is a process of its own, whose global generators are a part of the state."""
    given_state: Any = None
    """What `take_state` takes."""

    def read_state(self) -> Any:
        """The state, as tensors and plain containers, of a worker pickled; or a str: why it cannot be read."""
        try:
            state = {"env": state_of(self.env), "rng": rng_state() if self.in_worker else None}
        except Exception as error:  # an environment's own state_dict may raise anything
            return str(error) if isinstance(error, UnsavedError) else f"{type(error).__name__}: {one_line(error)}"
        return pickle.dumps(state) if self.in_worker else state  # else each tensor goes by a file descriptor

    def take_state(self) -> str:
        """Takes ``given_state`` as its own; returns why that does not fit, or an empty str."""
        given, self.given_state = self.given_state, None
        given = pickle.loads(given) if self.in_worker else given
        package = type(self.unwrapped).__module__.partition(".")[0]
        try:
            with fitting("the environment"):
                put_back(given["env"], self.env, own="" if package == "gymnasium" else package)
                if self.in_worker and given["rng"] is not None:
                    restore_rng_state(given["rng"])
        except InputError as error:
            return one_line(error)
        return ""


def why_not_saved(make: Callable[[], "GymEnvironment"]) -> str:
    """Tries whether an environment goes on from its saved state as it would have gone on; the generators stay.

    Args:
        make: makes an environment; two are made. One plays, saves, and plays on; the other, which has been elsewhere,
            is given the state and must show the same, over the end of an episode, too.

    Returns:
        Why it cannot be saved; empty if it can.
    """
    rewind = rewinder(())
    try:
        with warnings.catch_warnings(), closing(make()) as one, closing(make()) as other:
            warnings.simplefilter("ignore")
            one.action_space.seed(1)
            one.reset(seed=1)
            _play(one, STEPS_BEFORE)
            other.reset(seed=2)
            saved, rewind_to_saved = one.read_states(), rewinder(())
            actions, expected = _play(one, STEPS_AFTER)
            rewind_to_saved()
            other.take_states(saved)
            _, found = _play(other, STEPS_AFTER, actions)
            return "" if found == expected else "it does not go on from its saved state as it would have"
    except UnsavedError as reason:
        return str(reason)
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)}"
    finally:
        rewind()


def _play(env: "GymEnvironment", steps: int, actions: "list[Tensor] | None" = None) -> tuple[list[Tensor], list[bytes]]:
    """Plays random actions or those given, and then begins a new episode: the actions, and all that was seen."""
    played, seen = [], []
    for n in range(steps):
        played.append(env.random_actions() if actions is None else actions[n])
        obs, reward, terminated, truncated, info = env.step(played[-1])
        seen.append(_bytes((obs, reward, terminated, truncated, info.get("final_obs", ()))))
    seen.append(_bytes(env.reset()[0]))
    return played, seen


def _bytes(tree: Tree) -> bytes:
    return b"".join(leaf.contiguous().view(torch.uint8).numpy(force=True).tobytes() for leaf in leaves(tree))
