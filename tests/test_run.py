"""Runs on disk: one writer, whose code is run, and what is left when something breaks."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from compare import same
from test_cli import QUICK

import rlcore
from rlcore import checkpoint, config, registry
from rlcore.agents.ppo import PPO
from rlcore.envs.cartpole import CartPole
from rlcore.errors import InputError
from rlcore.files import claim_folder, locked, write_text
from rlcore.loggers.tensorboard import TensorBoardLogger
from rlcore.run import Run
from rlcore.tracking import Tracker
from rlcore.trainer import Trainer

LONG = "trainer.total_steps=100_000_000"


@pytest.fixture
def folder(workdir):
    (workdir / "quick.yaml").write_text(QUICK)
    return workdir


def started(*words, **settings):
    return subprocess.Popen(
        [sys.executable, "-m", "rlcore", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings,
    )  # fmt: skip


def wait_for(path, process):
    while not path.exists():
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    return path


def trained(path="run", *overrides):
    """A finished run of the quick config, in this process."""
    loaded = config.load("quick.yaml", ["trainer.total_steps=512", *overrides])
    run = Run.create(loaded, path)
    trainer, _ = config.build(loaded.config)
    trainer.write_to(run.folder)
    trainer.fit()
    trainer.close()
    return run


def test_one_process_at_a_time_writes_into_a_run(folder, rlcore_):
    first = started("train", "quick.yaml", "--run-dir", "run", LONG)
    wait_for(folder / "run/checkpoints/last.pt", first)
    for words in (["resume", "run"], ["train", "quick.yaml", "--run-dir", "run"]):
        status, _, err = rlcore_(*words)
        assert status == 2
        assert "is in use" in err or "already holds a run" in err
    status, out, err = rlcore_("eval", "run", "--json")
    assert (status, json.loads(out)["episodes"]) == (0, 20)
    assert "not kept in the run" in err
    assert first.poll() is None
    first.kill()  # a dead process holds nothing
    first.communicate()
    with locked(folder / "run"):
        pass


def test_a_folder_is_claimed_by_one(tmp_path):
    assert [claim_folder(tmp_path / "a/b").name for _ in range(3)] == ["b", "b-2", "b-3"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot create the folder"):
        claim_folder(tmp_path / "file/b")


def test_checkpoints_without_a_config_are_not_overwritten(folder):
    run = trained()
    before = (run.folder / "checkpoints/last.pt").read_bytes()
    (run.folder / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"holds checkpoints but no config\.yaml"):
        Run.create(config.load("quick.yaml"), "run")
    assert (run.folder / "checkpoints/last.pt").read_bytes() == before


def test_a_run_killed_before_its_first_checkpoint_is_resumed_from_the_beginning(folder, monkeypatch, capsys):
    whole = trained("whole")
    Run.create(config.load("quick.yaml", ["trainer.total_steps=512"]), "run")  # and then it was killed

    def main(*words):
        monkeypatch.setattr(sys, "argv", ["rlcore", *words])
        with pytest.raises(SystemExit) as caught:
            rlcore.cli.main()
        return caught.value.code or 0, capsys.readouterr().out

    status, out = main("resume", "run")
    assert (status, "no checkpoint yet, from the beginning" in out) == (0, True)
    one, other = (checkpoint.load(path / "checkpoints/last.pt") for path in (whole.folder, folder / "run"))
    same(one["agent"], other["agent"])
    words = ["train", "quick.yaml", "trainer.total_steps=512", "--or-resume", "--run-dir"]
    assert "has finished" in main(*words, "run")[1]
    assert main(*words, "another")[0] == 0
    assert main("train", "quick.yaml", "--or-resume")[0] == 2


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
def test_a_lost_terminal_saves(folder):
    process = started("train", "quick.yaml", "--run-dir", "run", LONG)
    wait_for(folder / "run/checkpoints/last.pt", process)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP
    assert "SIGHUP: saved at step" in out


@pytest.mark.parametrize("closed", ["reader", "streams"])
def test_training_does_not_end_for_want_of_a_reader(folder, closed):
    words = f"{sys.executable} -m rlcore train quick.yaml --run-dir run"
    command = f"{words} | true; echo ${{PIPESTATUS[0]}}" if closed == "reader" else f"{words} >&- 2>&-; echo $? >&3"
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&1; {command}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "0", done
    assert "Traceback" not in done.stderr
    assert json.loads((folder / "run/result.json").read_text())["finished"] is True


MODULE = 'import pathlib\npathlib.Path("it_ran").touch()\n'


def test_a_strangers_code_is_not_run(folder):
    """A module inside a run's folder is imported where it was trained, or if one says so."""
    (folder / "mine.py").write_text(MODULE)
    (folder / "quick.yaml").write_text(QUICK + "imports: [mine]\n")
    run = trained()
    settings = (run.folder / "config.yaml").read_text()
    (folder / "it_ran").unlink()
    sys.modules.pop("mine")
    shutil.move(folder / "mine.py", run.folder / "mine.py")
    (run.folder / "config.yaml").write_text(settings.replace(str(folder / "mine.py"), "mine.py"))
    shutil.copytree(run.folder, folder / "copied")
    with pytest.raises(InputError, match=r"is code inside a run that was trained elsewhere; .*--trust"):
        config.load("copied/config.yaml")
    rlcore.load("copied")  # whose agent does not need it
    assert not (folder / "it_ran").exists()
    assert rlcore.load("copied", trust=True).predict(torch.zeros(1, 4)).action.shape == (1,)
    assert (folder / "it_ran").exists()
    sys.modules.pop("mine")
    rlcore.load("run")  # trained here
    sys.modules.pop("mine")


