"""``rlcore eval``."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from rlcore import config as configs
from rlcore.console import make_console, table_of
from rlcore.errors import InputError
from rlcore.evaluation import ReportChoice, ReportMaker
from rlcore.files import without_nan
from rlcore.run import Run
from rlcore.seeding import CLOSING, derive_seed
from rlcore.settings import mistakes
from rlcore.tracking import Tracker


def evaluate(
    path: str,
    episodes: int | None,
    which: str | None,
    as_json: bool,
    report: str | None,
    settings: Sequence[str],
    changed: Sequence[str] = (),
    trust: bool = False,
) -> int:
    """Evaluates the agent of a run, in episodes that training never saw."""
    if settings and report is None:
        message = "sets a report, which --report NAME must name; to change a setting of the run: --set KEY=VALUE"
        raise InputError(f"{settings[0]!r} {message}")
    run = Run(path, trust)
    which = which or run.default_checkpoint
    trainer, saved = run.trainer(which, tuple(changed))
    maker = None if report is None else _report(report, settings, trainer.settings.reports)
    num_episodes = episodes or trainer.settings.eval_episodes
    env = trainer.evaluator.make_test_env(num_episodes) or trainer.evaluation_env(num_episodes)
    if maker is not None:
        maker.check(trainer.agent, env)
    found = env.score(trainer.agent, num_episodes, derive_seed(trainer.seed, CLOSING))
    result = {"checkpoint": which, "step": saved["steps"], "episodes": num_episodes, **found.scalars}
    if changed:
        result["changed"] = list(changed)
    made = None if maker is None else maker(trainer.agent, env, found)
    if made is not None:
        result |= made.tagged(str(report))
    console = make_console()
    if as_json:
        print(json.dumps(without_nan(result)))
    else:
        console.print(table_of(f"{run.path}, checkpoint {which} (step {saved['steps']:,})", found.scalars))
        for text in (found.text, *found.remarks):
            if text:
                console.print(text, highlight=False)
    if made is not None and made.text not in ("", found.text) and not as_json:
        console.print(made.text, highlight=False)
    try:
        with run.locked():
            run.write_result({**run.result, "evaluation": result})
            if made is not None:
                # a service is left alone: what is looked at later, and elsewhere, need not reach it
                shown = [logger for logger in trainer.settings.loggers if logger.name == "tensorboard"]
                tracker = Tracker(run.path, loggers=shown)
                files = tracker.report(str(report), made, saved["steps"])
                tracker.close()
                for file in files if not as_json else ():
                    console.print(f"file: {file}", highlight=False)
    except InputError as error:  # the result is on the screen; a run that is read-only or in use may still be evaluated
        print(f"rlcore: not kept in the run: {' '.join(str(error).split())}", file=sys.stderr)
    trainer.close()
    env.close()
    return 0


def _report(name: str, settings: Sequence[str], configured: Sequence[ReportChoice]) -> ReportMaker:
    """A report as the config has it, or else by default, but for the settings given here."""
    tree: dict[str, Any] = next((one.model_dump() for one in configured if one.name == name), {"name": name})
    for item in settings:
        key, equals, text = item.partition("=")
        if not equals:
            raise InputError(f"{item!r} is not KEY=VALUE for the report {name}")
        tree[key] = configs.parse_yaml(text, "command line")
    try:
        return ReportChoice.model_validate(tree).make()
    except ValidationError as error:
        path, text = mistakes(error, ReportChoice)[0]
        raise InputError(f"report {name}: {': '.join([*path, text])}") from None
