import os
import random
from pathlib import Path

import pytest
import torch
from nim import Nim
from scipy.stats import binomtest

from rlcore import InputError, check_environment, check_game, registry
from rlcore.envs.games import ConnectFour, Gomoku, TicTacToe
from rlcore.envs.games.intervals import Z, effective_games, points_interval
from rlcore.envs.games.players import MinmaxPlayer, PlayerChoice, RandomPlayer
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.games.solver import Solver
from rlcore.envs.games.truth import Truth, enumerate_positions, read
from rlcore.game import (
    Transition,
    check_legal,
    contest,
    describe_count,
    different_games,
    mirrored_contest,
    openings,
    points,
    random_moves,
)

TTT, C4 = TicTacToe(), ConnectFour()
CPU = torch.device("cpu")
POSITIONS = Path(os.environ.get("RLCORE_DATA", "")) / "connect4" / "positions.csv"


def ply_by_ply(game, plies):
    """Distinct positions after 0, 1, ... moves, those in which the game has ended included."""
    state, counts, live = game.initial(1), [1], 0
    while len(state) and len(counts) <= plies:
        live += len(state)
        row, move = game.legal(state).nonzero(as_tuple=True)
        after = game.step(state[row], move)
        counts.append(len(after.state.unique(dim=0)))
        state = after.state[~after.terminated].unique(dim=0)
    return counts, live


def test_the_positions_of_tictactoe_are_as_many_as_they_should_be():
    counts, live = ply_by_ply(TTT, 9)
    assert sum(counts) == 5478
    assert live == 4520


def test_the_positions_of_connect_four_are_as_many_as_they_should_be():
    assert ply_by_ply(C4, 7)[0] == [1, 7, 49, 238, 1120, 4263, 16422, 54859]


class RuleBook:
    """A board as a list of lists, and the rules as they are told."""

    def __init__(self, rows, columns, line, falls):
        self.board = [[None] * columns for _ in range(rows)]
        self.line, self.falls, self.player = line, falls, 0

    def move(self, action):
        """Makes it; whether it wins."""
        rows, columns = len(self.board), len(self.board[0])
        if self.falls:
            row, column = max(r for r in range(rows) if self.board[r][action] is None), action
        else:
            row, column = divmod(action, columns)
        self.board[row][column] = self.player
        won = any(self.run(row, column, dr, dc) >= self.line for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)))
        self.player = 1 - self.player
        return won

    def run(self, row, column, dr, dc):
        length = 1
        for sign in (1, -1):
            r, c = row + sign * dr, column + sign * dc
            while 0 <= r < len(self.board) and 0 <= c < len(self.board[0]) and self.board[r][c] == self.player:
                length, r, c = length + 1, r + sign * dr, c + sign * dc
        return length

    def legal(self):
        if self.falls:
            return [cell is None for cell in self.board[0]]
        return [cell is None for row in self.board for cell in row]

    def planes(self):
        return [[[float(cell == who) for cell in row] for row in self.board] for who in (self.player, 1 - self.player)]


class Gomoku6(Gomoku):
    """A size of one's own, on which random games end in draws too."""

    size = 6


@pytest.mark.parametrize(
    ("game", "book", "N"),
    [
        (TTT, (3, 3, 3, False), 500),
        (C4, (6, 7, 4, True), 500),
        (Gomoku6(), (6, 6, 5, False), 200),
        (Gomoku(), (15, 15, 5, False), 20),
    ],
    ids=["tictactoe", "connect4", "gomoku6", "gomoku15"],
)
def test_the_rules_are_those_of_a_plain_rule_book(game, book, N):
    """In random games."""
    generator = random.Random(0)
    books, state = [RuleBook(*book) for _ in range(N)], game.initial(N)
    running = list(range(N))
    for ply in range(game.max_moves):
        legal = game.legal(state)
        assert legal.tolist() == [books[n].legal() for n in running]
        if ply % 5 == 0:  # the rest of the board follows from the moves
            assert game.observe(state).tolist() == [books[n].planes() for n in running]
            assert (game.num_moves(state) == ply).all()
        actions = [generator.choice([a for a, ok in enumerate(row) if ok]) for row in legal.tolist()]
        won = [books[n].move(a) for n, a in zip(running, actions, strict=True)]
        full = [not any(books[n].legal()) for n in running]
        state, reward, terminated = game.step(state, torch.tensor(actions))
        assert reward.tolist() == [float(w) for w in won]
        assert terminated.tolist() == [w or f for w, f in zip(won, full, strict=True)]
        state, running = state[~terminated], [n for n, t in zip(running, terminated.tolist(), strict=True) if not t]
        if not running:
            break
    assert not running


