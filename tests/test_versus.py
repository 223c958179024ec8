"""Games against a pool, and AlphaGo's recipe upon them."""

import itertools
import math

import pytest
import torch
from compare import same

import rlcore
from rlcore import InputError, Trainer, check_agent, check_environment, commands
from rlcore.agents.alphago import AlphaGo
from rlcore.agents.reinforce import Reinforce
from rlcore.envs.games import ConnectFour, TicTacToe
from rlcore.envs.games.elo import LARGEST, EloReport, rating_intervals, ratings
from rlcore.envs.games.intervals import Z, effective_games, points_interval
from rlcore.envs.games.players import PlayerChoice
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.games.versus import VersusEnv
from rlcore.evaluation import Report
from rlcore.game import points
from rlcore.stateful import attributes_of_type

RANDOM = [{"name": "random"}]
SMALL = {"gamma": 1.0, "network": {"name": "mlp", "hidden": [32]}}


def make(num_envs=16, settings=None, **env):
    env = VersusEnv(VersusEnv.Settings.model_validate({"num_envs": num_envs, **env}))
    torch.manual_seed(0)
    return env, Reinforce(env, Reinforce.Settings.model_validate({**SMALL, **(settings or {})}))


@pytest.mark.parametrize("game", ["tictactoe", "connect4"])
def test_it_keeps_the_contract(game):
    env, agent = make(game=game, pool=RANDOM, random_openings=4, settings={"baseline": True})
    check_environment(env, 100)
    check_agent(agent, env)


def test_a_step_is_the_agents_move_and_the_opponents_answer():
    """By hand: the opponent takes the first free cell; every reward and every position is as it should be."""
    env, _ = make(num_envs=6, pool=RANDOM)
    env.named = {"first": lambda state: env.game.legal(state).int().argmax(1)}
    game, generator = TicTacToe(), torch.Generator().manual_seed(3)
    obs, _ = env.reset(seed=1)
    seen, begun = [0, 0, 0], 0
    state, begins = env._state.clone(), env._begins.clone()
    for _ in range(60):
        assert torch.equal(obs["action_mask"], game.legal(state))
        assert torch.equal(obs["observation"], game.observe(state))
        action = rlcore.game.random_moves(game.legal(state), generator)
        obs, reward, terminated, truncated, _ = env.step(action)
        assert not truncated.any()
        for n in range(6):
            after, paid, over = game.step(state[n : n + 1], action[n : n + 1])
            expected = float(paid)
            if not over:
                reply = game.legal(after).int().argmax(1)
                after, paid, over = game.step(after, reply)
                expected = -float(paid)
            assert (float(reward[n]), bool(terminated[n])) == (expected, bool(over))
            if over:
                seen[int(expected)] += 1
                begins[n] = ~begins[n]
                begun += int(begins[n])
                after = game.initial(1)
                if not begins[n]:
                    after = game.step(after, torch.tensor([0])).state
            state[n] = after[0]
        assert torch.equal(env._state, state)
    assert min(seen) > 0
    assert abs(begun / sum(seen) - 0.5) < 0.1


def test_games_in_which_the_opponent_could_win_at_once_are_the_agents_to_begin():
    env, _ = make(num_envs=400, game="tictactoe", pool=[{"name": "minmax", "depth": 1}], random_openings=7)
    env.reset(seed=1)
    assert env.game.legal(env._state).any(1).all()
    for _ in range(30):
        *_, terminated, _, _ = env.step(env.random_actions())
        assert terminated.any()


