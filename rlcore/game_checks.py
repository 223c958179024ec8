"""The executable contract of a game's rules.

Legend: B positions, A moves, S numbers per state, C planes of H x W cells, K symmetries.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlcore.errors import InputError
from rlcore.game import Game, Transition, checked_step, draw, random_moves, require, too_long

GAMES = 64
"""Random games that are played."""
TOLERANCE = 1e-5
"""Of sums of rewards and of probabilities."""

_checked: set[tuple[type, str]] = set()
"""Classes and attributes of the games that have passed."""


def check_once(game: Game) -> None:
    """`check_game`, unless a game of this class with the same attributes has passed."""
    key = type(game), repr(sorted(vars(game).items()))
    if key not in _checked:
        check_game(game)
        _checked.add(key)


def check_game(game: Game, num_games: int = GAMES, seed: int = 0) -> None:
    """Plays random games to their ends, on the CPU, and checks that the rules keep the contract of `Game`.

    - Sizes, shapes and dtypes are as documented, and numbers are finite.
    - Rules say the same when they are asked again, say it of each row by itself, and leave their arguments as they are.
    - There is a legal move until the game ends, within `Game.max_moves`; `Game.num_moves` counts the moves.
    - Rewards and returns are in [-1, 1]; of two players only the end has one. Chance's probabilities sum to 1.
    - `Game.symmetries` are a group of permutations, and a turned game is the same game.
    - `Game.parse_action` reads the names of moves.

    What is most likely a mistake, but may be meant, is a warning: positions look the same from either side, though the
    game is not `Game.impartial`; no move ever wins; wherever a move wins, all do.

    Args:
        game: the rules.
        num_games: games to play; a mistake that shows in few positions needs many.
        seed: of the moves.

    Raises:
        InputError: names the class, what it gave and what was expected.
    """
    _check_sizes(game)
    _check_names(game)
    generator = torch.Generator().manual_seed(seed)
    initial = _same_again(game, "initial", num_games, "cpu")
    _require_states(game, "initial", initial)
    first, again = (game.start(num_games, torch.Generator().manual_seed(seed)) for _ in range(2))
    _require_states(game, "start", first)
    if not torch.equal(first, again):
        raise InputError(f"{_name(game)}.start: draw from the generator given; two of the same seed gave other states")
    _play(game, first, generator)
    for k, (cells, moves) in enumerate(zip(*_check_symmetries(game), strict=True)):
        _check_turned(game, initial, cells, moves, k, generator)


class _Seen(NamedTuple):
    """Counts over all random games."""

    won: list[int]
    """Moves that won."""
    lost: list[int]
    """Moves that lost."""
    all_win: list[bool]
    """Of moves that won, of several that were legal: whether all of these win."""
    stays: list[float]
    """What is seen of a position that is seen at the same place after one move, and after two."""


def _play(game: Game, state: Tensor, generator: torch.Generator) -> None:
    """Plays random games from states [B, S] to their ends, and checks each position and move."""
    name = _name(game)
    total, weight = torch.zeros(len(state)), torch.ones(len(state))
    after_chance = torch.zeros(len(state), dtype=torch.bool)
    seen = _Seen([], [], [], [0.0, 0.0])
    for ply in range(game.max_moves):
        legal = _check_position(game, state, ply)
        probability = _check_chance(game, state, legal, after_chance)
        chance = probability.any(1)
        action = torch.where(chance, draw(probability, generator), random_moves(legal, generator))
        made = _check_move(game, state, action)
        total = total + weight * made.reward
        if game.num_players == 1 and (total.abs() > 1 + TOLERANCE).any():
            raise InputError(f"{name}.step: returns must lie in [-1, 1], got {total[total.abs().argmax()]:g}")
        _note(game, state, legal, chance, made, seen)
        weight = weight * _same_again(game, "discount", state, made.state)
        on = ~made.terminated
        state, total, weight, after_chance = made.state[on], total[on], weight[on], chance[on]
        if not len(state):
            break
    if len(state):
        raise too_long(game)
    _warn(game, seen)


def _check_position(game: Game, state: Tensor, ply: int) -> Tensor:
    """Checks what the rules say of positions [B, S] after ``ply`` moves; the legal moves, [B, A]."""
    name, B = _name(game), len(state)
    legal: Tensor = _asked(game, "legal", (B, game.num_actions), torch.bool, "[B, num_actions]", state)
    if not legal.any(1).all():
        raise InputError(f"{name}.legal allows no move in a position in which step has not terminated the game")
    planes = _asked(game, "observe", (B, *game.planes_shape), torch.float32, "[B, *planes_shape]", state)
    if not planes.isfinite().all():
        raise InputError(f"{name}.observe must be finite numbers, got NaN or infinity")
    counted = _asked(game, "num_moves", (B,), torch.int64, "[B]", state)
    if (counted != ply).any():
        raise InputError(f"{name}.num_moves must count the moves made, {ply} here; got {counted[counted != ply][0]}")
    mover = _asked(game, "to_move", (B,), torch.int64, "[B]", state)
    if ((mover < 0) | (mover >= game.num_players)).any():
        raise InputError(f"{name}.to_move must be one of {list(range(game.num_players))}, got {mover.tolist()[:8]}")
    if not isinstance(game.render(state[0]), str):
        raise InputError(f"{name}.render must be text, got {type(game.render(state[0])).__name__}")
    return legal


def _check_chance(game: Game, state: Tensor, legal: Tensor, after_chance: Tensor) -> Tensor:
    """Checks the probabilities of chance's moves, and returns them, [B, A]; zeros where there is no chance."""
    probability = game.chance(state)
    if probability is None:
        return torch.zeros(legal.shape)
    name = _name(game)
    if game.num_players == 2 and type(game).to_move is Game.to_move:
        raise InputError(f"{name} has chance, whose moves num_moves counts, so it must override to_move")
    _asked(game, "chance", tuple(legal.shape), torch.float32, "[B, num_actions]", state)
    total, turn = probability.sum(1), probability.any(1)
    if (probability < 0).any() or ((total[turn] - 1).abs() > TOLERANCE).any():
        raise InputError(
            f"{name}.chance must be probabilities that sum to 1, or all 0; got {probability[turn][0].tolist()}"
        )
    if ((probability > 0) != legal)[turn].any():
        raise InputError(f"{name}.legal must be the moves that chance may make, where it is to move")
    if (turn & after_chance).any():
        raise InputError(f"{name}.chance moves twice in a row; make it one move, with the products of probabilities")
    return probability