@pytest.mark.parametrize("name", registry.games.names())
def test_a_turned_game_is_the_same_game(name):
    """To turn the moves and play is to play and turn the board."""
    game = registry.games[name]()
    torch.manual_seed(0)
    cells, moves = game.symmetries()
    assert (cells.sort(1).values == torch.arange(cells.shape[1])).all()
    assert len(cells.unique(dim=0)) == len(cells)
    N = 50 if len(cells[0]) < 100 else 10
    for k in range(len(cells)):
        back = moves[k].argsort()  # move a of the board is move back[a] of the turned one
        state, turned = game.initial(N), game.initial(N)
        for _ in range(game.max_moves):
            planes = game.observe(state).flatten(2)[:, :, cells[k]].view(N, *game.planes_shape)
            assert torch.equal(game.observe(turned), planes)
            assert torch.equal(game.legal(turned), game.legal(state)[:, moves[k]])
            action = torch.rand(N, game.num_actions).where(game.legal(state), -1.0).argmax(1)
            a, b = game.step(state, action), game.step(turned, back[action])
            assert torch.equal(a.reward, b.reward)
            keep = ~a.terminated
            state = torch.where(keep[:, None], a.state, game.initial(N))
            turned = torch.where(keep[:, None], b.state, game.initial(N))


def test_the_board_is_drawn_with_x_for_the_one_who_began():
    state = TTT.initial(1)
    for move in (4, 0, 2):
        state = TTT.step(state, torch.tensor([move])).state
    assert TTT.render(state[0]) == "O . X\n. X .\n. . ."
    state = C4.step(C4.initial(1), torch.tensor([3])).state
    assert C4.render(state[0]).splitlines()[-2:] == [". . . X . . .", "1 2 3 4 5 6 7"]
    assert C4.parse_action(" 7 ") == 6
    assert C4.parse_action("8") is None


# Truth


def test_tictactoe_is_a_draw_and_its_truth_is_that_of_a_recursion():
    truth = enumerate_positions(TTT)
    assert len(truth.state) == 4520
    assert (truth.score[0] == 0).all()

    def worth(state):
        legal = TTT.legal(state)[0].nonzero().flatten()
        after, reward, terminated = TTT.step(state.expand(len(legal), -1), legal)
        return max(
            float(r) if end else -worth(s[None]) for s, r, end in zip(after, reward, terminated, strict=True)
        )  # fmt: skip

    for p in range(600, 4520, 391):
        assert worth(truth.state[p : p + 1]) == truth.score[p].amax(), p
    first_legal = TTT.legal(truth.state).float().argmax(1)
    assert 0.5 < truth.accuracy(first_legal)["right_all"] < 0.9
    assert truth.accuracy(truth.score.argmax(1))["perfect_all"] == 1
    with pytest.raises(InputError, match="ConnectFour has more than 100,000 positions; give a file"):
        enumerate_positions(C4)


def test_moves_are_judged_by_sign_and_by_score():
    none = float("-inf")
    truth = Truth(torch.zeros(4, 1), torch.tensor([[3.0, 1, -2], [0, -1, none], [2, 5, 1], [-3, -1, none]]))
    judged = truth.accuracy(torch.tensor([1, 0, 0, 0]))
    assert truth.differ.tolist() == [True, True, False, False]
    assert judged == {"right": 1.0, "right_all": 1.0, "perfect": 0.5, "perfect_all": 0.25}
    assert truth.accuracy(torch.tensor([2, 1, 1, 1])) == {
        "right": 0,
        "right_all": 0.5,
        "perfect": 0,
        "perfect_all": 0.5,
    }