def test_former_selves_join_the_pool_and_are_played_by_their_own_parameters():
    env, agent = make(save_every=2)
    trainer = Trainer(agent, env, total_steps=10**6, seed=1)
    assert len(env.former) == 1
    kept = [{name: value.clone() for name, value in agent.state_dict().items()}]
    for update in range(1, 6):
        trainer.update()
        if update % 2 == 0:
            kept.append({name: value.clone() for name, value in agent.state_dict().items()})
        assert len(env.former) == len(kept)
        assert int(env._candidates.max()) < len(kept)
    for former, parameters in zip(env.former, kept, strict=True):
        same(dict(former.state_dict()), parameters)
        assert not attributes_of_type(former, torch.optim.Optimizer)
    assert len(env._opponent.unique()) > 1
    rows = torch.arange(16)
    with torch.no_grad():  # the k-th former self plays its k-th move
        for k, former in enumerate(env.former):
            former.policy_head.bias[k] += 100
    moves = env.game.observe(env._answer(env.game.initial(16), rows).state)[:, 1].flatten(1).argmax(1)
    assert torch.equal(moves, env._opponent)


def test_the_oldest_former_selves_leave_a_pool_that_is_full():
    env, agent = make(save_every=1, pool_size=3, pool=RANDOM)
    trainer = Trainer(agent, env, total_steps=10**6, seed=1)
    kept = [{name: value.clone() for name, value in agent.state_dict().items()}]
    left = 0
    for update in range(6):
        env._opponent = torch.arange(16) % (1 + len(env.former))
        before, learned = env._opponent, env.on_update

        def follow(learned=learned):
            nonlocal before, left
            before, full = env._opponent.clone(), len(env.former) == 3
            learned()
            left += full
            oldest = len(env.named)
            expected = [k - 1 if full and k > oldest else k for k in before.tolist()]  # the next oldest moves up
            assert env._opponent.tolist() == expected

        env.on_update = follow
        trainer.update()
        env.on_update = learned
        kept.append({name: value.clone() for name, value in agent.state_dict().items()})
        assert len(env.former) == min(update + 2, 3)
        assert int(env._candidates.max()) < 1 + len(env.former)
        for former, parameters in zip(env.former, kept[-3:], strict=False):
            same(dict(former.state_dict()), parameters)
    assert left == 4
    smaller, twin = make(save_every=1, pool_size=1, pool=RANDOM)
    shrunk = Trainer(twin, smaller, total_steps=10**6, seed=1)
    shrunk.restore(trainer.checkpoint())
    same(dict(smaller.former[0].state_dict()), kept[-1])
    assert smaller._opponent.tolist() == env._opponent.clamp(max=1).tolist()
    shrunk.update()


def test_a_random_mover_is_beaten_in_seconds():
    env, agent = make(num_envs=64, pool=RANDOM, settings={"learning_rate": 1e-2, "entropy_coefficient": 0.05})
    before = env.evaluation(4).score(agent, 200, 1).scalars
    Trainer(agent, env, total_steps=40_000).fit()
    after = env.evaluation(4).score(agent, 200, 1).scalars
    assert after["points_random"] > max(0.8, before["points_random"] + 0.2)


def test_a_forbidden_action_is_never_drawn_and_adds_nothing_to_the_entropy():
    env, agent = make(num_envs=4, pool=RANDOM)
    env.reset(seed=1)
    state = env._state.clone()
    with torch.no_grad():
        agent.policy_head.bias[:3] += 30  # what it would love to do
        occupied = TicTacToe().initial(4)
        for move in (0, 1, 2, 4):
            occupied = TicTacToe().step(occupied, torch.full((4,), move)).state
        pi = agent.distribution(env.observe(occupied))
        legal = TicTacToe().legal(occupied)
        drawn = torch.stack([pi.sample() for _ in range(300)])
        assert legal.gather(1, drawn.T).all()
        assert legal.gather(1, pi.mode[:, None]).all()
        allowed = pi.logits[legal].view(4, -1)
        reference = torch.distributions.Categorical(logits=allowed)
        torch.testing.assert_close(pi.entropy(), reference.entropy())
        places = legal.nonzero()[:, 1].view(4, -1)
        for k in range(places.shape[1]):
            torch.testing.assert_close(pi.log_prob(places[:, k]), reference.log_prob(torch.full((4,), k)))
    assert torch.equal(state, env._state)


