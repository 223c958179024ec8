"""The speed of tree search compared with DeepMind's mctx and OpenSpiel: python benchmarks/search.py [THREADS]

512 games of connect four from the empty board, 64 simulations each, the same 84-128-128-8 network with random weights;
the timing includes rules, evaluation of leaves and tree writes; one process, the rivals alternating, each with an
untimed run before the timed one; process CPU time and wall time; mctx compiled beforehand. A second table: rlcore by
number of games and simulations. Needs the peers (``pip install -e '.[bench]'``). THREADS is 1 or 2.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable

THREADS = int(sys.argv[1]) if len(sys.argv) > 1 else 1
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])  # jax takes its number of threads from this
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=" + ("true" if THREADS > 1 else "false")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import mctx  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from rlcore.envs.games import ConnectFour  # noqa: E402
from rlcore.search import Evaluator, gumbels, puct, search, search_gumbel  # noqa: E402

GAMES, SIMULATIONS, ROUNDS = 512, 64, 10
GAME = ConnectFour()


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(84, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 8))


def evaluator(net: nn.Module) -> Evaluator:
    def evaluate(state: Tensor) -> tuple[Tensor, Tensor]:
        outputs = net(GAME.observe(state).flatten(1))
        return outputs[:, :7], outputs[:, 7].tanh()

    return evaluate


def with_mctx(net: nn.Sequential, policy: str) -> Callable[[], None]:
    """mctx's own search; the network and the rules in jax, on planes, which it runs faster than bitboards."""
    weights = [(jnp.asarray(m.weight.numpy()), jnp.asarray(m.bias.numpy())) for m in net if isinstance(m, nn.Linear)]
    lines = jnp.asarray(np.stack(winning_lines(), 1), jnp.float32)  # [42, 69]

    def evaluate(board, height):  # [B, 2, 42], [B, 7]
        x = board.reshape(len(board), 84)
        for index, (weight, bias) in enumerate(weights):
            x = x @ weight.T + bias
            x = jax.nn.relu(x) if index < 2 else x
        return jnp.where(height < 6, x[:, :7], -1e9), jnp.tanh(x[:, 7])

    def step(board, height, action):
        row = jnp.take_along_axis(height, action[:, None], 1)[:, 0]
        mine = board[:, 0] + jax.nn.one_hot(row * 7 + action, 42)
        won = (mine @ lines >= 3.5).any(1)
        height = height + jax.nn.one_hot(action, 7, dtype=jnp.int32)
        return jnp.stack([board[:, 1], mine], 1), height, won.astype(jnp.float32), won | (height.sum(1) == 42)

    def recurrent(params, key, action, embedding):
        board, height, ended = embedding
        after, higher, reward, terminated = step(board, height, action)
        after, higher = jnp.where(ended[:, None, None], board, after), jnp.where(ended[:, None], height, higher)
        reward, now = jnp.where(ended, 0.0, reward), ended | terminated
        logits, value = evaluate(after, higher)
        discount = jnp.where(now, 0.0, -1.0)
        output = mctx.RecurrentFnOutput(reward=reward, discount=discount, prior_logits=logits, value=value * ~now)
        return output, (after, higher, now)

    @jax.jit
    def run(key):
        board, height = jnp.zeros((GAMES, 2, 42)), jnp.zeros((GAMES, 7), jnp.int32)
        logits, value = evaluate(board, height)
        embedding = (board, height, jnp.zeros(GAMES, bool))
        root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=embedding)
        how = mctx.muzero_policy if policy == "puct" else mctx.gumbel_muzero_policy
        return how(None, key, root, recurrent, num_simulations=SIMULATIONS, max_depth=42).action_weights

    key = jax.random.PRNGKey(0)
    return lambda: run(key).block_until_ready()