@pytest.fixture
def positions(workdir):
    def write(*rows):
        path = workdir / "positions.csv"
        path.write_text("\n".join(["moves,1,2,3,4,5,6,7", *rows]))
        return path

    return write


def test_positions_are_read_and_a_bad_row_is_named_by_its_line(positions):
    truth = read(C4, positions("42571242,-17,4,-17,-17,-17,-17,-17", "1111112,-1000,0,1,2,3,4,5"))
    assert truth.score[0].tolist() == [-17, 4, -17, -17, -17, -17, -17]
    assert truth.score[1, 0] == float("-inf")
    assert C4.num_moves(truth.state).tolist() == [8, 7]
    good = "4,-1,0,1,2,1,0,-1"
    for row, words in (
        ("4,1,2,3", "line 3: 4 fields; expected the moves and 7 scores"),
        ("49,1,2,3,4,5,6,7", "line 3: move 2 of 49, '9', is not legal"),
        ("1111111,1,2,3,4,5,6,7", "line 3: move 7 of 1111111, '1', is not legal"),
        ("1212121,1,2,3,4,5,6,7", "line 3: the game ends with move 7 of 1212121"),
        ("4,1,x,3,4,5,6,7", "line 3: a score is not a number: 'x'"),
        ("4,1,nan,3,4,5,6,7", "line 3: a score is not a number: 'nan'"),
        ("4,1,-1000,3,4,5,6,7", "line 3: the move 2 is legal there, but its score is -1000"),
        ("111111,1,2,3,4,5,6,7", "line 3: the move 1 is illegal there, but its score is 1"),
    ):
        with pytest.raises(InputError, match=words):
            read(C4, positions(good, row))
    headless = positions(good)
    headless.write_text(good)
    with pytest.raises(InputError, match="has no header"):
        read(C4, headless)
    with pytest.raises(InputError, match="has no positions"):
        read(C4, positions())
    with pytest.raises(InputError, match=r"nowhere\.csv cannot be read"):
        read(C4, positions().with_name("nowhere.csv"))


