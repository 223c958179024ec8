"""What usually follows: networks that predict the next observation, and how surprising another one is."""

from typing import Any

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
"""Bounds of the logarithm of a predicted standard deviation, in units of that of the targets."""
NARROWEST = 1e-6
"""Least standard deviation that numbers are divided by, for those that are constant."""


class NormalEnsemble:
    """K networks fitted to rows, each of which says targets as independent normals (Lakshminarayanan et al. 2017).

    Together they are one normal with the mean and the variance of their mixture, which is wide where targets are noisy
    and where the networks disagree for lack of data. Fitting draws from torch's global generator.

    Args:
        inputs: [B, I].
        targets: [B, D].
        members: K.
        hidden: units of the hidden layers of each network.
        num_updates: steps of Adam.
        batch_size: of each.
        learning_rate: at first; it falls to 0 by a cosine.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        members: int = 5,
        hidden: tuple[int, ...] = (64, 64),
        num_updates: int = 10_000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
    ):
        self.inputs, self.targets = Standardized(inputs), Standardized(targets)
        x, y = self.inputs(inputs), self.targets(targets)
        settings = MLP.Settings(hidden=list(hidden), activation="relu")
        self.networks = Critics(members, x.shape[1], 2 * y.shape[1], settings).to(x.device)
        optimizer = Adam(self.networks.parameters())
        for update in range(num_updates):
            anneal(optimizer, learning_rate, "cosine", update / num_updates)
            rows = torch.randint(len(x), (batch_size,), device=x.device)
            mean, log_std = self._predicted(x[rows])
            loss = (0.5 * ((y[rows] - mean) / log_std.exp()).square() + log_std).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def surprise(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """How far targets [B, D] are from what is predicted of inputs [B, I]: log(1 + z^2), [B].

        z^2 is the mean over the D numbers of (y_d - mean_d)^2 / variance_d, so about 1 for rows like those of the fit.
        The logarithm is that of a heavy-tailed likelihood (Student's t): a rare jolt, as of a contact, counts for less
        than rows that are all a little wrong.
        """
        mean, log_std = self._predicted(self.inputs(inputs))
        variance = (2 * log_std).exp().mean(0) + mean.var(0, correction=0)
        return ((self.targets(targets) - mean.mean(0)).square() / variance).mean(1).log1p()

    def _predicted(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of standardised targets, [K, B, D] both; inputs the same."""
        mean, log_std = self.networks(inputs).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)


class DynamicsEnsemble:
    """Says what a step changes in the observation, by a `NormalEnsemble`.

    PETS' model of the physics (Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials"), fitted to
    episodes in which they were as usual. That what follows is far from what is predicted is evidence of other physics,
    unlike how unusual a state is, or the agent's doubt about it (Haider et al. 2023, "Out-of-Distribution Detection for
    Reinforcement Learning Agents with Probabilistic Dynamics Models").

    Args:
        env: whose observations are a Box of floats, and whose actions a Box or one of several.
        nominal: whole episodes.
        members: see `NormalEnsemble`.
        num_updates: the same.

    Raises:
        InputError: the spaces are others, or the episodes have no step that did not end one.
    """

    def __init__(self, env: Environment | EnvSpec, nominal: Rollout, members: int = 5, num_updates: int = 10_000):
        require_numbers(env)
        self.action_space = env.single_action_space
        known = with_successor(nominal)
        if not known.any():
            raise InputError("nominal: no step of these episodes has a successor; they end at once")
        obs, action, next_obs = (x[known] for x in (nominal.obs, nominal.action, nominal.next_obs))
        self.ensemble = NormalEnsemble(
            self.inputs(obs, action), _change(obs, next_obs), members, num_updates=num_updates
        )

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """The surprise of what followed, [B]; see `NormalEnsemble.surprise`.

        Args:
            obs: [B, *O].
            action: [B, *A], counted from 0 if it is one of several.
            next_obs: [B, *O], the true ones, not the first of the next episode.
        """
        return self.ensemble.surprise(self.inputs(obs, action), _change(obs, next_obs))

    def surprise(self, rollout: Rollout) -> Tensor:
        """That of each step, [T, N]; NaN after the end of whole episodes, and where a step terminated one."""
        each = self(*(x.flatten(0, 1) for x in (rollout.obs, rollout.action, rollout.next_obs)))
        return each.view_as(rollout.reward).masked_fill(~with_successor(rollout), torch.nan)

    def inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """What predictions are made from, [B, I] float32."""
        space: Any = self.action_space
        numbers = F.one_hot(action, int(space.n)) if isinstance(space, Discrete) else action.flatten(1)
        return torch.cat([obs.flatten(1).float(), numbers.float()], 1)


class Standardized:
    """Rows [B, D] to mean 0 and standard deviation 1 as of those given."""

    def __init__(self, rows: Tensor):
        self.mean, self.std = rows.mean(0), rows.std(0).clamp_min(NARROWEST)

    def __call__(self, rows: Tensor) -> Tensor:
        """[B, D] to [B, D]."""
        return (rows - self.mean) / self.std


def with_successor(rollout: Rollout) -> Tensor:
    """The steps after which there is a true next observation in the rollout, [T, N] bool."""
    return rollout.valid & ~rollout.terminated


def require_numbers(env: Environment | EnvSpec) -> None:
    """Raises an InputError unless observations are a Box of floats, and actions a Box or one of several."""
    space, action = env.single_observation_space, env.single_action_space
    if not isinstance(space, Box) or space.dtype.kind != "f" or not isinstance(action, (Box, Discrete)):
        raise InputError(f"a model of the dynamics: needs a Box of floats to predict, got {space} and actions {action}")


def _change(obs: Tensor, next_obs: Tensor) -> Tensor:
    return (next_obs - obs).flatten(1).float()
