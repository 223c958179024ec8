"""MuZero: a player that learns the model in which it searches."""

from typing import NamedTuple

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore.agent import Metrics
from rlcore.agents.bases.self_play import SelfPlayAgent
from rlcore.distributions import FORBIDDEN, Categorical
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.envs.games.replay import Batch
from rlcore.errors import InputError
from rlcore.exporting.programs import Program, Tensors
from rlcore.game import DISCOUNT
from rlcore.networks import NetworkChoice
from rlcore.rollout import Rollout, Step
from rlcore.search import LearnedGame, SearchResult, gumbels, search, search_gumbel
from rlcore.trees import Tree

SMALLEST_RANGE = 1e-5
"""Of the numbers of a latent state, which is divided by it."""


class Memory(NamedTuple):
    """What MuZero records of a move in N games."""

    policy: Tensor  # [N, A], the search's


class MuZero(SelfPlayAgent):
    """Learns a model of the game, and searches in it: only the moves that are legal at the root come from the rules.

    h turns a position into a latent state s_0, g a latent state and a move into the next one, and f a latent state into
    policy and value. Unrolled along the K moves that were made, the model learns the search's policies pi_k and the
    outcome z_k of the game, for the player who moves there:

    minimise  sum over k <= K of w_k (-sum pi_k log p_k + c_v (z_k - v_k)^2) + weight decay,  w_0 = 1, else 1 / K

    Schrittwieser et al. 2020, "Mastering Atari, Go, chess and shogi by planning with a learned model": latent states
    are scaled to [0, 1], and the gradient is halved at the start of g (appendix G). What follows the end of a game has
    the outcome as its value, whatever is played, and no policy. The search while learning is Gumbel MuZero's (Danihelka
    et al. 2022). Rewards are not learned, as a game of two players has none on the way.
    """

    class Settings(SelfPlayAgent.Settings):
        """Settings of MuZero."""

        latent_size: PositiveInt = 64
        """L, numbers in a latent state."""
        representation: NetworkChoice = NetworkChoice.model_validate({"name": "mlp", "activation": "relu"})
        """h, from planes to latent states."""
        dynamics: NetworkChoice = NetworkChoice.model_validate({"name": "mlp", "activation": "relu"})
        """g, from latent states and one-hot moves to latent states."""
        prediction: NetworkChoice = NetworkChoice.model_validate({"name": "policy_value"})
        """f, from latent states to the logits of the moves and the value."""
        unroll_steps: PositiveInt = 5
        """K, moves along which the model is unrolled."""
        first_play: float | None = -1.0
        """Of puct, the value of a move that was not made before; null is the mean of the position. Above -1 moves that
        cannot be made would be tried in lost positions."""
        simulations: PositiveInt = 16
        """Simulations per search while learning."""
        temperature_moves: NonNegativeInt = 12
        """Moves per game that Gumbel noise samples; afterwards the best is played. Those of a random opening count."""
        value_coefficient: NonNegativeFloat = 1.0
        """c_v, weight of the value loss."""
        max_grad_norm: PositiveFloat | None = None
        """Bound on the gradient's 2-norm; null disables clipping."""

    settings: Settings
    network: "LatentModel"

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        if not self.game.alternates:
            name = type(self.game).__name__
            raise InputError(
                f"agent.name: MuZero plays games of two players who move in turn; for {name} use agent.name=alphazero"
            )
        s, A = self.settings, self.game.num_actions
        self.max_grad_norm = s.max_grad_norm
        h = s.representation.build(self.game.planes_shape, s.latent_size)
        g = s.dynamics.build((s.latent_size + A,), s.latent_size)
        f = s.prediction.build((s.latent_size,), A + 1)
        self.network = LatentModel(h, g, f, A)
        self.optimizer = self._make_optimizer()
        self.eval()

    @property
    def num_following(self) -> int:
        """K."""
        return self.settings.unroll_steps

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Searches with noise; obs [N, S]."""
        s = self.settings
        model, root = self._begin(obs, s.simulations)
        early = self.game.num_moves(obs) < s.temperature_moves
        noise = gumbels(model.legal(root)) * early[:, None]
        found = search_gumbel(model, root, model.evaluate, s.simulations, noise, max_depth=s.max_depth)
        return Step(found.action, Memory(found.policy))

    def search(self, state: Tensor, simulations: int | None = None) -> SearchResult:
        """Searches from states [N, S] without noise, with ``eval_simulations`` or another number of simulations.

        The states of its tree are those of a `LearnedGame`.
        """
        s = self.settings
        num_simulations = s.eval_simulations if simulations is None else simulations
        model, root = self._begin(state, num_simulations)
        return search(model, root, model.evaluate, num_simulations, self.score, max_depth=s.max_depth)

    def distribution(self, obs: Tree) -> Categorical:
        """The model's own policy in states [B, S], without a search."""
        logits, _ = self.policy_and_value(obs)
        return Categorical(logits.masked_fill(~self.game.legal(obs), FORBIDDEN))

    def policy_and_value(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The model's logits [B, A] and value [B] of states [B, S], illegal moves included."""
        return self.network.prediction(self.network.representation(self.game.observe(state)))

    def details(self, obs: Tree, state: Tree = None) -> dict[str, Tensor]:
        """As of every player; and the ``latent`` state [B, L], where its search begins."""
        return {**super().details(obs), "latent": self.network.representation(self.game.observe(obs))}

    def programs(self, obs: Tree, sample: bool = False) -> dict[str, Program]:
        """The initial and the recurrent inference of the paper: of a position, and of a move in a latent state."""
        (initial,) = super().programs(obs, sample).values()
        moves = torch.arange(len(obs), device=obs.device) % self.game.num_actions
        latent = self.network.representation(self.game.observe(obs))

        def run(inputs: Tensors) -> Tensors:
            latent = self.network.dynamics(inputs["latent"], inputs["action"])
            logits, value = self.network.prediction(latent)
            return {"probabilities": logits.softmax(1), "value": value, "next_latent": latent}

        recurrent = Program(run, {"latent": latent, "action": moves}, {"action": str(self.action_space)})
        return {"initial_inference": initial, "recurrent_inference": recurrent}

    def learn(self, rollout: Rollout) -> Metrics:
        """Stores the games that have ended, and takes minibatch steps."""
        self.replay.add(rollout, rollout.memory.policy)
        return self._fit(rollout)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropies to the search's policies, nats, and squared errors to the outcome, along the moves."""
        assert batch.policy is not None
        assert batch.moves is not None
        K = self.settings.unroll_steps
        latent, outcome = self.network.representation(batch.planes), batch.outcome
        policy_loss = value_loss = outcome.new_zeros(())
        for k in range(K + 1):
            logits, value = self.network.prediction(latent)
            weight = 1 if k == 0 else 1 / K
            policy_loss = policy_loss - weight * (batch.policy[:, k] * logits.log_softmax(1)).sum(1).mean()
            value_loss = value_loss + weight * nn.functional.mse_loss(value, outcome)
            if k < K:
                latent = self.network.dynamics(scale_gradient(latent, 0.5), batch.moves[:, k])
                outcome = DISCOUNT * outcome
        loss = policy_loss + self.settings.value_coefficient * value_loss
        return {"loss": loss, "policy_loss": policy_loss, "value_loss": value_loss}

    @torch.no_grad()
    def _begin(self, state: Tensor, num_simulations: int) -> tuple[LearnedGame, Tensor]:
        """The model as a game to search, and its states to begin from, [N, S'], for states [N, S] of the game."""
        model, A, L = self.network, self.game.num_actions, self.settings.latent_size
        game = LearnedGame(model.dynamics, model.prediction, A, L, max_moves=num_simulations)
        return game, game.root(model.representation(self.game.observe(state)), self.game.legal(state))


class LatentModel(nn.Module):
    """MuZero's three functions.

    Args:
        h: network from planes to L numbers.
        g: network from L + A numbers to L.
        f: network from L numbers to A + 1, the logits and the value before tanh.
        num_actions: A.
    """

    def __init__(self, h: nn.Module, g: nn.Module, f: nn.Module, num_actions: int):
        super().__init__()
        self.h, self.g, self.f, self.num_actions = h, g, f, num_actions

    def representation(self, planes: Tensor) -> Tensor:
        """Planes [B, C, H, W] to latent states [B, L]."""
        return unit_range(self.h(planes))

    def dynamics(self, latent: Tensor, move: Tensor) -> Tensor:
        """Latent states [B, L] and moves [B] to the next latent states [B, L]."""
        one_hot = move[:, None] == torch.arange(self.num_actions, device=move.device)
        return unit_range(self.g(torch.cat([latent, one_hot.float()], 1)))

    def prediction(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latent states [B, L] to the logits of the moves [B, A] and the mover's value [B] in [-1, 1]."""
        outputs = self.f(latent)
        return outputs[:, :-1], outputs[:, -1].tanh()


def unit_range(x: Tensor) -> Tensor:
    """Each row of [B, L] scaled to [0, 1] (Schrittwieser et al. 2020, appendix G)."""
    low, high = x.aminmax(dim=1, keepdim=True)
    return (x - low) / (high - low).clamp_min(SMALLEST_RANGE)


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """The same numbers, whose gradient is multiplied by ``scale``."""
    return torch.lerp(x.detach(), x, scale)
