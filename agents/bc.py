"""Behaviour cloning."""

import torch
from pydantic import model_validator

from rlcore.agent import Metrics
from rlcore.agents.bases.pathwise import PathwiseAgent
from rlcore.agents.bases.policy import PolicyAgent
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks.batch_norm import freeze_batch_norm, update_batch_norm
from rlcore.observations import build_body
from rlcore.rollout import Rollout, Step
from rlcore.trees import Tree


class BC(PathwiseAgent, PolicyAgent):
    """The policy by which what was done is most likely (Pomerleau 1991).

    maximise  E[log pi(a|s)],  (s, a) recorded

    It is supervised learning: an answer is a distribution, its reward the log-likelihood of the recorded action. The
    policy is that of PPO, which can go on from it.
    """

    class Settings(PathwiseAgent.Settings, PolicyAgent.Settings):
        """Settings of behaviour cloning."""

        @model_validator(mode="after")
        def _check_rewards(self) -> "BC.Settings":
            for name in ("gamma", "normalize_rewards"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise InputError(f"{name}: behaviour cloning does not look at rewards; leave it out")
            if self.precision != "float32":
                raise InputError("precision: behaviour cloning computes in float32; leave it out")
            return self

    settings: Settings
    offline = True

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.body = build_body(s.network, self.scaled_space)
        self.policy_head = self._make_head(self.body.num_features)
        self.optimizer = self._make_optimizer()
        self.batch_norms = freeze_batch_norm(self)

    @torch.no_grad()
    def act(self, obs: Tree, state: Tree = None) -> Step:
        """A draw from the policy; obs [N, *O]."""
        return Step(self.distribution(obs).sample())

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes one step of the optimizer."""
        metrics = super().learn(rollout)
        if self.batch_norms:
            update_batch_norm(self.body, self.batch_norms, self.normalized(rollout[0].obs))
        return metrics
