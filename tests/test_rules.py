"""The shipped games against known numbers, solved values, and the rules as they are told."""

import random
from functools import cache

import pytest
import torch

from rlcore import InputError, registry
from rlcore.envs.games import Gomoku, Gomoku9, Hex, Hex5, Othello, Othello6
from rlcore.envs.games.truth import enumerate_positions
from rlcore.game import openings, random_moves

NAMES = sorted(registry.games.names())
DIRECTIONS = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)]


class Othello4(Othello):
    """A size of one's own."""

    size = 4


class Hex2(Hex):
    """A size of one's own."""

    size = 2


class Hex3(Hex):
    """A size of one's own."""

    size = 3


def play(game, moves):
    """The results of moves by name, from the start."""
    state, made = game.initial(1), []
    for name in moves.split():
        action = game.parse_action(name)
        assert game.legal(state)[0, action], name
        made.append(game.step(state, torch.tensor([action])))
        state = made[-1].state
    return made


# Any game


def games_by_ply(game, plies):
    """How many games of 1, 2, ... moves there are; those that ended sooner do not count."""
    state, ways, counts = game.initial(1), torch.ones(1, dtype=torch.int64), []
    while True:
        legal = game.legal(state)
        counts.append(int((ways * legal.sum(1)).sum()))
        if len(counts) == plies:
            return counts
        row, move = legal.nonzero(as_tuple=True)
        after = game.step(state[row], move)
        state, same = after.state[~after.terminated].unique(dim=0, return_inverse=True)
        ways = torch.zeros(len(state), dtype=torch.int64).index_add(0, same, ways[row][~after.terminated])


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("tictactoe", [9, 72, 504, 3024, 15120, 54720, 148176, 200448, 127872]),
        ("connect4", [7, 49, 343, 2401, 16807, 117649, 823536, 5673234]),
        ("othello", [4, 12, 56, 244, 1396, 8200, 55092, 390216, 3005288]),
        ("hex5", [25, 25 * 24, 25 * 24 * 23]),
        ("gomoku9", [81, 81 * 80, 81 * 80 * 79]),
    ],
)
def test_there_are_as_many_games_as_are_known(name, counts):
    assert games_by_ply(registry.games[name](), len(counts)) == counts


@pytest.mark.parametrize("name", NAMES)
def test_rules_keep_their_arguments_and_mix_no_rows(name):
    game = registry.games[name]()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(12) * game.max_moves // 16
    state = openings(game, lengths, int(lengths.max()), generator)
    action = random_moves(game.legal(state), generator)

    def answers(rows):
        s, a = state[rows], action[rows]
        return [game.legal(s), game.observe(s), game.num_moves(s), *game.step(s, a)]

    before = state.clone(), action.clone()
    together = answers(slice(None))
    assert torch.equal(state, before[0])
    assert torch.equal(action, before[1])
    for n in range(len(state)):
        for one, all_of_them in zip(answers(slice(n, n + 1)), together, strict=True):
            assert torch.equal(one, all_of_them[n : n + 1])


@pytest.mark.parametrize("name", NAMES)
def test_rules_stay_on_their_device_and_wait_for_nothing(name):
    """Torch's meta device mixes with no other, and has no numbers to wait for."""
    game = registry.games[name]()
    state = game.initial(3, "meta")
    after = game.step(state, torch.zeros(3, dtype=torch.int64, device="meta"))
    answers = [state, game.legal(state), game.observe(state), game.num_moves(state), *after]
    assert {answer.device.type for answer in answers} == {"meta"}


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_moves_are_read_back(name):
    game = registry.games[name]()
    names = [game.action_name(move) for move in range(game.num_actions)]
    assert [game.parse_action(f" {text} ") for text in names] == list(range(game.num_actions))


