"""rlcore tune: what is tried, what is found, what survives a kill."""

import json
import os
import signal
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from made_runs import make_run
from test_cli import command, rlcore_  # noqa: F401

import rlcore
from rlcore import config, registry
from rlcore.commands.study import Plan, Tuner, _Watch, judged_by
from rlcore.errors import InputError
from rlcore.search_space import Choices, Range

optuna = pytest.importorskip("optuna")

OFFSET = """\
import os, signal
import rlcore

@rlcore.registry.agents.register("offset")
class Offset(rlcore.Agent):
    '''Misses the target by `by` - 0.3, and learns nothing; its return is -(by - 0.3)^2.'''

    class Settings(rlcore.Settings):
        by: float = 1.0
        how: list[int] = [1]
        ends_at: int | None = None
        '''The update in which the process is ended, if it began the run.'''

    horizon = 8

    def __init__(self, env, settings=None):
        super().__init__(env, settings)
        self.num_updates = 0

    def act(self, obs, state=None):
        return rlcore.Step(obs + self.settings.by - 0.3)

    def learn(self, rollout):
        self.num_updates += 1
        with open("updates", "a") as file:
            file.write(f"{self.num_updates} ")
        if self.num_updates == self.settings.ends_at and not os.path.exists("ended"):
            open("ended", "w").close()
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 0.0}
"""
CONFIG = """\
imports: [offset]
env: {name: probe_target, num_envs: 4}
agent: {name: offset}
trainer: {total_steps: 128, eval_every: 32, eval_episodes: 4, tensorboard: false}
search:
  agent.by: {low: -0.5, high: 1.0}
  agent.how: [[1], [2, 3]]
"""


@pytest.fixture(autouse=True)
def _here(workdir, monkeypatch):
    monkeypatch.setattr(registry.agents, "_registered", dict(registry.agents._registered))
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("offset", None)
    (workdir / "offset.py").write_text(OFFSET)
    (workdir / "target.yaml").write_text(CONFIG)


def studied(folder="runs/tune/target", name="target"):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(f"{folder}/study.log"))
    return optuna.load_study(study_name=name, storage=storage)


def tuner(*overrides, storage="study.log", seeds=(1,), **how):
    figure, direction = judged_by("target.yaml", overrides)
    return Tuner(Plan("target.yaml", overrides, figure, seeds), storage, Path("runs"), "target", direction, **how)


def test_the_best_settings_are_found_written_and_trained_with_seeds_that_no_trial_has_had(rlcore_):  # noqa: F811
    status, out, err = rlcore_("tune", "target.yaml", "--trials", 12, "--seeds", 2, "--fresh", 0)
    assert (status, err) == (0, "")
    trials = studied().trials
    assert len(trials) == 12
    assert trials[0].params["agent.by"] == 1.0, "the config as it is comes first"
    ended = [trial for trial in trials if trial.state.name == "COMPLETE"]
    for trial in ended:
        assert trial.value == pytest.approx(-((trial.params["agent.by"] - 0.3) ** 2), abs=1e-5)
    best = max(ended, key=lambda trial: trial.value)
    found = config.load("runs/tune/target/best.yaml").config
    assert found.agent.settings.by == best.params["agent.by"]
    assert found.agent.settings.how == json.loads(best.params["agent.how"])
    assert found.seed == 1
    assert not found.search
    assert {path.name for path in Path("runs/tune/target").glob("*.png")} == {"history.png", "importances.png"}
    runs = sorted(path.parent.name for path in Path("runs/tune/target/trial-0000").glob("*/result.json"))
    assert runs == ["seed1", "seed2"]
    assert f"trial {best.number}: {best.value:.6g}" in out


def test_a_study_goes_on_and_is_not_begun_again(rlcore_):  # noqa: F811
    rlcore_("tune", "target.yaml", "--trials", 3, "--fresh", 0)
    before = [trial.params for trial in studied().trials]
    status, out, _ = rlcore_("tune", "target.yaml", "--trials", 5, "--fresh", 0)
    after = [trial.params for trial in studied().trials if trial.state.name != "FAIL"]
    assert status == 0
    assert "trial 2:" not in out
    assert after[:3] == before
    assert len({trial["agent.by"] for trial in after}) == len(after) == 5, "the numbers drawn go on as well"