def test_names_do_not_lead_out_of_the_run(folder):
    from rlcore.evaluation import Report

    for name in ("../../escape", "/etc/x", "a/b", ".."):
        with pytest.raises(InputError, match="the name of a figure must be that of a file"):
            Tracker(folder / "run", loggers=[]).report("mine", Report({}, figures={name: None}), 1)
    (folder / "...yaml").write_text(QUICK)
    assert config.load("...yaml").name == "config"


class Full(TensorBoardLogger):
    """A disk that is full from the second event on."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        written = self.writer._get_file_writer().add_summary
        self.num = 0

        def add_summary(*arguments):
            self.num += 1
            if self.num > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written(*arguments)

        self.writer._get_file_writer().add_summary = add_summary


def test_a_full_disk_ends_the_events_and_not_the_training(folder, monkeypatch):
    monkeypatch.setitem(registry.loggers._registered, "tensorboard", Full)
    env = CartPole()
    agent = PPO(env, PPO.Settings(horizon=16, minibatch_size=64))
    trainer = Trainer(agent, env, total_steps=2048, tracker=Tracker(folder))
    with pytest.warns(UserWarning, match="the logger tensorboard writes no more: OSError: .*No space left") as told:
        trainer.fit()
    assert trainer.finished
    assert len([one for one in told if "writes no more" in str(one.message)]) == 1
    trainer.close()


def test_texts_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "one")
    (tmp_path / "gone").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "gone/none/x", "two")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["result.json"]


def test_a_nan_leaves_and_names_the_checkpoint_before_it(folder):
    from rlcore.errors import NonFiniteError

    class Breaks(CartPole):
        left = 100

        def step(self, actions):
            obs, *rest = super().step(actions)
            self.left -= 1
            return (obs if self.left else obs * torch.nan, *rest)

    env = Breaks()
    agent = PPO(env, PPO.Settings(horizon=16, minibatch_size=64))
    settings = Trainer.Settings(total_steps=10_000, checkpoint_every=128)
    with pytest.raises(NonFiniteError, match=f"the last checkpoint before it in {folder}/run/checkpoints/last.pt"):
        Trainer(agent, env, settings, run_dir="run").fit()
    saved = checkpoint.load(Path("run/checkpoints/last.pt"))
    assert all(value.isfinite().all() for value in saved["agent"]["parameters"].values())
