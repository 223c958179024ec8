"""Runs that nobody trained, written by what writes those that are."""

import json

from rlcore.loggers import LoggerChoice
from rlcore.tracking import Tracker

TOTAL = 1_000
"""Steps of a run."""


def make_run(path, values, seed=1, env="{name: cartpole, num_envs: 2}", tag="eval/return", logger="csv", **said):
    """A run that was evaluated to some values, at equal distances; it made 50 steps per second.

    Args:
        path: its folder.
        values: of the figure that it is judged by.
        seed: its own.
        env: its environment, in YAML.
        tag: of that figure.
        logger: what wrote its curves.
        said: other content of status.json; ``finished`` is that of result.json, None for none.
    """
    finished = said.pop("finished", True)
    path.mkdir(parents=True)
    lines = [f"env: {env}", "agent: {name: ppo, gamma: 0.98}", f"trainer: {{total_steps: {TOTAL}}}", f"seed: {seed}"]
    (path / "config.yaml").write_text("\n".join([*lines, ""]))
    tracker = Tracker(path, loggers=[LoggerChoice.model_validate(logger)])
    steps = [TOTAL * k // len(values) for k in range(1, len(values) + 1)]
    for step, value in zip(steps, values, strict=True):
        tracker.scalars({tag: value, "time/steps_per_second": 50.0, "train/loss": 1.0, "train/entropy": 0.5}, step)
    figures = {tag: values[-1], "train/entropy": 0.5}
    status = {"steps": TOTAL, "total_steps": TOTAL, "seconds": 20.0, "figure": tag, "best": max(values)}
    tracker.status({**status, "less_is_better": ["train/loss"], "figures": figures, **said})
    tracker.flush()
    tracker.close()
    if finished is not None:
        result = {"config": "made", "seed": seed, "steps": TOTAL, "seconds": 20.0, "finished": finished}
        (path / "result.json").write_text(json.dumps({**result, "figures": figures}))
    return path


def make_seeds(folder, scores, **settings):
    """A run of each seed from 1 on, that scores half as much on its way."""
    for seed, score in enumerate(scores, 1):
        make_run(folder / f"seed{seed}", [score / 2, score], seed, **settings)
    return folder