def test_an_interrupted_trial_is_resumed_where_it_was(rlcore_):  # noqa: F811
    status, out, _ = rlcore_("tune", "target.yaml", "--trials", 2, "--fresh", 0, "agent.ends_at=2")
    assert status == 128 + signal.SIGTERM
    assert "goes on where it was by the same command" in out
    (trial,) = studied().trials
    assert trial.state.name == "RUNNING"
    assert Path("updates").read_text() == "1 2 "
    status, out, _ = rlcore_("tune", "target.yaml", "--trials", 2, "--fresh", 0, "agent.ends_at=2")
    assert status == 0
    assert "1 of its trials were interrupted, and are resumed" in out
    failed, resumed, other = studied().trials
    assert failed.state.name == "FAIL"
    assert resumed.params == failed.params
    assert resumed.user_attrs["folder"] == failed.user_attrs["folder"]
    assert Path("updates").read_text() == "1 2 3 4 1 2 3 4 "
    assert resumed.value == pytest.approx(-((resumed.params["agent.by"] - 0.3) ** 2), abs=1e-5)
    assert other.number == 2


class Killed(BaseException):
    """Ends a process where it stands."""


def killed(*args, **kwargs):
    raise Killed


def test_a_trial_that_was_given_up_stays_so_though_it_was_killed_before_it_ended(monkeypatch):
    one = tuner()
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: True)
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "tell", killed)
        with pytest.raises(Killed):
            one.work(1)
    assert json.loads(Path("runs/trial-0000/seed1/result.json").read_text())["finished"]
    assert tuner().adopt() == 1
    (trial,) = one.study.trials
    assert trial.state.name == "PRUNED"
    assert trial.user_attrs["why"] == "pruned at -0.49, step 32"
    assert tuner().adopt() == 0


@pytest.mark.parametrize("place", ["_claimed", "_run"])
def test_a_trial_that_is_killed_as_it_begins_does_not_count(monkeypatch, place):
    monkeypatch.setattr("rlcore.commands.study.GRACE", 0.0)
    one = tuner()
    for _ in range(2):  # as the trial that resumes it may be killed, too
        with monkeypatch.context() as patched:
            patched.setattr(Tuner, place, killed)
            with pytest.raises(Killed):
                one.work(1)
        assert tuner().adopt() == 1
    told = []
    assert one.work(1, told.append) == 0
    assert [trial.state.name for trial in one.study.trials] == ["FAIL", "FAIL", "COMPLETE"]
    assert one.study.trials[2].params == {"agent.by": 1.0, "agent.how": "[1]"}, "the config as it is comes first"
    assert len(told) == 1
    assert [path.name for path in Path("runs").iterdir()] == ["trial-0002" if place == "_claimed" else "trial-0000"]


def test_a_trial_of_another_machine_is_begun_anew(monkeypatch):
    one = tuner()
    one.study.enqueue_trial({"agent.by": 0.5}, user_attrs={"resumes": f"elsewhere:{Path.cwd()}"})
    assert one.work(2) == 0
    host, _, folder = one.study.trials[1].user_attrs["folder"].partition(":")
    assert Path(folder) == Path.cwd() / "runs/trial-0001"
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    monkeypatch.setattr(Tuner, "_run", killed)
    with pytest.raises(Killed):
        one.work(3)
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert one.adopt() == 0, "it is for the other machine to resume"


def test_studies_in_one_folder_have_runs_of_their_own(rlcore_):  # noqa: F811
    for name, by in (("one", 1.0), ("two", 0.5)):
        words = f"agent.by={by}", "--study", name, "--trials", 1, "--fresh", 0
        assert rlcore_("tune", "target.yaml", *words)[0] == 0
        assert studied(name=name).best_value == pytest.approx(-((by - 0.3) ** 2), abs=1e-5)


def test_the_config_and_the_best_are_compared_by_the_runs_of_this_command_alone(rlcore_, monkeypatch):  # noqa: F811
    def made(trainings, jobs):
        for training in trainings:
            score = 1.0 if Path(training.source).stem == "best" else 0.0
            seed = int(training.name.removeprefix("seed"))
            training.path.rmdir()
            yield make_run(training.path, [score, score + seed / 1e4], seed), 0

    monkeypatch.setattr(sys.modules["rlcore.commands.tune"], "train_all", made)
    for place in ("fresh", "fresh-2"):
        status, out, err = rlcore_("tune", "target.yaml", "--trials", 1, "--fresh", 4)
        assert (status, err) == (0, "")
        assert "winner of given and best: best, in eval/return" in out
        for side in ("given", "best"):
            assert len(list(Path(f"runs/tune/target/{place}/{side}").iterdir())) == 4


