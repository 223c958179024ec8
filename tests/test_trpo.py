"""The natural gradient: its direction by a dense solution, its constraint, and what it learns."""

import pytest
import torch

from rlcore import InputError, Trainer, check_agent
from rlcore.agents import trpo
from rlcore.agents.trpo import TRPO, conjugate_gradient
from rlcore.envs.cartpole import CartPole
from rlcore.envs.probes import ConstantReward, Identity, Target
from rlcore.rollout import collect

SMALL = {"name": "mlp", "hidden": [5]}


def made(env, **settings):
    torch.manual_seed(1)
    return TRPO(env, TRPO.Settings.model_validate({"horizon": 32, "value_minibatch_size": 64, **settings}))


def fit(agent, env, steps):
    return Trainer(agent, env, total_steps=steps, seed=1).fit().scalars


def test_conjugate_gradients_solve_a_system():
    torch.manual_seed(0)
    A = torch.randn(12, 12, dtype=torch.float64)
    M, b = A @ A.T + 0.1 * torch.eye(12, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    torch.testing.assert_close(conjugate_gradient(lambda v: M @ v, b, 200, 1e-24), torch.linalg.solve(M, b))
    assert torch.equal(conjugate_gradient(lambda v: M @ v, torch.zeros_like(b), 5), torch.zeros_like(b))


def test_the_step_goes_along_the_natural_gradient():
    """F from the gradients of each log-probability, solved densely."""
    env = CartPole(CartPole.Settings(num_envs=4))
    agent = made(env, network=SMALL, conjugate_steps=200, normalize_advantages=False)
    rollout = collect(agent, env, env.reset(seed=1)[0], 32)
    rows, _ = agent.training_rows(rollout)
    params = list(agent._policy_parameters())
    log_prob = agent.distribution(rows.obs).log_prob(rows.action)
    each = torch.stack([
        torch.cat([x.reshape(-1) for x in torch.autograd.grad(one, params, retain_graph=True)]) for one in log_prob
    ]).double()  # fmt: skip
    g = (each * rows.advantage[:, None]).mean(0)
    F = each.T @ each / len(each) + 0.1 * torch.eye(each.shape[1], dtype=torch.float64)
    direction = torch.linalg.solve(F, g)
    longest = (2 * 0.01 / (direction @ F @ direction)).sqrt() * direction
    before = torch.cat([p.detach().reshape(-1) for p in params])
    metrics = agent._improve(rows)
    moved = torch.cat([p.detach().reshape(-1) for p in params]) - before
    torch.testing.assert_close(moved, metrics["step"] * longest.float(), rtol=2e-3, atol=2e-5)
    assert 0 < metrics["approx_kl"] <= 0.01
    assert metrics["policy_loss"] < -rows.advantage.mean()


def test_steps_that_break_the_constraint_are_shortened_and_in_the_end_not_made(monkeypatch):
    env = CartPole(CartPole.Settings(num_envs=4))
    agent = made(env, network=SMALL)
    rows, _ = agent.training_rows(collect(agent, env, env.reset(seed=1)[0], 32))
    found = iter([1.0, 1.0, 0.001])
    inner = trpo.approx_kl

    def approx_kl(log_ratio):
        return inner(log_ratio) if log_ratio.requires_grad else torch.tensor(next(found))

    monkeypatch.setattr(trpo, "approx_kl", approx_kl)
    assert agent._improve(rows)["step"] == pytest.approx(0.8**2)
    found = iter([1.0] * 10)
    before = [p.detach().clone() for p in agent._policy_parameters()]
    assert agent._improve(rows)["step"] == 0
    assert all(map(torch.equal, before, agent._policy_parameters()))


def test_the_step_does_not_depend_on_the_scale_of_advantages():
    moved = []
    for scale in (1.0, 1e-7):
        env = CartPole(CartPole.Settings(num_envs=4))
        agent = made(env, network=SMALL, normalize_advantages=False)
        rows, _ = agent.training_rows(collect(agent, env, env.reset(seed=1)[0], 32))
        assert agent._improve(rows._replace(advantage=scale * rows.advantage))["step"] > 0
        moved.append(torch.cat([p.detach().reshape(-1) for p in agent._policy_parameters()]))
    torch.testing.assert_close(*moved, rtol=1e-3, atol=1e-4)


def test_it_keeps_the_contract_and_learns():
    env = Identity(Identity.Settings(num_envs=8))
    check_agent(made(env), env)
    assert fit(made(env), env, 12_000)["return"] == 1
    target = Target(Target.Settings(num_envs=8))
    assert fit(made(target, log_std_init=-0.5), target, 12_000)["return"] > -0.02


def test_a_time_limit_is_no_death():
    env = ConstantReward(ConstantReward.Settings(num_envs=8, length=3, end="truncated"))
    agent = made(env, gamma=0.5)
    fit(agent, env, 12_000)
    assert agent.value(env.reset(seed=1)[0]).mean().item() == pytest.approx(2.0, abs=0.05)


def test_one_step_is_refused():
    with pytest.raises(InputError, match="one step shows no direction"):
        made(CartPole(CartPole.Settings(num_envs=1)), horizon=1)