def winning_lines() -> list[np.ndarray]:
    """The 69 lines of four, each as 42 cells."""
    found = []
    for row, column, (down, right) in itertools.product(range(6), range(7), ((0, 1), (1, 0), (1, 1), (1, -1))):
        cells = [(row + k * down, column + k * right) for k in range(4)]
        if all(0 <= r < 6 and 0 <= c < 7 for r, c in cells):
            line = np.zeros(42)
            line[[r * 7 + c for r, c in cells]] = 1
            found.append(line)
    return found


def with_open_spiel() -> Callable[[], None]:
    """OpenSpiel's Python search of only 8 games, one after another, with a null network."""
    import pyspiel
    from open_spiel.python.algorithms import mcts

    class Null(mcts.Evaluator):
        def evaluate(self, state):
            return np.zeros(2)

        def prior(self, state):
            actions = state.legal_actions()
            return [(action, 1 / len(actions)) for action in actions]

    game = pyspiel.load_game("connect_four")
    bot = mcts.MCTSBot(game, 1.25, SIMULATIONS, Null(), child_selection_fn=mcts.SearchNode.puct_value)

    def run() -> None:
        for _ in range(GAMES // 64):
            bot.mcts_search(game.new_initial_state())

    return run


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    net = network().requires_grad_(False)
    evaluate, state = evaluator(net), GAME.initial(GAMES)
    rivals: dict[str, tuple[Callable[[], object], int]] = {
        "rlcore, puct": (lambda: search(GAME, state, evaluate, SIMULATIONS, puct()), GAMES),
        "rlcore, gumbel": (
            lambda: search_gumbel(GAME, state, evaluate, SIMULATIONS, gumbels(GAME.legal(state)), 16),
            GAMES,
        ),
        "mctx, puct": (with_mctx(net, "puct"), GAMES),
        "mctx, gumbel": (with_mctx(net, "gumbel"), GAMES),
        "OpenSpiel (Python), null": (with_open_spiel(), GAMES // 64),
    }
    cpu: dict[str, list[float]] = {name: [] for name in rivals}
    wall: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(2):
        for run, _ in rivals.values():
            run()
    for _ in range(ROUNDS):
        for name, (run, games) in rivals.items():
            run()  # untimed, to warm up its memory
            start, clock = time.process_time(), time.perf_counter()
            run()
            cpu[name].append(games * SIMULATIONS / (time.process_time() - start))
            wall[name].append(games * SIMULATIONS / (time.perf_counter() - clock))
    print(f"{GAMES} games x {SIMULATIONS} simulations, torch {torch.__version__}, {THREADS} thread(s)")
    print(f"{'':28s}{'simulations / CPU s':>20s}{'/ wall s':>12s}{'ours / it, CPU':>16s}{'wall':>8s}")
    for name in rivals:
        ours = "rlcore, gumbel" if "gumbel" in name else "rlcore, puct"
        ratio, real = max(cpu[ours]) / max(cpu[name]), max(wall[ours]) / max(wall[name])
        print(f"{name:28s}{max(cpu[name]):20,.0f}{max(wall[name]):12,.0f}{ratio:16.2f}{real:8.2f}")
    print()
    print(f"{'games':>8s}{'simulations':>14s}{'simulations / CPU s':>22s}{'tree, MB':>12s}")
    for games, simulations in ((1, 64), (64, 64), (512, 64), (4096, 64), (512, 16), (512, 256)):
        begin, speeds = GAME.initial(games), []
        for _ in range(4):
            start = time.process_time()
            search(GAME, begin, evaluate, simulations, puct())
            speeds.append(games * simulations / (time.process_time() - start))
        print(f"{games:8,d}{simulations:14,d}{max(speeds):22,.0f}{tree_bytes(games, simulations) / 1e6:12,.1f}")


def tree_bytes(games: int, simulations: int) -> int:
    """A node holds state; prior, visits, total and child of each move; path and moves of 42; value, depth and leaf."""
    node = 8 * 2 + 7 * (4 + 4 + 4 + 8) + 8 * (43 + 42) + 4 + 8 + 8
    return games * (simulations + 1) * node


if __name__ == "__main__":
    main()
