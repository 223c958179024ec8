import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from rlcore.distributions import (
    Bernoulli,
    Categorical,
    CategoricalHead,
    DiagonalGaussian,
    GaussianHead,
    SquashedGaussian,
    policy_head,
)
from rlcore.errors import InputError


def test_categorical_equals_torch():
    logits, action = torch.randn(50, 6) * 3, torch.randint(6, (50,))
    ours, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action), atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.entropy(), theirs.entropy(), atol=1e-6, rtol=0)
    assert torch.equal(ours.mode, theirs.mode)


def test_categorical_samples_with_its_probabilities():
    probs = torch.tensor([0.1, 0.2, 0.7])
    counts = Categorical(probs.log().expand(100_000, 3) + 5).sample().bincount(minlength=3)
    torch.testing.assert_close(counts / 100_000, probs, atol=0.006, rtol=0)  # 4 standard errors


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
@pytest.mark.parametrize("rows", [(), (50,)])
def test_gaussian_equals_torch(shape, rows):
    mean, log_std, action = torch.randn(50, *shape), torch.randn(*rows, *shape), torch.randn(50, *shape)
    ours = DiagonalGaussian(mean, log_std)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), len(shape))
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.entropy(), theirs.entropy(), atol=1e-6, rtol=1e-6)
    assert torch.equal(ours.mode, mean)


def test_gaussian_samples_with_its_moments():
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    sample = DiagonalGaussian(mean.expand(100_000, 2), log_std).sample()
    torch.testing.assert_close(sample.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(sample.std(0), log_std.exp(), atol=0.03, rtol=0)


def test_policy_head_begins_near_uniform():
    head = policy_head(32, Discrete(5))
    entropy = head.distribution(head(torch.randn(100, 32))).entropy()
    torch.testing.assert_close(entropy, torch.full((100,), 5.0).log(), atol=1e-2, rtol=0)


def test_policy_head_serves_discrete_and_box():
    assert isinstance(policy_head(8, Discrete(3)), CategoricalHead)
    head = policy_head(8, Box(-1, 1, (2, 3)))
    assert isinstance(head, GaussianHead)
    assert head.distribution(head(torch.randn(7, 8))).sample().shape == (7, 2, 3)


@pytest.mark.parametrize("space", [Box(0, 255, (2,), dtype="uint8"), gymnasium.spaces.Text(3)])
def test_policy_head_names_what_it_serves(space):
    with pytest.raises(InputError, match="supported: Discrete, MultiDiscrete of one dimension, MultiBinary, Box"):
        policy_head(8, space)


SIZES = [2, 5, 3]


@pytest.mark.parametrize("sizes", [SIZES, [4, 4]])
def test_multidiscrete_is_one_categorical_for_each_component(sizes):
    head = policy_head(8, MultiDiscrete(sizes), gain=3.0)
    outputs = head(torch.randn(50, 8))
    ours = head.distribution(outputs)
    each = [torch.distributions.Categorical(logits=x) for x in outputs.split(sizes, 1)]
    action = ours.sample()
    assert action.shape == (50, len(sizes))
    assert (action < torch.tensor(sizes)).all()
    log_prob = sum(pi.log_prob(a) for pi, a in zip(each, action.unbind(1), strict=True))
    torch.testing.assert_close(ours.log_prob(action), log_prob)
    torch.testing.assert_close(ours.entropy(), sum(pi.entropy() for pi in each))
    assert torch.equal(ours.mode, torch.stack([pi.mode for pi in each], 1))
    drawn = head.distribution(outputs[:1].expand(50_000, -1)).sample()
    for d, pi in enumerate(each):
        shares = drawn[:, d].bincount(minlength=sizes[d]) / 50_000
        torch.testing.assert_close(shares, pi.probs[0].detach(), atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_bernoulli_equals_torch(shape):
    logits = torch.randn(50, *shape) * 3
    ours = Bernoulli(logits)
    theirs = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), len(shape))
    action = ours.sample()
    assert action.shape == (50, *shape)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action.float()))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode, (logits > 0).long())
    head = policy_head(8, MultiBinary(shape))
    assert head.distribution(head(torch.randn(50, 8))).sample().shape == (50, *shape)
    share = Bernoulli(logits[:1].expand(50_000, *shape)).sample().float().mean(0)
    torch.testing.assert_close(share, logits[0].sigmoid(), atol=0.01, rtol=0)