def test_an_empty_pool_is_one_line(workdir):
    with pytest.raises(InputError, match=r"env: the pool is empty: name players in env.pool, or set env.save_every"):
        commands.train("connect4_pool_reinforce", ["env.save_every=null"], None, None, 1)
    env, _ = make(save_every=3)
    with pytest.raises(InputError, match="the pool is empty"):
        env.reset()


@pytest.fixture
def pool_run(workdir):
    commands.train("connect4_pool_reinforce", ["trainer.total_steps=600", "env.num_envs=16"], "stage1", None, 1)
    return "stage1"


ALPHAGO = {"policy": "stage1", "network": {"name": "mlp", "hidden": [16]}, "batch_size": 32, "eval_simulations": 5}


def alphago(**settings):
    env = SelfPlayEnv(SelfPlayEnv.Settings(game="connect4", num_envs=8, random_openings=20))
    return env, AlphaGo(env, AlphaGo.Settings.model_validate({**ALPHAGO, **settings}))


def test_alphago_learns_the_value_of_a_policy_that_stays(pool_run):
    env, agent = alphago(passes=8, learning_rate=1e-2)
    check_agent(agent, env)
    policy = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    stage1 = rlcore.load(pool_run)
    same(policy, dict(stage1.state_dict()))
    trainer = Trainer(agent, env, total_steps=6000, seed=1)
    losses = [float(m["value_loss"]) for m in (trainer.update() for _ in range(40)) if "value_loss" in m]
    of_nothing = agent.replay.sample(1000).outcome.square().mean()  # the error of a value of 0
    assert sum(losses[-5:]) / 5 < 0.85 * of_nothing
    same(dict(agent.policy.state_dict()), policy)
    state = env._state
    logits, value = agent.policy_and_value(state)
    torch.testing.assert_close(logits, stage1.distribution(trainer.agent.observe(state)).logits)
    assert value.abs().max() <= 1
    torch.testing.assert_close(alphago(prior_temperature=2.0)[1].policy_and_value(state)[0], logits / 2)
    twin = alphago(passes=8, learning_rate=1e-2)[1]
    twin.restore(agent.checkpoint())
    same(twin.checkpoint(), agent.checkpoint())


def test_alphagos_leaves_are_worth_the_weighted_sum(pool_run):
    state = TicTacToe().initial(1)
    env, agent = alphago(value_weight=0.0)
    assert agent.evaluate == agent.policy_and_value
    _, agent = alphago(value_weight=1.0)
    state = env.game.initial(500)
    _, value = agent.evaluate(state)
    assert set(value.tolist()) <= {-1.0, 0.0, 1.0}  # games of random moves
    _, agent = alphago(value_weight=0.25)
    torch.manual_seed(1)
    _, half = agent.evaluate(state)
    torch.manual_seed(1)
    _, played = rlcore.search.playouts(env.game)(state)
    torch.testing.assert_close(half, 0.75 * agent.policy_and_value(state)[1] + 0.25 * played)


def test_alphagos_leaves_may_be_played_out_by_its_policy(pool_run):
    env, agent = alphago(value_weight=1.0, rollouts="policy")
    state = env.game.initial(400)
    torch.manual_seed(1)
    _, value = agent.evaluate(state)
    assert set(value.tolist()) <= {-1.0, 0.0, 1.0}
    torch.manual_seed(1)
    outcome, by_hand, sign = torch.zeros(400), state, 1.0
    running = torch.ones(400, dtype=torch.bool)
    while running.any():
        by_hand, reward, terminated = env.game.step(by_hand, agent.distribution(by_hand).sample())
        outcome += sign * reward * running
        running, sign = running & ~terminated, -sign
    assert torch.equal(value, outcome)
    assert agent.search(env.game.initial(2), 8).visits.sum(1).tolist() == [8, 8]


def test_alphago_on_another_game_is_one_line(pool_run):
    env = SelfPlayEnv(SelfPlayEnv.Settings(game="tictactoe", num_envs=2))
    with pytest.raises(InputError, match="stage1 plays ConnectFour, the game here is TicTacToe"):
        AlphaGo(env, AlphaGo.Settings(policy="stage1"))


