import pytest
import torch
from trainers import MUZERO

import rlcore
from rlcore import InputError, Trainer, check_agent
from rlcore.agents.muzero import MuZero, scale_gradient, unit_range
from rlcore.envs.games.replay import GameReplay, Position
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.game import DISCOUNT
from rlcore.rollout import Step

RELU = {"name": "mlp", "hidden": [64], "activation": "relu"}
LEARNS = {
    "representation": RELU, "dynamics": RELU, "prediction": {"name": "policy_value", "hidden": [64], "head": 32},
    "latent_size": 32, "simulations": 12, "eval_simulations": 16, "unroll_steps": 3, "horizon": 8,
    "replay_size": 50_000, "batch_size": 128, "passes": 6, "learning_rate": 5e-3,
}  # fmt: skip


def make(num_envs=8, game="tictactoe", env=None, **settings):
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=num_envs, game=game, **(env or {})))
    torch.manual_seed(0)
    return env, MuZero(env, MuZero.Settings.model_validate({**MUZERO, **settings}))


@pytest.mark.parametrize("game", ["tictactoe", "connect4"])
def test_it_keeps_the_contract(game):
    env, agent = make(game=game)
    check_agent(agent, env)


def test_positions_are_kept_with_what_followed_them():
    """Every position of every finished game comes once, with its K next moves and policies, as far as the game went."""
    K = 4
    env, agent = make(num_envs=5, unroll_steps=K, replay_size=1000)
    obs, _ = env.reset(seed=1)
    games, finished = [[] for _ in range(5)], []
    for _ in range(20):
        rollout = rlcore.collect(agent, env, obs, 3)
        obs = rollout.last_obs
        agent.replay.add(rollout, rollout.memory.policy)
        for t in range(3):
            for n in range(5):
                policy = [round(p, 6) for p in rollout.memory.policy[t, n].tolist()]
                games[n].append((rollout.obs[t, n].tolist(), int(rollout.action[t, n]), policy))
                if rollout.terminated[t, n]:
                    length, z = len(games[n]), float(rollout.reward[t, n])
                    for i, (state, _, _) in enumerate(games[n]):
                        followed = games[n][i:] + [(None, -1, [0.0] * 9)] * K
                        moves = [move for _, move, _ in followed[:K]]
                        policies = [policy for _, _, policy in followed[: K + 1]]
                        finished.append((state, moves, policies, z * DISCOUNT ** (length - 1 - i)))
                    games[n] = []
    rows = agent.replay.replay._rows
    columns = rows.state.tolist(), rows.moves.tolist(), rows.policy.tolist(), rows.outcome.tolist()
    kept = [
        (state, moves, [[round(p, 6) for p in row] for row in policy], z)
        for state, moves, policy, z in list(zip(*columns, strict=True))[: len(agent.replay)]
    ]
    assert sorted(kept) == sorted(finished)
    assert any(-1 not in moves for _, moves, _, _ in kept)
    assert any(moves[0] >= 0 and moves[-1] == -1 for _, moves, _, _ in kept)


def test_moves_after_the_end_are_any_and_the_others_turn_with_the_board():
    game = make()[0].game
    replay = GameReplay(game, 10, symmetries=True, num_following=2)
    state, moves = game.initial(400), torch.tensor([[3, -1]]).expand(400, 2)
    policy = torch.zeros(400, 3, 9)
    policy[:, 0, 3] = 1
    policy[:, 1, 1] = 1
    batch = replay.turned(Position(state, policy, torch.zeros(400), moves))
    cells, _ = game.symmetries()
    assert set(batch.moves[:, 1].tolist()) == set(range(9))
    found = set()
    for first, second, move in zip(
        batch.policy[:, 0].argmax(1).tolist(), batch.policy[:, 1].argmax(1).tolist(), batch.moves[:, 0].tolist(),
        strict=True,
    ):  # fmt: skip
        assert first == move
        found.add((first, second))
    assert found == {(row.index(3), row.index(1)) for row in cells.tolist()}
    assert (batch.policy[:, 2] == 0).all()
    plain = GameReplay(game, 10, symmetries=False, num_following=2).turned(Position(state, policy, state[:, 0], moves))
    assert (plain.moves[:, 0] == 3).all()
    assert plain.moves.min() >= 0


