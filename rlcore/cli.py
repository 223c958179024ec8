"""The command line: arguments and options. The commands are in `rlcore.commands`, imported only when needed."""

import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal

import typer

import rlcore
from rlcore.errors import EnvironmentFailure, InputError
from rlcore.registry import commands as plugins
from rlcore.streams import undisturbed

UsageError: Any = typer.BadParameter.__bases__[0]
"""What typer raises about arguments, of which it exports this one kind alone."""

TOGETHER = "train", "resume"
"""Commands that several processes can be given."""

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
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A YAML file, or a shipped config (rlcore list configs); or an agent, e.g. ppo env.id=Acrobot-v1.",
    ),
]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run Python modules in the run's folder, though it was trained elsewhere.")
]
Seeds = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Run this many seeds, counting up from the config's.")
]
Folds = Annotated[
    int | None, typer.Option(min=2, max=1000, help="Cross-validate: run once for each of this many parts of the data.")
]
Jobs = Annotated[int, typer.Option(min=1, max=1024, help="Number of runs at once.")]
Processes = Annotated[int, typer.Option(min=1, max=1024, help="Processes on this machine that train it together.")]


@app.command()
def train(
    config: ConfigName,
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="Instead of runs/<config>/<time>-seed<k>.")] = None,
    seeds: Seeds = None,
    folds: Folds = None,
    jobs: Jobs = 1,
    or_resume: Annotated[
        bool, typer.Option("--or-resume", help="Resume the run in --run-dir, if there is one.")
    ] = False,
    processes: Processes = 1,
) -> None:
    """Train the agent of a config."""
    raise typer.Exit(rlcore.commands.train(config, overrides or [], run_dir, seeds, jobs, or_resume, processes, folds))


@app.command("eval")
def evaluate(
    run: RunPath,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the report.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Default: as in the config.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last, a kept one, or a path. Default: best if there is one, else last.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[str | None, typer.Option(help="Also make this report; see rlcore list reports.")] = None,
    changed: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the run, just for now.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Evaluate the agent of a run."""
    made = rlcore.commands.evaluate(run, episodes, checkpoint, json, report, settings or [], changed or [], trust)
    raise typer.Exit(made)


@app.command()
def doctor(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, a folder of runs, or a pattern of these.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again after each checkpoint, until the run ends.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, max=86_400, help="With --watch: seconds between two looks.")] = 60,
    trust: Trust = False,
) -> None:
    """Name what is wrong with a run, the evidence and the remedy. Exit status 1 if there is anything."""
    raise typer.Exit(rlcore.commands.doctor(run, json, watch, every, trust))


@app.command()
def resume(run: RunPath, overrides: Overrides = None, trust: Trust = False, processes: Processes = 1) -> None:
    """Resume a run that was stopped, or that was killed before its first checkpoint."""
    raise typer.Exit(rlcore.commands.resume(run, overrides or [], trust, processes))


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Configs with an expect block.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every shipped config with an expect block.")] = False,
    seeds: Seeds = None,
    jobs: Jobs = 1,
) -> None:
    """Rerun configs and check what they claim."""
    raise typer.Exit(rlcore.commands.verify(names or [], everything, seeds, jobs))


@app.command()
def tune(
    config: ConfigName,
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, max=10**6, help="Of the study, those it has included.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of a trial, whose mean counts.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Trials at once.")] = 1,
    by: Annotated[
        str | None, typer.Option(metavar="FIGURE", help="As in TensorBoard. Default: by which the best is chosen.")
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, random, gp, cmaes or qmc.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="median, halving, hyperband or none.")] = "median",
    storage: Annotated[
        str | None, typer.Option(help="A file, or a database's URL, which machines share. Default: a file in --out.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Its name in the storage. Default: the config's.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of its runs. Default: runs/tune/CONFIG.")] = None,
    fresh: Annotated[
        int,
        typer.Option(min=0, max=1000, help="Seeds with which the config and the best are trained at last."),
    ] = 5,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Look for good settings, in the search block of a config."""
    made = rlcore.commands.tune(
        config, overrides or [], trials, seeds, jobs, by, sampler, pruner, storage, study, out, fresh, worker
    )
    raise typer.Exit(made)


@app.command()
def record(
    run: RunPath,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The data set's folder; ends in a version: data/expert-v0.")
    ],
    steps: Annotated[int, typer.Option(min=1, max=10**9, help="Environment steps to record.")],
    policy: Annotated[
        str,
        typer.Option(
            help="act, as the agent explores; predict, its best actions; random; or replay, what its replay holds."
        ),
    ] = "act",
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last, a kept one, or a path. Default: best if there is one, else last.")
    ] = None,
    mix: Annotated[
        list[str] | None, typer.Option(metavar="RUN:SHARE", help="Another run that plays a share; may be repeated.")
    ] = None,
    expert: Annotated[
        str | None, typer.Option(metavar="RUN", help="Write this agent's best actions instead, for imitation (DAgger).")
    ] = None,
    num_envs: Annotated[int | None, typer.Option(min=1, max=2**16, help="Environments at once. Default: 8.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the environments and the actions.")] = 1,
    changed: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the run, just for now.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Record what the agent of a run does, as a data set in Minari's format."""
    made = rlcore.commands.record(
        run, out, steps, policy, checkpoint, mix or [], expert, num_envs, seed, changed or [], trust
    )
    raise typer.Exit(made)


