import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from trainers import make_trainer

from rlcore import Trainer
from rlcore.agents.reinforce import Reinforce
from rlcore.envs.cartpole import CartPole
from rlcore.optimizers import SGD, Adam, clip_grad_norm


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def run(net, optimizer, steps, seed=7):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(4, 3, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("settings", [{}, {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.1}])
def test_adam_gives_the_bits_of_torchs_fused_adam(settings):
    ours, theirs = network(), network()
    run(ours, Adam(ours.parameters(), **settings), 20)
    run(theirs, torch.optim.Adam(theirs.parameters(), fused=True, **settings), 20)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_decoupled_weight_decay_gives_the_bits_of_torchs_adamw(weight_decay):
    ours, theirs = network(), network()
    run(ours, Adam(ours.parameters(), weight_decay=weight_decay, decoupled_weight_decay=True), 20)
    run(theirs, torch.optim.AdamW(theirs.parameters(), weight_decay=weight_decay, fused=True), 20)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_without_bias_correction_adam_divides_the_running_means_as_they_are():
    x, lr, eps = torch.zeros(3, requires_grad=True), 0.01, 1e-8
    optimizer = Adam([x], lr=lr, eps=eps, bias_correction=False)
    mean, square, expected = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for step in range(4):
        x.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
        mean, square = 0.9 * mean + 0.1 * x.grad, 0.999 * square + 0.001 * x.grad.square()
        expected = expected - lr * mean / (square.sqrt() + eps)
        optimizer.step()
        torch.testing.assert_close(x.detach(), expected)
    assert abs(float(expected[0])) > 3 * lr  # the first step alone is lr sqrt(10)


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.1}])
def test_sgd_gives_the_bits_of_torchs_fused_sgd(settings):
    ours, theirs = network(), network()
    run(ours, SGD(ours.parameters(), lr=0.02, **settings), 20)
    run(theirs, torch.optim.SGD(theirs.parameters(), lr=0.02, fused=True, **settings), 20)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_sgd_goes_on_from_its_state():
    whole, half = network(), network()
    run(whole, unbroken := SGD(whole.parameters(), momentum=0.9), 3, seed=1)
    run(half, first := SGD(half.parameters(), momentum=0.9), 3, seed=1)
    run(whole, unbroken, 3, seed=2)
    second = SGD(half.parameters(), momentum=0.9)
    second.load_state_dict(first.state_dict())
    run(half, second, 3, seed=2)
    assert all(map(torch.equal, whole.parameters(), half.parameters()))


def test_adam_goes_on_from_its_state_and_from_torchs():
    whole, half = network(), network()
    run(whole, Adam(whole.parameters()), 6, seed=1)
    first = Adam(half.parameters())
    run(half, first, 3, seed=1)
    for kind in (Adam, torch.optim.Adam):
        net = copy.deepcopy(half)
        second = kind(net.parameters())
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert {float(row["step"]) for row in second.state.values()} == {3.0}
        run(net, second, 1, seed=2)
    third = Adam(half.parameters())
    third.load_state_dict(first.state_dict())
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        torch.randn(4, 3, generator=generator)
    for _ in range(3):
        third.zero_grad()
        half(torch.randn(4, 3, generator=generator)).square().sum().backward()
        third.step()
    for a, b in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(a, b)


def test_adam_leaves_parameters_without_gradient_alone():
    net = network()
    before = net[0].weight.clone()
    optimizer = Adam(net.parameters())
    net[2](torch.ones(1, 5)).sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight, before)


def test_adam_begins_anew_once_its_state_is_cleared():
    ours, fresh = network(), network()
    optimizer = Adam(ours.parameters(), lr=0.1)
    run(ours, optimizer, 5)
    optimizer.state.clear()
    ours.load_state_dict(fresh.state_dict())
    run(ours, optimizer, 3)
    run(fresh, Adam(fresh.parameters(), lr=0.1), 3)
    assert all(map(torch.equal, ours.parameters(), fresh.parameters()))


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_group_without_any_gradient_is_left_alone(kind):
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = kind([{"params": [a]}, {"params": [b]}], lr=0.1)
    a.square().sum().backward()
    optimizer.step()
    assert a.tolist() != [1, 1]
    assert b.tolist() == [1, 1]


