"""Mistakes in the rules of a game, and who tells of them."""

import warnings

import pytest
import torch
from nim import Nim
from test_turns import Climb, Endgame

from rlcore import InputError, check_game, registry
from rlcore.envs.games import ConnectFour, DotsAndBoxes, TicTacToe
from rlcore.envs.games.rules import einstein
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.game import Game, Transition
from rlcore.game_checks import check_once


class Broken:
    """Rules with one mistake."""


class Drawn(Broken, TicTacToe):
    """Legal moves are drawn."""

    def legal(self, state):
        return super().legal(state) & (torch.rand(len(state), 9) > 0.1)


class OfTheFirst(Broken, TicTacToe):
    """The first row decides for all."""

    def legal(self, state):
        return super().legal(state[:1]).expand(len(state), -1)


class OfTheBatch(Broken, Nim):
    """Planes are normalised by what else is in the batch."""

    def observe(self, state):
        planes = super().observe(state)
        return planes - planes.mean(0)


class InPlace(Broken, TicTacToe):
    """A move changes the position that it was made in."""

    def step(self, state, action):
        made = super().step(state, action)
        state[:, 0] |= 1 << action
        return made


class LegalInPlace(Broken, Nim):
    """To ask for legal moves changes the position."""

    def legal(self, state):
        state[:, :3] = state[:, :3].clamp_max(2)
        return super().legal(state)


class Remembers(Broken, TicTacToe):
    """What is terminated depends on how often it was asked."""

    asked = 0

    def step(self, state, action):
        self.asked += 1
        state, reward, terminated = super().step(state, action)
        return Transition(state, reward, terminated | (self.asked % 7 == 0))


class Unfinished(Broken, TicTacToe):
    """A full board goes on."""

    max_moves = 10

    def step(self, state, action):
        state, reward, terminated = super().step(state, action)
        return Transition(state, reward, terminated & (reward > 0))


class Doubled(Broken, TicTacToe):
    """A win is worth 2."""

    def step(self, state, action):
        state, reward, terminated = super().step(state, action)
        return Transition(state, 2 * reward, terminated)


class OnTheWay(Broken, TicTacToe):
    """The middle is worth something at once."""

    def step(self, state, action):
        state, reward, terminated = super().step(state, action)
        return Transition(state, torch.where(action == 4, 0.5, reward), terminated)


class TooFew(Broken, ConnectFour):
    """Games are longer than is said."""

    max_moves = 30


class Miscounted(Broken, TicTacToe):
    """Counts the mover's stones alone."""

    def num_moves(self, state):
        return super().observe(state)[:, 0].flatten(1).sum(1).long()


class NotTurned(Broken, TicTacToe):
    """The next player sees the board as the last one did, whose stones it then owns."""

    def step(self, state, action):
        state, reward, terminated = super().step(state, action)
        return Transition(state.flip(1), reward, terminated)


class SeenFromOneSide(Broken, ConnectFour):
    """Planes are of the one who began, whoever moves."""

    def observe(self, state):
        planes = super().observe(state)
        turn = planes.sum((1, 2, 3), keepdim=True) % 2 == 1
        return torch.where(turn, planes.flip(1), planes)


class PaidToTheOther(Broken, TicTacToe):
    """The reward is that of the player who moves next."""

    def step(self, state, action):
        state, reward, terminated = super().step(state, action)
        return Transition(state, -reward, terminated)


class OneMoveLate(Broken, TicTacToe):
    """A line is seen only when the other player has moved."""

    def step(self, state, action):
        had = self.has_line(state[:, 1])
        state, _, _ = super().step(state, action)
        full = (state[:, 0] | state[:, 1]) == self.full
        return Transition(state, had.float(), had | full)


class NoPermutation(Broken, TicTacToe):
    """Two cells go to one place."""

    def symmetries(self):
        cells, moves = super().symmetries()
        cells[3, 0] = cells[3, 1]
        return cells, moves