@app.command()
def compare(
    sides: Annotated[
        list[str], typer.Argument(metavar="A B...", help="Runs, or folders of the runs of several seeds; patterns.")
    ],
    by: Annotated[
        str | None, typer.Option(metavar="TAG", help="Figure, as eval/return. Default: what the runs are judged by.")
    ] = None,
    of: Annotated[
        Literal["last", "best", "area"], typer.Option(help="Its last value, its best, or its mean over the steps.")
    ] = "last",
    at: Annotated[
        str | None, typer.Option(metavar="STEPS|SECONDSs", help="What came until then: 50_000 steps, or 60s.")
    ] = None,
    better: Annotated[
        Literal["less", "more"] | None, typer.Option(help="Which is better, if the runs do not say.")
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired/--unpaired", help="Compare runs of one seed, where seeds agree.")
    ] = True,
    figure: Annotated[str | None, typer.Option(metavar="FILE", help="Draw curves and profiles: compared.png.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs of several seeds: which is better, by how much, and how sure that is."""
    raise typer.Exit(rlcore.commands.compare(sides, by, of, at, better, paired, figure, json))


@app.command()
def runs(
    pattern: Annotated[
        str | None, typer.Argument(help="A folder, or what the paths in runs/ have in them or match.")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="KEY=VALUE", help="A setting, state, or env; the value may be a pattern."),
    ] = None,
    sort: Annotated[str, typer.Option(help="name, state, steps, figure, best, seconds or updated.")] = "updated",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List runs: their state, steps, figures and age."""
    raise typer.Exit(rlcore.commands.runs(pattern, filters or [], sort, json))


@app.command()
def plot(
    tag: Annotated[str, typer.Argument(help="A figure, as in TensorBoard: eval/return; or a pattern: 'eval/*'.")],
    given: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, folders of runs, or patterns.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="The file; its ending says the format.")] = "plot.png",
    over: Annotated[Literal["steps", "seconds"], typer.Option(help="The horizontal axis.")] = "steps",
    smoothing: Annotated[
        float, typer.Option(min=0.0, max=0.999, help="Weight of what was before, as in TensorBoard.")
    ] = 0.0,
) -> None:
    """Draw figures of runs into a file."""
    raise typer.Exit(rlcore.commands.plot(tag, given, over, smoothing, out))


@app.command()
def replay(
    run: RunPath,
    update: Annotated[int | None, typer.Option(help="The number of an update, from 1 on.")] = None,
    episode: Annotated[
        int | None, typer.Option(help="The number of an episode, from 1 on, in the order in which they ended.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Of the episode: show all of this step, from 1 on.")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Also write a page of figures, and all arrays, there.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Train an update of a run again, bit for bit, and show what the agent saw, thought and learned."""
    raise typer.Exit(rlcore.commands.replay(run, update, episode, step, out, trust))


@app.command()
def export(
    run: RunPath,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The file to write: *.onnx, or *.pt2; or a folder, for --web.")
    ],
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw actions, by an input of noise. Default: the best ones.")
    ] = False,
    format: Annotated[str, typer.Option(help="onnx, or pt2, a program of torch.export.")] = "onnx",
    opset: Annotated[int | None, typer.Option(help="Of ONNX. Default: torch's choice.")] = None,
    web: Annotated[bool, typer.Option("--web", help="Write a page that runs it in the browser.")] = False,
    runtime: Annotated[
        str | None, typer.Option(help="Of --web: onnxruntime-web's folder. Default: that in node_modules.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last, a kept one, or a path. Default: best if there is one, else last.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Write the agent of a run as a file that runs without rlcore, and compare it with the agent."""
    raise typer.Exit(rlcore.commands.export(run, out, format, web, runtime, checkpoint, sample, opset, trust))


@app.command("list")
def list_names(
    what: Annotated[
        str,
        typer.Argument(
            help="agents, envs, networks, datasets, augmentations, metrics, games, players, hooks, checks, reports, "
            "loggers, configs, or all; or the name of one of them, or trainer, for its settings."
        ),
    ] = "all",
    imports: Annotated[
        list[str] | None, typer.Option(help="A module of your own to import first, as in a config; may be repeated.")
    ] = None,
) -> None:
    """List what a config can name, or the settings of one of these."""
    raise typer.Exit(rlcore.commands.list_names(what, imports or []))


@app.command()
def show(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG|DATASET", help="As for train; or a data set of recorded episodes.")
    ],
    overrides: Overrides = None,
    figure: Annotated[str | None, typer.Option(help="Of a data set: draw its figure into this file.")] = None,
    trust: Trust = False,
) -> None:
    """Show a config's settings, where each comes from, and the network; or what is in a data set."""
    raise typer.Exit(rlcore.commands.show(config, overrides or [], figure, trust))


def _joined() -> AbstractContextManager[None]:
    """See `rlcore.distributed.joined`, which one process alone does not import."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return nullcontext()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the run listens: else each process shows a traceback
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else the end of a process is told by others in many lines
    if rlcore.distributed.is_launched() and len(sys.argv) > 1 and sys.argv[1] not in TOGETHER:
        which = " and ".join(TOGETHER)
        raise InputError(f"{sys.argv[1]}: is for one process; torchrun is for {which}; else unset WORLD_SIZE")
    return rlcore.distributed.joined()


def main() -> None:
    """Runs the command line; invalid input prints one line and exits with status 2."""
    with undisturbed():
        try:
            if len(sys.argv) > 1 and sys.argv[1] in plugins.names():
                app.command(sys.argv[1])(plugins[sys.argv[1]])
            with _joined():
                sys.exit(
                    app(prog_name="rlcore", standalone_mode=False)
                )  # else typer prints its own mistakes, in a box of several lines
        except UsageError as error:
            if len(sys.argv) == 1:  # asks for help
                error.show()
            else:
                command = "rlcore" if error.ctx is None else error.ctx.command_path
                print(f"rlcore: {' '.join(error.format_message().split())} ({command} --help)", file=sys.stderr)
            sys.exit(2)
        except (InputError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, EnvironmentFailure):  # it may be a bug in the environment: show where
                sys.stderr.write(error.traceback)
            elif isinstance(error, RuntimeError) and "allocate" not in str(error):  # of torch, where it lacks memory
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            print(f"rlcore: {message}", file=sys.stderr)
            sys.exit(2)
