"""GameReplay: positions of games, to learn from once their outcome is known."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlcore.checkpoint import restored
from rlcore.game import Game
from rlcore.replay import Replay
from rlcore.returns import discounted_sum
from rlcore.rollout import Rollout
from rlcore.trees import concat, take, tree_map


class Position(NamedTuple):
    """Rows of the replay."""

    state: Tensor  # [B, S] int64
    policy: Tensor | None  # [B, A], the target for the mover's; of sequences [B, 1 + K, A], 0 after the game's end
    outcome: Tensor  # [B] in [-1, 1], z, for the mover
    moves: Tensor | None = None  # [B, K] int64, made from there on, -1 after the game's end; None if K is 0


class Waiting(NamedTuple):
    """Positions of games that have not ended, W rows of N games."""

    state: Tensor  # [W, N, S] int64
    policy: Tensor | None  # [W, N, A]
    valid: Tensor  # [W, N] bool; the others are in the replay
    reward: Tensor | None = None  # [W, N]; None in a file of 0.1, where only the end of a game had one
    value: Tensor | None = None  # [W, N], the search's
    copies: Tensor | None = None  # [W, N] int64
    move: Tensor | None = None  # [W, N] int64


class Batch(NamedTuple):
    """A batch for a network to learn from."""

    planes: Tensor  # [B, C, H, W]
    legal: Tensor  # [B, A] bool
    policy: Tensor | None  # [B, A]; of sequences [B, 1 + K, A], 0 after the game's end
    outcome: Tensor  # [B]
    moves: Tensor | None = None  # [B, K] int64, any after the game's end; None if K is 0


class GameReplay:
    """Keeps the latest positions of games that have ended; those of unfinished games wait.

    Args:
        game: the rules.
        capacity: positions kept.
        symmetries: transform each position that is drawn by a random symmetry of the game.
        policies: whether policies are added.
        device: of the positions.
        num_following: K, moves that are kept with each position, and the policies after each of them.
    """

    def __init__(
        self,
        game: Game,
        capacity: int,
        symmetries: bool,
        policies: bool = True,
        device: torch.device | str = "cpu",
        num_following: int = 0,
    ):
        self.game, self.symmetries, self.policies, self.device = game, symmetries, policies, torch.device(device)
        self.num_following = num_following
        self.replay: Replay[Position] = Replay(capacity, Position)
        self.waiting: Waiting | None = None
        self.cells, self.moves = (x.to(self.device) for x in game.symmetries())
        """The symmetries, [K, H * W] and [K, A] int64."""

    def __len__(self) -> int:
        """Positions kept."""
        return len(self.replay)

    def add(
        self,
        rollout: Rollout,
        policy: Tensor | None = None,
        value: Tensor | None = None,
        value_weight: float = 0.0,
        copies: Tensor | None = None,
        one_of_each_game: bool = False,
    ) -> int:
        """Adds a rollout of `SelfPlayEnv`.

        Args:
            rollout: of T moves in N games.
            policy: targets of its rows, [T, N, A], if they are to be learned.
            value: of a search from its rows, [T, N].
            value_weight: w, [0, 1]: an outcome z becomes (1 - w) z + w value.
            copies: of each row, [T, N] int64; rows of 0 are not learned from. None: one of each.
            one_of_each_game: adds only one row of each game, drawn by torch's global generator of the device.

        Returns:
            The number of positions that were added, those of games that have ended.
        """
        state, reward, done, valid = rollout.obs, rollout.reward, rollout.done, torch.ones_like(rollout.done)
        move = rollout.action if self.num_following else None
        if self.waiting is not None:
            old = self.waiting
            state, policy, move = concat([(old.state, old.policy, old.move), (state, policy, move)])
            reward = torch.cat([reward.new_zeros(old.valid.shape) if old.reward is None else old.reward, reward])
            value, copies = concat([old.value, value]), concat([old.copies, copies])
            done, valid = torch.cat([torch.zeros_like(old.valid), done]), torch.cat([old.valid, valid])
        following = torch.cat([state[1:], state[-1:]])  # the last row's is of no account
        discount = self.game.discount(state.flatten(0, 1), following.flatten(0, 1))
        outcome = discounted_sum(reward, (discount * ~done.flatten()).view(done.shape))
        if value is not None:
            outcome = torch.lerp(outcome, value, value_weight)
        places = torch.arange(len(done), device=done.device)[:, None]
        last = torch.where(done, places, len(done)).flip(0).cummin(0).values.flip(0)  # row of the game's last move
        t, n = (valid & (last < len(done))).nonzero(as_tuple=True)
        if one_of_each_game:
            t, n = _one_of_each(t, n, last[t, n] * done.shape[1] + n)
        if copies is not None:
            t, n = (place.repeat_interleave(copies[t, n]) for place in (t, n))
        rows = Position(*take((state, policy, outcome), (t, n)))
        if policy is not None and move is not None:
            ahead = t[:, None] + torch.arange(1 + self.num_following, device=t.device)  # [B, 1 + K]
            played = ahead <= last[t, n, None]
            where = ahead.clamp_max(len(done) - 1), n[:, None]
            moves = move[where].where(played, -1)[:, :-1]
            rows = rows._replace(policy=policy[where] * played[..., None], moves=moves)
        self.replay.add(rows)
        still = valid & (last == len(done))
        first = int((~still.any(1)).cumprod(0).sum())  # no game needs the rows before it
        self.waiting = Waiting(*take((state, policy, still, reward, value, copies, move), slice(first, None)))
        return len(t)

    def sample(self, size: int) -> Batch:
        """``size`` positions, drawn with replacement by torch's global generator of their device."""
        return self.turned(self.replay.sample(size))

    def turned(self, rows: Position) -> Batch:
        """Rows as inputs of a network, each transformed by a random symmetry."""
        planes, legal = self.game.observe(rows.state), self.game.legal(rows.state)
        policy, outcome, moves = rows[1:]
        if moves is not None:
            moves = torch.where(moves < 0, torch.randint_like(moves, self.game.num_actions), moves)
        num_symmetries = len(self.cells) if self.symmetries else 1
        if num_symmetries == 1:
            return Batch(planes, legal, policy, outcome, moves)
        k = torch.randint(num_symmetries, (len(planes),), device=planes.device)
        cells = self.cells[k][:, None].expand(-1, planes.shape[1], -1)
        planes = planes.flatten(2).gather(2, cells).view_as(planes)
        turned = self.moves[k]
        legal = legal.gather(1, turned)
        if policy is not None:
            policy = policy.gather(-1, turned.view(len(k), *[1] * (policy.ndim - 2), -1).expand_as(policy))
        if moves is not None:
            moves = turned.argsort(1).gather(1, moves)  # the inverse: where a move of the board is on the turned one
        return Batch(planes, legal, policy, outcome, moves)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        return {"replay": self.replay.state_dict(), "waiting": self.waiting and tuple(self.waiting)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, on this device.

        Raises:
            CheckpointError: it is not what `state_dict` returned, or has other policies than are added.
        """
        state = self.game.initial(1, self.device)
        outcome = torch.zeros(1, device=self.device)
        policy = outcome.expand(1, self.game.num_actions) if self.policies else None
        move = outcome.long() if self.num_following else None
        rows = Position(state, policy, outcome)
        if policy is not None and move is not None:
            policies = policy[:, None].expand(-1, 1 + self.num_following, -1)
            rows = rows._replace(policy=policies, moves=move[:, None].expand(-1, self.num_following))
        self.replay.restore(saved["replay"], Position, like=rows)
        self.waiting = None
        if saved["waiting"] is not None:
            waiting = Waiting(*saved["waiting"])
            games = waiting.valid.shape[1]
            rewards, values = (None if x is None else outcome for x in (waiting.reward, waiting.value))
            copies = None if waiting.copies is None else outcome.long()
            row = Waiting(state, policy, outcome.bool(), rewards, values, copies, move)
            row = tree_map(lambda x: x[None].expand(1, games, *x.shape[1:]), row)
            self.waiting = restored(waiting, row, "the waiting positions", free=0)


def _one_of_each(t: Tensor, n: Tensor, game: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows t, n [B], one of each game [B] int64, drawn at random."""
    drawn = torch.rand(len(t), dtype=torch.float64, device=t.device)
    most = drawn.new_zeros(int(game.max()) + 1 if len(game) else 0).scatter_reduce(0, game, drawn, "amax")
    chosen = drawn == most[game]
    return t[chosen], n[chosen]