def test_adam_skips_the_step_where_found_inf_is_set():
    net = network()
    optimizer = Adam(net.parameters())
    run(net, optimizer, 1)
    before = copy.deepcopy(net.state_dict())
    optimizer.found_inf = torch.tensor(1.0)
    run(net, optimizer, 1)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert float(optimizer.state[net[0].weight]["step"]) == 1


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clip_grad_norm_equals_torchs(max_norm):
    net = network()
    net(torch.randn(4, 3)).square().sum().backward()
    ours = [param.grad.clone() for param in net.parameters()]
    norm = clip_grad_norm(ours, max_norm)
    expected = nn.utils.clip_grad_norm_(net.parameters(), max_norm)
    torch.testing.assert_close(norm, expected)
    for a, param in zip(ours, net.parameters(), strict=True):
        torch.testing.assert_close(a, param.grad)


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_what_was_saved_in_another_layout_goes_on_alike(kind):
    """Channels last or first: the kernel walks parameter and state as they lie in memory."""

    def stepped(network, optimizer, times):
        for _ in range(times):
            network(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    x, settings = torch.randn(2, 4, 6, 6), {"lr": 0.01, **({"momentum": 0.9} if kind is SGD else {})}
    first, last = torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    one, other = kind(first.parameters(), **settings), kind(last.parameters(), **settings)
    stepped(first, one, 2)
    last.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    stepped(first, one, 2)
    stepped(last, other, 2)
    torch.testing.assert_close(last.weight, first.weight)


@pytest.mark.parametrize("kind", [Adam, torch.optim.SGD])
def test_groups_keep_the_ratio_of_their_rates(kind):
    """A group with rate 0 stays where it is, whatever the schedule, resumed too."""

    class TwoRates(Reinforce):
        def __init__(self, env, settings):
            super().__init__(env, settings)
            groups = [
                {"params": [*self.body.parameters()], "lr": 0.0},
                {"params": [self.policy_head.weight], "lr": 2e-3},
                {"params": [self.policy_head.bias]},
            ]
            self.optimizer = kind(groups, lr=1e-3)

    def trainer(total_steps=4000, **settings):
        torch.manual_seed(1)
        env = CartPole()
        agent = TwoRates(env, Reinforce.Settings(learning_rate_schedule="linear", **settings))
        return Trainer(agent, env, total_steps=total_steps)

    one = trainer()
    frozen = [param.clone() for param in one.agent.body.parameters()]
    one.update()
    one.update()
    progress = one.steps / 4000
    one.update()
    rates = [group["lr"] for group in one.agent.optimizer.param_groups]
    assert rates == pytest.approx([0, 2e-3 * (1 - progress), 1e-3 * (1 - progress)])
    assert all(map(torch.equal, one.agent.body.parameters(), frozen))
    saved = one.checkpoint()
    old = copy.deepcopy(saved)
    for group in old["learns"]["agent"]["optimizers"]["optimizer"]["param_groups"]:
        del group["initial_lr"]  # as rlcore 0.1 saved it
    progress = one.steps / 4000
    for content in (saved, old):
        again = trainer()
        again.restore(content)
        again.update()
        rates = [group["lr"] for group in again.agent.optimizer.param_groups]
        assert rates == pytest.approx([0, 2e-3 * (1 - progress), 1e-3 * (1 - progress)])
    changed = trainer(learning_rate=5e-3)
    changed.restore(saved)
    changed.update()
    rates = [group["lr"] for group in changed.agent.optimizer.param_groups]
    assert rates == pytest.approx([0, 1e-2 * (1 - progress), 5e-3 * (1 - progress)])


def test_a_setting_that_a_checkpoint_does_not_know_is_no_change():
    """What is saved by one version is resumed by the next, which has more settings, as it was."""
    one, other = make_trainer("ppo"), make_trainer("ppo")
    one.update()
    saved = one.agent.checkpoint()
    del saved["settings"]["value_network"], saved["settings"]["network"]["activation"]
    saved["optimizers"]["optimizer"]["param_groups"][0]["lr"] = 0.123
    other.agent.restore(saved)
    assert other.agent.optimizer.param_groups[0]["lr"] == 0.123
    saved["settings"]["value_network"] = {"name": "mlp"}
    another = make_trainer("ppo")
    another.agent.restore(saved)
    assert another.agent.optimizer.param_groups[0]["lr"] == 3e-4


def test_a_step_imports_no_compiler():
    """torch's own methods import torch._dynamo and sympy when they are first called: a second and a half."""
    program = """
import sys, torch
from rlcore.optimizers import Adam
x = torch.nn.Parameter(torch.ones(2))
optimizer = Adam([x])
optimizer.zero_grad()
x.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
