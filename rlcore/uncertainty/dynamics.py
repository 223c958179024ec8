"""What usually follows: networks that predict the next observation, and how surprising another one is."""

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor
from torch.nn import functional as F

from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks.critics import Critics
from rlcore.networks.mlp import MLP
from rlcore.optimizers import Adam
from rlcore.rollout import Rollout
from rlcore.schedules import anneal

LOG_STD = -6.0, 2.0
"""Bounds of the logarithm of a predicted standard deviation, in units of that of the changes."""
NARROWEST = 1e-6
"""Least standard deviation that numbers are divided by, for those that are constant."""


class DynamicsEnsemble:
    """K networks, each of which says what a step changes in the observation, as independent normals.

    PETS' model of the physics (Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials"), fitted to
    episodes in which they were as usual. Together the networks are one normal with the mean and the variance of their
    mixture, which is wide where the next observation is noisy or where they disagree for lack of data. How far from it
    an observation is, is evidence of other physics, unlike how unusual a state is, or an agent's doubt about it.

    Fitting draws from torch's global generator.

    Args:
        env: whose observations are a Box of numbers, and whose actions a Box or one of several.
        nominal: whole episodes.
        members: K.
        hidden: units of the hidden layers of each network.
        num_updates: steps of Adam.
        batch_size: of each.
        learning_rate: at first; it falls to 0 by a cosine.

    Raises:
        InputError: the spaces are others, or the episodes have no step that did not end one.
    """

    def __init__(
        self,
        env: Environment | EnvSpec,
        nominal: Rollout,
        members: int = 5,
        hidden: tuple[int, ...] = (64, 64),
        num_updates: int = 10_000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
    ):
        require_numbers(env)
        self.action_space = env.single_action_space
        inputs, changes = self._rows(nominal)
        known = nominal.valid & ~nominal.terminated
        if not known.any():
            raise InputError("nominal: no step of these episodes has a successor; they end at once")
        inputs, changes = inputs[known], changes[known]
        self.inputs, self.changes = _Scale(inputs), _Scale(changes)
        inputs, changes = self.inputs(inputs), self.changes(changes)
        settings = MLP.Settings(hidden=list(hidden), activation="relu")
        self.networks = Critics(members, inputs.shape[1], 2 * changes.shape[1], settings).to(inputs.device)
        optimizer = Adam(self.networks.parameters())
        for update in range(num_updates):
            anneal(optimizer, learning_rate, "cosine", update / num_updates)
            rows = torch.randint(len(inputs), (batch_size,), device=inputs.device)
            mean, log_std = self._predicted(inputs[rows])
            loss = (0.5 * ((changes[rows] - mean) / log_std.exp()).square() + log_std).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def surprise(self, rollout: Rollout) -> Tensor:
        """How surprising what followed each step is: log(1 + z^2), [T, N]; NaN where a step has no known successor.

        z^2 is the mean over the D numbers of an observation of (x_d - mean_d)^2 / variance_d, so about 1 in the physics
        of the fit. The logarithm is that of a heavy-tailed likelihood (Student's t): a rare jolt, as of a contact,
        counts for less than steps that are all a little wrong.
        """
        inputs, changes = self._rows(rollout)
        mean, log_std = self._predicted(self.inputs(inputs).flatten(0, 1))
        variance = (2 * log_std).exp().mean(0) + mean.var(0, correction=0)
        error = self.changes(changes).flatten(0, 1) - mean.mean(0)
        surprise = (error.square() / variance).mean(1).log1p().view_as(rollout.reward)
        return surprise.masked_fill(~rollout.valid | rollout.terminated, torch.nan)

    def _predicted(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of the scaled changes, [K, B, D] both; inputs [B, I]."""
        mean, log_std = self.networks(inputs).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def _rows(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Observation and action of each step, [T, N, I], and the change of the observation, [T, N, D]."""
        space, action, obs = self.action_space, rollout.action, rollout.obs.flatten(2)
        action = F.one_hot(action, int(space.n)) if isinstance(space, Discrete) else action.flatten(2)
        return torch.cat([obs, action.to(obs.dtype)], -1).float(), (rollout.next_obs.flatten(2) - obs).float()


class _Scale:
    """Mean 0 and standard deviation 1 of rows [B, D]."""

    def __init__(self, rows: Tensor):
        self.mean, self.std = rows.mean(0), rows.std(0).clamp_min(NARROWEST)

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.std


def require_numbers(env: Environment | EnvSpec) -> None:
    """Raises an InputError unless observations are a Box of numbers, and actions a Box or one of several."""
    space, action = env.single_observation_space, env.single_action_space
    if not isinstance(space, Box) or space.dtype.kind != "f" or not isinstance(action, (Box, Discrete)):
        raise InputError(f"dynamics: predicts observations that are a Box of floats, got {space} and actions {action}")
