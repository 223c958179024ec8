"""Spaces whose numbers have a meaning that an agent may want to know."""

import numpy as np
from gymnasium.spaces import Box


class Logits(Box):
    """K unnormalised log-probabilities, one a class, any real numbers; float32.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int):
        super().__init__(-np.inf, np.inf, (num_classes,), np.float32)

    def __repr__(self) -> str:
        """``Logits(10)``."""
        return f"Logits({self.shape[0]})"


class LogOdds(Box):
    """Log-odds of outcomes that are 0 or 1, any real numbers; float32.

    Args:
        shape: of the outcomes.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(-np.inf, np.inf, shape, np.float32)

    def __repr__(self) -> str:
        """``LogOdds(1,)``."""
        return f"LogOdds{self.shape}"
