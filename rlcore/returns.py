"""Returns and advantages of a rollout: free functions on time-major tensors [T, N].

Legend: T time, N environments, gamma the discount, lambda the decay of the trace, V(s') the value of the true
successor (see ``Rollout`` for how it differs from the next row where an episode ended).
"""

import torch
from torch import Tensor


def discounted_sum(x: Tensor, decay: Tensor) -> Tensor:
    """y_t = x_t + decay_t * y_{t+1}, with y_T = 0: every return and advantage here is one of these.

    Computed by doubling (Hillis & Steele 1986): ceil(log2 T) steps on whole tensors instead of T on rows.

    Args:
        x: [T, N].
        decay: [T, N]; zero cuts the sum after that row.

    Returns:
        [T, N].
    """
    width = 1  # each y_t now holds the first `width` terms, each decay_t the product of as many decays
    while width < len(x):
        x = torch.cat([torch.addcmul(x[:-width], decay[: len(x) - width], x[width:]), x[-width:]])
        decay = decay[:-width] * decay[width:]
        width *= 2
    return x


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, equations 11, 12 and 16).

    delta_t = r_t + gamma V(s'_t) - V(s_t);  A_t = delta_t + gamma lambda A_{t+1}. V(s') counts as 0 where the episode
    terminated, and only there; the trace is cut where it terminated or was truncated.

    Args:
        reward: [T, N].
        value: [T, N], V(s_t).
        next_value: [T, N], V of the true successor; used in every row that is not terminated.
        terminated: [T, N] bool, the episode ended.
        truncated: [T, N] bool, the episode was cut short, e.g. by a time limit.
        gamma: discount, [-1, 1].
        gae_lambda: decay of the trace, [0, 1]. 0 is the one-step error, 1 the Monte Carlo return minus V.

    Returns:
        [T, N], A_t. The target of V is A + V.
    """
    delta = reward + gamma * next_value * ~terminated - value
    return discounted_sum(delta, gamma * gae_lambda * ~(terminated | truncated))


def discounted_returns(
    reward: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, next_value: Tensor | None = None
) -> Tensor:
    """Returns to go: G_t = r_t + gamma G_{t+1}, cut at the end of the episode (Sutton & Barto 2018, equation 3.9).

    Args:
        reward: [T, N].
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        gamma: discount, [-1, 1]. -1 is for a game of two players, where each reward is the mover's.
        next_value: [T, N], V of the true successor, added where an episode was truncated and in the last row; None
            adds nothing: the return up to the cut.

    Returns:
        [T, N].
    """
    if next_value is not None:
        cut = truncated & ~terminated
        cut[-1] = ~terminated[-1]
        reward = reward + gamma * next_value * cut
    return discounted_sum(reward, gamma * ~(terminated | truncated))


def explained_variance(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - Var[target - predicted] / Var[target]: 1 is perfect, 0 as good as a constant. 0-d."""
    return 1 - (target - predicted).var() / target.var()


def n_step_returns(reward: Tensor, done: Tensor, n: int, gamma: float) -> tuple[Tensor, Tensor]:
    """The discounted rewards of up to n steps, sum over k < m of gamma^k r_{t+k} (Sutton & Barto 2018, section 7.1).

    A window ends early with its episode, and with the last row: m is n, or what is left.

    Args:
        reward: [T, N].
        done: [T, N] bool, the episode ended in this row, by either flag.
        n: 1 or more.
        gamma: discount.

    Returns:
        The sums [T, N], and m [T, N] int64.
    """
    total, steps, goes_on = reward.clone(), torch.ones_like(done, dtype=torch.int64), ~done
    for k in range(1, min(n, len(reward))):
        inside = goes_on[: len(reward) - k]
        total[:-k] += gamma**k * reward[k:] * inside
        steps[:-k] += inside
        goes_on = inside & ~done[k:]
    return total, steps
