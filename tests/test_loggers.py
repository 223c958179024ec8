import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import same
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import QUICK
from test_docs import blocks

from rlcore import commands, config, registry
from rlcore.agents.ppo import PPO
from rlcore.config import CONFIG_FILE
from rlcore.envs.cartpole import CartPole
from rlcore.errors import InputError
from rlcore.evaluation import Embedding, Film, Report
from rlcore.loggers import Logger, LoggerChoice
from rlcore.loggers.tensorboard import TensorBoardLogger
from rlcore.seeding import rng_state
from rlcore.tracking import Tracker
from rlcore.trainer import Trainer

NAMES = ["csv", "mlflow", "tensorboard", "trackio", "wandb"]
SERVICES = ["mlflow", "trackio", "wandb"]
HYPERPARAMETERS = {"agent.learning_rate": 1e-3, "agent.hidden": [8, 8], "env.name": "cartpole", "agent.clip": None}


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory):
    """Nothing is written outside of temporary folders; trackio reads its own where it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        yield


@pytest.fixture
def folder(workdir):
    (workdir / "quick.yaml").write_text(QUICK)
    return workdir


def choose(name, run="run"):
    """A logger whose client is installed, writing into the working folder."""
    if name in SERVICES:
        pytest.importorskip(name)
    project = f"{Path.cwd().name}-{run}"
    settings = {
        "mlflow": {"tracking_uri": f"sqlite:///{Path.cwd()}/mlflow.db"},
        "trackio": {"project": project},
        "wandb": {"project": project},
    }
    return LoggerChoice.model_validate({"name": name, **settings.get(name, {})})


def make_report():
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    return Report({"score": 3.0}, "some\n<text>", figures={"curve": figure})


def write(name, steps, purge_step=None, run="run"):
    """What one process writes of a run: train/loss is the step."""
    tracker = Tracker(run, loggers=[choose(name, run)], purge_step=purge_step)
    assert list(tracker.loggers) == [name]
    if purge_step is None:
        tracker.begin(HYPERPARAMETERS, "eval/return", "the: config\n")
    for step in steps:
        tracker.scalars({"train/loss": float(step), "train/(odd), é": math.nan}, step)
        if step == steps[-1]:
            tracker.report("mine", make_report(), step)
    tracker.flush()
    tracker.close()
    assert list(tracker.loggers) == [name]


def test_tensorboard_shows_what_it_is_told(workdir):
    write("tensorboard", [10, 20, 30])
    write("tensorboard", [30, 40], purge_step=21)
    events = EventAccumulator("run").Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(n, n) for n in (10, 20, 30, 40)]
    assert [event.value for event in events.Scalars("mine/score")] == [3.0]
    assert [event.step for event in events.Images("mine/curve")] == [40]
    assert events.Tensors("config/text_summary")[0].tensor_proto.string_val == [b"    the: config\n    "]
    shown = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"agent.learning_rate" in shown


def table(run="run"):
    with open(Path(run) / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


def test_csv_is_one_table_by_step(workdir):
    write("csv", [10, 20, 30])
    text = Path("run/progress.csv").read_text()
    assert text == ('step,train/loss,"train/(odd), é",mine/score\n10,10.0,nan,\n20,20.0,nan,\n30,30.0,nan,3.0\n')
    write("csv", [30, 40], purge_step=21)
    assert [(row["step"], row["train/loss"], row["mine/score"]) for row in table()] == [
        ("10", "10.0", ""), ("20", "20.0", ""), ("30", "30.0", ""), ("40", "40.0", "3.0"),
    ]  # fmt: skip


def test_csv_gains_columns_and_loses_nothing(workdir):
    logger = choose("csv").make(Path("run"))
    expected = []
    rng = np.random.default_rng(1)
    for step in range(1, 60):
        expected.append({"step": step})
        for _ in range(rng.integers(1, 4)):  # several calls of a step, some of which change what was there
            values = {f"tag/{n}": float(rng.normal()) for n in rng.integers(0, step, 3)}
            logger.scalars(values, step)
            expected[-1] |= values
            rows = [{tag: float(value) for tag, value in row.items() if value} for row in table()]
            assert rows == expected
    logger.scalars({"step": 7.0}, 60)  # a tag of that name does not hide the step
    assert table()[-1]["step"] == "60"


def test_csv_goes_on_after_a_row_that_was_cut(workdir):
    write("csv", [10, 20])
    whole = Path("run/progress.csv").read_bytes()
    for cut in (b"30,3", b"30,30.0,nan,1.", b"\0" * 50):  # "30,3" would be a number, of another step or value
        Path("run/progress.csv").write_bytes(whole + cut)
        write("csv", [30], purge_step=31)
        assert [row["step"] for row in table()] == ["10", "20", "30"]
    Path("run/progress.csv").write_text("date,price\nmonday,1\n")
    with pytest.raises(InputError, match=r"progress\.csv is not a table by step of the logger csv; move it"):
        Tracker("run", loggers=[choose("csv")], purge_step=1)


def test_csv_is_readable_after_a_kill_and_resumes(folder):
    words = ["train", "quick.yaml", "--run-dir", "run", "trainer.loggers=[csv]", "trainer.log_every=8"]
    more = ["trainer.total_steps=100_000", "trainer.eval_every=512", "trainer.checkpoint_every=512"]
    more += ["trainer.eval_episodes=2"]
    process = subprocess.Popen([sys.executable, "-m", "rlcore", *words, *more], stdout=subprocess.DEVNULL)
    written = Path(
        "run/progress.csv"
    )  # read while it is written: lines are counted, the last of which may be half there
    while not Path("run/checkpoints/last.pt").exists() or len(written.read_text().splitlines()) < 11:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert commands.resume("run", ["trainer.stop_at=8_000"]) == 0
    steps = [int(row["step"]) for row in table()]
    assert steps == list(range(256, steps[-1] + 1, 256))
    assert steps[-1] >= 8_000
    assert [bool(row["eval/return"]) for row in table()] == [step % 512 == 0 for step in steps]
    assert not list(Path("run").glob("events*"))


def test_mlflow_holds_what_it_is_told_and_the_same_run_goes_on(workdir):
    mlflow = pytest.importorskip("mlflow")
    write("mlflow", [10, 20, 30])
    client = mlflow.MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "rlcore"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{workdir.name}/run"
    assert run.data.params == {key: str(value) for key, value in HYPERPARAMETERS.items()}
    write("mlflow", [30, 40], purge_step=21)
    (again,) = client.search_runs([experiment.experiment_id])
    assert again.info.run_id == run.info.run_id == json.loads(Path("run/.mlflow.json").read_text())["id"]
    assert again.data.params == run.data.params
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((one.step, one.value) for one in history) == [(10, 10), (20, 20), (30, 30), (30, 30), (40, 40)]
    assert math.isnan(client.get_metric_history(run.info.run_id, "train/_odd__ _")[0].value)
    paths = [
        file.path for folder in ("", "mine", "mine/curve") for file in client.list_artifacts(run.info.run_id, folder)
    ]
    assert {"config.yaml", "mine/40.txt", "mine/curve/40.png"} <= set(paths)
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml") == "the: config\n"


def test_mlflow_runs_that_are_begun_again_keep_their_parameters(workdir):
    tracker = Tracker("run", loggers=[choose("mlflow")])
    many = {f"agent.{n}": n for n in range(250)}
    tracker.begin(many, "eval/return")
    tracker.close()
    tracker = Tracker("run", loggers=[choose("mlflow")], purge_step=1)
    tracker.begin(many | {"agent.1": 10, "agent.new": 1}, "eval/return")  # MLflow raises where one changes
    logger = tracker.loggers["mlflow"]
    assert logger.client.get_run(logger.id).data.params == {key: str(n) for key, n in many.items()} | {"agent.new": "1"}
    tracker.close()


def test_trackio_holds_what_it_is_told_and_the_same_run_goes_on(workdir):
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    write("trackio", [10, 20, 30])
    write("trackio", [30, 40], purge_step=21)
    project = f"{workdir.name}-run"
    (run,) = trackio.Api().runs(project)
    assert run.name == json.loads(Path("run/.trackio.json").read_text())["name"]
    assert run.name.startswith(f"{workdir.name}-run-")
    assert HYPERPARAMETERS.items() <= run.config.items()
    rows = SQLiteStorage.get_logs(project, run.name, run_id=run.id)
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert sorted(losses) == [(10, 10), (20, 20), (30, 30), (30, 30), (40, 40)]
    kinds = {tag: value["_type"] for row in rows for tag, value in row.items() if isinstance(value, dict)}
    assert kinds == {"config": "trackio.markdown", "mine": "trackio.markdown", "mine/curve": "trackio.image"}
    write("trackio", [10], run="other/run")  # in another project: a run of the same folder's name
    assert len(trackio.Api().runs(project)) == 1


def test_wandb_writes_its_files_and_the_same_run_goes_on(workdir):
    pytest.importorskip("wandb")
    write("wandb", [10, 20, 30])
    (file,) = Path("run/wandb").glob("offline-run-*/*.wandb")
    run_id = json.loads(Path("run/.wandb.json").read_text())["id"]
    assert file.name == f"run-{run_id}.wandb"
    deadline = time.monotonic() + 30
    while b"mine/score" not in (content := file.read_bytes()):  # wandb's own process writes it, until ours ends
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for part in (b"train/loss", b"agent.learning_rate", b"global_step", f"{workdir.name}-run".encode()):
        assert part in content
    (image,) = file.parent.glob("files/media/images/mine/curve_*.png")
    assert image.read_bytes().startswith(b"\x89PNG")
    texts = {path.read_text().strip() for path in file.parent.glob("files/media/html/**/*.html")}
    assert any("<pre>the: config\n</pre>" in text for text in texts)
    assert any("some\n&lt;text&gt;" in text for text in texts)
    time.sleep(1)  # its folders are named by the second
    write("wandb", [30, 40], purge_step=21)
    assert {path.name for path in Path("run/wandb").glob("offline-run-*/*.wandb")} == {file.name}
    assert len(list(Path("run/wandb").glob("offline-run-*"))) == 2


@pytest.mark.parametrize("name", NAMES)
def test_films_are_given_to_every_logger(workdir, name):
    pytest.importorskip("imageio_ffmpeg")
    tracker = Tracker("run", loggers=[choose(name)])
    frames = [np.full((20, 24, 3), n, np.uint8) for n in range(5)]
    embedding = Embedding(torch.rand(4, 2), list("abcd"))
    files = tracker.report("video", Report({"best": 1.0}, films={"best": Film(frames, 10)}, embedding=embedding), 7)
    assert files == [Path("run/videos/best-7.mp4")]
    tracker.close()
    assert list(tracker.loggers) == [name]
    if name == "wandb":
        assert list(Path("run/wandb").glob("offline-run-*/files/media/videos/video/best/film_*.mp4"))


@pytest.mark.parametrize("name", NAMES)
def test_a_logger_draws_no_random_number_and_training_ends_in_the_same_bits(workdir, name):
    before = rng_state()
    write(name, [10, 20])
    same(rng_state(), before)
    trainers = [make(run_dir) for run_dir in (None, "trained")]
    trainers[1].write_to("trained", Tracker("trained", loggers=[choose(name, "trained")]))
    for trainer in trainers:
        trainer.fit()
        trainer.close()
    same(trainers[0].agent.state_dict(), trainers[1].agent.state_dict())


def make(run_dir=None, **settings):
    torch.manual_seed(1)
    env = CartPole(CartPole.Settings(num_envs=8))
    agent = PPO(env, PPO.Settings(horizon=16, minibatch_size=64))
    return Trainer(agent, env, Trainer.Settings(total_steps=1024, **settings), seed=3, run_dir=run_dir)


def events_of(run):
    events = EventAccumulator(str(run)).Reload()
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("config/text_summary")]
    return texts, events.summary_metadata["_hparams_/session_start_info"].plugin_data.content


def test_a_run_made_in_python_tells_its_settings_once(workdir):
    trainer = make("run")
    trainer.update()
    trainer.fit()
    trainer.close()
    (text,), shown = events_of("run")
    for line in ("agent.horizon: 16", "env.num_envs: 8", "trainer.total_steps: 1024", "seed: 3"):
        assert f"    {line}\n" in f"{text}\n"
    assert b"agent.horizon" in shown
    resumed = make(eval_every=512)
    resumed.restore(trainer.checkpoint())
    resumed.write_to("rest", Tracker("rest"))
    resumed.fit()
    resumed.close()
    assert "config/text_summary" not in EventAccumulator("rest").Reload().Tags()["tensors"]


def test_a_run_of_the_command_line_tells_its_whole_config_once(folder):
    assert commands.train("quick.yaml", ["trainer.total_steps=512"], "run", None, 1) == 0
    (text,), shown = events_of("run")
    assert text == "    " + Path("run", CONFIG_FILE).read_text().replace("\n", "\n    ")
    assert b"agent.network.hidden" in shown
    assert b"device" in shown


def test_the_setting_of_0_1_leaves_tensorboard_out(folder):
    assert Trainer.Settings(total_steps=1).loggers == [LoggerChoice.model_validate("tensorboard")]
    assert Trainer.Settings(total_steps=1, tensorboard=False).loggers == []
    both = Trainer.Settings.model_validate({"total_steps": 1, "tensorboard": False, "loggers": ["csv", "tensorboard"]})
    assert [logger.name for logger in both.loggers] == ["csv"]
    assert "tensorboard" not in both.model_dump()
    make("python", tensorboard=False).fit()
    assert not list(Path("python").glob("events*"))
    assert commands.train("quick.yaml", ["trainer.total_steps=512", "trainer.tensorboard=false"], "run", None, 1) == 0
    assert not list(Path("run").glob("events*"))
    file = Path("run", CONFIG_FILE)
    assert config.load(file).config.trainer.loggers == []
    file.write_text(file.read_text().replace("  loggers: []\n", "  tensorboard: true\n"))  # as 0.1 wrote it
    assert [logger.name for logger in config.load(file).config.trainer.loggers] == ["tensorboard"]


@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        ("[tensorbord]", r"trainer.loggers.0: unknown logger 'tensorbord' \(did you mean 'tensorboard'\?\)"),
        ("[{name: wandb, projet: x}]", r"unknown key \(did you mean 'project'\?\)"),
        ("[csv, {name: csv}]", r"trainer.loggers: csv is named 2 times; a run has one logger of each name"),
        ("csv", r"trainer.loggers: must be a valid list, got 'csv'"),
    ],
)
def test_a_mistake_is_one_line(folder, loggers, message):
    with pytest.raises(InputError, match=message):
        config.load("quick.yaml", [f"trainer.loggers={loggers}"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_package_that_is_missing_is_told_before_the_run_begins(folder, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"^the logger {name} needs {name} \(.*\): pip install {name}$"):
        commands.train("quick.yaml", [f"trainer.loggers=[csv, {name}]"], "run", None, 1)
    assert not Path("run").exists()
    with pytest.raises(InputError, match=f"pip install {name}"):
        make("run", loggers=[name])
    assert not Path("run").exists()
    monkeypatch.setattr(sys, "argv", ["rlcore", "train", "quick.yaml", f"trainer.loggers=[{name}]"])
    from rlcore.cli import main

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


def test_a_service_that_does_not_let_a_run_begin_is_one_line(folder):
    for text in ("{", "[]"):
        Path("run").mkdir(exist_ok=True)
        Path("run/.mlflow.json").write_text(text)
        with pytest.raises(InputError, match=r"\.mlflow\.json"):
            Tracker("run", loggers=[choose("mlflow")], purge_step=1)
    Path("run/.mlflow.json").write_text('{"id": "gone"}')
    with pytest.raises(InputError, match=r"^the logger mlflow cannot begin: MlflowException: .*gone"):
        Tracker("run", loggers=[choose("csv"), choose("mlflow")], purge_step=1)


MINE = """\
import json
import rlcore
from rlcore.loggers import Logger