def test_the_run_of_a_policy_is_a_player(pool_run):
    env, agent = make(game="connect4", pool=[{"name": "run", "run": pool_run}], num_envs=4)
    obs, _ = env.reset(seed=1)
    obs, *_ = env.step(agent.act(obs).action)
    scores = env.evaluation(2).score(agent, 4, 1).scalars
    assert set(scores) == {f"points_{name}{end}" for name in ("random", "run_stage1") for end in ("", "_low", "_high")}
    assert 0 <= scores["points_random_low"] <= scores["points_random"] <= scores["points_random_high"] <= 1


def test_ratings_are_the_most_likely():
    """Of two players in closed form; of five, those whose expected points are the points taken."""
    shares = torch.tensor([[0.5, 0.25], [0.75, 0.5]], dtype=torch.float64)
    odds = (0.75 * 1000 + 0.5) / (0.25 * 1000 + 0.5)
    assert ratings(shares, 1000).tolist() == pytest.approx([0, 400 * math.log10(odds)])
    true = torch.tensor([0.0, 100, 50, 400, -300], dtype=torch.float64)
    expected = 1 / (1 + 10 ** ((true - true[:, None]) / 400))
    torch.testing.assert_close(ratings(expected, 10**9), true, atol=0.01, rtol=0)
    beaten = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
    assert ratings(beaten, 40)[1] == pytest.approx(400 * math.log10(40.5 / 0.5))
    num_games = torch.tensor([[0, 2, 40], [2, 0, 40], [40, 40, 0]])
    shares = torch.tensor([[0.5, 1.0, 0.6], [0.0, 0.5, 0.3], [0.4, 0.7, 0.5]], dtype=torch.float64)
    found = ratings(shares, num_games)
    expected = (num_games + 0.5) / (1 + 10 ** ((found - found[:, None]) / 400))
    taken = (shares * num_games + 0.25).fill_diagonal_(0).sum(1)
    torch.testing.assert_close(expected.fill_diagonal_(0).sum(1), taken)


def test_what_is_added_to_the_games_with_the_anchor_is_one_draw_however_many_beat_it():
    K, num_games = 8, 40
    shares = torch.full((K, K), 0.5, dtype=torch.float64)
    shares[0, 1:], shares[1:, 0] = 0, 1
    odds = (num_games * (K - 1) + 0.5) / 0.5
    assert ratings(shares, num_games)[1:].tolist() == pytest.approx([400 * math.log10(odds)] * (K - 1))


def tournament(true, num_openings, generator):
    """Games of players of known ratings: draws, and openings of which both games end alike, in three of ten."""
    K = len(true)
    shares, num_games, effective = torch.full((K, K), 0.5).double(), torch.zeros(K, K), torch.ones(K, K).double()
    for i, j in itertools.combinations(range(K), 2):
        p = 1 / (1 + 10 ** ((true[j] - true[i]) / 400))
        drawn = 0.6 * min(p, 1 - p)
        u = torch.rand(2, num_openings, generator=generator)
        u[1] = torch.where(torch.rand(num_openings, generator=generator) < 0.3, u[0], u[1])
        outcome = ((u < p - drawn / 2).double() - (u > p + drawn / 2).double()).flatten()
        shares[i, j], shares[j, i] = points(outcome), 1 - points(outcome)
        num_games[i, j] = num_games[j, i] = len(outcome)
        effective[i, j] = effective[j, i] = effective_games(outcome)
    return shares, num_games, effective


