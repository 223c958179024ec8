"""TD3 with behaviour cloning."""

from pydantic import PositiveFloat
from torch import Tensor

from rlcore.agents.bases.offline import OfflineAgent
from rlcore.agents.td3 import TwinDelayed
from rlcore.distributed import mean
from rlcore.rollout import Transition


class TD3BC(OfflineAgent, TwinDelayed):
    """TD3 whose policy also stays near what was done (Fujimoto & Gu 2021, "A Minimalist Approach to Offline RL").

    policy   maximise  E[lambda Q_1(s, pi(s)) - (pi(s) - a)^2],  lambda = alpha / E|Q_1(s, pi(s))|
    """

    class Settings(TwinDelayed.Settings):
        """Settings of TD3 with behaviour cloning."""

        alpha: PositiveFloat = 2.5
        """Weight of the critic; small: imitate."""

    settings: Settings

    def _policy_loss(self, b: Transition) -> Tensor:
        numbers = self.policy(b.obs).tanh()
        Q = self.critic(b.obs, numbers, frozen=True, which=slice(1))
        weight = self.settings.alpha / mean(Q.detach().abs().mean())
        return (numbers - self._numbers(b.action)).square().mean() - weight * Q.mean()
