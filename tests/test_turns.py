"""Games in which players do not simply move in turn: the same one again, one alone, dice."""

import itertools
import math
import random
from functools import cache

import pytest
import torch
from test_search import constant, hashed

from rlcore import InputError, Trainer, check_agent, check_environment, collect, registry
from rlcore import search as S
from rlcore.agents.alphazero import AlphaZero
from rlcore.envs.games import DotsAndBoxes, EightPuzzle, Einstein, TicTacToe, truth
from rlcore.envs.games.elo import EloReport
from rlcore.envs.games.matches import MatchesReport
from rlcore.envs.games.players import MinmaxPlayer
from rlcore.envs.games.rules import eight_puzzle as puzzle
from rlcore.envs.games.rules import einstein
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.games.truth import enumerate_positions
from rlcore.envs.games.versus import VersusEnv
from rlcore.game import (
    DISCOUNT,
    Game,
    Transition,
    different_games,
    draw,
    openings,
    play_games,
    random_moves,
    start_games,
)
from rlcore.search import Edges, playouts, puct, uct

TTT, CPU = TicTacToe(), torch.device("cpu")


class Boxes(DotsAndBoxes):
    """Of another size."""

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns
        super().__init__()


class Climb(Game):
    """One player adds 1 or 2 to a number, 6 times; each step is worth a tenth of it, in turn for and against."""

    num_players, gamma = 1, 0.9
    num_actions, state_size, planes_shape, max_moves = 2, 2, (1, 1, 2), 6

    def initial(self, num, device="cpu"):
        return torch.zeros(num, 2, dtype=torch.int64, device=device)

    def legal(self, state):
        return torch.ones(len(state), 2, dtype=torch.bool, device=state.device)

    def step(self, state, action):
        after = state + torch.stack([action + 1, torch.ones_like(action)], 1)
        sign = 1 - 2 * (after[:, 0] % 3 == 0).float()
        return Transition(after, 0.1 * (action + 1) * sign, after[:, 1] == 6)

    def observe(self, state):
        return state.float()[:, None, None]

    def num_moves(self, state):
        return state[:, 1]

    def render(self, state):
        return str(state.tolist())


class Endgame(Einstein):
    """Two stones each, two or three moves from the far corner."""

    def initial(self, num, device="cpu"):
        mine, theirs = [-1, 17, -1, -1, 13, -1], [-1, 6, -1, -1, 11, -1]
        return torch.tensor([*mine, *theirs, 0, 0, 0], device=device).repeat(num, 1)

    def start(self, num, generator):
        return self.initial(num, generator.device)


class Bet(Game):
    """Move 0 is a draw at once; after move 1 a die of ten faces decides: three win, three lose, four draw."""

    num_actions, state_size, planes_shape, max_moves = 10, 1, (1, 1, 1), 2

    def initial(self, num, device="cpu"):
        return torch.zeros(num, 1, dtype=torch.int64, device=device)

    def to_move(self, state):
        return torch.zeros_like(state[:, 0])

    def chance(self, state):
        return state.float().expand(-1, 10) / 10

    def legal(self, state):
        return (state == 1) | (torch.arange(10) < 2)

    def step(self, state, action):
        thrown = state[:, 0] == 1
        reward = torch.where(action < 3, 1.0, torch.where(action < 6, -1.0, 0.0)) * thrown
        return Transition(state + 1, reward, thrown | (action == 0))

    def observe(self, state):
        return state.float()[:, None, None]

    def num_moves(self, state):
        return state[:, 0]

    def render(self, state):
        return str(state.tolist())


# Rules