def test_latent_states_are_scaled_and_gradients_halved():
    x = torch.tensor([[1.0, 3.0, 2.0], [-5.0, -5.0, -5.0]], requires_grad=True)
    assert unit_range(x).tolist() == [[0, 1, 0.5], [0, 0, 0]]
    y = scale_gradient(x, 0.25)
    assert torch.equal(y, x)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, 0.25 * 2 * x.detach())


def test_the_loss_is_that_of_the_paper():
    """Against the model unrolled by hand, and its gradient: 1 / 2 for every move between a parameter and a loss."""
    K = 3
    env, agent = make(unroll_steps=K, value_coefficient=2.0)
    obs, _ = env.reset(seed=1)
    for _ in range(4):
        rollout = rlcore.collect(agent, env, obs, 6)
        obs = rollout.last_obs
        agent.replay.add(rollout, rollout.memory.policy)
    batch, model = agent.replay.sample(32), agent.network
    losses = agent.losses(batch)
    losses["loss"].backward()
    weight = next(model.h.parameters())
    halved = weight.grad.clone()

    latent, sign, parts = model.representation(batch.planes), 1, []
    for k in range(K + 1):
        logits, value = model.prediction(latent)
        cross_entropy = -(batch.policy[:, k] * logits.log_softmax(1)).sum(1).mean()
        squared = (sign * batch.outcome - value).square().mean()
        parts.append((cross_entropy + 2 * squared) / (1 if k == 0 else K))
        if k < K:
            latent, sign = model.dynamics(latent, batch.moves[:, k]), -sign
    torch.testing.assert_close(losses["loss"], sum(parts))
    torch.testing.assert_close(losses["loss"], losses["policy_loss"] + 2 * losses["value_loss"])
    whole = [torch.autograd.grad(part, weight, retain_graph=True)[0] for part in parts]
    torch.testing.assert_close(halved, sum(0.5**k * grad for k, grad in enumerate(whole)))


def test_a_search_begins_with_legal_moves_alone():
    env, agent = make(env={"random_openings": 6})
    obs, _ = env.reset(seed=1)
    legal = env.game.legal(obs)
    found = agent.search(obs, 30)
    assert (found.visits[~legal] == 0).all()
    assert (found.visits.sum(1) == 30).all()
    assert (found.tree.prior[:, 1:] >= 0).all()  # below the root every move may be made
    noisy = agent.act(obs)
    assert legal.gather(1, noisy.action[:, None]).all()
    assert (noisy.memory.policy[~legal] == 0).all()
    assert agent.distribution(obs).logits.softmax(1)[~legal].max() == 0


def test_a_search_asks_for_the_rules_of_the_root_alone(monkeypatch):
    env, agent = make()
    obs, _ = env.reset(seed=1)

    def refuse(*arguments):
        raise AssertionError("the rules were asked")

    monkeypatch.setattr(env.game, "step", refuse)
    assert isinstance(agent.act(obs), Step)
    assert agent.search(obs, 20).action.shape == (8,)
    monkeypatch.undo()
    monkeypatch.setattr(env.game, "legal", refuse)
    with pytest.raises(AssertionError, match="the rules were asked"):
        agent.search(obs, 20)


@pytest.mark.slow
def test_the_beginnings_of_tictactoe_are_learned_in_seconds():
    """Better moves than before; and what is only in the model: after a winning move the other player has lost."""
    env, agent = make(64, env={"random_openings": 7, "positions": "all"}, **LEARNS)
    before = env.score(agent, 20, seed=1).scalars
    Trainer(agent, env, total_steps=10_000).fit()
    after = env.score(agent, 20, seed=1).scalars
    assert after["policy_right"] > before["policy_right"] + 0.08
    assert after["search_right"] > before["search_right"] + 0.08
    state = env.truth.state
    rows, moves = env.game.legal(state).nonzero(as_tuple=True)
    made = env.game.step(state[rows], moves)
    with torch.no_grad():
        latent = agent.network.representation(env.game.observe(state))
        _, value = agent.network.prediction(agent.network.dynamics(latent[rows], moves))
    won = made.reward > 0
    assert value[won].mean() < value[~won].mean() - 0.25


def test_mistakes_are_one_line():
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=4, game="dots_and_boxes"))
    with pytest.raises(InputError, match="MuZero plays games of two players who move in turn; for DotsAndBoxes use"):
        MuZero(env)
