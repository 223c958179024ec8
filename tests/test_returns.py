import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcore.returns import discounted_returns, discounted_sum, explained_variance, gae


def column(*values):
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def flags(*values):
    return torch.tensor(values, dtype=torch.bool).unsqueeze(1)


NEVER = flags(0, 0, 0)


def test_gae_equals_a_hand_computed_table():
    # gamma = lambda = 0.5. Row 1 terminates; row 3 is truncated, its true successor worth 8; row 4 bootstraps from 4.
    reward = column(1, 2, 3, 4, 5)
    value = column(1, 2, 3, 4, 5)
    next_value = column(2, 100, 4, 8, 4)
    terminated, truncated = flags(0, 1, 0, 0, 0), flags(0, 0, 0, 1, 0)
    # delta: 1+1-1=1; 2+0-2=0; 3+2-3=2; 4+4-4=4; 5+2-5=2
    # A_4=2; A_3=4 (cut); A_2=2+0.25*4=3; A_1=0 (cut); A_0=1+0.25*0=1
    expected = column(1, 0, 3, 4, 2)
    assert torch.equal(gae(reward, value, next_value, terminated, truncated, 0.5, 0.5), expected)


def test_gae_where_both_flags_are_set_the_episode_has_ended():
    both = flags(1)
    assert gae(column(1), column(0), column(100), both, both, 0.9, 0.9).item() == 1


def test_gae_with_lambda_0_is_the_one_step_error_and_with_1_the_return_less_value():
    reward, value, next_value = column(1, 1, 1), column(5, 6, 7), column(6, 7, 8)
    one_step = reward + 0.9 * next_value - value
    assert torch.allclose(gae(reward, value, next_value, NEVER, NEVER, 0.9, 0.0), one_step)
    whole = column(1 + 0.9 + 0.81 + 0.729 * 8, 1 + 0.9 + 0.81 * 8, 1 + 0.9 * 8) - value
    assert torch.allclose(gae(reward, value, next_value, NEVER, NEVER, 0.9, 1.0), whole)


def test_discounted_returns_are_cut_at_either_flag():
    reward = column(1, 1, 1, 1)
    got = discounted_returns(reward, flags(0, 1, 0, 0), flags(0, 0, 1, 0), 0.5)
    assert torch.equal(got, column(1.5, 1, 1, 1))


def test_discounted_returns_count_the_successor_of_a_truncated_row_and_of_the_last():
    reward, next_value = column(1, 1, 1), column(10, 20, 40)
    got = discounted_returns(reward, flags(1, 0, 0), flags(0, 1, 0), 0.5, next_value)
    assert torch.equal(got, column(1, 11, 21))


def test_discount_of_minus_one_alternates_signs():
    # The last mover wins: his reward is 1, his opponent's return -1.
    got = discounted_returns(column(0, 0, 1), flags(0, 0, 1), NEVER, -1.0)
    assert torch.equal(got, column(1, -1, 1))


@given(T=st.integers(1, 70), N=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_discounted_sum_equals_the_recursion(T, N, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, N, generator=generator, dtype=torch.float64)
    decay = torch.rand(T, N, generator=generator, dtype=torch.float64).round(decimals=1)
    expected, running = torch.empty_like(x), torch.zeros(N, dtype=torch.float64)
    for t in reversed(range(T)):
        running = expected[t] = x[t] + decay[t] * running
    torch.testing.assert_close(discounted_sum(x, decay), expected)


def test_discounted_sum_leaves_its_arguments_alone():
    x, decay = torch.ones(4, 1), torch.full((4, 1), 0.5)
    discounted_sum(x, decay)
    assert torch.equal(x, torch.ones(4, 1))
    assert torch.equal(decay, torch.full((4, 1), 0.5))


def test_rows_of_a_batch_are_independent():
    torch.manual_seed(1)
    args = [torch.randn(9, 4) for _ in range(3)] + [torch.rand(9, 4) < 0.2 for _ in range(2)]
    batch = gae(*args, 0.9, 0.8)
    for n in range(4):
        torch.testing.assert_close(gae(*(arg[:, n : n + 1] for arg in args), 0.9, 0.8), batch[:, n : n + 1])


@pytest.mark.parametrize(("predicted", "expected"), [([1.0, 2, 3], 1.0), ([2.0, 2, 2], 0.0)])
def test_explained_variance(predicted, expected):
    assert explained_variance(torch.tensor(predicted), torch.tensor([1.0, 2, 3])).item() == pytest.approx(expected)