def test_the_solver_is_exact(positions):
    """Against alpha-beta without a table, a window or an order, on late positions."""

    def plain(state):
        best = -99
        legal = C4.legal(state)[0].nonzero().flatten().tolist()
        for move in legal:
            after, reward, terminated = C4.step(state, torch.tensor([move]))
            left = 42 - int(C4.num_moves(state))
            best = max(best, (left + 1) // 2 if reward > 0 else 0 if terminated else -plain(after))
        return best

    generator = torch.Generator().manual_seed(0)
    state = openings(C4, torch.full((1000,), 38), 38, generator)
    state = state[C4.num_moves(state) >= 37][:12]
    assert len(state) == 12
    solver = Solver()
    for s in state:
        scores = solver.scores(*s.tolist())
        assert max(score for score in scores if score is not None) == plain(s[None])
        assert [score is not None for score in scores] == C4.legal(s[None])[0].tolist()


@pytest.mark.skipif(not POSITIONS.is_file(), reason="needs RLCORE_DATA")
def test_the_solver_agrees_with_the_solved_positions():
    truth = read(C4, POSITIONS)
    late = C4.num_moves(truth.state) >= 20
    for state, score in list(zip(truth.state[late].tolist(), truth.score[late].tolist(), strict=True))[:30]:
        found = Solver().scores(*state)
        assert [float("-inf") if x is None else x for x in found] == score


def test_the_shipped_positions_are_read_unless_there_is_a_file_of_that_name(positions):
    env = SelfPlayEnv(SelfPlayEnv.Settings(game="connect4", num_envs=2, positions="connect4_positions.csv"))
    assert len(env.truth.state) == 420
    assert env.evaluation(3).truth is env.truth
    positions("4,-1,0,1,2,1,0,-1").rename("connect4_positions.csv")
    env = SelfPlayEnv(SelfPlayEnv.Settings(game="connect4", num_envs=2, positions="connect4_positions.csv"))
    assert len(env.truth.state) == 1


# Players and contests


def moves(*wanted):
    """A player who makes these moves, whatever the position."""
    left = list(wanted)
    return lambda state: torch.full((len(state),), left.pop(0))


def test_intervals_of_points_have_the_opening_as_their_unit():
    alike = torch.tensor([1.0] * 7 + [-1.0] * 3)  # by opening
    assert effective_games(torch.cat([alike, alike])) == pytest.approx(10)
    wilson = binomtest(7, 10).proportion_ci(method="wilson")
    assert points_interval(torch.cat([alike, alike])) == pytest.approx((wilson.low, wilson.high))
    sides = torch.ones(10)  # the side alone decides: each opening tells that the players are equal
    assert effective_games(torch.cat([sides, -sides])) == pytest.approx(10 * 12 / 2)
    assert effective_games(torch.zeros(20)) == pytest.approx(10 * 12 / 2)
    assert points_interval(torch.ones(20)) == pytest.approx((10 / (10 + Z**2), 1))
    assert points_interval(-torch.ones(2)) == pytest.approx((0, Z**2 / (1 + Z**2)))
    outcome = torch.randint(-1, 2, (100, 24)).double()
    for row in outcome:
        low, high = points_interval(row)
        assert low < points(row) < high
        assert points_interval(-row) == pytest.approx((1 - high, 1 - low))
        assert effective_games(row) >= 12


@pytest.mark.parametrize(("drawn", "alike"), [(0.0, 0.0), (0.0, 1.0), (0.5, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("won", [0.4, 0.25])
def test_intervals_of_points_cover_the_true_share(drawn, alike, won):
    """Games of which some are drawn, and openings of which some end alike from either side."""
    u = torch.rand(1000, 2, 20)
    u[:, 1] = torch.where(torch.rand(1000, 20) < alike, u[:, 0], u[:, 1])
    outcome = ((u >= 1 - won).double() - (u < 1 - won - drawn).double()).flatten(1)
    intervals = torch.tensor([points_interval(row) for row in outcome])
    share = won + drawn / 2
    covered = ((intervals[:, 0] <= share) & (share <= intervals[:, 1])).double().mean()
    assert 0.93 < covered < 0.99


def test_a_contest_is_scored_for_the_one_who_begins():
    state = TTT.initial(3)
    assert contest(TTT, moves(0, 1, 2), moves(3, 4), state).tolist() == [1, 1, 1]
    assert contest(TTT, moves(0, 1, 8), moves(3, 4, 5), state).tolist() == [-1, -1, -1]
    drawn = contest(TTT, moves(0, 1, 5, 6, 8), moves(2, 3, 4, 7), state)
    assert drawn.tolist() == [0, 0, 0]
    assert points(torch.tensor([1.0, 0, 0, -1, 1, 1])) == pytest.approx(4 / 6)
    with pytest.raises(InputError, match=r"game 0: the move 0 is illegal; legal there: 1, 2"):
        contest(TTT, moves(0), moves(0), state)


def test_better_players_win():
    torch.manual_seed(0)
    none = MinmaxPlayer.Settings(depth=1)
    random_player = RandomPlayer(RandomPlayer.Settings(), C4, CPU)
    shallow, deep = (MinmaxPlayer(none.model_copy(update={"depth": d}), C4, CPU) for d in (1, 3))
    begin = C4.initial(10)
    assert points(mirrored_contest(C4, shallow, random_player, begin)) > 0.7
    assert points(mirrored_contest(C4, deep, shallow, begin)) > 0.7
    perfect = MinmaxPlayer(none.model_copy(update={"depth": 9}), TTT, CPU)
    late = openings(TTT, torch.full((12,), 3), 3, torch.Generator().manual_seed(0))
    truth = enumerate_positions(TTT)
    worth = {tuple(s.tolist()): float(v) for s, v in zip(truth.state, truth.score.amax(1), strict=True)}
    expected = [worth[tuple(s.tolist())] for s in late]
    assert contest(TTT, perfect, perfect, late).tolist() == expected
    uct = PlayerChoice.model_validate({"name": "uct", "simulations": 50})
    assert str(uct) == "uct_50"
    assert points(mirrored_contest(C4, uct.make(C4, CPU), random_player, C4.initial(10))) > 0.8


def lowest(state):
    return TTT.legal(state).int().argmax(1)


def highest(state):
    return 8 - TTT.legal(state).flip(1).int().argmax(1)


def at_random(state):
    return random_moves(TTT.legal(state))


def test_games_that_are_always_the_same_count_once():
    state = TTT.initial(20)
    assert mirrored_contest(TTT, lowest, highest, state).shape == (40,)
    outcome = different_games(TTT, lowest, highest, state)
    assert outcome.tolist() == mirrored_contest(TTT, lowest, highest, state[:1]).tolist()
    assert describe_count(outcome, 40) == "2 different games of 40"
    corners = torch.cat([TTT.step(state[:1], torch.tensor([move])).state for move in (0, 2, 0, 6, 2, 0)])
    expected = mirrored_contest(TTT, lowest, highest, corners[[0, 1, 3]])
    assert different_games(TTT, lowest, highest, corners).tolist() == expected.tolist()


def test_games_of_players_at_random_all_count():
    torch.manual_seed(1)
    state = TTT.initial(20)
    for one, other in ((at_random, at_random), (lowest, at_random)):
        assert describe_count(different_games(TTT, one, other, state), 40) == "40"


@pytest.mark.parametrize("moves_made", [0, 1])
def test_both_sides_of_a_position_count_equally_often(moves_made):
    """Someone plays at random only where he begins, or only where he does not."""
    state = TTT.initial(20)

    def moody(state):
        action = lowest(state)
        if int(TTT.num_moves(state)[0]) == moves_made:
            action[7] = 8
        return action

    outcome = different_games(TTT, moody, lowest, state)
    assert torch.equal(outcome, mirrored_contest(TTT, moody, lowest, state))
    assert len(outcome) == 40


def test_openings_are_of_the_length_asked_for_and_have_not_ended():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([0, 1, 5, 12]).repeat(100)
    state = openings(C4, lengths, 12, generator)
    made = C4.num_moves(state)
    assert (made <= lengths).all()
    assert (made == lengths).float().mean() > 0.9
    assert C4.legal(state).any(1).all()
    assert not (C4.has_line(state[:, 0]) | C4.has_line(state[:, 1])).any()


# The environment


@pytest.mark.parametrize(
    "settings", [{"game": "tictactoe"}, {"game": "connect4", "random_openings": 6}, {"game": "othello6"}]
)
def test_self_play_keeps_the_contract(settings):
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=16, **settings))
    check_environment(env, num_steps=120)
    env.reset(seed=1)
    saved = env.checkpoint()
    actions = env.random_actions()
    first = env.step(actions)
    env.restore(saved)
    again = env.step(actions)
    assert torch.equal(first[0], again[0])


def test_random_openings_have_every_length():
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=500, game="connect4", random_openings=4))
    state, _ = env.reset(seed=1)
    assert C4.num_moves(state).bincount(minlength=5).min() > 60