@pytest.mark.parametrize("name", ["gomoku9", "hex7", "othello6"])
def test_the_picture_shows_the_board_and_whose_stones_are_whose(name):
    game = registry.games[name]()
    state = openings(game, torch.tensor([9, 10]), 10, torch.Generator().manual_seed(0))
    for position, symbols in zip(state, ("OX", "XO"), strict=True):  # the mover's first
        mine, theirs = game.observe(position[None])[0].tolist()
        expected = [
            [symbols[0] if m else symbols[1] if t else "." for m, t in zip(*row, strict=True)]
            for row in zip(mine, theirs, strict=True)
        ]
        *_, columns = (line for line in game.render(position).splitlines() if line.split()[0] == "a")
        rows = [line.split() for line in game.render(position).splitlines()[-game.size :]]
        assert columns.split() == list("abcdefghi"[: game.size])
        assert rows == [[str(r), *row] for r, row in enumerate(expected, 1)]


@pytest.mark.parametrize(("base", "size"), [(Othello, 7), (Othello, 10), (Hex, 1), (Gomoku, 4), (Gomoku, 27)])
def test_a_size_that_a_board_cannot_have_is_one_line(base, size):
    with pytest.raises(InputError, match=rf"Mine\.size must be one of [0-9, ]+; got {size}$"):
        type("Mine", (base,), {"size": size})()


# Othello


class PlainOthello:
    """A board as a dictionary."""

    def __init__(self, size):
        low, high = size // 2 - 1, size // 2
        self.cells = [(r, c) for r in range(size) for c in range(size)]
        self.board = {(low, high): 0, (high, low): 0, (low, low): 1, (high, high): 1}
        self.player = 0

    def flips(self, cell, player):
        """The stones that a stone there would flip."""
        found = []
        for dr, dc in DIRECTIONS if cell not in self.board else []:
            line, (r, c) = [], cell
            while self.board.get((r := r + dr, c := c + dc)) == 1 - player:
                line.append((r, c))
            found += line if self.board.get((r, c)) == player else []
        return found

    def legal(self, player):
        return [bool(self.flips(cell, player)) for cell in self.cells]

    def move(self, action):
        """Makes it; whether the game has ended."""
        if action < len(self.cells):
            flipped = self.flips(self.cells[action], self.player)
            self.board |= dict.fromkeys([self.cells[action], *flipped], self.player)
        self.player = 1 - self.player
        return not any(self.legal(0) + self.legal(1))

    def planes(self):
        return [[float(self.board.get(cell) == who) for cell in self.cells] for who in (self.player, 1 - self.player)]


@pytest.mark.parametrize(("game", "num"), [(Othello4(), 200), (Othello6(), 60), (Othello(), 40)])
def test_othello_is_that_of_a_plain_rule_book(game, num):
    generator = random.Random(0)
    books, state, passes = [PlainOthello(game.size) for _ in range(num)], game.initial(num), 0
    for ply in range(game.max_moves):
        cells = [book.legal(book.player) for book in books]
        assert game.legal(state).tolist() == [[*row, not any(row)] for row in cells]
        assert game.observe(state).flatten(2).tolist() == [book.planes() for book in books]
        assert (game.num_moves(state) == ply).all()
        actions = [generator.choice([a for a, ok in enumerate([*row, not any(row)]) if ok]) for row in cells]
        passes += actions.count(game.pass_move)
        ended = [book.move(action) for book, action in zip(books, actions, strict=True)]
        state, reward, terminated = game.step(state, torch.tensor(actions))
        assert terminated.tolist() == ended
        stones = [list(book.board.values()) for book in books]
        lead = [sum(1 if owner != book.player else -1 for owner in s) for book, s in zip(books, stones, strict=True)]
        assert reward.tolist() == [float((n > 0) - (n < 0)) * end for n, end in zip(lead, ended, strict=True)]
        state, books = state[~terminated], [book for book, end in zip(books, ended, strict=True) if not end]
        if not books:
            break
    assert not books
    assert passes > num // 10


