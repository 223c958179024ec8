import pytest
import torch
from compare import Syncs, same

import rlcore
from rlcore import InputError, Trainer, check_agent, commands, registry
from rlcore.agents.alphazero import AlphaZero, Memory
from rlcore.envs.games.matches import MatchesReport
from rlcore.envs.games.replay import Batch, Position
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.evaluation import Report
from rlcore.game import DISCOUNT
from rlcore.networks import build
from rlcore.replay import Replay
from rlcore.search import search_gumbel

SMALL = {"network": {"name": "policy_value", "hidden": [32], "head": 16}, "simulations": 4, "batch_size": 32}


def make(num_envs=8, game="tictactoe", env=None, **settings):
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=num_envs, game=game, **(env or {})))
    torch.manual_seed(0)
    return env, AlphaZero(env, AlphaZero.Settings.model_validate({**SMALL, **settings}))


@pytest.mark.parametrize("search", ["gumbel", "puct"])
@pytest.mark.parametrize("game", ["tictactoe", "connect4"])
def test_it_keeps_the_contract(search, game):
    env, agent = make(game=game, search=search)
    check_agent(agent, env)


def test_positions_wait_until_their_game_has_ended_and_learn_who_won():
    """Every position of every finished game comes once, with the outcome for who was to move there."""
    env, agent = make(num_envs=5, horizon=3)
    obs, _ = env.reset(seed=1)
    games, finished = [[] for _ in range(5)], []
    rolled = 0
    for _ in range(20):
        rollout = rlcore.collect(agent, env, obs, 3)
        obs = rollout.last_obs
        agent.replay.add(rollout, rollout.memory.policy)
        rolled += rollout.num_steps
        for t in range(3):
            for n in range(5):
                games[n].append((rollout.obs[t, n].tolist(), rollout.memory.policy[t, n].tolist()))
                if rollout.terminated[t, n]:
                    z = float(rollout.reward[t, n])
                    for state, policy in reversed(games[n]):
                        finished.append((state, policy, z))
                        z *= DISCOUNT
                    games[n] = []
    kept = agent.replay.replay._rows
    num = len(agent.replay)
    assert num == len(finished)
    assert num + int(agent.replay.waiting.valid.sum()) == rolled
    got = sorted(
        (s, [round(p, 6) for p in pi], z)
        for s, pi, z in zip(
            kept.state[:num].tolist(), kept.policy[:num].tolist(), kept.outcome[:num].tolist(), strict=True
        )
    )
    assert got == sorted((s, [round(p, 6) for p in pi], z) for s, pi, z in finished)
    assert {z for *_, z in finished} >= {1.0, -1.0}


def rollouts(agent, env, num, horizon=3):
    obs, _ = env.reset(seed=1)
    for _ in range(num):
        rollout = rlcore.collect(agent, env, obs, horizon)
        obs = rollout.last_obs
        yield rollout


def test_a_share_of_the_searchs_value_is_in_the_outcome():
    """Over rollouts that end within games."""
    env, agent = make(num_envs=5)
    weights = 0.0, 0.25, 1.0
    replays, values = [make()[1].replay for _ in weights], []
    for rollout in rollouts(agent, env, 20):
        values += rollout.memory.value.flatten().tolist()
        for replay, weight in zip(replays, weights, strict=True):
            replay.add(rollout, rollout.memory.policy, rollout.memory.value, weight)
    z, mixed, value = (replay.replay._rows.outcome[: len(replay)] for replay in replays)
    assert set(z.unique().tolist()) == {-1, 0, 1}
    assert set(value.tolist()) <= set(values)
    torch.testing.assert_close(mixed, 0.75 * z + 0.25 * value)


