"""AlphaZero: a player that learns from games against itself."""

import copy
from functools import partial
from typing import Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import kl_div

from rlcore.agent import Metrics
from rlcore.agents.bases.self_play import SelfPlayAgent
from rlcore.distributed import size, total
from rlcore.distributions import FORBIDDEN, Categorical
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.envs.games.replay import Batch
from rlcore.errors import InputError
from rlcore.game import Player, different_games, points, random_openings
from rlcore.networks import NetworkChoice
from rlcore.precision import Precision, computed
from rlcore.rollout import Rollout, Step
from rlcore.search import (
    ROOT,
    TINY,
    SearchResult,
    SearchTree,
    dirichlet,
    gumbels,
    pruned_visits,
    search,
    search_gumbel,
)
from rlcore.trees import Tree

EVEN = 0.5
"""The score of a match between equals."""


class Memory(NamedTuple):
    """What AlphaZero records of a move in N games."""

    policy: Tensor  # [N, A], the search's
    value: Tensor  # [N], the search's
    prior: Tensor  # [N, A], the network's policy; -inf for illegal moves
    is_full: Tensor  # [N] bool, whether it is learned from


class AlphaZero(SelfPlayAgent):
    """Searches with a network, and trains the network on the search's policy and the outcome of the game.

    minimise  -sum pi log p + c_v (z - v)^2 + weight decay,  (p, v) the network's, pi the search's, z the outcome

    Silver et al. 2017 and 2018 ("A general reinforcement learning algorithm that masters chess, shogi, and Go through
    self-play"); with ``search: gumbel`` Danihelka et al. 2022. z is the return of the rest of the game with a discount
    of -1. With a gate, as in AlphaGo Zero, the best network so far plays the games, until the one that learns wins a
    match against it; unlike there, a last match at the end of the run is won by half of the points.
    """

    class Settings(SelfPlayAgent.Settings):
        """Settings of AlphaZero."""

        network: NetworkChoice = NetworkChoice.model_validate({"name": "policy_value"})
        """Network from planes to the logits of the moves and the value."""
        search: Literal["gumbel", "puct"] = "gumbel"
        """Search used while learning."""
        eval_search: Literal["gumbel", "puct"] = "puct"
        """Search used in evaluation."""
        simulations: PositiveInt = 16
        """Simulations per search while learning."""
        fast_simulations: PositiveInt | None = None
        """Simulations of fast searches, without noise, whose positions are not learned from (playout cap randomization,
        Wu 2019, section 3.1); null: all are full."""
        full_share: float = Field(default=0.25, gt=0, le=1)
        """With fast searches, the share of full ones; drawn for each move of all games."""
        dirichlet_alpha: PositiveFloat = 1.0
        """With puct, concentration of the Dirichlet noise in the root's prior."""
        noise_fraction: float = Field(default=0.25, ge=0, le=1)
        """With puct, weight of the Dirichlet noise in the root's prior, [0, 1]."""
        root_temperature: PositiveFloat = 1.0
        """With puct while learning, temperature of the root's prior before the noise; KataGo begins with 1.25."""
        forced_visits: NonNegativeFloat = 0.0
        """With puct while learning, k of forced visits at the root, which are pruned from the target (Wu 2019, section
        3.2); 2 in KataGo."""
        reuse_tree: bool = False
        """With puct while learning, continue from the subtree of the move just played; its visits count as well."""
        temperature_moves: NonNegativeInt = 12
        """Moves per game that are sampled, from the visits (puct) or by Gumbel noise; afterwards the best is played.
        Those of a random opening count, and those of chance."""
        max_considered: PositiveInt = 16
        """With gumbel, largest number of moves tried at the root."""
        value_scale: PositiveFloat = 1.0
        """With gumbel, c_scale: scale of the values against the logits."""
        value_coefficient: NonNegativeFloat = 1.0
        """c_v, weight of the value loss."""
        value_mix: float = Field(default=0.0, ge=0, le=1)
        """Weight of the search's value in the target of the value, whose other part is the outcome."""
        surprise: float = Field(default=0.0, ge=0, le=1)
        """Share of learning that goes to positions in proportion to how much the search surprised the network (policy
        surprise weighting; 0.5 in KataGo)."""
        precision: Precision = "float32"
        """Of the network's products and convolutions in the games and the gradient steps that it learns by; evaluation
        and matches are in float32."""
        max_grad_norm: PositiveFloat | None = None
        """Bound on the gradient's 2-norm; null disables clipping."""
        gate_every: PositiveInt | None = None
        """Calls of `learn` between matches of the network against the player; null: the network itself plays."""
        gate_games: int = Field(default=400, ge=2, multiple_of=2)
        """Games per match: half as many openings, each from both sides, by the networks' most likely moves. Openings
        that are the same count once."""
        gate_moves: NonNegativeInt = 6
        """Random moves in each opening of a match."""
        gate_threshold: float = Field(default=0.55, ge=0, le=1)
        """Score of a match, wins plus half of the draws as a share, from which the network replaces the player."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        if s.gate_every is not None and self.game.num_players != 2:
            raise InputError("agent.gate_every: a match is for two players; set it to null")
        if s.reuse_tree and self.game.chance(self.game.initial(1, self.spec.device)) is not None:
            raise InputError("agent.reuse_tree: the tree of the last move does not lead past a throw; set it to false")
        self.max_grad_norm = s.max_grad_norm
        self.network = s.network.build(self.game.planes_shape, self.game.num_actions + 1)
        self.player = copy.deepcopy(self.network).requires_grad_(False) if s.gate_every else self.network
        """The network that plays; without a gate, `network` itself."""
        self.optimizer = self._make_optimizer()
        self.earlier: tuple[SearchTree, Tensor] | None = None
        """The last search's trees, and the moves made."""
        self.num_rollouts = 0
        """Calls of `learn`."""
        self.eval()

    def policy_and_value(self, state: Tensor, network: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B, A] and value [B] of states [B, S], by the player or another network."""
        network = self.player if network is None else network
        outputs = network(self.game.observe(state))
        return outputs[:, :-1], outputs[:, -1].tanh()

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Searches with noise; obs [N, S]."""
        s = self.settings
        legal = self.game.legal(obs)
        early = self.game.num_moves(obs) < s.temperature_moves
        is_full = s.fast_simulations is None or bool(torch.rand(()) < s.full_share)
        simulations = s.simulations if is_full or s.fast_simulations is None else s.fast_simulations
        if s.search == "gumbel":
            found = self._search_gumbel(obs, simulations, gumbels(legal) * early[:, None], s.precision)
            action = found.action
        else:
            found = self._search_puct(obs, simulations, is_full)
            action = torch.where(early, Categorical(found.visits.log()).sample(), found.action)
            if s.reuse_tree:
                self.earlier = found.tree, action
        return Step(action, Memory(found.policy, found.value, found.prior, torch.full_like(early, is_full)))

    def search(self, state: Tensor, simulations: int | None = None) -> SearchResult:
        """Searches from states [N, S] without noise, with ``eval_simulations`` or another number of simulations."""
        s = self.settings
        num_simulations = s.eval_simulations if simulations is None else simulations
        if s.eval_search == "gumbel":
            return self._search_gumbel(state, num_simulations)
        return search(self.game, state, self.policy_and_value, num_simulations, self.score, max_depth=s.max_depth)

    def _search_gumbel(
        self, state: Tensor, simulations: int, noise: Tensor | None = None, precision: Precision = "float32"
    ) -> SearchResult:
        s = self.settings
        evaluate = partial(computed, self.policy_and_value, precision=precision)
        return search_gumbel(
            self.game, state, evaluate, simulations, noise, s.max_considered,
            value_scale=s.value_scale, max_depth=s.max_depth,
        )  # fmt: skip

    def _search_puct(self, state: Tensor, simulations: int, is_full: bool) -> SearchResult:
        """While learning: a full search has noise, and visits that it forced do not count in the policy."""
        s = self.settings
        noise, forced = None, s.forced_visits if is_full else 0.0
        if is_full:
            noise = dirichlet(self.game.legal(state), s.dirichlet_alpha)
        evaluate = partial(computed, self.policy_and_value, precision=s.precision)
        found = search(
            self.game, state, evaluate, simulations, self.score, noise, s.noise_fraction,
            earlier=self.earlier, temperature=s.root_temperature if is_full else 1.0, forced=forced,
            max_depth=s.max_depth,
        )  # fmt: skip
        if not forced:
            return found
        visits = pruned_visits(found.tree.edges(ROOT), forced, s.exploration, s.exploration_base)
        return found._replace(policy=visits / visits.sum(1, keepdim=True))

    def distribution(self, obs: Tree) -> Categorical:
        """The network's own policy in states [B, S], without a search."""
        return self._policy(obs, self.player)

    def learn(self, rollout: Rollout) -> Metrics:
        """Stores the games that have ended, takes minibatch steps, and runs the gate if due."""
        s, memory = self.settings, rollout.memory
        self.num_rollouts += 1
        copies, value = self._copies(memory), memory.value if s.value_mix else None
        self.replay.add(rollout, memory.policy, value, s.value_mix, copies)
        self.earlier = None  # its values are from the network before this update
        metrics = self._fit(rollout, 1.0 if copies is None else copies.double().mean().item())
        if s.gate_every is not None and self.num_rollouts % s.gate_every == 0:
            metrics |= self._gate(s.gate_threshold, "gate")
        return metrics

    def finish(self) -> Metrics:
        """With a gate, plays a last match, from which the network replaces the player if it scores half of the points.

        So the player is no older than it has reason to be. Metrics are ``last_gate_points`` and ``last_gate_passed``.
        """
        return {} if self.settings.gate_every is None else self._gate(EVEN, "last_gate")

    def on_reset(self) -> None:
        """The games in progress were abandoned, with the trees of their last searches."""
        super().on_reset()
        self.earlier = None

    def movers(self) -> dict[str, Player]:
        """With a gate, the most likely move of the network that learns, which may not be the player."""
        return {} if self.player is self.network else {"learner": self._mover(self.network)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy to the search's policy, nats, and squared error to the outcome."""
        outputs = computed(self.network, batch.planes, self.settings.precision)
        log_p = outputs[:, :-1].masked_fill(~batch.legal, FORBIDDEN).log_softmax(1)
        policy_loss = -(batch.policy * log_p).sum(1).mean()
        value_loss = nn.functional.mse_loss(outputs[:, -1].tanh(), batch.outcome)
        loss = policy_loss + self.settings.value_coefficient * value_loss
        return {"loss": loss, "policy_loss": policy_loss, "value_loss": value_loss}

    def _copies(self, memory: Memory) -> Tensor | None:
        """How often each position [T, N] is put into the replay; None: once.

        A share (1 - s) of all goes evenly to the positions of full searches, and s in proportion to their surprise, the
        divergence of the search's policy from the network's (Wu 2020, "KataGo methods", policy surprise weighting).
        """
        s = self.settings
        if s.fast_simulations is None and not s.surprise:
            return None
        full = memory.is_full.float()
        surprise = kl_div(memory.prior.clamp_min(TINY).log(), memory.policy, reduction="none").sum(-1) * full
        weight = (1 - s.surprise) * full + s.surprise * surprise * (full.sum() / surprise.sum().clamp_min(TINY))
        return (weight + torch.rand_like(weight)).long()

    @torch.no_grad()
    def _gate(self, threshold: float, name: str) -> Metrics:
        """A match of the network against the player, which it replaces from a score of ``threshold``."""
        s = self.settings
        generator = torch.Generator(self.spec.device).manual_seed(int(torch.randint(2**31, ())))
        num_openings = max(1, s.gate_games // (2 * size()))  # of several processes, each plays a part of the match
        begin = random_openings(self.game, num_openings, s.gate_moves, generator)
        result = points(different_games(self.game, self._mover(self.network), self._mover(self.player), begin))
        result = total(result) / size()
        if result >= threshold:
            self.player.load_state_dict(self.network.state_dict())
        return {f"{name}_points": result, f"{name}_passed": float(result >= threshold)}

    def _mover(self, network: nn.Module) -> Player:
        return lambda state: self._policy(state, network).mode

    def _policy(self, state: Tensor, network: nn.Module) -> Categorical:
        logits, _ = self.policy_and_value(state, network)
        return Categorical(logits.masked_fill(~self.game.legal(state), FORBIDDEN))
