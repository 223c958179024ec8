import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from rlcore import InputError
from rlcore.normalization import EPSILON, ObservationNormalizer, RewardNormalizer, RunningMoments
from rlcore.rollout import Rollout, Step


def rollout_of(reward, done, valid=None):
    rollout = Rollout()
    nothing = torch.zeros(reward.shape[1])
    for t in range(len(reward)):
        truncated = torch.zeros_like(done[t])
        row = None if valid is None else valid[t]
        rollout.append(nothing, Step(nothing), reward[t], done[t], truncated, {}, row)
    return rollout


@pytest.mark.parametrize("batches", [[100], [1] * 100, [37, 1, 60, 2]])
def test_moments_are_numpys_over_all_rows_in_any_batching(batches):
    x = torch.randn(100, 3, dtype=torch.float64) * torch.tensor([1, 1e-3, 50]) + torch.tensor([0, 1e4, -7])
    moments = RunningMoments((3,))
    for rows in x.split(batches):
        moments.update(rows)
    assert moments.count == 100
    np.testing.assert_allclose(moments.mean, x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, x.numpy().var(0), rtol=1e-6)
    np.testing.assert_allclose(moments.scale, 1 / np.sqrt(x.numpy().var(0) + EPSILON), rtol=1e-5)


def test_before_the_first_rows_nothing_changes():
    x = torch.randn(4, 2)
    assert torch.equal(ObservationNormalizer(Box(-1, 1, (2,)))(x), x)


def test_floats_are_normalised_and_clipped_and_the_rest_is_left():
    space = Dict({"arm": Box(-9, 9, (2,)), "room": Discrete(3), "action_mask": Box(0, 1, (2,))})
    normalizer = ObservationNormalizer(space)
    obs = {"arm": torch.randn(500, 2) * 3 + 5, "room": torch.arange(500), "action_mask": torch.ones(500, 2)}
    normalizer.update(obs)
    seen = normalizer(obs)
    torch.testing.assert_close(seen["arm"].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen["arm"].var(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert seen["room"] is obs["room"]
    assert seen["action_mask"] is obs["action_mask"]
    assert normalizer({**obs, "arm": torch.full((1, 2), 1e6)})["arm"].tolist() == [[10, 10]]
    assert normalizer({key: x.view(5, 100, *x.shape[1:]) for key, x in obs.items()})["arm"].shape == (5, 100, 2)
    with pytest.raises(InputError, match="there are no floats"):
        ObservationNormalizer(Discrete(4))


@pytest.mark.parametrize("cuts", [[60], [1] * 60, [7, 13, 40]])
def test_rewards_are_divided_as_gymnasiums_wrapper_would_with_all_it_has_seen(cuts):
    """The return up to each step, one environment after the other, by a plain loop; in any cutting into rollouts."""
    torch.manual_seed(1)
    reward, done = torch.randn(60, 3) * 2 + 1, torch.rand(60, 3) < 0.1
    seen, R = [], np.zeros(3)
    for t in range(60):
        R = 0.9 * R + reward[t].numpy()
        seen.append(R.copy())
        R = R * ~done[t].numpy()
    normalizer, first = RewardNormalizer(0.9, 3), 0
    for cut in cuts:
        rollout = rollout_of(reward[first : first + cut], done[first : first + cut])
        np.testing.assert_allclose(normalizer.returns(rollout), seen[first : first + cut], rtol=1e-4, atol=1e-5)
        scaled = normalizer(rollout)
        if first:
            std = np.sqrt(np.var(seen[:first]) + EPSILON)
            np.testing.assert_allclose(scaled, (rollout.reward / std).clamp(-10, 10), rtol=1e-4)
        normalizer.update(rollout)
        first += cut
    assert float(normalizer.moments.var) == pytest.approx(np.var(seen), rel=1e-5)
    assert float(normalizer.moments.mean) == pytest.approx(np.mean(seen), rel=1e-5)
    np.testing.assert_allclose(normalizer.running, R, rtol=1e-4, atol=1e-6)


def test_rows_behind_an_episodes_end_do_not_count():
    reward = torch.ones(4, 2)
    done = torch.tensor([[0, 0], [1, 0], [0, 0], [0, 1]]).bool()
    valid = torch.tensor([[1, 1], [1, 1], [0, 1], [0, 1]]).bool()
    normalizer = RewardNormalizer(1.0, 2)
    normalizer.update(rollout_of(reward, done, valid))
    assert float(normalizer.moments.mean) == np.mean([1, 2, 1, 2, 3, 4])
    normalizer.update(rollout_of(reward, done, valid))  # episodes begin anew
    assert float(normalizer.moments.mean) == np.mean([1, 2, 1, 2, 3, 4])


def test_an_agent_may_be_evaluated_in_another_number_of_environments():
    one, other = RewardNormalizer(0.9, 3), RewardNormalizer(0.9, 5)
    one.update(rollout_of(torch.randn(4, 3), torch.zeros(4, 3, dtype=torch.bool)))
    other.load_state_dict(one.state_dict())
    assert other.running.tolist() == [0] * 5  # the returns that were running are of other episodes
    assert torch.equal(other.moments.mean, one.moments.mean)
    rollout = rollout_of(torch.randn(4, 5), torch.zeros(4, 5, dtype=torch.bool))
    assert other(rollout).shape == (4, 5)
    other.update(rollout)
    same = RewardNormalizer(0.9, 3)
    same.load_state_dict(one.state_dict())
    assert torch.equal(same.running, one.running)
    assert same.running.any()


def test_a_single_row_has_no_deviation_to_divide_by():
    moments = RunningMoments((2,))
    moments.update(torch.tensor([[3.0, 5.0]]))
    assert moments.scale.tolist() == [1, 1]
    moments.update(torch.tensor([[5.0, 5.0]]))
    np.testing.assert_allclose(moments.scale, [1, 1e4], rtol=1e-5)
    normalizer, rollout = RewardNormalizer(0.9, 1), rollout_of(torch.tensor([[0.5]]), torch.tensor([[True]]))
    assert normalizer(rollout).tolist() == [[0.5]]
    normalizer.update(rollout)
    assert normalizer(rollout).tolist() == [[0.5]]


def test_what_varies_beside_a_large_offset_is_kept():
    x = 1.7e9 + torch.randn(1000, 1, dtype=torch.float64)
    normalizer = ObservationNormalizer(Box(-np.inf, np.inf, (1,), np.float64))
    normalizer.update(x)
    seen = normalizer(x)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, ((x - x.mean()) / x.std(correction=0)).float(), atol=1e-5, rtol=1e-5)


def test_it_is_gymnasiums_normalisation_of_observations():
    """Beside the wrapper of gymnasium: the same mean and variance but for the 1e-4 observations it begins with."""
    env = gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1"))
    normalizer, seen = ObservationNormalizer(env.observation_space), []
    env.reset(seed=1)
    env.action_space.seed(1)
    seen.append(env.unwrapped._get_obs())
    for _ in range(199):
        env.step(env.action_space.sample())
        seen.append(env.unwrapped._get_obs())
    normalizer.update(torch.as_tensor(np.array(seen)))
    np.testing.assert_allclose(normalizer.single.mean, env.obs_rms.mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(normalizer.single.var, env.obs_rms.var, rtol=1e-3)