def _check_move(game: Game, state: Tensor, action: Tensor) -> Transition:
    """Checks what moves [B] lead to."""
    result = _same_again(game, "step", state, action)
    made = checked_step(game, state, action)
    _check_rows(game, "step", result, state, action)
    _, reward, terminated = made
    free = torch.ones_like(terminated) if game.num_players == 1 else terminated
    wrong = ~(reward.abs() <= free)
    if wrong.any():
        ended = "has" if terminated[wrong][0] else "has not"
        given = f"got {reward[wrong][0]:g} where it {ended}"
        only = "" if game.num_players == 1 else ", and be 0 unless the game has ended"
        raise InputError(f"{_name(game)}.step: a reward must lie in [-1, 1]{only}; {given}")
    return made


def _note(game: Game, state: Tensor, legal: Tensor, chance: Tensor, made: Transition, seen: _Seen) -> None:
    """Notes what may tell of a mistake."""
    won, lost = made.reward > 0, made.reward < 0
    seen.won.append(int(won.sum()))
    seen.lost.append(int(lost.sum()))
    for row in (won & (legal.sum(1) > 1) & ~chance).nonzero().flatten()[:4].tolist():
        moves = legal[row].nonzero().flatten()
        seen.all_win.append(bool((game.step(state[row].expand(len(moves), -1), moves).reward > 0).all()))
    if game.alternates:
        on = ~made.terminated
        legal = game.legal(made.state[on])
        later, _, ended = game.step(made.state[on], legal.float().argmax(1))
        views = (game.observe(x)[~ended] for x in (state[on], made.state[on], later))
        before, *after = (x.flatten(1) for x in views)
        for place, view in enumerate(after):
            seen.stays[place] += float((before * view).sum())


def _warn(game: Game, seen: _Seen) -> None:
    """Tells what is most likely a mistake, but may be meant."""
    if game.num_players == 1:
        return
    won, lost = sum(seen.won), sum(seen.lost)
    if lost and not won:
        _tell(game, f"no move ever won, and {lost} lost: the reward must be that of the player who moved")
    if seen.all_win and all(seen.all_win):
        _tell(game, "wherever a move won, every move did: a win must come with the move that makes it")
    once, twice = seen.stays
    if not game.impartial and game.alternates and once >= twice > 0:
        _tell(game, "observe shows the same from either side: the state that step gives must be as seen by the "
            "opponent; or nothing on the board belongs to a player, as in Nim: then set impartial = True")  # fmt: skip


def _tell(game: Game, what: str) -> None:
    warnings.warn(f"{_name(game)}: {what}", stacklevel=6)


def _check_sizes(game: Game) -> None:
    name = _name(game)
    for size in ("num_actions", "state_size", "max_moves"):
        value = getattr(game, size, None)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name}.{size} must be a whole number of 1 or more, got {value!r}")
    planes: Any = getattr(game, "planes_shape", None)
    if not isinstance(planes, Sequence) or len(planes) != 3:
        raise InputError(f"{name}.planes_shape must be (C, H, W), got {planes!r}")
    if game.num_players not in (1, 2):
        raise InputError(f"{name}.num_players must be 1 or 2, got {game.num_players!r}")
    if not 0 < game.gamma <= 1:
        raise InputError(f"{name}.gamma must lie in (0, 1], got {game.gamma!r}")


def _check_names(game: Game) -> None:
    for action in range(game.num_actions):
        text = game.action_name(action)
        if not text or len(text.replace(",", " ").split()) != 1:
            raise InputError(f"{_name(game)}.action_name({action}) must be one word without a comma, got {text!r}")
        read = game.parse_action(text)
        if read != action:
            raise InputError(f"{_name(game)}.parse_action({text!r}) must be {action}, whose name that is; got {read!r}")


