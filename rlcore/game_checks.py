"""The executable contract of a game's rules.

Legend: B positions, A moves, S numbers per state, C planes of H x W cells, K symmetries.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlcore.errors import InputError, one_line
from rlcore.game import Cell, Game, Transition, checked_step, draw, random_moves, require, too_long
from rlcore.returns import discounted_sum

GAMES = 64
"""Random games that are played."""
TOLERANCE = 1e-5
"""Of sums of rewards and of probabilities, and of what is computed in batches of other sizes."""
SOME = 4
"""Positions of each length that are looked at more closely."""
ALONE = 16
"""Positions that are asked for by themselves, at most."""
FEW = 5
"""Games from which on it is no accident how they ended."""
LOOKAHEAD = 4
"""Moves within which views are compared."""
METHODS = "legal", "observe", "num_moves", "to_move", "chance"
NO_MOVE = "?"
"""What no move is called."""

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
    - `Game.parse_action` reads the names of moves. `Game.board` is of cells.
    - An illegal move, and one after the end, does not raise.

    What is most likely a mistake, but may be meant, is a warning: positions look the same from either side, though the
    game is not `Game.impartial`; no move ever wins; all that one player ends are won, and all that the other ends lost;
    wherever a move wins, all do; a player never moves; names of moves are no words, or words that are none are read.

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
    """Moves of each player that won, [2]."""
    lost: list[int]
    """Moves of each player that lost, [2]."""
    moved: list[int]
    """Moves of each player, [2]."""
    all_win: list[bool]
    """Of moves that won, of several that were legal: whether all of these win."""
    shown: list[float]
    """What is seen of positions, where they are compared with one that follows: seen by the other player, by the same
    one, [2]."""
    stays: list[float]
    """How much of it is seen there at the same place, [2]."""
    asked: list[tuple[Tensor, Tensor]]
    """Positions of all lengths, and moves made there, [b, S] and [b]."""


def _play(game: Game, state: Tensor, generator: torch.Generator) -> None:
    """Plays random games from states [B, S] to their ends, and checks each position and move."""
    name = _name(game)
    num, rows = len(state), torch.arange(len(state))
    rewards: list[Tensor] = []
    decays: list[Tensor] = []
    after_chance = torch.zeros(len(state), dtype=torch.bool)
    seen = _Seen([0, 0], [0, 0], [0, 0], [], [0.0, 0.0], [0.0, 0.0], [])
    for ply in range(game.max_moves):
        legal = _check_position(game, state, ply)
        probability = _check_chance(game, state, legal, after_chance)
        chance = probability.any(1)
        action = torch.where(chance, draw(probability, generator), random_moves(legal, generator))
        made = _check_move(game, state, action)
        on = ~made.terminated
        if ply & (ply - 1) == 0 or len(made.state) == num != int(on.sum()):  # now and then, and when a game first ends
            _check_any_move(game, torch.cat([state[:1], made.state[~on][:1]]))
        _note(game, state, legal, chance, action, made, seen)
        discount = _same_again(game, "discount", state, made.state)
        if not torch.equal(torch.as_tensor(discount), torch.as_tensor(Game.discount(game, state, made.state))):
            raise InputError(f"{name}.discount follows from to_move and gamma; define these instead")
        for told, values in ((rewards, made.reward), (decays, discount * on)):
            told.append(torch.zeros(num).index_put((rows,), values))
        state, rows, after_chance = made.state[on], rows[on], chance[on]
        if not len(state):
            break
    if len(state):
        raise too_long(game)
    returns = discounted_sum(torch.stack(rewards), torch.stack(decays))
    if (returns.abs() > 1 + TOLERANCE).any():
        given = f"got {returns.flatten()[returns.abs().argmax()]:g}"
        raise InputError(f"{name}.step: returns must lie in [-1, 1], from every position on; {given}")
    _check_alone(game, *map(torch.cat, zip(*seen.asked, strict=True)))
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
    if ply == 0 and mover.any():
        raise InputError(f"{name}.to_move must be 0 where a game begins: the player who began; got 1")
    _check_board(game, state[0])
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


def _note(
    game: Game, state: Tensor, legal: Tensor, chance: Tensor, action: Tensor, made: Transition, seen: _Seen
) -> None:
    """Notes what may tell of a mistake."""
    seen.asked.append((state[:GAMES], action[:GAMES]))
    if game.num_players == 1:
        return
    won, mover = made.reward > 0, game.to_move(state)
    for player in range(2):
        its = (mover == player) & ~chance
        for counts, which in ((seen.moved, its), (seen.won, its & won), (seen.lost, its & (made.reward < 0))):
            counts[player] += int(which.sum())
    for row in (won & (legal.sum(1) > 1) & ~chance).nonzero().flatten()[:SOME].tolist():
        moves = legal[row].nonzero().flatten()
        seen.all_win.append(bool((game.step(state[row].expand(len(moves), -1), moves).reward > 0).all()))
    if not game.impartial:
        _compare_views(game, state[~chance], seen)


def _compare_views(game: Game, state: Tensor, seen: _Seen) -> None:
    """Compares what is seen of positions [B, S] with what the other player sees next, and what the same one does."""
    mover, before, later = game.to_move(state), game.observe(state).flatten(1).double(), state
    goes_on = torch.ones_like(mover, dtype=torch.bool)
    sought = goes_on.repeat(2, 1)
    for _ in range(LOOKAHEAD):
        if not (sought & goes_on).any():
            break
        later, _, ended = game.step(later, game.legal(later).float().argmax(1))
        goes_on = goes_on & ~ended
        probability = game.chance(later)
        players = goes_on if probability is None else goes_on & ~probability.any(1)
        overlap = (before * game.observe(later).flatten(1)).sum(1)
        for view, same in enumerate((game.to_move(later) != mover, game.to_move(later) == mover)):
            found = sought[view] & same & players
            seen.shown[view] += float(before[found].square().sum())
            seen.stays[view] += float(overlap[found].sum())
            sought[view] &= ~found


def _warn(game: Game, seen: _Seen) -> None:
    """Tells what is most likely a mistake, but may be meant."""
    if game.num_players == 1:
        return
    won, lost = sum(seen.won), sum(seen.lost)
    if lost and not won:
        _tell(game, f"no move ever won, and {lost} lost: the reward must be that of the player who moved")
    for player in range(2):
        if seen.won[player] >= FEW < seen.lost[1 - player] and not seen.lost[player] + seen.won[1 - player]:
            _tell(game, f"every game that ended with a move of player {player} was won by it, and of the other lost: "
                "the reward must be that of the player who moved, not of one of them")  # fmt: skip
        if not seen.moved[player]:
            _tell(game, f"player {player} never moves: to_move must say who is to move, and the default is for players "
                "who move in turn, without dice; of one player, set num_players = 1")  # fmt: skip
    if seen.all_win and all(seen.all_win):
        _tell(game, "wherever a move won, every move did: a win must come with the move that makes it")
    if seen.stays[1] > 0 and seen.stays[0] * seen.shown[1] >= seen.stays[1] * seen.shown[0] > 0:
        _tell(game, "observe shows the same from either side: the state that step gives must be as seen by the "
            "player to move; or nothing on it belongs to a player, as in Nim: then set impartial = True")  # fmt: skip


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
        read = game.parse_action(text)
        if read != action:
            raise InputError(f"{_name(game)}.parse_action({text!r}) must be {action}, whose name that is; got {read!r}")
    names = map(game.action_name, range(game.num_actions))
    words = next((name for name in names if len(name.replace(",", " ").split()) != 1), None)
    if words is not None:
        _tell(game, f"a move is called {words!r}: one word without a comma is read among several, as in rlcore play")
    try:
        given = repr(game.parse_action(NO_MOVE))
    except Exception as error:  # whatever the rules raise
        given = type(error).__name__
    if given != "None":
        _tell(game, f"parse_action({NO_MOVE!r}) must be None: there is no such move; got {given}")


def _check_board(game: Game, state: Tensor) -> None:
    """Checks how a position [S] is drawn."""
    for cell in game.board(state):
        if not isinstance(cell, Cell):
            raise InputError(f"{_name(game)}.board must be cells, got {type(cell).__name__}")
        for what, value, end in (("owner", cell.owner, game.num_players), ("action", cell.action, game.num_actions)):
            if value is not None and not (isinstance(value, int) and 0 <= value < end):
                raise InputError(f"{_name(game)}.board: {what} must be None or a whole number below {end}, got {value}")


def _check_alone(game: Game, state: Tensor, action: Tensor) -> None:
    """Asks of positions [B, S] of all lengths at once, and of some by themselves."""
    for method, given in (*((method, (state,)) for method in METHODS), ("step", (state, action))):
        together = _parts(getattr(game, method)(*given))
        for row in range(0, len(state), -(-len(state) // ALONE)):
            for whole, part in zip(
                together, _parts(getattr(game, method)(*(x[row : row + 1] for x in given))), strict=True
            ):
                if whole is not None and not _same(whole[row : row + 1], part):
                    raise _of_others(game, method)


def _check_any_move(game: Game, state: Tensor) -> None:
    """Makes every move in states [B, S], and asks what searches ask after it: legal or not, and after the end."""
    try:
        each = torch.arange(game.num_actions).repeat(len(state))
        before = state.repeat_interleave(game.num_actions, 0)
        for method in (*METHODS, "step"):
            getattr(game, method)(before, *([each] if method == "step" else []))
    except Exception as error:  # whatever the rules raise
        told = one_line(f"{type(error).__name__}: {error}")
        raise InputError(
            f"{_name(game)}.{method}: what it says of an illegal move, or after the end, is arbitrary, but it must not "
            f"raise, as searches ask for whole batches; got {told}"
        ) from error


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
            if not _same(expected, given):
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
        if not _same(whole[rows], part):
            raise _of_others(game, method)


def _of_others(game: Game, method: str) -> InputError:
    return InputError(f"{_name(game)}.{method}: what it says of a row must not depend on the other rows")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal; floats nearly, as sums in batches of other sizes are not exactly the same."""
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


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
