"""AlphaZero: a player that learns from games against itself."""

import copy
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore import settings
from rlcore.agent import Agent, Metrics
from rlcore.agents.game_replay import GameReplay
from rlcore.distributions import FORBIDDEN, Categorical
from rlcore.envs.selfplay import SelfPlayEnv
from rlcore.errors import InputError
from rlcore.game import Game, Player, mirrored_contest, points, random_openings
from rlcore.networks import NetworkChoice
from rlcore.optimizers import Adam
from rlcore.rollout import Rollout, Step
from rlcore.schedules import Schedule, anneal
from rlcore.search import Found, SearchTree, dirichlet, gumbels, puct, search, search_gumbel
from rlcore.trees import Tree


class Memory(NamedTuple):
    """What AlphaZero records of a move in N games."""

    policy: Tensor  # [N, A], the search's


class AlphaZero(Agent):
    """Searches with a network, and trains the network on the search's policy and the outcome of the game.

    minimise  -sum pi log p + c_v (z - v)^2 + weight decay,  (p, v) the network's, pi the search's, z the outcome

    Silver et al. 2017 and 2018 ("A general reinforcement learning algorithm that masters chess, shogi, and Go through
    self-play"); with ``search: gumbel`` Danihelka et al. 2022. z is the return of the rest of the game with a discount
    of -1; positions wait until their game has ended. Weight decay is decoupled from the gradient (AdamW). With a gate,
    as in AlphaGo Zero, the best network so far plays the games, until the one that learns wins a match against it.
    """

    class Settings(settings.Settings):
        """Settings of AlphaZero."""

        horizon: PositiveInt = 16
        """T, moves in each game between two calls of `learn`."""
        network: NetworkChoice = NetworkChoice.model_validate({"name": "policy_value"})
        """Network from planes to the logits of the moves and the value."""
        search: Literal["gumbel", "puct"] = "gumbel"
        """Search used while learning; evaluation always uses puct."""
        simulations: PositiveInt = 16
        """Simulations per search while learning."""
        eval_simulations: PositiveInt = 200
        """Simulations per search in evaluation, by puct and without noise."""
        exploration: PositiveFloat = 1.25
        """Exploration constant c of puct."""
        dirichlet_alpha: PositiveFloat = 1.0
        """With puct, concentration of the Dirichlet noise in the root's prior."""
        noise_fraction: float = Field(0.25, ge=0, le=1)
        """With puct, weight of the Dirichlet noise in the root's prior, [0, 1]."""
        reuse_tree: bool = False
        """With puct while learning, continue from the subtree of the move just played; its visits count as well."""
        temperature_moves: NonNegativeInt = 12
        """Moves per game that are sampled, from the visits (puct) or by Gumbel noise; afterwards the best is played.
        Those of a random opening count."""
        max_considered: PositiveInt = 16
        """With gumbel, largest number of moves tried at the root."""
        value_scale: PositiveFloat = 1.0
        """With gumbel, c_scale: scale of the values against the logits."""
        replay_size: PositiveInt = 200_000
        """Positions kept; the oldest are dropped first."""
        batch_size: PositiveInt = 512
        """Positions per gradient step."""
        passes: PositiveFloat = 4.0
        """Average number of times that a position is learned from."""
        learning_rate: PositiveFloat = 1e-3
        """Step size of AdamW, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How the learning rate falls over the run."""
        weight_decay: NonNegativeFloat = 1e-4
        """Weight decay, decoupled from the gradient (AdamW)."""
        value_coefficient: NonNegativeFloat = 1.0
        """c_v, weight of the value loss."""
        symmetries: bool = True
        """Transform each position that is learned from by a random symmetry of the game."""
        max_grad_norm: PositiveFloat | None = None
        """Bound on the gradient's 2-norm; null disables clipping."""
        gate_every: PositiveInt | None = None
        """Calls of `learn` between matches of the network against the player; null: the network itself plays."""
        gate_games: int = Field(400, ge=2, multiple_of=2)
        """Games per match: half as many openings, each from both sides, by the networks' most likely moves."""
        gate_moves: NonNegativeInt = 6
        """Random moves in each opening of a match."""
        gate_threshold: float = Field(0.55, ge=0, le=1)
        """Score of a match, wins plus half of the draws as a share, from which the network replaces the player."""

    settings: Settings

    def __init__(self, env: Any, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        if not isinstance(env, SelfPlayEnv):
            raise InputError("agent.name: alphazero plays games against itself; use env.name=selfplay")
        self.game: Game = env.game
        self.horizon, self.max_grad_norm = s.horizon, s.max_grad_norm
        self.network = s.network.build(self.game.planes_shape, self.game.num_actions + 1)
        self.player = copy.deepcopy(self.network).requires_grad_(False) if s.gate_every else self.network
        """The network that plays; without a gate, `network` itself."""
        self.optimizer = Adam(
            self.network.parameters(), s.learning_rate, weight_decay=s.weight_decay, decoupled_weight_decay=True
        )
        self.replay = GameReplay(self.game, s.replay_size, s.symmetries)
        self.earlier: tuple[SearchTree, Tensor] | None = None
        """The last search's trees, and the moves made."""
        self.num_rollouts = 0
        """Calls of `learn`."""
        self.eval()

    def judge(self, state: Tensor, network: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B, A] and value [B] of states [B, S], by the player or another network."""
        network = self.player if network is None else network
        outputs = network(self.game.observe(state))
        return outputs[:, :-1], outputs[:, -1].tanh()

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Searches with noise; obs [N, S]."""
        s = self.settings
        legal = self.game.legal(obs)
        early = self.game.num_moves(obs) < s.temperature_moves
        if s.search == "gumbel":
            noise = gumbels(legal) * early[:, None]
            found = search_gumbel(
                self.game, obs, self.judge, s.simulations, noise, s.max_considered, value_scale=s.value_scale
            )
            return Step(found.action, Memory(found.policy))
        noise = dirichlet(legal, s.dirichlet_alpha)
        found = search(
            self.game, obs, self.judge, s.simulations, puct(s.exploration), noise, s.noise_fraction,
            earlier=self.earlier,
        )  # fmt: skip
        action = torch.where(early, Categorical(found.policy.log()).sample(), found.action)
        if s.reuse_tree:
            self.earlier = found.tree, action
        return Step(action, Memory(found.policy))

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The best move that a search without noise finds; obs [N, S]."""
        return Step(self.search(obs).action)

    def search(self, state: Tensor, simulations: int | None = None) -> Found:
        """Searches from states [N, S] without noise, with ``eval_simulations`` or another number of simulations."""
        s = self.settings
        num_simulations = s.eval_simulations if simulations is None else simulations
        return search(self.game, state, self.judge, num_simulations, puct(s.exploration))

    def distribution(self, obs: Tree) -> Categorical:
        """The network's own policy in states [B, S], without a search."""
        return self._policy(obs, self.player)

    def learn(self, rollout: Rollout) -> Metrics:
        """Stores the games that have ended, takes minibatch steps, and runs the gate if due."""
        s = self.settings
        self.num_rollouts += 1
        self.replay.add(rollout, rollout.memory.policy)
        self.earlier = None  # its values are from the network before this update
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        metrics: Metrics = {"replay": float(len(self.replay)), "learning_rate": learning_rate}
        if len(self.replay) >= s.batch_size:
            metrics |= self._fit(max(1, round(s.passes * rollout.num_steps / s.batch_size)))
        if s.gate_every is not None and self.num_rollouts % s.gate_every == 0:
            metrics |= self._gate()
        return metrics

    def _fit(self, num_updates: int) -> Metrics:
        """Minibatch steps on the replay."""
        s = self.settings
        sums = torch.zeros(2, device=self.replay.cells.device)
        self.network.train()
        for _ in range(num_updates):
            planes, legal, pi, z = self.replay.sample(s.batch_size)
            outputs = self.network(planes)
            log_p = outputs[:, :-1].masked_fill(~legal, FORBIDDEN).log_softmax(1)
            policy_loss = -(pi * log_p).sum(1).mean()
            value_loss = nn.functional.mse_loss(outputs[:, -1].tanh(), z)
            step = self.minimize(policy_loss + s.value_coefficient * value_loss)
            sums += torch.stack([policy_loss.detach(), value_loss.detach()])
        self.network.eval()
        policy_loss, value_loss = sums / num_updates
        return {**step, "policy_loss": policy_loss, "value_loss": value_loss}

    @torch.no_grad()
    def _gate(self) -> Metrics:
        """A match of the network against the player, which it replaces if it wins."""
        s = self.settings
        generator = torch.Generator(self.replay.cells.device).manual_seed(int(torch.randint(2**31, ())))
        begin = random_openings(self.game, s.gate_games // 2, s.gate_moves, generator)
        result = points(mirrored_contest(self.game, self._mover(self.network), self._mover(self.player), begin))
        if result >= s.gate_threshold:
            self.player.load_state_dict(self.network.state_dict())
        return {"gate_points": result, "gate_passed": float(result >= s.gate_threshold)}

    def _mover(self, network: nn.Module) -> Player:
        return lambda state: self._policy(state, network).mode

    def _policy(self, state: Tensor, network: nn.Module) -> Categorical:
        logits, _ = self.judge(state, network)
        return Categorical(logits.masked_fill(~self.game.legal(state), FORBIDDEN))

    def train(self, mode: bool = True) -> "AlphaZero":
        """Keeps evaluation mode, so that networks play by running statistics; only `learn` switches one to training."""
        return super().train(False)

    def checkpoint(self) -> dict[str, Any]:
        """Parameters, optimizer, replay, and the positions of unfinished games."""
        return {
            **super().checkpoint(),
            **self.replay.checkpoint(),
            "num_rollouts": self.num_rollouts,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned."""
        super().restore(saved)
        self.replay.restore(saved)
        self.num_rollouts = saved["num_rollouts"]
