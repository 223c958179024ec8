import gymnasium
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary

from rlcore.distributions import Categorical, CategoricalHead, DiagonalGaussian, GaussianHead, policy_head
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
def test_gaussian_equals_torch(shape):
    mean, log_std, action = torch.randn(50, *shape), torch.randn(shape), torch.randn(50, *shape)
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


@pytest.mark.parametrize("space", [MultiBinary(3), Box(0, 255, (2,), dtype="uint8"), gymnasium.spaces.Text(3)])
def test_policy_head_names_what_it_serves(space):
    with pytest.raises(InputError, match="served: Discrete, Box"):
        policy_head(8, space)