def plain_boxes(rows, columns):
    """The lines around each box as a list of sets, from the coordinates of dots."""
    across = [((r, c), (r, c + 1)) for r in range(rows + 1) for c in range(columns)]
    down = [((r, c), (r + 1, c)) for r in range(rows) for c in range(columns + 1)]
    number = {line: e for e, line in enumerate(across + down)}
    return [
        {
            number[(r, c), (r, c + 1)],
            number[(r + 1, c), (r + 1, c + 1)],
            number[(r, c), (r + 1, c)],
            number[(r, c + 1), (r + 1, c + 1)],
        }
        for r, c in itertools.product(range(rows), range(columns))
    ]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 3), (4, 5)])
def test_dots_and_boxes_is_played_as_on_paper(size):
    game, boxes, draws = Boxes(*size), plain_boxes(*size), random.Random(0)
    for _ in range(20):
        state, drawn, owner, player = game.initial(1), set(), {}, 0
        for ply in range(game.num_actions):
            assert game.legal(state)[0].nonzero().flatten().tolist() == [
                e for e in range(game.num_actions) if e not in drawn
            ]
            assert game.to_move(state).item() == player
            assert game.num_moves(state).item() == ply
            mine, theirs = (sum(1 << b for b, p in owner.items() if p == who) for who in (player, 1 - player))
            assert state[0, 1:3].tolist() == [mine, theirs]
            move = draws.choice([e for e in range(game.num_actions) if e not in drawn])
            drawn.add(move)
            new = [b for b, around in enumerate(boxes) if around <= drawn and b not in owner]
            owner |= dict.fromkeys(new, player)
            state, reward, ended = game.step(state, torch.tensor([move]))
            margin = sum(1 if who == player else -1 for who in owner.values())
            assert ended.item() == (ply == game.num_actions - 1)
            assert reward.item() == (math.copysign(1, margin) if ended and margin else 0)
            player = player if new else 1 - player


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2)])
def test_small_boxes_are_solved_as_by_a_recursion_on_lines_alone(size):
    """The boxes owned do not change what the others are worth."""
    game, boxes = Boxes(*size), plain_boxes(*size)

    @cache
    def best(drawn):
        worth = []
        for line in set(range(game.num_actions)) - drawn:
            after = drawn | {line}
            new = sum(around <= after and not around <= drawn for around in boxes)
            worth.append(new + best(after) if new else -best(after))
        return max(worth, default=0)

    truth = enumerate_positions(game)
    assert truth.score[0].amax() == (best(frozenset()) > 0) - (best(frozenset()) < 0)
    for state, score in list(zip(truth.state.tolist(), truth.score, strict=True))[::97]:
        owned = state[1].bit_count() - state[2].bit_count()
        margin = owned + best(frozenset(e for e in range(game.num_actions) if state[0] >> e & 1))
        assert score.amax() == (margin > 0) - (margin < 0)


def test_the_positions_of_the_8_puzzle_are_as_many_as_they_should_be():
    """By the moves that they need (OEIS A089473); 31 are needed by two, one of which is the first position."""
    game = EightPuzzle()
    state, counts, known = torch.tensor([[*puzzle.GOAL, 0]]), [], torch.zeros(0, dtype=torch.int64)
    powers = 9 ** torch.arange(9)
    while len(state):
        counts.append(len(state))
        furthest = state
        known = torch.cat([known, state[:, :9] @ powers])
        row, move = game.legal(state).nonzero(as_tuple=True)
        state = game._slide(state[row], move).unique(dim=0)
        state = state[~torch.isin(state[:, :9] @ powers, known)]
    assert counts == [
        1, 2, 4, 8, 16, 20, 39, 62, 116, 152, 286, 396, 748, 1024, 1893, 2512, 4485, 5638, 9529, 10878, 16993, 17110,
        23952, 20224, 24047, 15578, 14560, 6274, 3910, 760, 221, 2,
    ]  # fmt: skip
    assert game.initial(1)[0, :9].tolist() in furthest[:, :9].tolist()
    begun = game.start(300, torch.Generator().manual_seed(0))
    assert torch.isin(begun[:, :9] @ powers, known).all()
    assert not game._solved(begun).any()
    assert len(begun.unique(dim=0)) > 200


