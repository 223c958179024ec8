"""Returns and lengths of the episodes that ended while learning."""

from typing import Any

import torch
from torch import Tensor

from rlcore.checkpoint import restored, restored_number
from rlcore.rollout import Rollout


class EpisodeStatistics:
    """Adds up rewards by episode, across rollouts.

    `add` only keeps references. The arithmetic, which waits for the device, is done when results are asked for: at logs
    and, where a run ends by its number of episodes, at each update.

    Args:
        num_envs: N.
        device: of the rollouts.
        window: how many of the latest episodes count.
    """

    def __init__(self, num_envs: int, device: torch.device, window: int = 100):
        self.window = window
        self._num_episodes = 0
        self._running = torch.zeros(2, num_envs, dtype=torch.float64, device=device)  # return and length so far
        self._latest = torch.zeros(2, 0, dtype=torch.float64)
        self._pending: list[tuple[Any, ...]] = []  # reward, terminated, truncated and valid of each rollout

    def add(self, rollout: Rollout) -> None:
        """Adds a rollout."""
        rows = rollout if rollout.ragged or len(rollout) > 1 else rollout[0]  # one row needs no stacking
        valid = rollout.valid if rollout.ragged else None
        self._pending.append((rows.reward.detach(), rows.terminated, rows.truncated, valid))

    def count(self) -> int:
        """Number of episodes that have ended."""
        self._flush()
        return self._num_episodes

    def means(self) -> dict[str, float]:
        """``return`` and ``length`` over the latest ``window`` episodes; empty before the first has ended."""
        self._flush()
        if not self._latest.shape[1]:
            return {}
        mean_return, mean_length = self._latest.mean(1).tolist()
        return {"return": mean_return, "length": mean_length}

    def _flush(self) -> None:
        if self._pending:
            *columns, valids = zip(*self._pending, strict=True)
            self._pending.clear()
            N = self._running.shape[1]
            reward, terminated, truncated = (torch.cat([x.view(-1, N) for x in column]) for column in columns)
            rows = zip(columns[1], valids, strict=True)
            valid = torch.cat([(torch.ones_like(flag) if kept is None else kept).view(-1, N) for flag, kept in rows])
            self._add_up(reward.double() * valid, (terminated | truncated) & valid, valid)

    def _add_up(self, reward: Tensor, ended: Tensor, valid: Tensor) -> None:
        """Adds up each episode by differences of cumulative sums; all arguments [T, N]."""
        sums = torch.stack([reward, valid.double()]).cumsum(1) + self._running[:, None]  # [2, T, N]
        env, time = ended.t().nonzero(as_tuple=True)  # one environment after the other, each in order of time
        at_end = sums[:, time, env]
        first = torch.ones_like(env, dtype=torch.bool)
        first[1:] = env[1:] != env[:-1]
        before = at_end.roll(1, dims=1).masked_fill(first, 0.0)
        last = at_end.masked_fill(~first.roll(-1), 0.0)
        self._running = sums[:, -1].index_add(1, env, last, alpha=-1)
        latest = (at_end - before)[:, time.argsort(stable=True)].cpu()
        self._num_episodes += latest.shape[1]
        self._latest = torch.cat([self._latest, latest], 1)[:, -self.window :]

    def drop_running(self) -> None:
        """Forgets the episodes in progress, which were abandoned."""
        self._flush()
        self._running.zero_()

    def checkpoint(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "num_episodes": self._num_episodes,
            "running": self._running,
            "latest": self._latest,
            "pending": [list(column) for column in self._pending],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned.

        Raises:
            CheckpointError: it is of another number of environments, or not what `checkpoint` returned.
        """
        self._num_episodes = restored_number(saved["num_episodes"], "the number of episodes")
        self._running = restored(saved["running"], self._running, "the running returns")
        self._latest = restored(saved["latest"], self._latest, "the latest returns", free=1)
        self._pending = [self._restored_rows(*rows) for rows in saved["pending"]]

    def _restored_rows(self, reward: Any, terminated: Any, truncated: Any, valid: Any) -> tuple[Any, ...]:
        """What `add` kept of a rollout, each [N] or [T, N]."""
        one = self._running[0].float()
        like = one.expand(*reward.shape[:-1], -1) if reward.ndim == 2 else one
        flags = (like > 0, like > 0, None if valid is None else like > 0)
        return restored((reward, terminated, truncated, valid), (like, *flags), "a rollout's rewards and flags")