@rlcore.registry.loggers.register("lines")
class Lines(Logger):
    \"\"\"A line of JSON for each call.\"\"\"

    class Settings(rlcore.Settings):
        file: str = "lines.jsonl"

    def scalars(self, values, step):
        with open(self.run_dir / self.settings.file, "a") as file:
            print(json.dumps({"from": self.purge_step, "step": step, **values}), file=file)
"""


@pytest.fixture
def lines(folder, monkeypatch):
    monkeypatch.setattr(registry.loggers, "_registered", dict(registry.loggers._registered))
    (folder / "mine_loggers.py").write_text(MINE)
    (folder / "mine.yaml").write_text(
        QUICK.replace("trainer: {", "trainer: {loggers: [csv, {name: lines, file: mine.jsonl}], reports: [episodes], ")
        + "imports: [mine_loggers]\n"
    )
    yield folder
    sys.modules.pop("mine_loggers", None)


def test_a_logger_from_outside_implements_scalars_alone(lines, capsys):
    assert commands.train("mine.yaml", ["trainer.stop_at=1024"], "run", None, 1) == 0
    assert commands.resume("run", []) == 0
    read = [json.loads(line) for line in Path("run/mine.jsonl").read_text().splitlines()]
    steps = [(line["from"], line["step"]) for line in read if "eval/return" in line]
    assert steps == [(None, n) for n in (256, 512, 768, 1024)] + [(1025, n) for n in (1280, 1536, 1792, 2048)]
    assert [line["train/entropy"] for line in read if "train/entropy" in line] == [
        float(row["train/entropy"]) for row in table()
    ]
    capsys.readouterr()
    assert commands.list_names("lines", ["mine_loggers.py"]) == 0
    assert "mine.jsonl" not in (shown := capsys.readouterr().out)
    assert "lines.jsonl" in shown


def test_the_logger_of_the_docs_writes_what_it_says(folder, monkeypatch):
    monkeypatch.setattr(registry.loggers, "_registered", dict(registry.loggers._registered))
    code = next(code for code in blocks("docs/logging.md", "python") if "JSONLines" in code)
    (folder / "my_loggers.py").write_text(code)
    (folder / "my.yaml").write_text(blocks("docs/logging.md", "yaml")[1])
    assert commands.train("my.yaml", ["trainer.stop_at=2048", "trainer.log_every=512"], "run", None, 1) == 0
    read = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert "train/entropy" in read[0]
    assert read[-1]["step"] == 2048
    sys.modules.pop("my_loggers")
    chosen = config.parse_yaml(blocks("docs/logging.md", "yaml")[0], "docs")["trainer"]
    assert [one.name for one in Trainer.Settings.model_validate(chosen).loggers] == ["tensorboard", "csv", "wandb"]


def test_a_logger_that_fails_is_told_once_and_leaves_the_others(lines, capsys):
    class Failing(Logger):
        """Fails from the third call on."""

        num = 0

        def scalars(self, values, step):
            self.num += 1
            if self.num > 2:
                raise ConnectionError("the server\nis gone")

        def close(self):
            raise AssertionError("it is asked no more")

    registry.loggers.register("failing")(Failing)
    assert (
        commands.train(
            "mine.yaml", ["trainer.loggers=[failing, csv, tensorboard]", "trainer.reports=[]"], "run", None, 1
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert shown.count("note: the logger failing writes no more: ConnectionError: the server is gone\n") == 1
    assert shown.count("writes no more") == 1
    assert len(table()) == 8
    assert len(EventAccumulator("run").Reload().Scalars("train/entropy")) == 8


def test_a_logger_whose_disk_refuses_to_begin_leaves_the_others(folder, monkeypatch):
    class Refused(TensorBoardLogger):
        def __init__(self, *arguments):
            raise OSError("no space left")

    monkeypatch.setitem(registry.loggers._registered, "tensorboard", Refused)
    with pytest.warns(UserWarning, match="the logger tensorboard writes no more: OSError: no space left"):
        trainer = make("run", loggers=["tensorboard", "csv"])
    trainer.fit()
    assert int(table()[-1]["step"]) == 1024


def test_files_that_are_refused_leave_the_loggers(folder):
    tracker = Tracker("run", loggers=[choose("csv")])
    Path("run/figures").touch()
    with pytest.warns(UserWarning, match="figures and films are not written any more: "):
        assert tracker.report("mine", make_report(), 1) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is told once
        assert tracker.report("mine", make_report(), 2) == []
    assert [row["mine/score"] for row in table()] == ["3.0", "3.0"]


def test_an_evaluation_writes_no_row_and_needs_no_service(folder, monkeypatch):
    settings = ["trainer.total_steps=512", "trainer.loggers=[csv, tensorboard]"]
    assert commands.train("quick.yaml", settings, "run", None, 1) == 0
    before = Path("run/progress.csv").read_bytes()
    file = Path("run", CONFIG_FILE)
    file.write_text(file.read_text().replace("- {name: csv}", "- {name: csv}\n  - {name: wandb}"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert commands.evaluate("run", 2, "last", False, "episodes", []) == 0
    assert Path("run/progress.csv").read_bytes() == before
    assert Path("run/figures/episodes.png").is_file()
    assert EventAccumulator("run").Reload().Images("episodes/episodes")


def test_loggers_are_listed_and_imported_on_use(capsys):
    assert commands.list_names("loggers") == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in NAMES)
    assert commands.list_names("csv") == 0
    assert "loggers: csv" in capsys.readouterr().out
    code = (
        "import sys, rlcore.commands\nrlcore.commands.list_names('all')\n"
        "assert not {'wandb', 'mlflow', 'trackio', 'tensorboard'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