@pytest.mark.parametrize("rows", [(), (50, 2)])
def test_squashed_gaussian_equals_torch(rows):
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 5.0])
    mean, log_std = torch.randn(50, 2), torch.tensor([-0.5, 0.3]) + 0.2 * torch.randn(rows)
    ours = SquashedGaussian(mean, log_std, low, high)
    transforms = [
        torch.distributions.TanhTransform(),
        torch.distributions.AffineTransform((low + high) / 2, (high - low) / 2, event_dim=1),
    ]
    base = torch.distributions.Normal(mean, log_std.exp())
    theirs = torch.distributions.TransformedDistribution(torch.distributions.Independent(base, 1), transforms)
    action = ours.sample()
    assert ((action >= low) & (action <= high)).all()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(ours.mode, low + (high - low) * (1 + mean.tanh()) / 2)
    drawn = torch.stack([ours.sample_with_log_prob()[1] for _ in range(4000)])
    torch.testing.assert_close(ours.entropy(), -drawn.mean(0), atol=0.12, rtol=0)
    border = torch.stack([low, high])
    assert SquashedGaussian(mean[:2], torch.zeros(2), low, high).log_prob(border).isfinite().all()


@pytest.mark.parametrize("u", [0.0, 3.0, 12.0])
def test_squashed_draws_know_their_log_probability_however_near_the_border(u):
    """d log p / d mean is 2 tanh(u) on average (of a draw that follows the mean): 2 where tanh has saturated."""
    mean = torch.full((20_000, 1), u, requires_grad=True)
    pi = SquashedGaussian(mean, torch.zeros(1), -torch.ones(1), torch.ones(1))
    action, log_prob = pi.sample_with_log_prob()
    assert ((action >= -1) & (action <= 1)).all()
    log_prob.sum().backward()
    normal = torch.distributions.Normal(u, 1).sample((100_000,))
    assert mean.grad.mean().item() == pytest.approx(2 * normal.tanh().mean().item(), abs=0.03)
    if u == 0:
        torch.testing.assert_close(pi.log_prob(action), log_prob, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.8, 1.0), (-1.5, 0.3), (0.3, 1.5)])
def test_the_density_of_a_squashed_gaussian_integrates_to_one_and_to_its_entropy(mean, std):
    u = torch.linspace(mean - 8 * std, mean + 8 * std, 40_001)[:, None]
    a = (2 * u.double().tanh()).float()
    inside = (a.abs() < 2 * (1 - 1e-5)).squeeze(1)
    log_std, edge = torch.tensor([std]).log(), torch.tensor([2.0])
    pi = SquashedGaussian(torch.full((len(a), 1), mean), log_std, -edge, edge)
    log_density = pi.log_prob(a).double()
    step = torch.gradient(2 * u.double().squeeze(1).tanh())[0] * inside
    assert (log_density.exp() * step).sum().item() == pytest.approx(1, abs=2e-3)
    entropy = -(log_density.exp() * log_density * step).sum().item()
    assert pi.entropy()[0].item() == pytest.approx(entropy, abs=0.01)


