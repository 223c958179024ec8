"""Returns and lengths of the episodes that ended while learning."""

import math
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlcore import distributed
from rlcore.checkpoint import restored, restored_number
from rlcore.device import sync_is_costly
from rlcore.errors import CheckpointError
from rlcore.moved import keep_former_names
from rlcore.rollout import Rollout

RESERVED = {"return", "length", "final_obs", "final_info"}
"""What numbers of ``info`` are not: names of other figures, and of observations."""


class Episodes(NamedTuple):
    """K episodes, in the order in which they ended."""

    env: list[int]
    """K numbers of their environments."""
    returns: list[float]
    """K sums of rewards."""
    lengths: list[float]
    """K numbers of steps."""
    infos: list[dict[str, float]]
    """K, the numbers in the ``info`` of their last steps."""


class EpisodeStatistics:
    """Adds up rewards by episode, across rollouts.

    `add` only keeps references. The arithmetic, which waits for the device, is done when results are asked for: at logs
    and, where a run ends by its number of episodes, at each update.

    Of several processes each has the episodes of all of them once results are asked for, which all must do at once.

    Args:
        num_envs: N, of this process.
        device: of the rollouts.
        window: how many of the latest episodes count.
    """

    def __init__(self, num_envs: int, device: torch.device, window: int = 100):
        self.window = window
        self.listeners: list[Callable[[Episodes], None]] = []
        """Called at each `flush` with the episodes that have ended since the last one, if any has."""
        self.num_episodes = 0
        """How many have ended, as of the last `flush`."""
        self._running = torch.zeros(2, num_envs, dtype=torch.float64, device=device)  # return and length so far
        self._latest = torch.zeros(2, 0, dtype=torch.float64)
        self._numbers: dict[str, deque[float]] = {}  # of the latest episodes that have them, by name
        self._pending: list[tuple[Any, ...]] = []  # reward, terminated, truncated and valid of each rollout
        self._infos: list[dict[str, Any]] = []  # of each row of those rollouts

    def add(self, rollout: Rollout) -> None:
        """Adds a rollout."""
        rows = rollout if rollout.ragged or len(rollout) > 1 else rollout[0]  # one row needs no stacking
        valid = rollout.valid if rollout.ragged else None
        self._pending.append((rows.reward.detach(), rows.terminated, rows.truncated, valid))
        self._infos += self._numbers_at_ends(rollout)

    def _numbers_at_ends(self, rollout: Rollout) -> list[dict[str, Any]]:
        """The numbers in ``info`` of each row in which an episode ended; of every row where to look would wait."""
        numbers = [_numbers(info) for info in rollout.infos]
        if not any(numbers) or sync_is_costly(self._running.device):
            return numbers
        return [found if end else {} for found, end in zip(numbers, rollout.done.any(1).tolist(), strict=True)]

    def count(self) -> int:
        """Number of episodes that have ended."""
        self.flush()
        return self.num_episodes

    def means(self) -> dict[str, float]:
        """``return`` and ``length`` over the latest ``window`` episodes; empty before the first has ended.

        Also of the numbers in the ``info`` of their last steps, as ``is_success``, over the latest that have them.
        """
        self.flush()
        if not self._latest.shape[1]:
            return {}
        mean_return, mean_length = self._latest.mean(1).tolist()
        others = {name: sum(values) / len(values) for name, values in self._numbers.items()}
        return {**others, "return": mean_return, "length": mean_length}

    def flush(self) -> None:
        """Does the arithmetic that is pending, and tells `listeners` of the episodes that have ended."""
        if self._pending:
            *columns, valids = zip(*self._pending, strict=True)
            infos, self._infos = self._infos, []
            self._pending.clear()
            N = self._running.shape[1]
            when = [(n, t) for n, reward in enumerate(columns[0]) for t in range(reward.numel() // N)]
            reward, terminated, truncated = (torch.cat([x.view(-1, N) for x in column]) for column in columns)
            rows = zip(columns[1], valids, strict=True)
            valid = torch.cat([(torch.ones_like(flag) if kept is None else kept).view(-1, N) for flag, kept in rows])
            times, ended = self._add_up(reward.double() * valid, (terminated | truncated) & valid, valid, infos)
            self._include(_of_all([when[t] for t in times], ended, N))

    def _add_up(
        self, reward: Tensor, ended: Tensor, valid: Tensor, infos: list[dict[str, Any]]
    ) -> tuple[list[int], Episodes]:
        """The episodes that have ended, by differences of cumulative sums, and in which row; all arguments [T, N]."""
        sums = torch.stack([reward, valid.double()]).cumsum(1) + self._running[:, None]  # [2, T, N]
        env, time = ended.t().nonzero(as_tuple=True)  # one environment after the other, each in order of time
        at_end = sums[:, time, env]
        first = torch.ones_like(env, dtype=torch.bool)
        first[1:] = env[1:] != env[:-1]
        before = at_end.roll(1, dims=1).masked_fill(first, 0.0)
        last = at_end.masked_fill(~first.roll(-1), 0.0)
        self._running = sums[:, -1].index_add(1, env, last, alpha=-1)
        order = time.argsort(stable=True)
        times, envs = time[order].tolist(), env[order].tolist()
        returns, lengths = (at_end - before)[:, order].tolist()
        return times, Episodes(envs, returns, lengths, [_of(infos[t], n) for t, n in zip(times, envs, strict=True)])

    def _include(self, ended: Episodes) -> None:
        """Counts episodes among the latest, and tells of them."""
        if not ended.env:
            return
        self.num_episodes += len(ended.env)
        latest = torch.tensor([ended.returns, ended.lengths], dtype=torch.float64)
        self._latest = torch.cat([self._latest, latest], 1)[:, -self.window :]
        for numbers in ended.infos:
            for name, value in numbers.items():
                self._numbers.setdefault(name, deque(maxlen=self.window)).append(value)
        for listener in self.listeners:
            listener(ended)

    def on_reset(self) -> None:
        """Forgets the episodes in progress, which were abandoned."""
        self.flush()
        self._running.zero_()

    def forget(self) -> None:
        """Begins the means anew, and forgets the episodes in progress; the number of episodes goes on."""
        self.on_reset()
        self._latest, self._numbers = self._latest[:, :0], {}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        if any(self._infos) and distributed.size() == 1:  # else whoever saves has flushed, as all must at once
            self.flush()
        return {
            "numbers": {name: list(values) for name, values in self._numbers.items()},
            "num_episodes": self.num_episodes,
            "running": self._running,
            "latest": self._latest,
            "pending": [list(column) for column in self._pending],
        }

    def of_new_episodes(self) -> dict[str, Any]:
        """The parts of `state_dict` about episodes in progress, of which there are none."""
        return {"running": torch.zeros_like(self._running), "pending": []}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            CheckpointError: it is of another number of environments, or not what `state_dict` returned.
        """
        self._numbers = {}
        for name, values in saved.get("numbers", {}).items():
            if not isinstance(name, str) or not all(isinstance(value, float) for value in values):
                raise CheckpointError("the checkpoint does not fit: numbers of episodes are not numbers by name")
            self._numbers[name] = deque(values, self.window)
        self.num_episodes = restored_number(saved["num_episodes"], "the number of episodes")
        self._running = restored(saved["running"], self._running, "the running returns")
        self._latest = restored(saved["latest"], self._latest, "the latest returns", free=1)
        self._pending = [self._restored_rows(*rows) for rows in saved["pending"]]
        self._infos = [{}] * sum(reward.numel() // len(self._running[0]) for reward, *_ in self._pending)

    def _restored_rows(self, reward: Any, terminated: Any, truncated: Any, valid: Any) -> tuple[Any, ...]:
        """What `add` kept of a rollout, each [N] or [T, N]."""
        one = self._running[0].float()
        like = one.expand(*reward.shape[:-1], -1) if reward.ndim == 2 else one
        flags = (like > 0, like > 0, None if valid is None else like > 0)
        return restored((reward, terminated, truncated, valid), (like, *flags), "a rollout's rewards and flags")


def _of_all(times: list[tuple[int, int]], ended: Episodes, num_envs: int) -> Episodes:
    """The episodes of all processes, in the order in which they ended.

    Args:
        times: of each of this process's, the number of its rollout, and of its row in that.
        ended: those.
        num_envs: of this process.
    """
    if distributed.size() == 1:
        return ended
    first = distributed.rank() * num_envs
    own = [(time, first + env, *rest) for time, (env, *rest) in zip(times, zip(*ended, strict=True), strict=True)]
    found = sorted(chain(*distributed.all_gather_object(own, "episodes")), key=lambda one: one[:2])
    return Episodes(*([list(column) for column in zip(*found, strict=True)][1:] or ([], [], [], [])))


def numbers_in(info: dict[str, Any], env: int) -> dict[str, float]:
    """The finite numbers in a step's ``info`` about one environment, by name.

    Args:
        info: as of ``gymnasium.vector.VectorEnv``: arrays or tensors [N], with a bool ``_<name>`` [N] where not all
            environments have that number.
        env: the environment's number, in [0, N).
    """
    return _of(_numbers(info), env)


def _of(numbers: dict[str, Any], env: int) -> dict[str, float]:
    """Those of one environment among what `_numbers` returned."""
    found = {}
    for name, values in numbers.items():
        present = numbers.get(f"_{name}")
        if not name.startswith("_") and (present is None or present[env]):
            found[name] = float(values[env])
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _numbers(info: dict[str, Any]) -> dict[str, Any]:
    """Those of the parts of ``info`` that are numbers [N], and which environments have them."""
    return {
        name: x
        for name, x in info.items()
        if isinstance(x, (np.ndarray, Tensor)) and x.ndim == 1 and x.dtype != object and name not in RESERVED
    }


keep_former_names(EpisodeStatistics, {"drop_running": "on_reset"})