def test_a_puzzle_is_solved_by_a_player_who_looks_ahead():
    game = EightPuzzle()
    state = torch.tensor(
        [[1, 2, 3, 4, 5, 0, 7, 8, 6, 0], [1, 2, 3, 0, 5, 6, 4, 7, 8, 0], [0, 1, 3, 4, 2, 5, 7, 8, 6, 0]]
    )
    player = MinmaxPlayer(MinmaxPlayer.Settings(depth=4), game, CPU)
    played = play_games(game, player, player, state)
    torch.testing.assert_close(played.outcome, torch.tensor([1, game.gamma**2, game.gamma**3]))
    assert (played.moves >= 0).sum(1).tolist() == [1, 3, 4]


class PlainEinstein:
    """Stones by number on cells of the first player's board, and the rules as they are told."""

    def __init__(self, state):
        cells = state[:12]
        self.stones = [
            {n: divmod(c, 5) for n, c in enumerate(own) if c >= 0}
            for own in (cells[:6], [24 - c if c >= 0 else c for c in cells[6:]])
        ]
        self.stones[1] = {n: divmod(c, 5) for n, c in enumerate(cells[6:]) if c >= 0}
        self.player = 0

    def legal(self, die):
        own, sign = self.stones[self.player], 1 - 2 * self.player
        lower, higher = [n for n in own if n < die], [n for n in own if n > die]
        movable = [die] if die in own else ([max(lower)] if lower else []) + ([min(higher)] if higher else [])
        moves = set()
        for n in movable:
            for way, (down, right) in enumerate(((0, 1), (1, 0), (1, 1))):
                r, c = own[n][0] + sign * down, own[n][1] + sign * right
                if 0 <= r < 5 and 0 <= c < 5:
                    moves.add(3 * n + way)
        return moves

    def move(self, action):
        n, way = divmod(action, 3)
        sign, own = 1 - 2 * self.player, self.stones[self.player]
        down, right = ((0, 1), (1, 0), (1, 1))[way]
        there = own[n][0] + sign * down, own[n][1] + sign * right
        for stones in self.stones:
            for other in [k for k, cell in stones.items() if cell == there]:
                del stones[other]
        own[n] = there
        won = there == ((4, 4), (0, 0))[self.player] or not self.stones[1 - self.player]
        self.player = 1 - self.player
        return won


def test_einstein_is_played_as_its_rules_are_told():
    game, draws = Einstein(), random.Random(0)
    generator = torch.Generator().manual_seed(0)
    lengths = []
    for _ in range(60):
        state = game.start(1, generator)
        plain = PlainEinstein(state[0].tolist())
        while True:
            assert game.chance(state)[0].tolist() == [pytest.approx(1 / 6)] * 6 + [0] * 12
            die = draws.randrange(6)
            state, _, ended = game.step(state, torch.tensor([die]))
            assert not ended
            assert game.chance(state).sum() == 0
            assert game.to_move(state).item() == plain.player
            legal = set(game.legal(state)[0].nonzero().flatten().tolist())
            assert legal == plain.legal(die)
            action = draws.choice(sorted(legal))
            won = plain.move(action)
            state, reward, ended = game.step(state, torch.tensor([action]))
            assert (reward.item(), ended.item()) == (float(won), won)
            if won:
                lengths.append(game.num_moves(state).item())
                break
    assert max(lengths) <= game.max_moves