@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete(SIZES), MultiBinary(5)])
def test_what_a_mask_forbids_is_never_drawn_and_adds_nothing(space):
    """Entropy, log-probabilities and mode are those of torch's distribution over what is left."""
    head = policy_head(8, space, gain=3.0)
    size = head.out_features
    features = torch.randn(200, 8)
    mask = torch.rand(200, size) < 0.6
    if not isinstance(space, MultiBinary):
        start = 0
        for K in [4] if isinstance(space, Discrete) else SIZES:  # at least one of each choice
            mask[torch.arange(200), start + torch.randint(K, (200,))] = True
            start += K
    pi, free = head.distribution(head(features, mask)), head(features)
    drawn = torch.stack([pi.sample() for _ in range(50)])
    assert pi.entropy().isfinite().all()
    if isinstance(space, MultiBinary):
        assert not drawn[:, ~mask].any()
        reference = torch.distributions.Bernoulli(logits=free)
        torch.testing.assert_close(pi.entropy(), (reference.entropy() * mask).sum(1))
        torch.testing.assert_close(pi.log_prob(drawn[0]), (reference.log_prob(drawn[0].float()) * mask).sum(1))
        return
    entropy, log_prob, start = torch.zeros(200), torch.zeros(200), 0
    columns = drawn.view(50, 200, -1)
    for d, K in enumerate([4] if isinstance(space, Discrete) else SIZES):
        allowed = mask[:, start : start + K]
        assert allowed.gather(1, columns[..., d].T).all()
        reference = torch.distributions.Categorical(logits=free[:, start : start + K].masked_fill(~allowed, -1e30))
        entropy += reference.entropy()
        log_prob += reference.log_prob(columns[0, :, d])
        start += K
    torch.testing.assert_close(pi.entropy(), entropy)
    torch.testing.assert_close(pi.log_prob(drawn[0]), log_prob)


def test_squashing_needs_bounds():
    with pytest.raises(InputError, match="squashed into bounds"):
        policy_head(8, Box(-float("inf"), float("inf"), (2,)), squash=True)
    with pytest.raises(InputError, match="squash: is for actions in a Box"):
        policy_head(8, Discrete(2), squash=True)
    with pytest.raises(InputError, match="this action is a Box"):
        policy_head(8, Box(-1, 1, (2,)))(torch.randn(3, 8), torch.ones(3, 2, dtype=torch.bool))


def test_a_policy_covers_the_box_wherever_it_lies():
    """N(0, 1) in units of the box: the middle and half its width; plain numbers where there are no bounds."""
    low, high = np.array([5.0, -1.0, -np.inf, -4.0]), np.array([35.0, 1.0, np.inf, np.inf])
    space = Box(low, high, dtype=np.float64)
    head = policy_head(8, space, scale=True)
    features = torch.randn(20_000, 8)
    pi = head.distribution(head(features))
    drawn = pi.sample()
    torch.testing.assert_close(drawn.mean(0), torch.tensor([20.0, 0, 0, 0]), atol=0.4, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor([15.0, 1, 1, 1]), atol=0.2, rtol=0)
    scale = torch.tensor([15.0, 1, 1, 1])
    plain = DiagonalGaussian(head(features), head.log_std)
    u = (drawn - torch.tensor([20.0, 0, 0, 0])) / scale
    torch.testing.assert_close(pi.log_prob(drawn), plain.log_prob(u) - scale.log().sum(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pi.entropy(), plain.entropy() + scale.log().sum())
    metrics = head.metrics(drawn)
    assert metrics["action_std"].item() == pytest.approx(18 / 4)
    # of the four numbers two are outside their two bounds with probability 0.317, one is below its one with 0
    assert metrics["clipped_share"].item() == pytest.approx(2 * 0.3173 / 4, abs=0.01)
    for unchanged in (Box(-1, 1, (3,)), Box(-np.inf, np.inf, (3,)), Box(-3e38, 3e38, (3,), np.float32)):
        assert policy_head(8, unchanged, scale=True).scale is None


def test_a_head_saved_without_a_scale_answers_as_it_did():
    space = Box(5, 35, (2,))
    before, now = policy_head(8, space), policy_head(8, space, scale=True)
    now.load_state_dict(before.state_dict())
    features = torch.randn(10, 8)
    assert torch.equal(now.distribution(now(features)).mode, before.distribution(before(features)).mode)
    assert torch.equal(now.distribution(now(features)).log_std.expand(2), before.log_std)