def test_fast_searches_have_no_noise_and_are_not_learned_from(monkeypatch):
    import rlcore.agents.alphazero as module

    calls, plain = [], module.search
    monkeypatch.setattr(
        module, "search", lambda *given, **named: calls.append((given, named)) or plain(*given, **named)
    )
    settings = {
        "search": "puct",
        "fast_simulations": 2,
        "full_share": 0.4,
        "forced_visits": 2.0,
        "root_temperature": 1.3,
    }
    env, agent = make(num_envs=6, simulations=9, **settings)
    full = []
    for rollout in rollouts(agent, env, 30):
        agent.learn(rollout)
        full += rollout.memory.is_full.all(1).tolist()
        assert torch.equal(rollout.memory.is_full.any(1), rollout.memory.is_full.all(1))
    kinds = {(given[3], given[5] is not None, named["temperature"], named["forced"]) for given, named in calls}
    assert kinds == {(9, True, 1.3, 2.0), (2, False, 1.0, 0.0)}
    assert [given[3] == 9 for given, _ in calls] == full
    assert 0.2 < sum(full) / len(full) < 0.6
    kept = len(agent.replay) + int((agent.replay.waiting.valid * agent.replay.waiting.copies).sum())
    assert kept == 6 * sum(full)


def test_what_surprised_the_network_is_learned_from_more_often():
    _, agent = make(surprise=0.5)
    generator = torch.Generator().manual_seed(0)
    policy, prior = (torch.rand(50, 8, 9, generator=generator).softmax(-1) for _ in range(2))
    prior[..., 8], policy[..., 8] = -torch.inf, 0
    policy /= policy.sum(-1, keepdim=True)
    memory = Memory(policy, torch.zeros(50, 8), prior, torch.ones(50, 8, dtype=torch.bool))
    kl = (policy * (policy.clamp_min(1e-30) / prior.clamp_min(1e-30)).log()).sum(-1)
    expected = 0.5 + 0.5 * kl / kl.mean()
    mean = torch.stack([agent._copies(memory) for _ in range(2000)]).double().mean(0)
    torch.testing.assert_close(mean, expected.double(), atol=0.06, rtol=0)
    assert mean.mean() == pytest.approx(1, abs=0.01)
    assert make()[1]._copies(memory) is None


def test_rows_are_added_as_often_as_they_have_copies():
    env, agent = make(num_envs=4)
    replay, expected = make()[1].replay, []

    def repeated(states, copies):
        return [tuple(s) for s, k in zip(states.tolist(), copies.tolist(), strict=True) for _ in range(k)]

    for rollout in rollouts(agent, env, 25):
        copies = torch.randint(0, 3, (3, 4))
        replay.add(rollout, rollout.memory.policy, copies=copies)
        expected += repeated(rollout.obs.flatten(0, 1), copies.flatten())
    waiting = replay.waiting
    left = repeated(waiting.state[waiting.valid], waiting.copies[waiting.valid])
    kept = [tuple(s) for s in replay.replay._rows.state[: len(replay)].tolist()]
    assert sorted(kept + left) == sorted(expected)


def test_one_position_of_each_game_is_any_of_them():
    env, agent = make(num_envs=6)
    one, every, num_games, num_added = make()[1].replay, make()[1].replay, 0, 0
    for rollout in rollouts(agent, env, 120):
        num_games += int(rollout.terminated.sum())
        added = one.add(rollout, rollout.memory.policy, one_of_each_game=True)
        assert added == int(rollout.terminated.sum())
        num_added += every.add(rollout, rollout.memory.policy)
    assert len(one) == num_games > 200
    assert len(every) == num_added > 5 * num_games
    stones = agent.game.num_moves(one.replay._rows.state[:num_games])
    assert stones.bincount(minlength=5)[:5].min() > num_games / 20  # all games have as many positions


def test_evaluation_may_search_as_learning_does():
    _, agent = make(eval_search="gumbel", max_considered=5, eval_simulations=12)
    state = agent.game.initial(3)
    found, expected = agent.search(state), search_gumbel(agent.game, state, agent.policy_and_value, 12, None, 5)
    same(tuple(found[:4]), tuple(expected[:4]))
    assert not torch.equal(found.visits, make(eval_simulations=12)[1].search(state).visits)


def test_everything_together_learns_tictactoe():
    settings = {
        "search": "puct", "fast_simulations": 4, "full_share": 0.5, "surprise": 0.5, "value_mix": 0.3,
        "simulations": 24, "forced_visits": 2.0, "root_temperature": 1.2, "first_play": None,
        "first_play_reduction": 0.2, "exploration_base": 2000, "eval_simulations": 12, "max_depth": 8,
    }  # fmt: skip
    env = {"random_openings": 7, "positions": "all"}
    env, agent = make(64, env=env, learning_rate=5e-3, batch_size=256, horizon=8, **settings)
    once = Trainer.Settings(total_steps=6_000, eval_every=6_000)
    assert Trainer(agent, env, once).fit().scalars["search_right"] > 0.85


