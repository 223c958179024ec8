"""A small game of one's own."""

import torch

from rlcore.game import Game, Transition


class Nim(Game):
    """Heaps of 1, 2 and 3; take any number from one; who takes the last wins. A move is heap * 3 + number - 1."""

    num_actions, state_size, planes_shape, max_moves = 9, 4, (3, 1, 3), 6
    impartial = True

    def initial(self, num, device="cpu"):
        return torch.tensor([1, 2, 3, 0], device=device).repeat(num, 1)  # heaps, moves made

    def legal(self, state):
        return (state[:, :3, None] >= torch.arange(1, 4, device=state.device)).flatten(1)

    def step(self, state, action):
        after = state.clone()
        after[:, 3] += 1
        after[torch.arange(len(state), device=state.device), action // 3] -= action % 3 + 1
        won = after[:, :3].sum(1) == 0
        return Transition(after, won.float(), won)

    def observe(self, state):
        return (state[:, :3, None, None] >= torch.arange(1, 4, device=state.device)).float()

    def num_moves(self, state):
        return state[:, 3]

    def render(self, state):
        return "\n".join("|" * heap for heap in state[:3].tolist())
