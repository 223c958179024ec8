"""The command ``rlcore check``: whether the rules of a game keep their contract."""

import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from rlcore import config, registry
from rlcore.game import Game, play_games, random_moves, start_games
from rlcore.game_checks import check_game
from rlcore.imports import import_module
from rlcore.seeding import seed_everything


def check(
    game: Annotated[str, typer.Argument(metavar="GAME", help="Its name; see rlcore list games.")],
    games: Annotated[int, typer.Option(min=1, max=2**16, help="Random games to play.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of their moves.")] = 1,
    imports: Annotated[
        list[str] | None, typer.Option(help="A module of your own to import first, as in a config; may be repeated.")
    ] = None,
) -> None:
    """Check that the rules of a game keep their contract, by random games."""
    for module in imports or ():
        import_module(module, Path(config.COMMAND_LINE))
    rules: Game = registry.games[game]()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_game(rules, games, seed)
    for one in told:
        print(f"perhaps a mistake: {one.message}")
    print(f"{game}: the rules keep their contract in {games:,} random games\n{_described(rules, games, seed)}")


def _described(game: Game, games: int, seed: int) -> str:
    """What random games are like."""
    seed_everything(seed)
    begin = start_games(game, games, torch.Generator().manual_seed(seed))

    def player(state: Tensor) -> Tensor:
        return random_moves(game.legal(state))

    played = play_games(game, player, player, begin)
    length = (played.moves >= 0).sum(1)
    planes, symmetries = " x ".join(map(str, game.planes_shape)), len(game.symmetries()[0])
    sizes = f"{game.num_actions} moves, planes {planes}, symmetries {symmetries}"
    lengths = f"{int(length.min())} to {int(length.max())} moves of players, {length.double().mean():.1f} on average"
    if game.num_players == 1:
        return f"{sizes}; {lengths}; return {played.outcome.mean():.3f}"
    won, lost = ((played.outcome.sign() == sign).double().mean() for sign in (1, -1))
    return f"{sizes}; {lengths}; the first player wins {won:.0%}, the second {lost:.0%}"