def test_the_loss_is_that_of_the_paper():
    env, agent = make(symmetries=False, passes=1e-6, value_coefficient=2.0)
    obs, _ = env.reset(seed=1)
    rollout = rlcore.collect(agent, env, obs, 16)
    before = {name: value.clone() for name, value in agent.network.state_dict().items()}
    torch.manual_seed(3)
    metrics = agent.learn(rollout)
    torch.manual_seed(3)
    rows = agent.replay.replay.sample(32)
    agent.network.load_state_dict(before)
    logits, value = agent.policy_and_value(rows.state)
    p = logits.masked_fill(~agent.game.legal(rows.state), -torch.inf).softmax(1)
    cross_entropy = -torch.special.xlogy(rows.policy, p).sum(1).mean()
    squared = (rows.outcome - value).square().mean()
    torch.testing.assert_close(metrics["policy_loss"], cross_entropy.detach())
    torch.testing.assert_close(metrics["value_loss"], squared.detach())
    torch.testing.assert_close(metrics["loss"], (cross_entropy + 2 * squared).detach())


@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_bfloat16_is_for_learning_and_float32_for_playing(search):
    """Games and gradient steps are those under an autocast by hand; evaluation is as ever."""
    env, full = make(game="connect4", symmetries=False, search=search)
    agent = make(game="connect4", symmetries=False, search=search, precision="bfloat16")[1]
    obs, _ = env.reset(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = full.policy_and_value(obs)
    assert logits.dtype == torch.bfloat16
    torch.manual_seed(1)
    memory = agent.act(obs).memory
    torch.testing.assert_close(memory.prior, logits.float().softmax(1))  # every move of an empty board is legal
    assert {x.dtype for x in (memory.policy, memory.value, memory.prior)} == {torch.float32}
    torch.manual_seed(1)
    assert not torch.equal(full.act(obs).memory.prior, memory.prior)
    same(tuple(agent.search(obs)[:4]), tuple(full.search(obs)[:4]))
    assert torch.equal(agent.distribution(obs).logits, full.distribution(obs).logits)

    batch = Batch(env.game.observe(obs), env.game.legal(obs), memory.policy, torch.ones(len(obs)))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = full.network(batch.planes)
    cross_entropy = -(batch.policy * outputs[:, :-1].float().log_softmax(1)).sum(1).mean()
    squared = (1 - outputs[:, -1].float().tanh()).square().mean()
    torch.testing.assert_close(agent.losses(batch)["loss"], cross_entropy + squared)
    assert not torch.equal(agent.losses(batch)["loss"], full.losses(batch)["loss"])


def test_turned_rows_are_what_the_turned_board_would_show():
    env, agent = make()
    obs, _ = env.reset(seed=1)
    rollout = rlcore.collect(agent, env, obs, 3)
    rows = Position(rollout.last_obs, rollout.memory.policy[-1], torch.arange(8.0))
    cells, moves = agent.game.symmetries()
    planes, legal, policy, outcome, _ = agent.replay.turned(rows)
    assert torch.equal(outcome, rows.outcome)
    shown, allowed = agent.game.observe(rows.state).flatten(2), agent.game.legal(rows.state)
    found = set()
    for n in range(8):
        fits = [
            k
            for k in range(8)
            if torch.equal(planes[n].flatten(1), shown[n][:, cells[k]])
            and torch.equal(policy[n], rows.policy[n][moves[k]])
            and torch.equal(legal[n], allowed[n][moves[k]])
        ]
        assert fits
        found |= set(fits)
    assert len(found) > 2


def test_a_better_network_passes_the_gate_and_an_equal_one_does_not():
    _, agent = make(gate_every=1, gate_games=400, gate_moves=3)
    assert not any(p.requires_grad for p in agent.player.parameters())
    assert agent._gate(0.55, "gate") == {
        "gate_points": 0.5,
        "gate_passed": 0.0,
    }  # mirrored games of one network cancel out
    with torch.no_grad():  # by hand: the centre, then the corners
        last = agent.network.heads.policy[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([4.0, 1, 3.5, 0.5, 9, 0, 3, 0.2, 2.5]))
    passed = agent._gate(0.55, "gate")
    assert passed["gate_points"] > 0.6
    assert passed["gate_passed"] == 1
    same(dict(agent.player.state_dict()), dict(agent.network.state_dict()))


def test_without_a_gate_the_network_plays():
    env, agent = make()
    assert agent.player is agent.network
    assert agent.finish() == {}
    assert set(env.movers(agent)) == {"search", "policy"}


@pytest.mark.slow
def test_a_last_match_at_the_end_of_the_run_is_won_by_half_of_the_points():
    env, agent = make(gate_every=10**6, gate_games=40, gate_moves=2, env={"positions": "all"})
    first = {name: value.clone() for name, value in agent.player.state_dict().items()}
    trainer = Trainer(agent, env, total_steps=2048, seed=1)
    while not trainer.finished:
        trainer.update()
    same(dict(agent.player.state_dict()), first)
    before = env.evaluation(8).score(agent, 4, seed=1).scalars
    assert before["learner_right"] > before["policy_right"]
    after = trainer.fit().scalars
    assert trainer.figures["train/last_gate_points"] >= 0.5
    assert trainer.figures["train/last_gate_passed"] == 1
    same(dict(agent.player.state_dict()), dict(agent.network.state_dict()))
    assert after["policy_right"] == after["learner_right"] == before["learner_right"]
    with torch.no_grad():  # by hand: the player likes the centre, then the corners, and the learner what is left
        for network, sign in ((agent.player, 1), (agent.network, -1)):
            network.heads.policy[-1].weight.zero_()
            network.heads.policy[-1].bias.copy_(sign * torch.tensor([4.0, 1, 3.5, 0.5, 9, 0, 3, 0.2, 2.5]))
    lost = agent.finish()
    assert lost["last_gate_points"] < 0.5
    assert lost["last_gate_passed"] == 0
    worse = env.evaluation(8).score(agent, 4, seed=1).scalars
    assert worse["learner_right"] < worse["policy_right"]


def test_equal_games_are_told_as_one():
    env, agent = make(eval_simulations=2)
    env.opponents = lambda: {"lowest": lambda state: env.game.legal(state).int().argmax(1)}
    report = env.score(agent, 40, seed=1)
    assert report.text == "points_lowest: 2 different games of 40"
    assert report.scalars["points_lowest"] in (0, 0.25, 0.5, 0.75, 1)
    assert "different" not in make(eval_simulations=2)[0].score(agent, 40, seed=1).text


def test_a_search_waits_for_no_device_per_simulation(monkeypatch):
    monkeypatch.setattr("rlcore.search.tree.sync_is_costly", lambda device: True)
    counts = []
    for simulations in (4, 12):
        _, agent = make(simulations=simulations, game="connect4")
        state = agent.game.initial(8)
        with torch.no_grad(), Syncs() as syncs:
            agent.act(state)
            agent.search(state, simulations)
        counts.append(syncs.count)
    assert counts[0] == counts[1] <= 4
    for settings in ({}, {"search": "puct"}):
        _, waits = make(game="connect4", **settings)
        monkeypatch.setattr("rlcore.search.tree.sync_is_costly", lambda device: False)
        torch.manual_seed(1)
        read = waits.act(waits.game.initial(8))
        monkeypatch.setattr("rlcore.search.tree.sync_is_costly", lambda device: True)
        torch.manual_seed(1)
        same(tuple(read), tuple(waits.act(waits.game.initial(8))))


def test_tictactoe_is_learned_in_seconds():
    settings = {"network": {"name": "policy_value", "hidden": [64, 64], "head": 32}, "simulations": 12}
    env, agent = make(64, env={"random_openings": 7}, learning_rate=5e-3, batch_size=256, horizon=8, **settings)
    agent.settings.__dict__["eval_simulations"] = 30
    env.settings.__dict__["positions"] = "all"
    before = env.evaluation(8).score(agent, 20, seed=1).scalars
    Trainer(agent, env, Trainer.Settings(total_steps=16_000, eval_every=None)).fit()
    after = env.evaluation(8).score(agent, 20, seed=1).scalars
    assert after["policy_right"] > max(0.9, before["policy_right"] + 0.1)
    assert after["search_right"] > 0.985
    assert after["points_random"] > 0.9


def test_the_replay_keeps_the_latest():
    replay = Replay(5)

    def rows(first, last):
        x = torch.arange(first, last)
        return Position(x[:, None], x[:, None].float(), x.float())

    for first, last in ((0, 3), (3, 4), (4, 7), (7, 7)):
        replay.add(rows(first, last))
    assert sorted(replay._rows.outcome.tolist()) == [2, 3, 4, 5, 6]
    replay.add(rows(10, 22))
    assert sorted(replay._rows.outcome.tolist()) == [17, 18, 19, 20, 21]
    assert len(replay) == 5
    drawn = replay.sample(2000)
    assert (drawn.state[:, 0] == drawn.outcome).all()
    assert drawn.outcome.long().bincount()[17:].min() > 300
    other = Replay(5)
    other.restore(replay.checkpoint(), Position)
    torch.manual_seed(1)
    mine = replay.sample(20)
    torch.manual_seed(1)
    same(tuple(mine), tuple(other.sample(20)))
    replay.add(rows(30, 32))
    other.add(rows(30, 32))
    same(tuple(replay._rows), tuple(other._rows))
    for capacity, kept in ((3, [21, 30, 31]), (8, [19, 20, 21, 30, 31])):
        resized = Replay(capacity)
        resized.restore(replay.checkpoint(), Position)
        assert len(resized) == len(kept)
        assert sorted(resized.sample(200).outcome.unique().tolist()) == kept


@pytest.mark.parametrize("name", ["policy_value", "policy_value_resnet"])
def test_networks_of_players(name):
    x = torch.rand(3, 2, 6, 7)
    assert build(name, (2, 6, 7), 8)(x).shape == (3, 8)
    body = build(name, (2, 6, 7))
    assert body(x).shape == (3, body.num_features)
    with pytest.raises(InputError, match="boards of 2 x 2 cells"):
        build("policy_value_resnet", (2, 1, 7), 8)


def test_matches_are_told_by_opponent():
    env, agent = make(env={"positions": "all"}, eval_simulations=8)
    settings = {"opponents": [{"name": "random"}, {"name": "minmax", "depth": 2}], "num": 6, "random_moves": 2}
    report = MatchesReport(MatchesReport.Settings.model_validate(settings))(agent, env.evaluation(4), Report({}))
    figures = ("points", "points_low", "points_high", "wins")
    assert set(report.scalars) == {f"{name}_{figure}" for name in ("random", "minmax_2") for figure in figures}
    told = "random: {random_points:.1%} of the points [{random_points_low:.1%}, {random_points_high:.1%}], "
    assert report.text.startswith(told.format_map(report.scalars))
    assert report.scalars["random_points_low"] < report.scalars["random_points"] < report.scalars["random_points_high"]
    assert "of 12 from 6 random openings" in report.text
    again = MatchesReport(MatchesReport.Settings.model_validate(settings))(agent, env.evaluation(4), Report({}))
    assert again.scalars == report.scalars
    drawn = MatchesReport.Settings.model_validate({**settings, "balanced": True, "num": 3})
    assert "from 3 balanced openings" in MatchesReport(drawn)(agent, env.evaluation(4), Report({})).text
    twice = MatchesReport.Settings.model_validate({"opponents": [{"name": "random"}, {"name": "random"}]})
    with pytest.raises(InputError, match="report matches: player names must be unique, got random, random"):
        MatchesReport(twice)(agent, env.evaluation(4), Report({}))


def saved_player():
    """The run of a player that has learned a little, in the folder ``saved``."""
    quick = ["agent.simulations=4", "agent.eval_simulations=8", "trainer.total_steps=1024", "trainer.eval_every=null"]
    commands.train("tictactoe_alphazero", [*quick, "threads=1"], "saved", None, 1)


def test_matches_from_one_opening_are_one_game_of_each_side_unless_someone_plays_at_random(workdir):
    saved_player()
    env, agent = make(eval_simulations=2)
    opponents = [{"name": "run", "run": "saved"}, {"name": "random"}]
    settings = MatchesReport.Settings.model_validate({"opponents": opponents, "num": 20, "random_moves": 0})
    report = MatchesReport(settings)(agent, env, Report({}))
    same_games, all_games = report.text.splitlines()
    assert same_games.endswith("lost of 2 different games of 40 from 20 random openings")
    assert all_games.endswith("lost of 40 from 20 random openings")
    assert report.scalars["run_saved_points"] in (0, 0.25, 0.5, 0.75, 1)
    assert report.scalars["run_saved_wins"] in (0, 0.5, 1)


def test_a_saved_player_changes_nothing_of_the_run_that_plays_it(workdir):
    saved_player()
    env, agent = make(eval_simulations=2)
    torch.set_num_threads(2)
    before, numbers = torch.get_num_threads(), torch.get_rng_state()
    opponents = {"opponents": [{"name": "run", "run": "saved"}], "num": 3}
    report = MatchesReport(MatchesReport.Settings.model_validate(opponents))
    found = [report(agent, env.evaluation(4), Report({})).scalars for _ in range(2)]
    assert found[0] == found[1]
    assert {"run_saved_points", "run_saved_wins"} < set(found[0])
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), numbers)
    torch.set_num_threads(1)
    other = SelfPlayEnv(SelfPlayEnv.Settings(game="connect4", num_envs=2))
    commands.train("cartpole_ppo", ["trainer.total_steps=512", "trainer.eval_every=null", "threads=1"], "pole", None, 1)
    with pytest.raises(InputError, match="pole plays no game, the game here is TicTacToe"):
        MatchesReport(MatchesReport.Settings.model_validate({"opponents": [{"name": "run", "run": "pole"}]}))(
            agent, env.evaluation(4), Report({})
        )
    with pytest.raises(InputError, match="saved plays TicTacToe, the game here is ConnectFour"):
        report(agent, other, Report({}))
    with pytest.raises(InputError, match="has no episodes"):
        commands.evaluate("saved", 4, None, False, "episodes", [])