def test_an_illegal_move_names_the_game():
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=4))
    env.reset(seed=1)
    env.step(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match="game 2: the move 0 is illegal; legal there: 1, 2, 3, 4, 5, 6, 7, 8"):
        env.step(torch.tensor([1, 2, 0, 3]))
    with pytest.raises(InputError, match="game 0: the move 9 is illegal"):
        check_legal(TTT, TTT.initial(1), torch.tensor([9]))
    with pytest.raises(InputError, match="unknown game 'conect4' \\(did you mean 'connect4'"):
        SelfPlayEnv(SelfPlayEnv.Settings(game="conect4"))


# Wrong rules


class Faulty(Nim):
    """Returns something else from one method."""

    def __init__(self, method, returned):
        setattr(self, method, lambda *given: returned(getattr(Nim, method)(self, *given)))


class Sized(Nim):
    """Has another size."""

    def __init__(self, **sizes):
        self.__dict__.update(sizes)


class Endless(Nim):
    """The last stone stays."""

    def step(self, state, action):
        after, *_ = super().step(state, action)
        after[:, :3] = torch.where(after[:, :3].sum(1, keepdim=True) == 0, state[:, :3], after[:, :3])
        none = torch.zeros(len(state))
        return Transition(after, none, none.bool())


@pytest.mark.parametrize(
    ("game", "words"),
    [
        (
            Sized(max_moves=4),
            "Sized: a game goes on after max_moves = 4 moves; every game must end, and max_moves must be",
        ),
        (Endless(), "Endless: a game goes on after max_moves = 6 moves"),
        (Sized(max_moves=0), "Sized.max_moves must be a whole number of 1 or more, got 0"),
        (Sized(num_actions=None), "Sized.num_actions must be a whole number of 1 or more, got None"),
        (Sized(num_actions=8), "Sized.legal must be torch.bool [B, num_actions] = [64, 8], got torch.bool [64, 9]"),
        (Sized(state_size=3), "Sized.initial must be torch.int64 [num, state_size] = [64, 3], got torch.int64 [64, 4]"),
        (Sized(planes_shape=(3, 3)), "Sized.planes_shape must be (C, H, W), got (3, 3)"),
        (
            Sized(planes_shape=(3, 3, 1)),
            "Sized.observe must be torch.float32 [B, *planes_shape] = [64, 3, 3, 1], got torch.float32 [64, 3, 1, 3]",
        ),
        (
            Faulty("legal", torch.Tensor.float),
            "Faulty.legal must be torch.bool [B, num_actions] = [64, 9], got torch.float32",
        ),
        (Faulty("legal", torch.Tensor.tolist), "Faulty.legal must be torch.bool [B, num_actions] = [64, 9], got list"),
        (
            Faulty("legal", torch.zeros_like),
            "Faulty.legal allows no move in a position in which step has not terminated",
        ),
        (Faulty("initial", torch.Tensor.float), "Faulty.initial must be torch.int64"),
        (Faulty("observe", torch.Tensor.bool), "Faulty.observe must be torch.float32"),
        (
            Faulty("num_moves", torch.Tensor.int),
            "Faulty.num_moves must be torch.int64 [B] = [64], got torch.int32 [64]",
        ),
        (
            Faulty("step", lambda made: made.state),
            "Faulty.step must return Transition(state, reward, terminated), got Tensor",
        ),
        (Faulty("step", lambda made: made._replace(state=made.state.int())), "Faulty.step().state must be torch.int64"),
        (
            Faulty("step", lambda made: made._replace(reward=made.reward.long())),
            "Faulty.step().reward must be torch.float32 [B] = [64], got torch.int64 [64]",
        ),
        (
            Faulty("step", lambda made: made._replace(terminated=made.terminated[:, None])),
            "Faulty.step().terminated must be torch.bool [B] = [64], got torch.bool [64, 1]",
        ),
        (
            Faulty("step", lambda made: made._replace(reward=made.reward - 0.5)),
            "Faulty.step: a reward must lie in [-1, 1], and be 0 unless the game has ended; got -0.5 where it has not",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrong_rules_are_one_line_when_an_environment_is_made(monkeypatch, game, words):
    monkeypatch.setitem(registry.games._registered, "faulty", lambda: game)
    with pytest.raises(InputError) as raised:
        SelfPlayEnv(SelfPlayEnv.Settings(game="faulty"))
    assert str(raised.value).startswith(words)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("game", [TTT, C4, Nim()])
def test_right_rules_are_checked_without_a_trace(game):
    before = torch.get_rng_state()
    check_game(game)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_contest_that_would_not_end_is_one_line():
    game = Endless()
    with pytest.raises(InputError, match="Endless: a game goes on after max_moves = 6 moves"):
        contest(game, *2 * [lambda state: random_moves(game.legal(state))], game.initial(3))
