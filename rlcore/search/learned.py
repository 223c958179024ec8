"""LearnedGame: a game to search of which only a learned model is known."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlcore.game import DISCOUNT, Transition
from rlcore.search.scores import Evaluator

Dynamics = Callable[[Tensor, Tensor], Tensor]
"""Latent states [B, L] and moves [B] to the latent states after them [B, L], as seen by the player who moves next."""


class LearnedGame:
    """A game of two players who move in turn, in the latent space of a learned model.

    Only at the root is it known which moves are legal. Below it every move may be made, and no state is the end: an
    evaluator gives those that cannot be made a probability of about 0, and what comes after the end the outcome of the
    game, for whoever is to move there (Schrittwieser et al. 2020, appendix A).

    A state is a latent one, and then for each move 1 or 0, whether it may be made.

    Args:
        dynamics: makes moves.
        prediction: evaluates latent states.
        num_actions: A.
        latent_size: L.
        max_moves: moves of the longest path; no search makes more than it has simulations.
    """

    state_dtype = torch.float32
    alternates = True

    def __init__(self, dynamics: Dynamics, prediction: Evaluator, num_actions: int, latent_size: int, max_moves: int):
        self.dynamics, self.prediction, self.num_actions, self.max_moves = dynamics, prediction, num_actions, max_moves
        self.state_size = latent_size + num_actions

    def root(self, latent: Tensor, legal: Tensor) -> Tensor:
        """States [B, S] to search from: latent ones [B, L], in which the moves [B, A] bool are legal."""
        return torch.cat([latent, legal.float()], 1)

    def evaluate(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the moves [B, A] and the values [B] of states [B, S]."""
        return self.prediction(self.latent(state))

    def latent(self, state: Tensor) -> Tensor:
        """The latent states [B, L] of states [B, S]."""
        return state[:, : -self.num_actions]

    def legal(self, state: Tensor) -> Tensor:
        """Moves that may be made, [B, A] bool."""
        return state[:, -self.num_actions :] > 0

    def chance(self, state: Tensor) -> None:
        """Chance never moves."""

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Makes a move; nothing is won by it, and nothing ends."""
        latent = self.dynamics(self.latent(state), action)
        reward = latent.new_zeros(len(latent))
        return Transition(self.root(latent, latent.new_ones(len(latent), self.num_actions)), reward, reward.bool())

    def discount(self, state: Tensor, next_state: Tensor) -> float:
        """The other player moves next."""
        return DISCOUNT