def test_the_history_is_of_trials_that_ended(monkeypatch, rlcore_):  # noqa: F811
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.step", lambda self, x, y, **how: drawn.append((x, y)))
    one = tuner(storage="runs/tune/target/study.log")
    for value, state in ((-0.4, "COMPLETE"), (-0.1, "PRUNED"), (-0.5, "COMPLETE"), (-0.3, "COMPLETE")):
        params = {"agent.by": 0.5, "agent.how": "[1]"}
        kinds = {
            "agent.by": optuna.distributions.FloatDistribution(-0.5, 1.0),
            "agent.how": optuna.distributions.CategoricalDistribution(["[1]", "[2, 3]"]),
        }
        how = {"state": optuna.trial.TrialState[state], "value": value, "params": params, "distributions": kinds}
        one.study.add_trial(optuna.trial.create_trial(**how))
    assert rlcore_("tune", "target.yaml", "--trials", 4, "--fresh", 0)[0] == 0
    assert drawn == [([1, 3, 4], [-0.4, -0.4, -0.3])], "the number 0 waits: it is the config as it is"


def test_two_tuners_share_a_database():
    one, other = (tuner(storage="sqlite:///study.db", stream=stream) for stream in (1, 2))
    with ThreadPoolExecutor(2) as pool:  # runs listen for signals in the main thread alone
        asked = list(pool.map(lambda each: each._ask(4), [one, other]))
    assert {trial.number for trial in asked} == {0, 1}, "also if one of them was enqueued"
    told = []
    assert one.work(4, told.append) == other.work(4, told.append) == 0
    assert len(told) == 2, "the two that are in progress count"
    assert len({trial.params.get("agent.by") for trial in other.study.trials}) == 3


