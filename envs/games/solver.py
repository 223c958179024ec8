"""Exact scores of connect-four positions: alpha-beta search with a transposition table.

After Pascal Pons, "Solving Connect 4: how to build a perfect AI" (2015 to 2019): bitboards, only moves that do not lose
at once, those that make most threats first, windows of width one, and a table of bounds.

A draw scores 0; a win scores 1, plus 1 for each stone that the winner then has left; a loss scores minus that. Stones
have the bits of `rlcore.envs.games.ConnectFour`.
"""

WIDTH, HEIGHT = 7, 6
CELLS = WIDTH * HEIGHT
COLUMN = (1 << HEIGHT) - 1
COLUMNS = tuple(COLUMN << 7 * column for column in range(WIDTH))
BOTTOM = sum(1 << 7 * column for column in range(WIDTH))
BOARD = BOTTOM * COLUMN
FROM_THE_CENTRE = tuple(COLUMNS[column] for column in (3, 2, 4, 1, 5, 0, 6))
TABLE_SIZE = 4_000_000
"""Positions kept before the table is cleared."""


class Solver:
    """Solves positions, and remembers the bounds found on the way."""

    def __init__(self) -> None:
        self.bounds: dict[int, tuple[int, int]] = {}
        """Lower and upper bound of the score of each position."""
        self.num_nodes = 0
        """Positions searched, over all calls."""

    def scores(self, mine: int, theirs: int) -> list[int | None]:
        """The score of each column for the player to move, whose stones are ``mine``; None if it is full."""
        mask = mine | theirs
        found: list[int | None] = []
        for column in COLUMNS:
            move = (mask + (column & BOTTOM)) & column
            if not move:
                found.append(None)
            elif _lines(mine | move):
                found.append((CELLS + 1 - mask.bit_count()) // 2)
            else:
                found.append(-self.score(theirs, mine | move))
        return found

    def score(self, mine: int, theirs: int) -> int:
        """The score of a position in which nobody has a line, for the player to move, whose stones are ``mine``."""
        mask = mine | theirs
        left = CELLS - mask.bit_count()
        if not left:
            return 0
        if _threats(mine, mask) & (mask + BOTTOM) & BOARD:
            return (left + 1) // 2
        low, high = -(left // 2), (left - 1) // 2
        while low < high:  # bisect: is the score above the middle? probe far from 0 first
            middle = low + (high - low) // 2
            if middle <= 0 and low // 2 < middle:
                middle = -(-low // 2)
            elif middle >= 0 and high // 2 > middle:
                middle = high // 2
            found = self._search(mine, mask, _threats(mine ^ mask, mask), middle, middle + 1)
            if found <= middle:
                high = found
            else:
                low = found
        return low

    def _search(self, mine: int, mask: int, threats: int, alpha: int, beta: int) -> int:
        """The score of a position that cannot be won at once if it is within (alpha, beta), else a bound on it.

        ``threats`` are the opponent's.
        """
        self.num_nodes += 1
        ready = mask + BOTTOM
        moves = ready & BOARD
        left = CELLS - mask.bit_count()
        forced = moves & threats
        if forced:
            if forced & (forced - 1):
                return -(left // 2)  # two threats cannot both be blocked
            moves = forced
        moves &= ~(threats >> 1)  # not below one of their threats
        if not moves:
            return -(left // 2)
        if left <= 2:
            return 0
        bounds = self.bounds
        key = mine + ready
        low, high = bounds.get(key) or (-((left - 2) // 2), (left - 1) // 2)
        if low > alpha:
            alpha = low
            if alpha >= beta:
                return alpha
        if high < beta:
            beta = high
            if alpha >= beta:
                return beta
        theirs = mine ^ mask
        ordered = []
        for place, column in enumerate(FROM_THE_CENTRE):
            move = moves & column
            if move:
                after = mask | move
                known = bounds.get(theirs + after + BOTTOM)
                if known is not None and -known[1] >= beta:
                    return -known[1]
                ours = _threats(mine | move, after)
                ordered.append((-ours.bit_count(), place, after, ours))
        ordered.sort()
        for _, _, after, ours in ordered:
            found = -self._search(theirs, after, ours, -beta, -alpha)
            if found >= beta:
                self._keep(key, max(found, low), high)
                return found
            if found > alpha:
                alpha = found
        self._keep(key, low, min(alpha, high))
        return alpha

    def _keep(self, key: int, low: int, high: int) -> None:
        if len(self.bounds) >= TABLE_SIZE:
            self.bounds.clear()
        self.bounds[key] = low, high


def _threats(stones: int, mask: int) -> int:
    """The empty cells that would complete a line of these stones, as bits, whether playable now or not."""
    found = (stones << 1) & (stones << 2) & (stones << 3)
    for d in (7, 6, 8):
        pair = stones & (stones << d)
        found |= (pair << d) & (stones << 3 * d | stones >> d) | (pair >> 2 * d) & (stones >> 3 * d | stones << d)
    return found & (BOARD ^ mask)


def _lines(stones: int) -> int:
    """Nonzero if the stones contain a line."""
    found = 0
    for d in (1, 7, 6, 8):
        pair = stones & (stones >> d)
        found |= pair & (pair >> 2 * d)
    return found