class OtherMoves(Broken, TicTacToe):
    """The moves of a turned board are those of another one."""

    def symmetries(self):
        cells, moves = super().symmetries()
        return cells, moves.roll(1, 0)


class NoGroup(Broken, TicTacToe):
    """A quarter turn without the half turn."""

    def symmetries(self):
        cells, moves = super().symmetries()
        return cells[:2], moves[:2]


class NotSymmetric(Broken, ConnectFour):
    """Stones do not fall up."""

    def symmetries(self):
        board, moves = torch.arange(42).view(6, 7), torch.arange(7)
        return torch.stack([board, board.flip(0)]).flatten(1), torch.stack([moves, moves])


class SameNames(Broken, TicTacToe):
    """Names of rows alone."""

    def action_name(self, action):
        return "abc"[action // 3]


class Sentences(Broken, TicTacToe):
    """Names of two words."""

    def action_name(self, action):
        return f"row {action + 1}"


class Infinite(Broken, Nim):
    """An empty heap is minus infinity."""

    def observe(self, state):
        return super().observe(state).log()


class Unfair(Broken, Endgame):
    """A die whose chances do not sum to 1."""

    def chance(self, state):
        return super().chance(state) * 0.9


class Loaded(Broken, Endgame):
    """A die that never shows 6, though that is legal."""

    def chance(self, state):
        p = super().chance(state)
        p[:, 5] = 0
        return p / p.sum(1, keepdim=True).clamp_min(0.1)

    def legal(self, state):
        legal = super().legal(state)
        legal[state[:, einstein.DIE] == 0, 5] = True
        return legal


class WhoseMove(Broken, DotsAndBoxes):
    """Players are numbered from 1."""

    def to_move(self, state):
        return super().to_move(state) + 1


class TooMuch(Broken, Climb):
    """Returns of more than 1."""

    def step(self, state, action):
        after, reward, terminated = super().step(state, action)
        return Transition(after, 0.1 + reward.abs(), terminated)


class Unseeded(Broken, Endgame):
    """Beginnings are drawn from elsewhere."""

    def start(self, num, generator):
        state = self.initial(num, generator.device)
        state[:, 1] = torch.randint(10, 18, (num,))
        return state


class CountOfTheFirst(Broken, TicTacToe):
    """The first game's moves are counted for all, which are as many as long as all began together."""

    def num_moves(self, state):
        return super().num_moves(state[:1]).expand(len(state))


class AllEnd(Broken, TicTacToe):
    """As soon as one game has ended all have."""

    def step(self, state, action):
        made = super().step(state, action)
        return made._replace(terminated=made.terminated.any().expand(len(state)))


class Raises(Broken, TicTacToe):
    """An illegal move raises."""

    def step(self, state, action):
        if not self.legal(state).gather(1, action[:, None]).all():
            raise ValueError("not legal")
        return super().step(state, action)


class Discounts(Broken, TicTacToe):
    """A discount that a search of players who move in turn does not ask for."""

    def discount(self, state, next_state):
        return -0.9


class ReadsNumbers(Broken, TicTacToe):
    """What is no number raises."""

    def parse_action(self, text):
        return int(text) - 1


class ThirdOwner(Broken, TicTacToe):
    """Players are numbered from 1 on the board."""

    def board(self, state):
        return [cell if cell.owner is None else cell._replace(owner=cell.owner + 1) for cell in super().board(state)]


class LaterTooMuch(Broken, Climb):
    """The return from the beginning is 0.4, but 1.4 from the second move on."""

    gamma = 1

    def step(self, state, action):
        after, _, terminated = super().step(state, action)
        return Transition(after, torch.where(after[:, 1] == 1, -1.0, 0.28), terminated)


class PaidToTheFirst(Broken, TicTacToe):
    """The reward is that of the player who began."""

    def step(self, state, action):
        made = super().step(state, action)
        return made._replace(reward=torch.where(self.num_moves(state) % 2 == 0, made.reward, -made.reward))


class NeverTurns(Broken, DotsAndBoxes):
    """The same player always moves again."""

    def to_move(self, state):
        return torch.zeros_like(state[:, 0])


class DiceInTurn(Broken, Endgame):
    """Throws count as moves of the default `to_move`."""

    to_move = Game.to_move


class TurnsEachMove(Broken, DotsAndBoxes):
    """To move is not who sees the board."""

    to_move = Game.to_move


class BoxesFromOneSide(Broken, DotsAndBoxes):
    """Planes are of the one who began, whoever moves."""

    def observe(self, state):
        planes = super().observe(state)
        return torch.where(state[:, 3, None, None, None] == 1, planes[:, [0, 2, 1]], planes)


ERRORS = {
    Drawn: "legal must say the same when it is asked again",
    OfTheFirst: "legal: what it says of a row must not depend on the other rows",
    OfTheBatch: "observe: what it says of a row must not depend on the other rows",
    InPlace: "step must leave its arguments as they are; it changed one in place",
    LegalInPlace: "legal must leave its arguments as they are; it changed one in place",
    Remembers: "step must say the same when it is asked again",
    Unfinished: "legal allows no move in a position in which step has not terminated the game",
    Doubled: r"step: a reward must lie in \[-1, 1\], and be 0 unless the game has ended; got 2 where it has",
    OnTheWay: r"step: a reward must lie in \[-1, 1\], and be 0 unless the game has ended; got 0.5 where it has not",
    TooFew: "a game goes on after max_moves = 30 moves",
    Miscounted: "num_moves must count the moves made, 1 here; got 0",
    NoPermutation: "symmetries: the cells of symmetry 3 are no permutation",
    OtherMoves: "symmetries must ",
    NoGroup: "symmetries must be a group: two of them in turn are no third one",
    NotSymmetric: "symmetries: symmetry 1 does not fit observe after 1 moves: a turned game must be the same game",
    SameNames: r"parse_action\('a'\) must be 1, whose name that is; got 0",
    Infinite: "observe must be finite numbers, got NaN or infinity",
    Unfair: "chance must be probabilities that sum to 1, or all 0",
    Loaded: "legal must be the moves that chance may make, where it is to move",
    DiceInTurn: "has chance, whose moves num_moves counts, so it must override to_move",
    WhoseMove: "to_move must be 0 where a game begins: the player who began; got 1",
    TooMuch: r"step: returns must lie in \[-1, 1\], from every position on; got 1\.",
    CountOfTheFirst: "num_moves: what it says of a row must not depend on the other rows",
    AllEnd: "step: what it says of a row must not depend on the other rows",
    Raises: "step: what it says of an illegal move, or after the end, is arbitrary, but it must not raise",
    Discounts: "discount follows from to_move and gamma; define these instead",
    ThirdOwner: "board: owner must be None or a whole number below 2, got 2",
    LaterTooMuch: r"step: returns must lie in \[-1, 1\], from every position on; got 1\.4",
    Unseeded: "start: draw from the generator given; two of the same seed gave other states",
}
WARNINGS = {
    ReadsNumbers: r"parse_action\('\?'\) must be None: there is no such move; got ValueError",
    Sentences: "a move is called 'row 1': one word without a comma is read among several",
    PaidToTheFirst: "every game that ended with a move of player 0 was won by it, and of the other lost",
    NeverTurns: "player 1 never moves: to_move must say who is to move",
    TurnsEachMove: "observe shows the same from either side",
    BoxesFromOneSide: "observe shows the same from either side",
    NotTurned: "observe shows the same from either side",
    SeenFromOneSide: "observe shows the same from either side",
    PaidToTheOther: "no move ever won, and .* lost: the reward must be that of the player who moved",
    OneMoveLate: "wherever a move won, every move did: a win must come with the move that makes it",
}


def test_every_mistake_here_is_told():
    assert set(Broken.__subclasses__()) == {*ERRORS, *WARNINGS}


@pytest.mark.parametrize(("kind", "words"), ERRORS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_is_one_line_that_names_the_class(kind, words):
    with pytest.raises(InputError, match=words) as raised:
        check_game(kind())
    assert str(raised.value).startswith(kind.__name__)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("kind", "words"), WARNINGS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_may_be_meant_is_a_warning(kind, words):
    with pytest.warns(UserWarning, match=words) as told:
        check_game(kind())
    assert len({str(one.message) for one in told}) == 1


@pytest.mark.parametrize("name", [*registry.games.names()])
def test_the_rules_that_are_shipped_pass_without_a_trace(name):
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_game(registry.games[name]())
    assert torch.equal(torch.get_rng_state(), before)


def test_features_need_not_be_the_same_to_the_last_bit_in_batches_of_other_sizes():
    class Features(TicTacToe):
        planes_shape = (16, 3, 3)
        weight = torch.randn(18, 144, generator=torch.Generator().manual_seed(0))

        def observe(self, state):
            planes = super().observe(state)
            noise = 1e-8 * len(state)  # as of a kernel for another size
            return (planes.flatten(1) @ self.weight).view(-1, *self.planes_shape) + noise

        def num_moves(self, state):
            return super().observe(state).flatten(1).sum(1).long()

        def symmetries(self):
            return Game.symmetries(self)

        def render(self, state):
            return str(state.tolist())

        def board(self, state):
            return ()

    check_game(Features())


def test_an_impartial_game_says_so():
    class Partisan(Nim):
        impartial = False

    check_game(Nim())
    with pytest.warns(UserWarning, match="as in Nim: then set impartial = True"):
        check_game(Partisan())


def test_an_environment_checks_the_rules_of_a_class_once(monkeypatch):
    calls = []

    class Counted(TicTacToe):
        def symmetries(self):
            calls.append(1)
            return super().symmetries()

    class Sized(TicTacToe):
        def __init__(self, max_moves):
            self.max_moves = max_moves

    monkeypatch.setitem(registry.games._registered, "counted", Counted)
    for _ in range(2):
        SelfPlayEnv(SelfPlayEnv.Settings(game="counted", num_envs=2))
    assert len(calls) == 1
    check_once(Sized(9))
    with pytest.raises(InputError, match="a game goes on after max_moves = 5"):
        check_once(Sized(5))  # another game of the same class


def test_the_command_tells_what_random_games_are_like_and_one_line_of_a_mistake(rlcore_, workdir):
    (workdir / "mine.py").write_text(
        "import rlcore\n"
        "from rlcore.envs.games import TicTacToe\n"
        "@rlcore.registry.games.register('late')\n"
        "class Late(TicTacToe):\n"
        "    max_moves = 8\n"
        "@rlcore.registry.games.register('paid')\n"
        "class Paid(TicTacToe):\n"
        "    def step(self, state, action):\n"
        "        made = super().step(state, action)\n"
        "        return made._replace(reward=-made.reward)\n"
    )

    status, out, _ = rlcore_("check", "tictactoe", "--games", "200")
    assert status == 0
    assert "the rules keep their contract in 200 random games" in out
    assert "9 moves, planes 2 x 3 x 3, symmetries 8; 5 to 9 moves of players" in out
    assert "return" in rlcore_("check", "eight_puzzle", "--games", "20")[1]
    assert "perhaps a mistake: Paid: no move ever won" in rlcore_("check", "paid", "--imports", "mine.py")[1]
    status, _, err = rlcore_("check", "late", "--imports", "mine.py")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("rlcore: Late: a game goes on after max_moves = 8 moves")
    assert rlcore_("check", "othelo")[2].startswith("rlcore: unknown game 'othelo' (did you mean 'othello'")
