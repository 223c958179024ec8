"""The command line: what may be said. What is then done stands in `rlcore.commands`, imported only when needed."""

import sys
from typing import Annotated

import typer

import rlcore
from rlcore.errors import EnvironmentFailure, InputError
from rlcore.registry import commands as plugins

app = typer.Typer(
    name="rlcore",
    help="Train, evaluate and look at agents. Everything is an agent in an environment.",
    epilog="Further commands, from plugins: " + ", ".join(plugins.names()) if plugins.names() else None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. agent.learning_rate=3e-4 seed=7.")
]
ConfigName = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped config: rlcore list configs.")
]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Run this many seeds, counting up from the config's.")]
Jobs = Annotated[int, typer.Option(min=1, help="How many of them at once.")]


@app.command()
def train(
    config: ConfigName,
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="In place of runs/<config>/<time>-seed<k>.")] = None,
    seeds: Seeds = None,
    jobs: Jobs = 1,
) -> None:
    """Train the agent of a config."""
    raise typer.Exit(rlcore.commands.train(config, overrides or [], run_dir, seeds, jobs))


@app.command("eval")
def evaluate(
    run: RunPath,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the report.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Default: as in the config.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last, one that was kept, or a path. Default: best, if there is one.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[str | None, typer.Option(help="Also make this report: rlcore list reports.")] = None,
    changed: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the run, for now.")
    ] = None,
) -> None:
    """Evaluate the agent of a run."""
    raise typer.Exit(rlcore.commands.evaluate(run, episodes, checkpoint, json, report, settings or [], changed or []))


@app.command()
def resume(run: RunPath, overrides: Overrides = None) -> None:
    """Go on with a run that was stopped."""
    raise typer.Exit(rlcore.commands.resume(run, overrides or []))


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Configs with an expect block.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every shipped config that claims something.")] = False,
    seeds: Seeds = None,
    jobs: Jobs = 1,
) -> None:
    """Rerun configs and compare with what they claim."""
    raise typer.Exit(rlcore.commands.verify(names or [], everything, seeds, jobs))


@app.command("list")
def list_names(
    kind: Annotated[
        str, typer.Argument(help="agents, envs, networks, datasets, games, players, reports, configs; or all.")
    ] = "all",
) -> None:
    """What can be named in a config."""
    raise typer.Exit(rlcore.commands.list_names(kind))


@app.command()
def show(config: ConfigName, overrides: Overrides = None) -> None:
    """A config's settings and where each comes from, and the network."""
    raise typer.Exit(rlcore.commands.show(config, overrides or []))


def main() -> None:
    """Runs the command line; a mistake in what was given is one line and exit status 2."""
    try:
        if len(sys.argv) > 1 and sys.argv[1] in plugins.names():
            app.command(sys.argv[1])(plugins[sys.argv[1]])
        app()
    except InputError as error:
        if isinstance(error, EnvironmentFailure):  # not the user's mistake alone: show where
            sys.stderr.write(error.traceback)
        print(f"rlcore: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
