"""AlphaGo: a value network that learns from a policy's games against itself, and a search with both."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore.agent import Metrics
from rlcore.agents.bases.self_play import SelfPlayAgent
from rlcore.distributions import Categorical
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.envs.games.players import load_for
from rlcore.envs.games.replay import Batch
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.rollout import Rollout, Step
from rlcore.search import Evaluator, SearchResult, mixed, playouts, search
from rlcore.settings import ResolvedPath
from rlcore.trees import Tree


class AlphaGo(SelfPlayAgent):
    """The second and third stage of AlphaGo, with a policy that has already been trained (Silver et al. 2016, methods).

    The policy plays against itself, and a value network learns the outcomes: minimise E[(z - v(s))^2]. In evaluation a
    search plays the most visited move: priors are the policy's, and the value of a leaf is (1 - w) v + w z, z being the
    outcome of a game from there. The policy's parameters are read from its run when the agent is made;
    from then on they are in this agent's checkpoints.
    """

    class Settings(SelfPlayAgent.Settings):
        """Settings of AlphaGo."""

        policy: ResolvedPath
        """Run folder of an agent with a distribution over the same game's moves, e.g. with ``env.name=versus``."""
        network: NetworkChoice = NetworkChoice.model_validate({"name": "mlp"})
        """Network from planes to the value before tanh."""
        prior_temperature: PositiveFloat = 1.0
        """Temperature of the policy as prior of the search; above 1 the prior is flatter."""
        value_weight: float = Field(default=0.5, ge=0, le=1)
        """w, weight of the games from there in a leaf's value; 0 is the value network alone."""
        rollouts: Literal["random", "policy"] = "random"
        """Who plays these games: random moves, or the policy, which evaluates its network for each move of them."""
        expand_after: PositiveInt = 1
        """Simulations that must reach a position before it joins the tree."""
        replay_size: PositiveInt = 500_000
        """Positions kept; the oldest are dropped first."""
        passes: PositiveFloat = 2.0
        """Average number of times that a position is learned from."""
        one_of_each_game: bool = False
        """Learn from one position of each game, drawn at random, as AlphaGo did: those of one game share an outcome,
        which the network would learn by heart."""

    settings: Settings
    learns_policy = False

    def __init__(self, env: Environment | EnvSpec, settings: Settings):
        super().__init__(env, settings)
        s = self.settings
        try:
            policy, self.observe = load_for(self.game, s.policy, None, env.device, "agent.policy")
        except InputError as error:
            raise InputError(f"{error}; agent.policy should name a run, e.g. with env.name=versus") from error
        self.policy = policy.requires_grad_(False)
        self.network = s.network.build(self.game.planes_shape, 1)
        self.optimizer = self._make_optimizer()
        self.eval()

    def distribution(self, obs: Tree) -> Categorical:
        """The policy in states [B, S]."""
        pi = self.policy.distribution(self.observe(obs))
        assert isinstance(pi, Categorical)
        return pi

    def value(self, state: Tensor) -> Tensor:
        """States [B, S] to values [B] in [-1, 1] for the mover."""
        return self.network(self.game.observe(state)).squeeze(1).tanh()

    def policy_and_value(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's logits [B, A] at the prior temperature, and the value [B], of states [B, S]."""
        return self.distribution(state).logits / self.settings.prior_temperature, self.value(state)

    @property
    def evaluate(self) -> Evaluator:
        """What the search evaluates states by; made anew, as a closure cannot be pickled with the agent."""
        w = self.settings.value_weight
        if not w:
            return self.policy_and_value
        player = None if self.settings.rollouts == "random" else lambda state: self.distribution(state).sample()
        return mixed(self.policy_and_value, playouts(self.game, player), w)

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Draws from the policy; obs [N, S]."""
        return Step(self.distribution(obs).sample())

    def search(self, state: Tensor, simulations: int | None = None) -> SearchResult:
        """Searches from states [N, S], with ``eval_simulations`` or another number of simulations."""
        s = self.settings
        num_simulations = s.eval_simulations if simulations is None else simulations
        return search(
            self.game, state, self.evaluate, num_simulations, self.score,
            expand_after=s.expand_after, max_depth=s.max_depth,
        )  # fmt: skip

    def learn(self, rollout: Rollout) -> Metrics:
        """Stores the games that have ended, and fits the value network to their outcomes."""
        if not self.settings.one_of_each_game:
            self.replay.add(rollout)
            return self._fit(rollout)
        num_added = self.replay.add(rollout, one_of_each_game=True)
        return self._fit(rollout, num_added / rollout.num_steps)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The squared error to the outcome."""
        value_loss = nn.functional.mse_loss(self.network(batch.planes).squeeze(1).tanh(), batch.outcome)
        return {"loss": value_loss, "value_loss": value_loss}