@pytest.mark.slow
def test_workers_of_one_command_share_a_database():
    done = command(
        *("tune", "target.yaml", "--trials", 7, "--jobs", 2, "--fresh", 0, "--storage", "sqlite:///study.db"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    study = optuna.load_study(study_name="target", storage="sqlite:///study.db")
    states = [trial.state.name for trial in study.trials if trial.state.name != "FAIL"]
    assert len(states) == 7
    assert set(states) <= {"COMPLETE", "PRUNED"}
    assert done.stdout.count("\ntrial ") == 7
    assert len({trial.params["agent.by"] for trial in study.trials}) == len(study.trials)


def test_evaluations_are_told_as_they_come_and_prune():
    class Trial:
        told: list = []

        def report(self, value, step):
            self.told.append((step, value))

        def should_prune(self):
            return len(self.told) == 3

        def set_user_attr(self, key, value):
            assert (key, value) == ("why", "pruned at -2, step 96")

    loaded = config.load("target.yaml", ["agent.by=1.3"])
    watch = _Watch(Trial(), "eval/return", [-3.0])
    trainer, _ = config.build(loaded.config, hooks=[watch])
    trainer.fit()
    assert [step for step, _ in Trial.told[:3]] == [5, 6, 7], "4 evaluations of the seed before came first"
    assert [value for _, value in Trial.told[:3]] == pytest.approx([-2.0] * 3, abs=1e-5)
    assert trainer.steps == 96
    assert watch.why == "pruned at -2, step 96"


def test_an_error_is_minimized_and_a_refused_trial_is_given_up():
    Path("sines.yaml").write_text("""\
env: {name: supervised, dataset: x_sin_x, num_envs: 32, action: values}
agent: {name: supervised, network: {name: mlp, hidden: [4]}, optimizer: adam}
trainer: {epochs: 1, tensorboard: false}
search: {agent.learning_rate: {low: 1e-4, high: 1e-1, log: true}}
""")
    assert judged_by("sines.yaml", [], "eval/rmse") == ("eval/rmse", "minimize")
    assert judged_by("target.yaml", []) == ("eval/return", "maximize")


def test_a_trial_that_diverges_is_given_up_and_says_why(monkeypatch):
    one = tuner()
    assert one.work(1, lambda line: None) == 0
    monkeypatch.setattr(registry.agents["offset"], "act", lambda self, obs, state=None: rlcore.Step(obs + torch.nan))
    told = []
    assert one.work(2, told.append) == 0
    assert one.study.trials[1].state.name == "PRUNED"
    assert one.study.trials[1].user_attrs["why"].startswith("the action is nan at step 0")
    assert told[0].startswith("trial 1: the action is nan at step 0")


def test_a_study_whose_settings_are_all_refused_ends_with_the_reason(monkeypatch):
    def refused(*args):
        raise InputError("agent.by and agent.how do not fit")

    one, told = tuner(), []
    with monkeypatch.context() as patched:
        patched.setattr(Tuner, "_run_seed", refused)
        with pytest.raises(InputError, match=r"^all trials so far were refused: agent.by and agent.how do not fit$"):
            one.work(9, told.append)
    assert [trial.state.name for trial in one.study.trials] == ["PRUNED"] * 5
    assert one.work(6, told.append) == 0
    monkeypatch.setattr(Tuner, "_run_seed", refused)
    assert one.work(7, told.append) == 0, "as there is one that was not"
    assert told[-1].startswith("trial 6: refused: agent.by and agent.how do not fit (best ")


def test_ranges_and_choices_are_what_a_trial_is_asked_for():
    asked = optuna.trial.FixedTrial({"a": 3, "b": 1e-3, "c": "[2, 3]", "d": "relu"})
    assert Range(low=1, high=8, log=True).suggest(asked, "a") == 3
    assert Range(low=1e-5, high=1.0, log=True).suggest(asked, "b") == 1e-3
    assert Choices([[1], [2, 3]]).suggest(asked, "c") == [2, 3]
    assert Choices(["tanh", "relu"]).suggest(asked, "d") == "relu"
    assert Range(low=1, high=8).encode(9) is None
    assert Range(low=1, high=8).encode(2.5) is None
    assert Range(low=1, high=8).encode(True) is None
    assert Choices([None, 0.5]).encode(None) == "null"
    assert Range(low=32, high=100, step=32).ends() == [32, 96]
    assert Range(low=0.8, high=1.0, step=0.15).ends() == [0.8, 0.95]
    assert Range(low=0.1, high=0.7, step=0.1).ends() == [0.1, 0.7]
    assert Range(low=32, high=100, step=32).encode(96) == 96
    assert Range(low=32, high=100, step=32).encode(97) is None
    assert Range(low=0.1, high=0.7, step=0.1).encode(0.6) == 0.6
    for wrong in (
        {"low": 1, "high": 4, "step": 5},
        {"low": 2, "high": 1},
        {"low": 0.0, "high": 1.0, "log": True},
        {"low": 1, "high": 4, "step": 0.5},
    ):
        with pytest.raises(ValueError, match=r"must|needs"):
            Range(**wrong)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("cartpole_ppo",), "cartpole_ppo: has no search block; write e.g. search: {agent.learning_rate: {low: 1e-5"),
        (("target.yaml", "search={agent.bye: [1, 2]}"), "search: agent.bye: unknown key (did you mean 'by'?)"),
        (("target.yaml", "search={agent.by: [x]}"), "search: agent.by: must be a valid number, got 'x'"),
        (("target.yaml", "search={seed: [1, 2]}"), "search: seed: is no setting to choose; --seeds N trains each"),
        (("target.yaml", "search={agent.by: {low: 2, high: 1}}"), "low must be less than high, got 2 and 1"),
        (
            ("target.yaml", "--by", "eval/retrun"),
            "no figure 'eval/retrun' (did you mean 'eval/return'?)",
        ),
        (("target.yaml", "--sampler", "magic"), "--sampler: must be one of tpe, random, gp, cmaes, qmc; got"),
        (
            ("target.yaml", "--pruner", "magic"),
            "--pruner: must be one of median, halving, hyperband, none; got",
        ),
        (("target.yaml", "trainer.eval_every=null"), "trials are judged by evaluations; set trainer.eval_every"),
        (("target.yaml", "--storage", "mysterious://x"), "storage mysterious://x: Can't load plugin"),
        (
            ("target.yaml", "--storage", "sqlite:////no/folder/x.db"),
            "sqlite:////no/folder/x.db: unable to open",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(rlcore_, words, line):  # noqa: F811
    status, _, err = rlcore_("tune", *words, "--trials", 1, "--fresh", 0)
    assert status == 2
    assert err.count("\n") == 1
    assert line in err


def test_a_study_of_another_config_is_refused():
    tuner()
    with pytest.raises(InputError, match=r"is of another config: env.num_envs is 4 there, 8 here; .*--study"):
        tuner("env.num_envs=8")
    with pytest.raises(InputError, match="is of another config: seeds is"):
        tuner(seeds=(1, 2))


def test_a_locked_database_and_a_password_are_told_properly(monkeypatch):
    monkeypatch.setattr("rlcore.commands.study.PATIENCE", 0.1)
    held = sqlite3.connect("study.db")
    held.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match=r"storage sqlite:///study.db: .*database is locked"):
        tuner(storage="sqlite:///study.db")
    held.close()
    with pytest.raises(InputError) as caught:
        tuner(storage="mysterious://me:secret@host/db")
    assert "secret" not in str(caught.value)
    assert "mysterious://me@host/db" in str(caught.value)


def test_optuna_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"tuning needs optuna .*: pip install optuna"):
        tuner()
