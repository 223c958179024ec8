"""``rlcore runs`` and ``rlcore plot``, what they read, and the progress of several seeds."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from made_runs import make_run
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlcore import commands
from rlcore.commands.progress import following
from rlcore.files import locked
from rlcore.loggers import LoggerChoice
from rlcore.runs.curves import Curve, read_curves, seconds_of
from rlcore.runs.drawing import smoothed
from rlcore.runs.status import age, environment_of, find_runs, status_of
from rlcore.tracking import Tracker

QUICK = """\
env: {name: probe_identity, num_envs: 4}
agent: {name: ppo, horizon: 8, minibatch_size: 32, network: {name: mlp, hidden: [8]}}
trainer: {total_steps: 128, log_every: 32, eval_every: 64, eval_episodes: 4, loggers: [tensorboard, csv]}
"""


@pytest.fixture
def quick(workdir):
    """A config in the working folder."""
    (workdir / "quick.yaml").write_text(QUICK)
    return workdir


def test_a_run_says_how_far_it_is(quick):
    assert commands.train("quick.yaml", ["trainer.stop_at=64"], "runs/quick/one", None, 1) == 0
    said = json.loads((quick / "runs/quick/one/status.json").read_text())
    result = json.loads((quick / "runs/quick/one/result.json").read_text())
    assert (said["steps"], said["total_steps"], said["figure"]) == (64, 128, "eval/return")
    assert said["best"] == said["figures"]["eval/return"] == result["figures"]["eval/return"]
    assert said["less_is_better"] == ["train/loss"]
    assert status_of(quick / "runs/quick/one").state == "stopped"
    assert commands.resume("runs/quick/one", ["trainer.stop_at=null"]) == 0
    status = status_of(quick / "runs/quick/one")
    assert (status.state, status.steps, status.total_steps) == ("done", 128, 128)

    events = EventAccumulator(str(quick / "runs/quick/one")).Reload()
    curves = read_curves(quick / "runs/quick/one")
    assert set(curves) == set(events.Tags()["scalars"])
    for tag, curve in curves.items():
        known = events.Scalars(tag)
        assert curve.step.tolist() == [point.step for point in known]
        assert np.array_equal(curve.value, [point.value for point in known], equal_nan=True)
    for file in (quick / "runs/quick/one").glob("events.*"):
        file.unlink()
    table = read_curves(quick / "runs/quick/one")
    assert set(table) == set(curves)
    for tag, curve in table.items():
        assert np.allclose(curve.value, curves[tag].value, equal_nan=True)


def test_what_was_logged_again_counts_once_and_a_cut_file_is_read_as_far_as_it_goes(workdir):
    chosen = [LoggerChoice.model_validate("tensorboard")]
    for purge, values in ((None, [1.0, 2.0, 3.0]), (20, [7.0, 8.0])):
        tracker = Tracker(workdir / "run", loggers=chosen, purge_step=purge)
        for step, value in enumerate(values, 1 if purge is None else 2):
            tracker.scalars({"eval/return": value, "other": 1.0}, 10 * step)
        tracker.close()
    curve = read_curves(workdir / "run", lambda tag: tag == "eval/return")
    assert set(curve) == {"eval/return"}
    assert curve["eval/return"].value.tolist() == [1.0, 7.0, 8.0]
    last = max((workdir / "run").glob("events.*"))
    last.write_bytes(last.read_bytes()[:-5])
    assert read_curves(workdir / "run")["eval/return"].value.tolist() == [1.0, 7.0]


def test_seconds_are_those_of_the_logs_and_between_them_on_the_line():
    speed = Curve(np.array([100, 200]), np.array([10.0, 8.0]))  # 10 s and 25 s
    assert seconds_of(speed, np.array([0, 50, 100, 150, 200])).tolist() == [0.0, 5.0, 10.0, 17.5, 25.0]


def test_smoothing_is_tensorboards():
    assert smoothed(np.array([1.0, np.nan, 3.0]), 0.5)[[0, 2]].tolist() == [1.0, (0.25 + 1.5) / 0.75]
    assert smoothed(np.array([4.0, 5.0]), 0.0).tolist() == [4.0, 5.0]


def test_the_states_of_runs(rlcore_, workdir):
    make_run(workdir / "runs/a/done", [1.0, 5.0])
    make_run(workdir / "runs/a/stopped", [1.0, 4.0], finished=False)
    make_run(workdir / "runs/b/dead", [1.0, 3.0], finished=None, steps=500)
    (make_run(workdir / "runs/b/failed", [1.0, 2.0], steps=1_500, total_steps=2_000) / "checkpoints").mkdir()
    (workdir / "runs/b/failed/checkpoints/last.pt").touch()  # resumed, and then killed
    busy = make_run(workdir / "runs/b/busy", [1.0, 1.0], finished=None, steps=250)
    with locked(busy):
        status, out, _ = rlcore_("runs", "--json", "--sort", "figure")
        found = {row["path"]: row for row in json.loads(out)}
    states = {path: row["state"] for path, row in found.items()}
    assert states == {
        "runs/a/done": "done",
        "runs/a/stopped": "stopped",
        "runs/b/dead": "no checkpoint",
        "runs/b/failed": "failed",
        "runs/b/busy": "running",
    }
    assert list(found) == ["runs/a/done", "runs/a/stopped", "runs/b/dead", "runs/b/failed", "runs/b/busy"]
    assert status_of(busy).state == "no checkpoint"
    row = found["runs/a/done"]
    assert (row["value"], row["best"], row["seconds"], row["agent"], row["environment"]) == (
        5,
        5,
        20,
        "ppo",
        "cartpole",
    )

    status, out, _ = rlcore_("runs", "b/")
    assert status == 0
    assert "failed" in out
    assert "75%" in out
    assert "runs/a" not in out
    status, out, _ = rlcore_("runs", "--filter", "agent.gamma=0.98", "--filter", "state=d*", "--json")
    assert [row["path"] for row in json.loads(out)] == ["runs/a/done"]
    status, out, _ = rlcore_("runs", "runs/a", "--sort", "name", "--json")
    assert [row["path"] for row in json.loads(out)] == ["runs/a/done", "runs/a/stopped"]


def test_a_run_of_before_is_read_from_what_it_has(workdir):
    run = make_run(workdir / "old", [1.0, 2.0])
    (run / "status.json").unlink()
    status = status_of(run)
    assert (status.state, status.steps, status.total_steps, status.figure) == ("done", 1_000, 1_000, "eval/return")
    assert (status.value, status.best, status.less_is_better) == (2.0, None, None)
    (run / "result.json").unlink()
    status = status_of(run)
    assert (status.state, status.steps, status.value) == ("no checkpoint", 1_000, 2.0)


def test_runs_are_found_at_any_depth_and_not_in_runs(workdir):
    run = make_run(workdir / "runs/deep/er/run", [1.0])
    make_run(run / "checkpoints/nested", [1.0])
    make_run(workdir / "runs/.hidden/run", [1.0])
    assert list(find_runs(workdir / "runs")) == [run]


def test_environments_are_told_apart_by_what_they_are_evaluated_in():
    assert environment_of({"env": "cartpole"}) == "cartpole"
    assert environment_of({"env": {"name": "gym", "id": "Ant-v5", "num_envs": 2}}) == "gym Ant-v5"
    assert environment_of({"env": {"name": "gym", "id": "A"}, "eval_env": {"id": "B"}}) == "gym B"
    assert environment_of({"env": {"name": "gym", "id": "A"}, "eval_env": {"name": "cartpole"}}) == "cartpole"


def test_a_damaged_run_is_left_out_and_told(rlcore_, workdir):
    make_run(workdir / "runs/a", [1.0])
    (make_run(workdir / "runs/b", [1.0]) / "status.json").write_text("{")
    (make_run(workdir / "runs/c", [1.0]) / "config.yaml").write_text("a: [")
    status, out, err = rlcore_("runs", "--json")
    assert (status, [row["path"] for row in json.loads(out)]) == (0, ["runs/a"])
    first, second = err.splitlines()
    assert first.startswith("rlcore: left out: cannot read runs/b/status.json: ")
    assert second.startswith("rlcore: left out: runs/c: config.yaml:1: ")


def test_ages_have_one_unit():
    assert [age(x) for x in (0.4, 59, 60, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("runs", "zzz"), "there are no runs in runs that match 'zzz'"),
        (("runs", "--sort", "stats"), "--sort: unknown column 'stats' (did you mean 'state'?); known: name, state"),
        (("runs", "--filter", "ppo"), "--filter: 'ppo' is not KEY=VALUE, e.g. agent.name=ppo or state=running"),
        (("runs", "--filter", "seed=7"), "there are no such runs: none of 1 meets --filter seed=7"),
        (("plot", "eval/retrun", "runs"), "no run has a figure 'eval/retrun' (did you mean 'eval/return'?); they have"),
        (("plot", "eval/return", "nowhere"), "there is no folder nowhere; expected a run, or a folder of runs"),
        (("plot", "eval/return", "runs", "--out", "x.poem"), "--out x.poem: "),
    ],
)
def test_bad_input_is_one_line(rlcore_, workdir, words, line):
    make_run(workdir / "runs/a", [1.0, 2.0])
    status, out, err = rlcore_(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"rlcore: {line}")


def test_no_runs_here_is_one_line(rlcore_, workdir):
    status, _, err = rlcore_("runs")
    assert (status, err) == (
        2,
        "rlcore: there are no runs here: no folder runs; name another one: rlcore runs FOLDER\n",
    )


def test_a_plot_has_a_panel_for_each_figure(rlcore_, workdir):
    make_run(workdir / "runs/a", [1.0, 2.0])
    make_run(workdir / "runs/b", [2.0, 3.0], tag="eval/accuracy")
    status, out, _ = rlcore_("plot", "eval/*", "runs", "--out", "made/plot.svg", "--smoothing", "0.5")
    assert (status, out) == (0, "file: made/plot.svg\n")
    drawn = (workdir / "made/plot.svg").read_text()
    assert "<!-- eval/return -->" in drawn
    assert "<!-- eval/accuracy -->" in drawn
    assert "<!-- runs/a -->" in drawn
    status, out, _ = rlcore_("plot", "eval/return", "runs/*", "--over", "seconds", "--out", "plot.png")
    assert (status, out) == (0, "note: runs/b has no figure eval/return\nfile: plot.png\n")


def test_what_looks_at_runs_does_without_torch(workdir):
    make_run(workdir / "runs/a", [1.0, 2.0])
    code = (
        "import sys; from rlcore import commands; commands.runs(None, [], 'name', False); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n"), done.stderr


def say(path, steps, value):
    path.mkdir(parents=True, exist_ok=True)
    figures = {"eval/return": value}
    said = {"steps": steps, "total_steps": 100, "figure": "eval/return", "figures": figures}
    (path / "status.json").write_text(json.dumps(said))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_each_run_has_its_line(workdir, is_terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120, height=30)
    runs = {f"seed{seed}": workdir / f"seed{seed}" for seed in (1, 2, 3)}
    with following(runs, console):
        say(runs["seed1"], 100, 12.5)
        say(runs["seed2"], 40, None)
    shown = out.getvalue()
    assert "seed1" in shown
    assert "100 / 100" in shown
    assert "eval/return 12.5" in shown
    assert "seed2" in shown
    assert "40 / 100" in shown
    assert "seed3" not in shown  # it has not begun


def test_several_seeds_name_their_folders_and_show_their_progress(rlcore_, quick):
    status, out, _ = rlcore_("train", "quick.yaml", "--seeds", 2, "--jobs", 2, "--run-dir", "many")
    assert status == 0
    lines = out.splitlines()
    paths = sorted((quick / "many").iterdir())
    assert [
        line for line in lines if line in [f"seed{n}: many/{path.name}" for n, path in enumerate(paths, 1)]
    ] == lines[:2]
    assert all(any(line.startswith(f"seed{n}") and "128 / 128" in line for line in lines) for n in (1, 2))