def test_an_agent_from_outside_extends_it():
    @registry.agents.register("greedy_zero")
    class Greedy(AlphaZero):
        """Plays by the network alone."""

        def predict(self, obs, state=None):
            return rlcore.Step(self.distribution(obs).mode)

    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=4))
    agent = Greedy(env, Greedy.Settings.model_validate(SMALL))
    check_agent(agent, env)
    Trainer(agent, env, total_steps=200).fit()


def test_mistakes_are_one_line():
    cartpole = registry.envs["cartpole"](registry.envs["cartpole"].Settings())
    with pytest.raises(InputError, match=r"AlphaZero plays games against itself; use env\.name=selfplay"):
        AlphaZero(cartpole)
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=4))
    with pytest.raises(InputError, match=r"lenet: inputs of shape \(2, 3, 3\) are too small"):
        AlphaZero(env, AlphaZero.Settings.model_validate({"network": {"name": "lenet"}}))
    _, agent = make()
    report = MatchesReport(MatchesReport.Settings.model_validate({"opponents": [{"name": "random"}], "balanced": True}))
    with pytest.raises(InputError, match=r"taken from env.positions, which is null"):
        report(agent, env, Report({}))
    with pytest.raises(ValueError, match="at least 1 item"):
        MatchesReport.Settings.model_validate({"opponents": []})


def test_positions_of_abandoned_games_are_forgotten():
    """They have no outcome: that of the next game is another's."""
    env, agent = make(horizon=6)
    trainer = Trainer(agent, env, total_steps=10_000)
    trainer.update()
    assert trainer.agent.replay.waiting.valid.any()
    trainer._begin_episodes()
    assert trainer.agent.replay.waiting is None
    assert trainer.agent.earlier is None
    before = len(trainer.agent.replay)
    trainer.update()
    added = len(trainer.agent.replay) - before + int(trainer.agent.replay.waiting.valid.sum())
    assert added == trainer.agent.horizon * trainer.env.num_envs
