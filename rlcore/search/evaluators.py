"""Evaluators without a network, or beside one: what a search thinks of a state."""

import torch
from torch import Tensor

from rlcore.device import sync_is_costly
from rlcore.game import Game, Player, make_move, random_moves, too_long
from rlcore.search.scores import Evaluator


def playouts(game: Game, player: Player | None = None) -> Evaluator:
    """Evaluates a state by a game from there to its end, and all its moves equally.

    Args:
        game: the rules.
        player: plays for both sides; None moves at random.
    """
    play = player or (lambda state: random_moves(game.legal(state)))

    def evaluate(state: Tensor) -> tuple[Tensor, Tensor]:
        value, weight = torch.zeros(len(state), device=state.device), torch.ones(len(state), device=state.device)
        running = game.legal(state).any(1)
        for _ in range(game.max_moves):
            if not sync_is_costly(state.device) and not running.any():
                break
            after, reward, terminated = make_move(game, state, play(state))
            value += weight * reward * running
            weight = weight * game.discount(state, after)
            state, running = after, running & ~terminated
        if not sync_is_costly(state.device) and running.any():
            raise too_long(game)
        return torch.zeros(len(state), game.num_actions, device=state.device), value

    return evaluate


def mixed(network: Evaluator, rollouts: Evaluator, value_weight: float) -> Evaluator:
    """The network's priors, and (1 - w) its value + w that of playouts, as AlphaGo (Silver et al. 2016, methods).

    Args:
        network: gives priors and values.
        rollouts: gives values.
        value_weight: w, [0, 1].
    """

    def evaluate(state: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = network(state)
        return logits, (1 - value_weight) * value + value_weight * rollouts(state)[1]

    return evaluate