def _check_symmetries(game: Game) -> tuple[Tensor, Tensor]:
    """Checks that the symmetries are a group of permutations, and returns them."""
    name, (_, H, W), A = _name(game), game.planes_shape, game.num_actions
    cells, moves = game.symmetries()
    require(game, "symmetries()[0]", cells, (len(cells), H * W), torch.int64, "[K, H * W]")
    require(game, "symmetries()[1]", moves, (len(cells), A), torch.int64, "[K, num_actions]")
    for what, rows in (("cells", cells), ("moves", moves)):
        wrong = (rows.sort(1).values != torch.arange(rows.shape[1])).any(1).nonzero().flatten()
        if len(wrong):
            raise InputError(f"{name}.symmetries: the {what} of symmetry {int(wrong[0])} are no permutation")
    ways = {tuple(row) for row in torch.cat([cells, H * W + moves], 1).tolist()}
    if tuple(range(H * W + A)) not in ways:
        raise InputError(f"{name}.symmetries must contain the identity")
    if len(ways) < len(cells):
        raise InputError(f"{name}.symmetries: {len(cells) - len(ways)} of {len(cells)} are there twice")
    for one in ways:
        for other in ways:
            if tuple(one[place] for place in other) not in ways:
                raise InputError(f"{name}.symmetries must be a group: two of them in turn are no third one")
    return cells, moves


def _check_turned(game: Game, state: Tensor, cells: Tensor, moves: Tensor, k: int, generator: torch.Generator) -> None:
    """Plays from states [B, S] that a symmetry leaves as they are, and beside them the turned moves."""
    back = moves.argsort()  # move a of the board is move back[a] of the turned one
    turned = state
    for ply in range(game.max_moves):
        legal, probability = game.legal(state), game.chance(state)
        of_turned = game.chance(turned)
        pairs = {"observe": (game.observe(state).flatten(2)[:, :, cells], game.observe(turned).flatten(2))}
        pairs["legal"] = legal[:, moves], game.legal(turned)
        if probability is not None and of_turned is not None:
            pairs["chance"] = probability[:, moves], of_turned
        action = random_moves(legal, generator)
        if probability is not None:
            action = torch.where(probability.any(1), draw(probability, generator), action)
        one, other = game.step(state, action), game.step(turned, back[action])
        pairs["step().reward"] = one.reward, other.reward
        pairs["step().terminated"] = one.terminated, other.terminated
        for what, (expected, given) in pairs.items():
            if not torch.equal(expected, given):
                raise InputError(
                    f"{_name(game)}.symmetries: symmetry {k} does not fit {what} after {ply} moves: a turned game "
                    "must be the same game"
                )
        on = ~one.terminated
        state, turned = one.state[on], other.state[on]
        if not len(state):
            return


def _require_states(game: Game, what: str, state: Any) -> None:
    B = len(state) if isinstance(state, Tensor) else 0
    require(game, what, state, (B, game.state_size), torch.int64, "[num, state_size]")


def _asked(game: Game, method: str, shape: tuple[int, ...], dtype: torch.dtype, legend: str, state: Tensor) -> Tensor:
    """What a method says of states [B, S], after the checks of `_same_again`, `require` and `_check_rows`."""
    result = _same_again(game, method, state)
    require(game, method, result, shape, dtype, legend)
    _check_rows(game, method, result, state)
    return result


def _check_rows(game: Game, method: str, result: Any, *given: Tensor) -> None:
    """Asks for half of the rows in another order.

    Raises:
        InputError: what a method says of a row depends on the others.
    """
    rows = torch.arange(len(given[0])).flip(0)[::2]
    half = getattr(game, method)(*(x[rows] for x in given))
    for whole, part in zip(_parts(result), _parts(half), strict=True):
        if not torch.equal(whole[rows], part):
            raise InputError(f"{_name(game)}.{method}: what it says of a row must not depend on the other rows")


def _same_again(game: Game, method: str, *given: Any) -> Any:
    """What a method returns.

    Raises:
        InputError: it changes its arguments, or says something else when it is asked again.
    """
    kept = [x.clone() if isinstance(x, Tensor) else x for x in given]
    result = getattr(game, method)(*given)
    copied = [x.clone() if isinstance(x, Tensor) else x for x in _parts(result)]
    for x, before in zip(given, kept, strict=True):
        if isinstance(x, Tensor) and not torch.equal(x, before):
            raise InputError(f"{_name(game)}.{method} must leave its arguments as they are; it changed one in place")
    again = getattr(game, method)(*given)
    for x, y in zip(copied, _parts(again), strict=True):
        if not (torch.equal(x, y) if isinstance(x, Tensor) else x == y):
            raise InputError(f"{_name(game)}.{method} must say the same when it is asked again")
    return result


def _parts(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple) else (result,)


def _name(game: Game) -> str:
    return type(game).__name__