def test_the_stone_whose_bit_is_the_sign_is_one_like_the_others():
    game, cell = Othello(), Othello().parse_action
    corner, three = 1 << 63, sum(1 << cell(name) for name in ("g8", "h7", "g7"))
    corner -= 1 << 64  # the same bits, as int64 has them
    state = torch.tensor([[corner, three, 0]])
    assert game.observe(state)[0, :, 7, 7].tolist() == [1, 0]
    assert game.legal(state)[0].nonzero().flatten().tolist() == [cell("f6"), cell("h6"), cell("f8")]
    after = game.step(state, torch.tensor([cell("f6")])).state  # flips g7
    assert after.tolist() == [[three ^ 1 << cell("g7"), corner | 1 << cell("g7") | 1 << cell("f6"), 1]]
    around = torch.tensor([[sum(1 << cell(name) for name in ("f6", "h6", "f8")), three, 0]])
    assert game.legal(around)[0, cell("h8")]
    won = game.step(around, torch.tensor([cell("h8")]))  # flips all three
    assert won.state.tolist() == [[0, corner | three | int(around[0, 0]), 1]]
    assert (won.reward.item(), won.terminated.item()) == (1, True)


def test_the_shortest_game_of_othello_takes_all_stones_in_nine_moves():
    made = play(Othello(), "e6 f4 e3 f6 g5 d6 e7 f5 c5")
    assert [bool(move.terminated) for move in made] == [False] * 8 + [True]
    assert made[-1].reward.item() == 1
    assert not made[-1].state[0, 0]


def test_perfect_play_on_six_by_six_ends_as_it_is_known_to():
    """The game of Feinstein's solution (1993), whose b2 is a1 here: the second player wins by 20 stones to 16."""
    game = Othello6()
    opening = "c2 b4 c5 d2 e4 e3 d1 c1 b1 d5 d6 f4 b3 b2 f3 f2 e2"
    *_, last = play(game, f"{opening} b6 a4 c6 a6 a2 b5 a5 e6 e5 a3 a1 f5 f6 pass e1 f1")
    assert last.terminated.item()
    assert last.reward.item() == -1  # the first player's move
    picture = game.render(last.state[0])
    assert (picture.count("X"), picture.count("O")) == (16, 20)


def test_the_second_player_wins_on_four_by_four():
    score = enumerate_positions(Othello4()).score[0]
    assert score[score > -torch.inf].tolist() == [-1] * 4


# Hex


def neighbours(cell, size):
    r, c = cell
    around = ((r, c - 1), (r, c + 1), (r - 1, c), (r - 1, c + 1), (r + 1, c), (r + 1, c - 1))
    return [(r, c) for r, c in around if 0 <= r < size and 0 <= c < size]


def connected(cells, size):
    """Whether cells connect the top to the bottom."""
    seen, todo = set(), [cell for cell in cells if cell[0] == 0]
    while todo:
        cell = todo.pop()
        seen.add(cell)
        todo += [other for other in neighbours(cell, size) if other in cells and other not in seen]
    return any(row == size - 1 for row, _ in seen)


@pytest.mark.parametrize(("game", "num"), [(Hex2(), 20), (Hex5(), 200), (Hex(), 30)])
def test_hex_is_that_of_a_plain_rule_book_and_nobody_draws(game, num):
    """On one board, where the second player connects left to right; he sees it mirrored."""
    n, generator = game.size, random.Random(0)
    boards, state = [(set(), set()) for _ in range(num)], game.initial(num)
    for ply in range(game.max_moves):
        turn = ply % 2
        seen = [(c, r) if turn else (r, c) for r in range(n) for c in range(n)]  # by number
        planes = [[[float(cell in owned) for cell in seen] for owned in (b[turn], b[1 - turn])] for b in boards]
        assert game.observe(state).flatten(2).tolist() == planes
        legal = [[not (mine or theirs) for mine, theirs in zip(*both, strict=True)] for both in planes]
        assert game.legal(state).tolist() == legal
        assert (game.num_moves(state) == ply).all()
        actions = [generator.choice([move for move, ok in enumerate(row) if ok]) for row in legal]
        for board, action in zip(boards, actions, strict=True):
            board[turn].add(seen[action])
        won = [connected({(c, r) if turn else (r, c) for r, c in board[turn]}, n) for board in boards]
        state, reward, terminated = game.step(state, torch.tensor(actions))
        assert terminated.tolist() == won
        assert reward.tolist() == [float(w) for w in won]
        state, boards = state[~terminated], [board for board, w in zip(boards, won, strict=True) if not w]
        if not boards:
            break
    assert not boards


