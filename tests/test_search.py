import math

import pytest
import torch
from nim import Nim

from rlcore import InputError
from rlcore import search as S
from rlcore.envs.games import ConnectFour, TicTacToe
from rlcore.game import DISCOUNT, Game, Transition
from rlcore.search import ROOT, Edges, considered_visits, dirichlet, gumbels, mixed, playouts, puct, uct

TTT, C4 = TicTacToe(), ConnectFour()


def states_after(game, *games):
    """The position after each list of moves, which are played one after the other."""
    states = []
    for moves in games:
        state = game.initial(1)
        for move in moves:
            state, _, terminated = game.step(state, torch.tensor([move]))
            assert not terminated
        states.append(state)
    return torch.cat(states)


def constant(game, value=0.0):
    return lambda state: (torch.zeros(len(state), game.num_actions), torch.full((len(state),), value))


def hashed(game, seed=0):
    """Priors and values that depend on the state alone."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(math.prod(game.planes_shape), game.num_actions + 1, generator=generator, dtype=torch.float64)

    def evaluate(state):
        outputs = torch.sin(3 * game.observe(state).flatten(1).double() @ weights)
        return outputs[:, :-1].float(), outputs[:, -1].float() * 0.8

    return evaluate


def plain_puct(c=1.25, first_play=0.0, reduction=0.0, base=math.inf):
    """As `puct`, move by move."""

    def score(e):
        N, scores = float(e.visits.sum()), []
        mean = float(e.value + e.total.sum()) / (1 + N)
        mean -= reduction * math.sqrt(sum(P for P, n in zip(e.prior.tolist(), e.visits.tolist(), strict=True) if n))
        growing = c + math.log1p((1 + N) / base)
        for P, n, w in zip(e.prior.tolist(), e.visits.tolist(), e.total.tolist(), strict=True):
            Q = w / n if n else mean if first_play is None else first_play
            scores.append(Q + growing * P * math.sqrt(1 + N) / (1 + n))
        return torch.tensor(scores)

    return score


def plain_uct(c=1.4):
    """As `uct`, move by move."""

    def score(e):
        N, scores = float(e.visits.sum()), []
        for P, n, w in zip(e.prior.tolist(), e.visits.tolist(), e.total.tolist(), strict=True):
            scores.append(-math.inf if P < 0 else w / n + c * math.sqrt(math.log(1 + N) / n) if n else math.inf)
        return torch.tensor(scores)

    return score


class Plain:
    """Monte Carlo tree search as it is told: one game, a recursion, dictionaries."""

    def __init__(self, game, evaluate, score, expand_after=1):
        self.game, self.evaluate, self.score, self.expand_after = game, evaluate, score, expand_after
        self.nodes = {}

    def node(self, state):
        logits, value = self.evaluate(state)
        prior = S.masked_prior(logits, self.game.legal(state))[0]
        return {"state": state, "prior": prior, "value": value[0], "n": torch.zeros(len(prior)),
                "w": torch.zeros(len(prior)), "children": {}}  # fmt: skip

    def simulate(self, node):
        edges = Edges(node["prior"], node["n"], node["w"], node["value"])
        a = int(self.score(edges).argmax())
        if a in node["children"]:
            outcome = DISCOUNT * self.simulate(node["children"][a])
        else:
            state, reward, terminated = self.game.step(node["state"], torch.tensor([a]))
            child = self.node(state)
            outcome = float(reward) if terminated else DISCOUNT * float(child["value"])
            if not terminated and node["n"][a] + 1 >= self.expand_after:
                node["children"][a] = child
        node["n"][a] += 1
        node["w"][a] += outcome
        return outcome

    def run(self, state, num_simulations):
        root = self.node(state)
        for _ in range(num_simulations):
            self.simulate(root)
        return root


@pytest.mark.parametrize("game", [TTT, C4], ids=["tictactoe", "connect4"])
@pytest.mark.parametrize(
    ("score", "plain", "expand_after"),
    [
        (puct(), plain_puct(), 1),
        (puct(3.0, None), plain_puct(3.0, None), 1),
        (puct(1.0, -0.5), plain_puct(1.0, -0.5), 3),
        (puct(1.0, None, reduction=0.4), plain_puct(1.0, None, reduction=0.4), 1),
        (puct(0.5, base=30), plain_puct(0.5, base=30), 1),
        (uct(), plain_uct(), 1),
        (S.gumbel(), S.gumbel(), 1),
    ],
    ids=["puct", "puct-parent", "puct-late", "reduced", "growing", "uct", "gumbel"],
)
def test_it_equals_a_plain_recursive_search(game, score, plain, expand_after):
    evaluate = hashed(game)
    state = states_after(game, [], [0], [1, 4, 2], [4, 0, 3, 5], [6, 2, 1, 4, 0])
    found = S.search(game, state, evaluate, 150, score, expand_after=expand_after)
    for n in range(len(state)):
        root = Plain(game, evaluate, plain, expand_after).run(state[n : n + 1], 150)
        assert torch.equal(found.visits[n], root["n"]), n
        value = (root["value"] + root["w"].sum()) / 151
        torch.testing.assert_close(found.value[n], value, atol=1e-5, rtol=0)


def perfect_model(game, evaluate, num_simulations):
    """The rules as a learned model: a latent state is a state, whether the game has ended, and its value if so."""
    size = game.state_size

    def dynamics(latent, move):
        state, ended, value = latent[:, :size].long(), latent[:, size] > 0, latent[:, size + 1]
        after, reward, terminated = game.step(state, move)
        after, value = torch.where(ended[:, None], state, after), DISCOUNT * torch.where(ended, value, reward)
        return torch.cat([after.float(), torch.stack([(ended | terminated).float(), value], 1)], 1)

    def prediction(latent):
        state, ended = latent[:, :size].long(), latent[:, size] > 0
        logits, value = evaluate(state)
        logits = logits.masked_fill(~game.legal(state) & ~ended[:, None], -torch.inf)
        return logits, torch.where(ended, latent[:, size + 1], value)

    return S.LearnedGame(dynamics, prediction, game.num_actions, size + 2, num_simulations)


@pytest.mark.parametrize("num_simulations", [1, 6, 150])
@pytest.mark.parametrize("kind", ["puct", "gumbel"])
def test_a_search_in_a_perfect_model_equals_one_in_the_rules(kind, num_simulations):
    """Visit for visit, also where the game ends within the search, in which the model goes on."""
    evaluate = hashed(TTT)
    state = states_after(TTT, [], [0], [1, 4, 2], [4, 0, 3, 5], [6, 2, 1, 4, 0], [0, 3, 1, 4], [0, 3, 8, 4, 1, 2, 6])
    model = perfect_model(TTT, evaluate, num_simulations)
    begun = torch.zeros(len(state), 2)
    root = model.root(torch.cat([state.float(), begun], 1), TTT.legal(state))
    if kind == "puct":  # as lost as the worst: an illegal move, of probability 0, is never the best
        score = puct(first_play=-1.0)
        rules = S.search(TTT, state, evaluate, num_simulations, score)
        found = S.search(model, root, model.evaluate, num_simulations, score)
    else:
        rules = S.search_gumbel(TTT, state, evaluate, num_simulations)
        found = S.search_gumbel(model, root, model.evaluate, num_simulations)
    assert torch.equal(found.visits, rules.visits)
    assert torch.equal(found.action, rules.action)
    torch.testing.assert_close(found.value, rules.value)
    torch.testing.assert_close(found.policy, rules.policy)


@pytest.mark.parametrize("game", [TTT, C4], ids=["tictactoe", "connect4"])
@pytest.mark.parametrize(
    ("score", "plain", "expand_after"),
    [(puct(), plain_puct(), 1), (uct(), plain_uct(), 1), (puct(3.0, None), plain_puct(3.0, None), 2)],
    ids=["puct", "uct", "puct-parent"],
)
def test_a_kept_tree_grows_on_like_that_of_a_plain_search(game, score, plain, expand_after):
    """Over three moves; in the last row a new game begins in between, and is searched from nothing."""
    evaluate = hashed(game)
    state = states_after(game, [], [0], [1, 4, 2], [4, 0, 3, 5], [])
    plain = Plain(game, evaluate, plain, expand_after)
    roots, earlier = [plain.node(row[None]) for row in state], None
    for num_simulations in (70, 20, 50):
        found = S.search(game, state, evaluate, num_simulations, score, expand_after=expand_after, earlier=earlier)
        for n, root in enumerate(roots):
            for _ in range(num_simulations):
                plain.simulate(root)
            assert torch.equal(found.visits[n], root["n"]), n
            torch.testing.assert_close(found.value[n], (root["value"] + root["w"].sum()) / (1 + root["n"].sum()))
        torch.testing.assert_close(found.policy.sum(1), torch.ones(len(state)))
        action = found.action.clone()
        action[0] = found.visits[0].masked_fill(~game.legal(state)[0], torch.inf).argmin()  # hardly looked at
        state = game.step(state, action).state
        state[-1] = states_after(game, [2, 3])[0]
        fresh = [plain.node(row[None]) for row in state]
        roots = [root["children"].get(int(a), new) for root, a, new in zip(roots, action, fresh, strict=True)]
        roots[-1] = fresh[-1]
        earlier = found.tree, action


def test_visit_counts_of_a_constant_prior_and_value_are_even():
    class Endless(TicTacToe):
        """No line wins."""

        rows = (1 << 20,)

    game = Endless()
    found = S.search(game, game.initial(3), constant(game), 90, puct())
    assert (found.visits == 10).all()
    assert (found.value == 0).all()
    # equal values: visits are in proportion to the prior, (1 + n) / P being alike for all
    prior = torch.tensor([0.75, 0.25] + [1e-9] * 7)

    def evaluate(state):
        return prior.log().expand(len(state), -1), torch.zeros(len(state))

    visits = S.search(game, game.initial(1), evaluate, 200, puct()).visits[0]
    assert visits[:2].tolist() == [150, 50]


def test_the_sign_of_the_other_players_value():
    """Two moves from the end: what is good for the one who then moves is bad for the one who moves now."""

    class OneMove(Game):
        """The mover chooses 0 or 1; then the evaluator says what the other thinks of it."""

        num_actions, state_size, planes_shape, max_moves = 2, 1, (1, 1, 1), 30

        def initial(self, num, device="cpu"):
            return torch.zeros(num, 1, dtype=torch.int64)

        def legal(self, state):
            return torch.ones(len(state), 2, dtype=torch.bool)

        def step(self, state, action):
            none = torch.zeros(len(state))
            return Transition(state * 2 + action[:, None] + 1, none, none.bool())

        def observe(self, state):
            return state[:, :, None, None].float()

        def num_moves(self, state):
            return torch.zeros(len(state), dtype=torch.int64)

        def render(self, state):
            return ""

    game = OneMove()
    value = {0: 0.0, 1: 0.5, 2: -0.5}

    def evaluate(state):
        return torch.zeros(len(state), 2), torch.tensor([value.get(int(x), 0.0) for x in state])

    found = S.search(game, game.initial(1), evaluate, 2, puct())
    assert found.visits.tolist() == [[1, 1]]
    tree_value = (0.0 - 0.5 + 0.5) / 3
    assert found.value.item() == pytest.approx(tree_value)
    assert S.search(game, game.initial(1), evaluate, 20, puct()).action.item() == 1  # the other dislikes it


@pytest.mark.parametrize("kind", ["puct", "uct", "gumbel"])
def test_a_forced_win_and_a_forced_block_are_found(kind):
    win = [0, 3, 1, 4], 2  # X has 0 and 1
    block = [0, 3, 8, 4], 5  # O threatens 5; X has no win
    state = states_after(TTT, win[0], block[0])
    if kind == "gumbel":
        found = S.search_gumbel(TTT, state, constant(TTT), 100)
    else:
        evaluate = playouts(TTT) if kind == "uct" else constant(TTT)
        found = S.search(TTT, state, evaluate, 400, uct() if kind == "uct" else puct())
    assert found.action.tolist() == [win[1], block[1]]
    state = states_after(C4, [0, 6, 0, 6, 0, 1], [3, 0, 3, 0, 3])  # three on the other; to be met
    found = S.search(C4, state, constant(C4), 200, puct())
    assert found.action.tolist() == [0, 3]
    assert found.value[0] > 0.8


def test_each_game_of_a_batch_is_searched_as_if_alone():
    evaluate = hashed(C4)
    full_column = [0, 0, 0, 0, 0, 0]
    state = states_after(C4, [], full_column, [*full_column, 1, 1, 1, 1, 1, 1], [3, 3, 2, 4, 1], [6])
    noise = dirichlet(C4.legal(state), 0.5)
    whole = S.search(C4, state, evaluate, 60, noise=noise)
    drowned = S.search(C4, state, evaluate, 60, noise=noise, noise_fraction=1.0)
    assert not drowned.visits[~C4.legal(state)].any()
    halved = S.search_gumbel(C4, state, evaluate, 16, noise)
    for n in range(len(state)):
        alone = S.search(C4, state[n : n + 1], evaluate, 60, noise=noise[n : n + 1])
        assert torch.equal(alone.visits[0], whole.visits[n])
        alone = S.search_gumbel(C4, state[n : n + 1], evaluate, 16, noise[n : n + 1])
        assert torch.equal(alone.visits[0], halved.visits[n])
        torch.testing.assert_close(alone.policy[0], halved.policy[n])


def test_policies_sum_to_one_on_legal_moves_at_every_node():
    state = states_after(C4, [0] * 6, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2])
    for found in (S.search(C4, state, hashed(C4), 100), S.search_gumbel(C4, state, hashed(C4), 30)):
        torch.testing.assert_close(found.policy.sum(1), torch.ones(2))
        assert not found.policy[~C4.legal(state)].any()
        assert not found.visits[~C4.legal(state)].any()
        assert (found.value.abs() <= 1).all()
    tree = S.init_tree(C4, state, hashed(C4), 101)
    S.update_leaves(tree, tree.path[:, ROOT, :1], puct())
    for node in range(1, 101):
        S.simulate(tree, C4, hashed(C4), puct(), node)
    legal = C4.legal(tree.state.flatten(0, 1)).view_as(tree.prior)
    assert not tree.visits[~legal].any()
    inner = tree.visits.sum(-1) > 0
    torch.testing.assert_close(tree.prior.clamp_min(0).sum(-1)[inner], torch.ones(int(inner.sum())))


def test_a_tree_full_of_terminals_holds_their_exact_values():
    """One empty cell left, or two: every path ends soon, and is taken again and again."""
    won, drawn = [0, 3, 1, 4, 5, 2, 6, 7], [0, 1, 2, 4, 3, 5, 7, 6]  # X to move at 8
    state = states_after(TTT, won, drawn)
    found = S.search(TTT, state, constant(TTT, 0.9), 50)
    ended = TTT.step(state, found.action)
    assert ended.terminated.all()
    assert found.visits.sum(1).tolist() == [50, 50]
    torch.testing.assert_close(found.value, (0.9 + 50 * ended.reward) / 51)


def test_the_value_of_a_position_is_that_of_the_move_to_make():
    """Of all positions of Nim, the lost ones being those whose heaps cancel out; most moves of a won one lose it."""
    heaps = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4))[1:]
    state = torch.cat([heaps, torch.zeros(23, 1, dtype=torch.int64)], 1)
    won = heaps[:, 0] ^ heaps[:, 1] ^ heaps[:, 2] != 0
    game = Nim()
    for found in (S.search(game, state, constant(game), 1000), S.search_gumbel(game, state, constant(game), 1000)):
        assert torch.equal(found.value > 0, won)
        assert torch.equal(found.value < 0, ~won)
    Q = found.tree.edges(ROOT).mean[torch.arange(23), found.action]
    assert torch.equal(found.value, Q)


def test_of_equally_visited_moves_the_better_one_is_made():
    state = states_after(C4, *([a, b] for a in range(7) for b in range(7)))
    found = S.search(C4, state, hashed(C4), 4)
    most = found.visits == found.visits.amax(1, keepdim=True)
    Q = found.tree.edges(ROOT).mean
    assert most[torch.arange(49), found.action].all()
    assert torch.equal(Q[torch.arange(49), found.action], Q.where(most, -torch.inf).amax(1))
    lowest = most.int().argmax(1)
    assert (Q[torch.arange(49), found.action] > Q[torch.arange(49), lowest]).sum() > 3


def test_one_visit_more_of_many_is_no_tie():
    visits = torch.tensor([[2.0**24 - 1, 2.0**24], [2.0**24, 2.0**24]])
    scores = torch.tensor([[0.9, -0.9], [0.1, 0.1 + 2**-27]])
    assert S.best_of(scores, visits, visits.amax(1)).tolist() == [1, 1]


def test_one_simulation_is_the_priors_best_move():
    found = S.search(C4, C4.initial(4), hashed(C4), 1)
    best = hashed(C4)(C4.initial(4))[0].argmax(1)
    assert torch.equal(found.action, best)


def test_sequential_halving_keeps_its_plan():
    assert considered_visits(4, 8)[4].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert considered_visits(4, 8)[1].tolist() == list(range(8))
    assert considered_visits(2, 5)[2].tolist() == [0, 0, 1, 1, 2]
    visits = S.search_gumbel(C4, C4.initial(2), hashed(C4), 32, max_considered=4).visits
    assert visits.sum(1).tolist() == [32, 32]
    assert sorted(visits[0].tolist())[:3] == [0, 0, 0]
    assert sorted(visits[0].tolist())[3:5] == [4, 4]  # those left out after the first round


def test_a_gumbel_search_of_the_prior_alone_draws_from_it():
    """One simulation: the move of the largest logit + Gumbel is a draw from the prior."""
    torch.manual_seed(0)
    state = C4.initial(20_000)
    prior = torch.tensor([0.1, 0.2, 0.05, 0.3, 0.15, 0.1, 0.1])

    def evaluate(state):
        return prior.log().expand(len(state), -1), torch.zeros(len(state))

    found = S.search_gumbel(C4, state, evaluate, 1, gumbels(C4.legal(state)), value_scale=0.0)
    shares = found.action.bincount(minlength=7) / len(state)
    torch.testing.assert_close(shares, prior, atol=0.012, rtol=0)


def test_the_improved_policy_is_better_by_what_was_found():
    """Danihelka et al. 2022: E Q under the improved policy is at least that under the prior."""
    evaluate = hashed(C4)
    state = states_after(C4, *([a, b] for a in range(7) for b in range(7)))
    for num_simulations in (2, 4):  # each move is made once at most: Q is the evaluator's
        found = S.search_gumbel(C4, state, evaluate, num_simulations, gumbels(C4.legal(state)))
        after, reward, terminated = C4.step(state.repeat_interleave(7, 0), torch.arange(7).repeat(len(state)))
        Q = (reward + DISCOUNT * evaluate(after)[1] * ~terminated).view(-1, 7)
        prior = evaluate(state)[0].softmax(1)
        visited = found.visits > 0
        improved, plain = ((p * Q * visited).sum(1) / (p * visited).sum(1) for p in (found.policy, prior))
        assert (improved >= plain - 1e-5).all()


def test_noise_is_a_distribution_over_legal_moves():
    legal = C4.legal(states_after(C4, [0] * 6)).expand(5000, -1)
    noise = dirichlet(legal, 1.0)
    torch.testing.assert_close(noise.sum(1), torch.ones(5000))
    assert not noise[:, 0].any()
    torch.testing.assert_close(noise.mean(0)[1:], torch.full((6,), 1 / 6), atol=0.01, rtol=0)
    assert dirichlet(legal, 1e-4).isfinite().all()
    assert gumbels(legal).mean().item() == pytest.approx(0.5772, abs=0.03)


def expected_of_random_play(state):
    legal = TTT.legal(state)[0].nonzero().flatten()
    after, reward, terminated = TTT.step(state.expand(len(legal), -1), legal)
    rest = [0.0 if end else expected_of_random_play(s[None]) for s, end in zip(after, terminated, strict=True)]
    return float((reward + DISCOUNT * torch.tensor(rest)).mean())


def test_a_temperature_flattens_the_priors_of_the_root_alone():
    state = states_after(C4, [], [3, 3, 2])
    plain, flat = (S.search(C4, state, hashed(C4), 8, temperature=T).tree for T in (1.0, 2.0))
    expected = plain.prior[:, ROOT].sqrt()
    torch.testing.assert_close(flat.prior[:, ROOT], expected / expected.sum(1, keepdim=True))
    child = int(flat.child[0, ROOT].argmax())
    torch.testing.assert_close(
        flat.prior[0, flat.child[0, ROOT, child]],
        hashed(C4)(flat.state[0, flat.child[0, ROOT, child]][None])[0][0].softmax(0),
    )


def forced_by_hand(edges, k):
    N = float(edges.visits.sum())
    return [math.sqrt(k * max(P, 0.0) * N) for P in edges.prior.tolist()]


def test_moves_once_made_get_their_forced_visits():
    """Wu 2019, section 3.2; at the root alone, so that the rest equals a plain search with the same first moves."""
    evaluate, state = hashed(C4), states_after(C4, [3, 3, 2])

    def first(e):
        due = [0 < n < f for n, f in zip(e.visits.tolist(), forced_by_hand(e, 3.0), strict=True)]
        return torch.where(torch.tensor(due), torch.inf, plain_puct()(e))

    plain = Plain(C4, evaluate, plain_puct())
    root = plain.node(state)
    plain.score = lambda e: first(e) if torch.equal(e.prior, root["prior"]) else plain_puct()(e)
    for _ in range(120):
        plain.simulate(root)
    found = S.search(C4, state, evaluate, 120, forced=3.0)
    assert torch.equal(found.visits[0], root["n"])
    assert not torch.equal(found.visits, S.search(C4, state, evaluate, 120).visits)


@pytest.mark.parametrize("base", [None, 20.0])
def test_pruned_visits_are_those_that_the_score_alone_would_have_made(base):
    """One visit after the other is taken off by hand."""
    generator = torch.Generator().manual_seed(0)
    pruned_some = 0
    for _ in range(300):
        visits = torch.randint(0, 40, (6,), generator=generator).float()
        prior = torch.rand(6, generator=generator).softmax(0)
        prior[5], visits[5] = -torch.inf, 0
        edges = Edges(prior, visits, visits * (2 * torch.rand(6, generator=generator) - 1), torch.tensor(0.0))
        N, Q = float(visits.sum()), edges.mean.tolist()
        c = 1.25 + (math.log1p((1 + N) / base) if base else 0)
        bonus = [c * max(P, 0.0) * math.sqrt(1 + N) for P in prior.tolist()]
        most = visits.max().item()
        bar = max(q + b / (1 + n) for q, b, n in zip(Q, bonus, visits.tolist(), strict=True) if n == most)
        expected = []
        for n, q, b, f in zip(visits.tolist(), Q, bonus, forced_by_hand(edges, 2.0), strict=True):
            left = n
            while n < most and left > 0 and n - left < math.floor(f) and q + b / left < bar:
                left -= 1
            expected.append(0 if left <= 1 and n < most else left)
        found = S.pruned_visits(edges, 2.0, base=base)
        assert found.tolist() == expected
        pruned_some += found.sum() < visits.sum()
    assert pruned_some > 100


def test_limits_of_depth_that_do_not_fit_are_refused():
    state = C4.initial(2)
    for search in (S.search, S.search_gumbel):
        with pytest.raises(InputError, match="max_depth must be 1 or more, got 0"):
            search(C4, state, constant(C4), 4, max_depth=0)
    found = S.search(C4, state, constant(C4), 20)
    after = C4.step(state, found.action).state
    with pytest.raises(InputError, match="max_depth = 2, but the earlier trees have paths of up to 21 moves"):
        S.search(C4, after, constant(C4), 20, earlier=(found.tree, found.action), max_depth=2)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_tree_of_limited_depth_ends_there_and_is_else_the_same(depth):
    """What lies deeper is evaluated at its edge, again and again."""
    evaluate, state = hashed(C4), states_after(C4, [], [3, 3, 2])
    found = S.search(C4, state, evaluate, 150, max_depth=depth)
    assert found.tree.moves.shape == (2, 151, depth)
    assert found.tree.depth.max() == depth
    for n in range(2):

        class Cut(Plain):
            def simulate(self, node, at=1):
                a = int(self.score(Edges(node["prior"], node["n"], node["w"], node["value"])).argmax())
                reached, reward, terminated = self.game.step(node["state"], torch.tensor([a]))
                if a in node["children"] and at < depth:
                    outcome = DISCOUNT * self.simulate(node["children"][a], at + 1)
                else:
                    child = node["children"].setdefault(a, self.node(reached))
                    outcome = float(reward) if terminated else DISCOUNT * float(child["value"])
                    if terminated:
                        del node["children"][a]
                node["n"][a] += 1
                node["w"][a] += outcome
                return outcome

        root = Cut(C4, evaluate, plain_puct()).run(state[n : n + 1], 150)
        assert torch.equal(found.visits[n], root["n"])


def test_paths_are_no_longer_than_the_tree():
    assert S.search(C4, C4.initial(1), constant(C4), 5).tree.moves.shape[-1] == 6
    assert S.search(C4, C4.initial(1), constant(C4), 100).tree.moves.shape[-1] == 42


def test_playouts_judge_by_random_play():
    state = states_after(TTT, [0, 3, 1, 4], [0, 1, 3, 4], [0, 4, 8, 2])
    values = torch.stack([playouts(TTT)(state)[1] for _ in range(4000)])
    assert set(values.unique().tolist()) <= {-1.0, 0.0, 1.0}
    expected = torch.tensor([expected_of_random_play(s[None]) for s in state])
    torch.testing.assert_close(values.mean(0), expected, atol=0.05, rtol=0)
    last = states_after(TTT, [0, 1, 2, 4, 3, 5, 7, 6])
    assert playouts(TTT)(last)[1].item() == 0.0
    network = hashed(TTT)
    logits, value = mixed(network, constant(TTT, 1.0), 0.25)(state)
    torch.testing.assert_close(value, 0.75 * network(state)[1] + 0.25)
    torch.testing.assert_close(logits, network(state)[0])


def test_mistakes_are_one_line():
    with pytest.raises(InputError, match="simulations must be 1 or more, got 0"):
        S.search(TTT, TTT.initial(1), constant(TTT), 0)
    full = torch.tensor([[0b101_011_010, 0b010_100_101]])
    with pytest.raises(InputError, match="game 1 has no legal move: its board is full"):
        S.search_gumbel(TTT, torch.cat([TTT.initial(1), full]), constant(TTT), 4)


class FloatLegal(Nim):
    def legal(self, state):
        return super().legal(state).float()


class FewActions(Nim):
    num_actions = 8


class DoubleReward(Nim):
    def step(self, state, action):
        made = super().step(state, action)
        return made._replace(reward=made.reward.double())


class ShortGame(Nim):
    max_moves = 3


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("gumbel", [False, True])
@pytest.mark.parametrize(
    ("game", "words"),
    [
        (
            FloatLegal(),
            r"FloatLegal.legal must be torch.bool \[B, num_actions\] = \[2, 9\], got torch.float32 \[2, 9\]",
        ),
        (FewActions(), r"FewActions.legal must be torch.bool \[B, num_actions\] = \[2, 8\], got torch.bool \[2, 9\]"),
        (DoubleReward(), r"DoubleReward.step\(\).reward must be torch.float32 \[B\] = \[2\], got torch.float64 \[2\]"),
        (ShortGame(), r"ShortGame: a game goes on after max_moves = 3 moves; every game must end"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrong_rules_are_one_line(monkeypatch, game, words, gumbel, waits):
    """A path that is too long also where its length is not read, as on a GPU."""
    for module in ("tree", "evaluators"):
        monkeypatch.setattr(f"rlcore.search.{module}.sync_is_costly", lambda device: waits)
    search = S.search_gumbel if gumbel else S.search
    with pytest.raises(InputError, match=words):
        search(game, game.initial(2), constant(game), 200)


def test_states_and_playouts_of_wrong_rules_are_one_line():
    for state in (TTT.initial(2).int(), C4.initial(2)[:, :1]):
        with pytest.raises(InputError, match=r"TicTacToe: states must be torch.int64 \[B, 2\], got torch.int"):
            S.search(TTT, state, constant(TTT), 4)
    with pytest.raises(InputError, match="ShortGame: a game goes on after max_moves = 3 moves"):
        playouts(ShortGame())(ShortGame().initial(20))
    assert playouts(Nim())(Nim().initial(200))[1].abs().min() == 1  # the longest ones, of 6 moves, are no error


@pytest.mark.parametrize(("before", "now"), [("plant", "init_tree"), ("renew", "update_leaves"), ("below", "subtree")])
def test_functions_have_their_former_names_with_a_warning(before, now):
    with pytest.warns(DeprecationWarning, match=rf"rlcore\.search\.{before} is now rlcore\.search\.{now}"):
        assert getattr(S, before) is getattr(S, now)