def test_intervals_of_ratings_cover_the_true_ones():
    true = torch.tensor([0.0, 150, 300, -100], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    found = torch.stack([rating_intervals(*tournament(true, 20, generator)) for _ in range(100)])
    covered = ((found[..., 0] <= true) & (true <= found[..., 1])).double().mean(0)
    assert covered[0] == 1
    assert ((covered[1:] > 0.9) & (covered[1:] < 0.99)).all()


def test_the_interval_of_two_players_is_that_of_their_points():
    outcome = torch.tensor([1.0, 1, 1, 0, -1, 1, 0, 1, 1, 0, -1, 1])
    share, n = points(outcome), effective_games(outcome)
    shares = torch.tensor([[0.5, 1 - share], [share, 0.5]], dtype=torch.float64)
    found = rating_intervals(shares, torch.full((2, 2), 12), torch.full((2, 2), n))
    ends = [400 * math.log10(p / (1 - p)) for p in points_interval(outcome)]
    assert found.tolist() == [[0, 0], pytest.approx(ends, abs=1e-3)]


def test_the_interval_of_who_won_everything_is_open_and_begins_higher_with_more_games():
    beaten = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
    lows = []
    for num in (20.0, 40.0):
        low, high = rating_intervals(beaten, torch.full((2, 2), 2 * num), torch.full((2, 2), num))[1].tolist()
        assert low == pytest.approx(400 * math.log10(num / Z**2), abs=1e-3)
        assert high == math.inf
        assert rating_intervals(beaten.T, torch.full((2, 2), 2 * num), torch.full((2, 2), num))[1, 0] == -math.inf
        lows.append(low)
    assert lows[1] - lows[0] == pytest.approx(400 * math.log10(2), abs=1e-3)


def test_intervals_exist_however_separate_the_players_are():
    """Two groups, of which one won every game against the other, and a perfect order; thousands of games."""
    groups = torch.tensor([[0.5, 0, 0, 0], [1, 0.5, 0, 0], [1, 1, 0.5, 0.6], [1, 1, 0.4, 0.5]], dtype=torch.float64)
    order = torch.ones(5, 5, dtype=torch.float64).tril(-1) + 0.5 * torch.eye(5, dtype=torch.float64)
    for shares in (groups, order):
        games = torch.full(shares.shape, 4000.0)
        low, high = rating_intervals(shares, games, games / 2).T
        assert (low[1:] > 400 * math.log10(2000 / Z**2) - 1e-3).all()  # direct games alone say as much
        assert (high[1:] == math.inf).all()
    assert low.diff().min() > 0
    assert low[-1] == pytest.approx(LARGEST)  # at least


def test_a_tournament_rates_the_agent_among_players():
    env, agent = make(pool=RANDOM)
    players = {"players": [{"name": "random"}, {"name": "minmax", "depth": 2}], "num": 15, "random_moves": 1}
    report = EloReport(EloReport.Settings.model_validate(players))(agent, env.evaluation(2), Report({}))
    assert report.scalars["random"] == 0
    assert report.scalars["minmax_2"] > 200
    assert report.scalars["minmax_2_low"] < report.scalars["minmax_2"]
    assert {"random", "minmax_2", "agent", "agent_low", "agent_high"} <= set(report.scalars)
    assert "random_low" not in report.scalars
    assert report.scalars["agent_low"] < report.scalars["agent"] < report.scalars["agent_high"]
    assert all(map(math.isfinite, report.scalars.values()))
    interval = "{agent_low:6.0f} to {agent_high:5.0f}".format_map(report.scalars)
    assert interval in next(line for line in report.text.splitlines() if line.startswith("agent"))
    assert report.text.splitlines()[1].startswith("minmax_2")
    assert "different" not in report.text
    twice = EloReport.Settings.model_validate({"players": [{"name": "random"}, {"name": "random"}]})
    with pytest.raises(InputError, match="names must be unique"):
        EloReport(twice)(agent, env.evaluation(2), Report({}))


def test_equal_games_say_no_more_about_strength_than_one(pool_run):
    env, agent = make(game="connect4", pool=RANDOM)
    players = {"players": [{"name": "run", "run": pool_run}, {"name": "random"}], "num": 20, "random_moves": 0}
    report = EloReport(EloReport.Settings.model_validate(players))(agent, env, Report({}))
    assert report.text.splitlines()[-1] == "run_stage1, agent: 2 different games of 40"
    assert report.text.count("different") == 1


def test_checkpoints_that_are_kept_are_players(workdir):
    settings = ["trainer.total_steps=600", "env.num_envs=16", "trainer.eval_every=200", "trainer.keep_checkpoints=true"]
    commands.train("connect4_pool_reinforce", settings, "kept", None, 1)
    paths = sorted((workdir / "kept/checkpoints").glob("[0-9]*.pt"), key=lambda path: int(path.stem))
    assert len(paths) == 3
    game, state = ConnectFour(), ConnectFour().initial(1)
    choices = [
        PlayerChoice.model_validate({"name": "run", "run": "kept", "checkpoint": str(path)})
        for path in (*paths, "last")
    ]
    assert [str(choice) for choice in choices] == [f"run_kept_{name}" for name in (*(p.stem for p in paths), "last")]
    for choice in choices:
        assert game.legal(state).gather(1, choice.make(game, torch.device("cpu"))(state)[:, None]).all()
    agents = [rlcore.load("kept", str(path)) for path in paths] + [rlcore.load("kept", "last")]
    biases = [agent.policy_head.bias for agent in agents]
    assert not torch.equal(biases[0], biases[1])
    assert torch.equal(biases[2], biases[3])


def test_players_of_one_name_agents_with_a_memory_and_dict_readers_are_refused(pool_run):
    from rlcore.agents.alphazero import AlphaZero
    from rlcore.agents.ensemble import Ensemble
    from rlcore.agents.recurrent_ppo import RecurrentPPO

    with pytest.raises(InputError, match="names must be unique, got random, random"):
        make(pool=RANDOM + RANDOM)
    env, _ = make(pool=RANDOM)
    with pytest.raises(InputError, match="does not support agents with a memory"):
        Trainer(RecurrentPPO(env, RecurrentPPO.Settings(minibatch_size=None)), env, total_steps=100)
    former, _ = make(save_every=1)
    members = {"agent": {"name": "ppo", "minibatch_size": None}, "members": 2}
    with pytest.raises(InputError, match=r"former selves play by Agent\.distribution, which Ensemble does not have"):
        Trainer(Ensemble(former, Ensemble.Settings.model_validate(members)), former, total_steps=100)
    with pytest.raises(InputError, match=r"use env\.name=selfplay"):
        AlphaZero(env)
    with pytest.raises(InputError, match=r"use env\.name=selfplay"):
        AlphaGo(env, AlphaGo.Settings(policy=pool_run))


def test_a_seed_decides_who_the_opponents_are():
    env, _ = make(num_envs=30, pool=[*RANDOM, {"name": "minmax", "depth": 1}])
    drawn = []
    for seed in (1, 2, 1):
        env.reset(seed=seed)
        env.on_update()
        drawn.append((env._candidates.tolist(), env._opponent.tolist()))
    assert drawn[0] == drawn[2] != drawn[1]
    saved = env.checkpoint()
    first = [env.step(env.game.legal(env._state).int().argmax(1))[0]["observation"] for _ in range(5)]
    env.restore(saved)
    again = [env.step(env.game.legal(env._state).int().argmax(1))[0]["observation"] for _ in range(5)]
    same(first, again)


class Listed(Reinforce):
    """Keeps its optimizer in a list."""

    def __init__(self, env, settings=None):
        super().__init__(env, settings)
        self.kept = [self.optimizer]
        del self.optimizer

    def learn(self, rollout):
        return {}


def test_a_former_self_has_no_optimizer_wherever_it_is_kept():
    env = VersusEnv(VersusEnv.Settings(game="tictactoe", num_envs=4, save_every=1))
    agent = Listed(env)
    trainer = Trainer(agent, env, total_steps=1000)
    for _ in range(3):
        trainer.update()
    assert env.former
    assert all(former.kept == [None] for former in env.former)
    assert isinstance(agent.kept[0], torch.optim.Optimizer)