def test_a_stone_of_hex_is_the_label_of_its_group():
    frame = Hex2().initial(1)
    assert frame.view(4, 4).tolist() == [[0, 1, 1, 0], [-1, 0, 0, -13], [-1, 0, 0, -13], [0, 13, 13, 0]]
    after = Hex2().step(frame, torch.tensor([2])).state  # joins cell 9 of the framed board and the bottom
    assert after.view(4, 4).tolist() == [[0, 1, 1, 0], [-1, 0, -9, -9], [-1, 0, 0, -9], [0, 13, 13, 0]]


def test_a_position_of_hex_is_the_same_in_whatever_order_it_came_about():
    game, generator = Hex5(), torch.Generator().manual_seed(0)
    moves = torch.rand(500, 25, generator=generator).argsort(1)[:, :12]
    orders = [torch.randperm(6, generator=generator) for _ in range(2)]
    shuffled = torch.stack([moves[:, ::2][:, orders[0]], moves[:, 1::2][:, orders[1]]], 2).flatten(1)
    transposed = torch.arange(25).view(5, 5).T.flatten()
    ends, lasting = [], torch.ones(500, dtype=torch.bool)
    for order in (moves, shuffled):
        state = game.initial(500)
        for ply, move in enumerate(order.unbind(1)):
            state, _, terminated = game.step(state, transposed[move] if ply % 2 else move)
            lasting &= ~terminated
        ends.append(state)
    assert lasting.sum() > 300
    assert torch.equal(ends[0][lasting], ends[1][lasting])


def test_the_first_player_wins_small_boards_of_hex():
    """On 3 x 3 by the short diagonal and the cells beside its middle; all positions against a plain recursion."""
    assert enumerate_positions(Hex2()).score[0].tolist() == [-1, 1, 1, -1]
    game, cells = Hex3(), [(r, c) for r in range(3) for c in range(3)]
    truth = enumerate_positions(game)
    assert truth.score[0].view(3, 3).tolist() == [[-1, -1, 1], [1, 1, 1], [1, -1, -1]]

    @cache
    def worth(mine, theirs):
        """For the mover, who connects the top to the bottom."""
        return max(worth_of_move(mine, theirs, cell) for cell in cells if cell not in mine | theirs)

    def worth_of_move(mine, theirs, cell):
        mine = mine | {cell}
        turned = [frozenset((c, r) for r, c in board) for board in (theirs, mine)]
        return 1 if connected(mine, 3) else -worth(*turned)

    planes = game.observe(truth.state).flatten(2).tolist()
    for (mine, theirs), scores in zip(planes, truth.score.tolist(), strict=True):
        mine, theirs = ({cell for cell, on in zip(cells, plane, strict=True) if on} for plane in (mine, theirs))
        for cell, score in zip(cells, scores, strict=True):
            if cell not in mine | theirs:
                assert score == worth_of_move(frozenset(mine), frozenset(theirs), cell)


# Gomoku


@pytest.mark.parametrize(
    ("line", "won"),
    [
        ("a1 b1 c1 d1 e1", True),
        ("e9 f9 g9 h9 i9", True),
        ("i1 i2 i3 i4 i5", True),
        ("a1 b2 c3 d4 e5", True),
        ("e9 f8 g7 h6 i5", True),
        ("a5 b5 c5 d5 f5 e5", True),  # six are five or more
        ("a1 b1 c1 d1 f1", False),
        ("f1 g1 h1 i1 a2", False),  # no line wraps around
        ("a6 a7 a8 a9 b1", False),
        ("f5 g6 h7 i8 a1", False),
    ],
)
def test_five_stones_or_more_in_a_row_win(line, won):
    first, *others = line.split()
    elsewhere = ["h3", "a4", "c8", "d7", "i7"]  # of the opponent, who makes no line
    answered = [f"{answer} {stone}" for answer, stone in zip(elsewhere, others, strict=False)]
    made = play(Gomoku9(), " ".join([first, *answered]))
    assert [bool(move.terminated) for move in made] == [False] * (len(made) - 1) + [won]
    assert made[-1].reward.item() == won