def test_dice_and_beginnings_are_drawn_from_the_generator():
    game = Einstein()
    first, again, other = (start_games(game, 2000, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    counts = first[:, einstein.DIE].bincount(minlength=7)
    assert counts[0] == 0
    assert counts[1:].min() > 270
    assert (first[:, einstein.MINE].sort(1).values == torch.tensor(einstein.CORNER)).all()
    state = openings(game, torch.full((50,), 4), 4, torch.Generator().manual_seed(3))
    assert (game.num_moves(state) == 9).all()  # a throw, and four times a move and a throw
    torch.manual_seed(1)
    p = torch.tensor([0.5, 0.0, 0.2, 0.3]).expand(20_000, 4)
    assert draw(p).bincount(minlength=4).div(20_000).tolist() == pytest.approx([0.5, 0, 0.2, 0.3], abs=0.012)


# Search


class PlainTurns:
    """Monte Carlo tree search by a recursion, where a player may move again, for rewards on the way; no chance."""

    def __init__(self, game, evaluate, score):
        self.game, self.evaluate, self.score = game, evaluate, score

    def node(self, state):
        logits, value = self.evaluate(state)
        prior = S.masked_prior(logits, self.game.legal(state))[0]
        zeros = torch.zeros(len(prior))
        return {"state": state, "prior": prior, "value": value[0], "n": zeros.clone(), "w": zeros.clone(), "next": {}}

    def simulate(self, node):
        a = int(self.score(Edges(node["prior"], node["n"], node["w"], node["value"])).argmax())
        state, reward, terminated = self.game.step(node["state"], torch.tensor([a]))
        same = self.game.to_move(state) == self.game.to_move(node["state"])
        discount = self.game.gamma * (1 if same else DISCOUNT)
        outcome = float(reward)
        if a in node["next"]:
            outcome += discount * self.simulate(node["next"][a])
        elif not terminated:
            node["next"][a] = self.node(state)
            outcome += discount * float(node["next"][a]["value"])
        node["n"][a] += 1
        node["w"][a] += outcome
        return outcome


def first_states(game, num=4):
    states = [openings(game, torch.tensor([k]), k, torch.Generator().manual_seed(k)) for k in range(num)]
    return torch.cat(states)


@pytest.mark.parametrize("game", [Boxes(2, 2), EightPuzzle(), Climb()], ids=["boxes", "puzzle", "climb"])
@pytest.mark.parametrize("score", [puct(), puct(3.0, None), uct(), S.gumbel()], ids=["puct", "parent", "uct", "gumbel"])
def test_it_equals_a_plain_recursive_search(game, score):
    evaluate, state = hashed(game), first_states(game)
    found = S.search(game, state, evaluate, 120, score)
    for n in range(len(state)):
        plain = PlainTurns(game, evaluate, score)
        root = plain.node(state[n : n + 1])
        for _ in range(120):
            plain.simulate(root)
        assert torch.equal(found.visits[n], root["n"]), n
        torch.testing.assert_close(found.tree.total[n, 0], root["w"], atol=1e-4, rtol=0)


def test_a_search_finds_what_enumeration_finds_where_a_player_moves_again():
    game = Boxes(2, 2)
    truth = enumerate_positions(game)
    late = truth.differ & (game.num_moves(truth.state) >= 8)
    rows = late.nonzero().flatten()[::40]
    torch.manual_seed(0)
    for how in (S.search, S.search_gumbel):
        found = how(game, truth.state[rows], playouts(game), 600)
        chosen = truth.score[rows].gather(1, found.action[:, None]).squeeze(1)
        assert torch.equal(chosen, truth.score[rows].amax(1)), how


def test_a_search_finds_what_enumeration_finds_of_dice():
    game = Endgame()
    truth = enumerate_positions(game)
    rows = (game.num_moves(truth.state) == 1).nonzero().flatten()
    assert len(rows) == 6  # after each throw
    torch.manual_seed(0)
    found = S.search(game, truth.state[rows], playouts(game), 500, uct(0.5))
    best = truth.score[rows].amax(1)
    assert set(truth.accuracy(truth.score.argmax(1)).values()) == {1.0}
    torch.testing.assert_close(truth.score[rows].gather(1, found.action[:, None]).squeeze(1), best)
    torch.testing.assert_close(found.value, best, atol=0.3, rtol=0)


def random_score(e):
    """Any move, whatever is known of it."""
    return torch.rand_like(e.prior) + e.illegal


def test_every_simulation_of_dice_counts_for_the_right_player():
    """Where moves are selected at random, each is a random game, whose value is known."""
    game = Endgame()
    torch.manual_seed(0)
    for state in (game.initial(1), first_states(game, 1)):
        found = S.search(game, state.expand(16, -1), playouts(game), 125, random_score)
        assert found.value.mean().item() == pytest.approx(random_worth(game, state), abs=0.05)
        if game.chance(state).any():
            assert (found.visits.sum(0) / 2000)[:6].tolist() == pytest.approx([1 / 6] * 6, abs=0.025)
            assert found.visits[:, 6:].sum() == 0


def random_worth(game, state):
    """What random moves are worth, by a recursion over all of them."""

    return worth(game, tuple(state[0].tolist()))


@cache
def worth(game, numbers):
    state = torch.tensor([numbers])
    legal, probability = game.legal(state)[0], game.chance(state)
    weight = probability[0] if probability is not None and probability.any() else legal / legal.sum()
    total = 0.0
    for action in weight.nonzero().flatten().tolist():
        after, reward, terminated = game.step(state, torch.tensor([action]))
        sequel = 0.0 if terminated else float(game.discount(state, after)) * worth(game, tuple(after[0].tolist()))
        total += float(weight[action]) * (float(reward) + sequel)
    return total


def test_random_games_are_worth_what_is_expected_of_them():
    for game in (Boxes(1, 2), Endgame(), Climb()):
        state = start_games(game, 1, torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        many = state.expand(20_000, -1)
        expected = pytest.approx(random_worth(game, state), abs=0.03)
        assert playouts(game)(many)[1].mean().item() == expected
        players = 2 * [lambda state, game=game: random_moves(game.legal(state))]
        assert play_games(game, *players, many).outcome.mean().item() == expected


def test_a_win_is_a_win_however_late_or_large():
    class Late(TicTacToe):
        gamma = 0.01

        def step(self, state, action):
            made = super().step(state, action)
            return made._replace(reward=0.5 * made.reward)

    def player(state):
        return random_moves(TTT.legal(state))

    games = []
    for game in (Late(), TTT):
        torch.manual_seed(0)
        games.append(play_games(game, player, player, TTT.initial(300)))
    for one, other in zip(*games, strict=True):
        assert torch.equal(one, other)


def test_the_return_of_a_long_game_alone_is_discounted_and_its_player_moves_to_the_end():
    class Long(Climb):
        gamma, max_moves = 0.5, 200

        def step(self, state, action):
            after = state + torch.stack([action + 1, torch.ones_like(action)], 1)
            return Transition(after, 0.5 * torch.ones(len(state)), after[:, 1] == 200)

    played = play_games(Long(), lambda state: torch.ones_like(state[:, 0]), None, Long().initial(2))
    assert played.outcome.tolist() == [1, 1]
    assert (played.moves == 1).all()  # though the weight of the last rewards is 0 in float32


def test_games_in_which_the_dice_differ_are_different_games():
    game = Bet()
    torch.manual_seed(0)
    outcomes = [
        different_games(game, player, player, game.initial(100))
        for player in (lambda state: torch.ones_like(state[:, 0]), lambda state: torch.zeros_like(state[:, 0]))
    ]
    assert [len(outcome) for outcome in outcomes] == [200, 2]
    assert set(outcomes[0].tolist()) == {-1, 0, 1}


def test_what_is_even_by_chance_is_exactly_a_draw():
    """In float32 three tenths won and three lost are 1.5e-8."""
    truth = enumerate_positions(Bet())
    assert truth.score[0, :2].tolist() == [0, 0]
    assert not truth.differ.any()


@pytest.mark.parametrize("name", ["dots_and_boxes", "eight_puzzle", "einstein"])
def test_each_game_of_a_batch_is_played_as_if_alone(name):
    game = registry.games[name]()
    state = first_states(game, 6)
    legal = game.legal(state)
    action = legal.float().argmax(1)
    together = game.step(state, action)
    for n in range(6):
        alone = game.step(state[n : n + 1], action[n : n + 1])
        for x, y in zip(together, alone, strict=True):
            assert torch.equal(x[n : n + 1], y)


def test_a_game_that_alternates_keeps_no_more_of_a_node_than_before():
    kept = [
        S.search(game, state, constant(game), 4).tree
        for game, state in ((TTT, TTT.initial(2)), (Boxes(1, 2), Boxes(1, 2).initial(2)))
    ]
    assert [tree.discount is None for tree in kept] == [True, False]
    assert [tree.chance for tree in kept] == [None, None]
    dice = Endgame()
    assert S.search(dice, dice.initial(2), constant(dice), 4).tree.chance[:, 0].all()


# Environments


@pytest.fixture
def small_games(monkeypatch):
    monkeypatch.setitem(registry.games._registered, "boxes", lambda: Boxes(2, 2))
    monkeypatch.setitem(registry.games._registered, "two_boxes", lambda: Boxes(1, 2))
    monkeypatch.setitem(registry.games._registered, "climb", Climb)


SMALL = {"network": {"name": "policy_value", "hidden": [32], "head": 16}, "simulations": 4, "batch_size": 32}
GAMES = ["boxes", "eight_puzzle", "einstein", "climb"]


def make(game, num_envs=6, env=None, **settings):
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=num_envs, game=game, **(env or {})))
    torch.manual_seed(0)
    return env, AlphaZero(env, AlphaZero.Settings.model_validate({**SMALL, **settings}))


@pytest.mark.parametrize("game", GAMES)
def test_environments_and_agents_keep_the_contract(small_games, game):
    env, agent = make(game, env={"random_openings": 3})
    check_environment(env, 120)
    check_agent(agent, env)


@pytest.mark.parametrize("game", GAMES)
def test_positions_learn_what_was_to_come_for_their_mover(small_games, game):
    """By hand, from one row of a game to the next; over rollouts that end within games."""
    env, agent = make(game, horizon=3)
    rules = env.game
    obs, _ = env.reset(seed=1)
    running, finished = [[] for _ in range(6)], []
    for _ in range(60):
        rollout = collect(agent, env, obs, 3)
        obs = rollout.last_obs
        agent.replay.add(rollout, rollout.memory.policy)
        for t, n in itertools.product(range(3), range(6)):
            running[n].append((rollout.obs[t, n], float(rollout.reward[t, n])))
            if rollout.terminated[t, n]:
                z, mover = 0.0, None
                for state, reward in reversed(running[n]):
                    before = rules.to_move(state[None]).item()
                    z = reward + rules.gamma * (z if before == mover else -z)
                    mover = before
                    finished.append((*state.tolist(), round(z, 4)))
                running[n] = []
    num, kept = len(agent.replay), agent.replay.replay._rows
    assert num == len(finished) > 20
    states, outcomes = kept.state[:num].tolist(), kept.outcome[:num].tolist()
    found = [(*state, round(z, 4)) for state, z in zip(states, outcomes, strict=True)]
    assert sorted(found) == sorted(finished)
    assert len({z for *_, z in finished}) > 1


def test_a_step_against_an_opponent_is_all_that_happens_until_it_is_the_agents_turn(small_games):
    """By hand: the opponent draws the first line that is free, for as long as it is to move."""
    env = VersusEnv(VersusEnv.Settings.model_validate({"num_envs": 6, "game": "boxes", "pool": [{"name": "random"}]}))
    env.named = {"first": lambda state: env.game.legal(state).int().argmax(1)}
    game, generator = env.game, torch.Generator().manual_seed(3)
    obs, _ = env.reset(seed=1)
    side = env.game.to_move(env._state)
    state, answers, seen = env._state.clone(), [], set()
    for _ in range(80):
        assert torch.equal(obs["observation"], game.observe(state))
        action = random_moves(game.legal(state), generator)
        obs, reward, terminated, *_ = env.step(action)
        for n in range(6):
            after, paid, over = game.step(state[n : n + 1], action[n : n + 1])
            expected, answered = float(paid), 0
            while not over and game.to_move(after) != side[n]:
                after, paid, over = game.step(after, game.legal(after).int().argmax(1))
                expected, answered = float(paid if game.to_move(after) == side[n] and not over else -paid), answered + 1
            answers.append(answered)
            assert (float(reward[n]), bool(terminated[n])) == (expected, bool(over))
            if over:
                seen.add(expected)
                side[n] = game.to_move(env._state[n : n + 1])
            else:
                assert torch.equal(after[0], env._state[n])
        state = env._state.clone()
    assert {0, 1, 2} <= set(answers)
    assert {-1, 1} <= seen


class Keeping(Boxes):
    """Remembers what it gave, as rules may that look results up."""

    given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def initial(self, num, device="cpu"):
        return self.keep(super().initial(num, device))

    def step(self, state, action):
        return Transition(*map(self.keep, super().step(state, action)))

    def keep(self, tensor):
        self.given.append((tensor, tensor.clone()))
        return tensor


@pytest.mark.parametrize("kind", [SelfPlayEnv, VersusEnv])
def test_an_environment_does_not_write_into_what_the_rules_gave(monkeypatch, kind):
    monkeypatch.setitem(registry.games._registered, "keeping", lambda: Keeping(1, 2))
    monkeypatch.setattr(Keeping, "given", [])
    pool = {"pool": [{"name": "random"}]} if kind is VersusEnv else {}
    env = kind(kind.Settings.model_validate({"num_envs": 8, "game": "keeping", "random_openings": 2, **pool}))
    env.reset(seed=1)
    for _ in range(30):
        env.step(env.random_actions())
    truth._played(env.game, ["1", "12", "213"], ["a", "b", "c"])
    assert len(Keeping.given) > 60
    for tensor, before in Keeping.given:
        assert torch.equal(tensor, before)


def test_a_player_who_moves_again_is_learned_in_seconds(small_games):
    how = {"learning_rate": 5e-3, "batch_size": 256, "simulations": 16, "passes": 16.0, "eval_simulations": 8}
    env, agent = make("two_boxes", 64, {"random_openings": 5, "positions": "all"}, **how)
    once = Trainer.Settings(total_steps=8_000, eval_every=8_000)
    assert Trainer(agent, env, once).fit().scalars["search_right"] > 0.9


def test_a_game_of_one_player_is_judged_by_its_return_and_has_no_opponents(small_games):
    env, agent = make("climb", eval_simulations=30)
    report = env.score(agent, 20, seed=1)
    assert env.criterion == "return"
    assert report.scalars["return"] == pytest.approx(float(enumerate_positions(Climb()).score[0].max()), abs=0.02)
    assert report.scalars["return"] > report.scalars["return_random"] + 0.1
    players = {"players": [{"name": "random"}]}
    with pytest.raises(InputError, match="report elo: needs a game of two players; climb has one"):
        EloReport(EloReport.Settings.model_validate(players)).check(agent, env)
    with pytest.raises(InputError, match="report matches: needs a game of two players; climb has one"):
        MatchesReport(MatchesReport.Settings.model_validate({"opponents": [{"name": "random"}]})).check(agent, env)
    with pytest.raises(InputError, match=r"agent\.gate_every: a match is for two players"):
        make("climb", gate_every=2)
    with pytest.raises(InputError, match=r"agent\.reuse_tree: the tree of the last move does not lead past a throw"):
        make("einstein", search="puct", reuse_tree=True)
    with pytest.raises(InputError, match=r"versus is for two players; climb has one, use env.name=selfplay"):
        VersusEnv(VersusEnv.Settings.model_validate({"game": "climb", "pool": [{"name": "random"}]}))
