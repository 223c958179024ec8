"""The command ``rlcore play``: games against the agent of a run, or between two, in the terminal or on a page."""

from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import torch
import typer

from rlcore.cli import Trust
from rlcore.envs.games.engine import LEVELS, Engine, Strength
from rlcore.envs.games.server import LOOPBACK, MOST_SIMULATIONS, MOST_TEMPERATURE, serve
from rlcore.envs.games.terminal import Terminal, watch
from rlcore.errors import InputError
from rlcore.moved import former_names
from rlcore.run import load


def play(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's folder.")],
    simulations: Annotated[
        int | None,
        typer.Option(
            min=0, max=MOST_SIMULATIONS, help="Strength; 0: the policy alone. Default: as in the run's evaluation."
        ),
    ] = None,
    first: Annotated[bool, typer.Option("--first/--second", help="Who begins; default: you.")] = True,
    trust: Trust = False,
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="Another run of the game, or the same: the two play each other."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=MOST_TEMPERATURE, help="0: the best move; 1: as often as the search visits it.")
    ] = 0.0,
    level: Annotated[
        int | None,
        typer.Option(min=min(LEVELS), max=max(LEVELS), help="Both at once, from the weakest; 4 is the default."),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="best, last, a kept one, or a path; a second one is OTHER's. Default: best if there is one, else last."
        ),
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="On a page in the browser (extra: play).")] = False,
    host: Annotated[str, typer.Option(help="Of the page; the default is reached from this machine alone.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of the page; 0: one that is free.")] = 8000,
) -> None:
    """Play a game against the agent of a run, in the terminal or on a page."""
    if level is not None and (simulations is not None or temperature > 0):
        raise InputError("play: --level sets --simulations and --temperature; give it or them")
    strength = Strength(simulations, temperature) if level is None else LEVELS[level]
    runs = [run] if other is None else [run, other]
    checkpoints = checkpoint or []
    if len(checkpoints) > len(runs):
        raise InputError(f"play: --checkpoint is given {len(checkpoints)} times, more often than runs ({len(runs)})")
    engines = [_engine(one, which, trust) for one, which in zip_longest(runs, checkpoints)]
    if len({type(engine.game) for engine in engines}) > 1:
        kinds = ", ".join(f"{engine.name} plays {type(engine.game).__name__}" for engine in engines)
        raise InputError(f"play: {kinds}; two agents of one game can play each other")
    torch.set_num_threads(1)  # of one position at a time, several wait for one another more than they compute
    if web:
        serve(engines, strength, first, host, port)
    elif len(engines) > 1:
        watch(engines[0], engines[1], strength)
    else:
        Terminal(engines[0].agent, *strength, engines[0].name).run(first)


def _engine(run: str, checkpoint: str | None, trust: bool) -> Engine:
    """The agent of a run, called by the last two parts of its path, and by its checkpoint if one was named."""
    agent = load(run, checkpoint, device="cpu", trust=trust)  # the fastest for one game
    name = "/".join(Path(run).parts[-2:])
    return Engine(agent, name if checkpoint is None else f"{name} ({Path(checkpoint).stem})")


__getattr__ = former_names(__name__, {"Session": Terminal})
