"""The command line as a user meets it. In this process where that tells as much, in one of its own where it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from compare import same

import rlcore
from rlcore import checkpoint, config, registry
from rlcore.errors import InputError
from rlcore.optimizers import Adam

ROOT = Path(__file__).parent.parent
QUICK = """\
env: {name: cartpole, num_envs: 8}
agent: {name: ppo, horizon: 32, network: {name: mlp, hidden: [8]}}
trainer: {total_steps: 2_048, checkpoint_every: 256}
expect:
  eval/return: {at_least: 5, source: "any policy"}
"""


@pytest.fixture
def rlcore_(rlcore_, workdir):
    """The command line, with a quick config in the working folder."""
    (workdir / "quick.yaml").write_text(QUICK)
    return rlcore_


def command(*words, **settings):
    return subprocess.run(
        [sys.executable, "-m", "rlcore", *map(str, words)], capture_output=True, text=True, timeout=120, **settings
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("train",), "Missing argument 'CONFIG'. (rlcore train --help)"),
        (("frob",), "No such command 'frob'. (rlcore --help)"),
        (("train", "quick.yaml", "--seed"), "No such option: --seed (Possible options: --seeds) (rlcore train --help)"),
        (("train", "quick.yaml", "--jobs"), "Option '--jobs' requires an argument. (rlcore --help)"),
        (("record", "x", "y", "--steps", "0"), "Invalid value for '--steps': *greater than or equal to 1*"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(rlcore_, words, line):
    status, out, err = rlcore_(*words)
    assert (status, out) == (2, "")
    assert fnmatch(err, f"rlcore: {line}\n")
    assert err.count("\n") == 1


def test_no_argument_asks_for_help(rlcore_):
    status, out, err = rlcore_()
    assert status == 2
    assert "Usage: rlcore" in out + err
    assert "train" in out + err


def test_eval_makes_a_report_as_the_config_has_it(rlcore_):
    given = "trainer.reports=[{name: normalized_score, random: 0, expert: 50}]"
    assert rlcore_("train", "quick.yaml", "--run-dir", "run", given)[0] == 0
    status, out, _ = rlcore_("eval", "run", "--json", "--report", "normalized_score", "expert=100")
    assert status == 0
    found = json.loads(out)
    assert found["normalized_score/mean"] == pytest.approx(found["return"])
    status, _, err = rlcore_("eval", "run", "--report", "episodes", "bins=x")
    assert status == 2
    assert err.startswith("rlcore: report episodes: bins: ")


def test_train_eval_resume_and_what_they_leave(rlcore_, workdir):
    status, out, _ = rlcore_("train", "quick.yaml", "--run-dir", "run", "seed=4", "trainer.stop_at=1024")
    assert status == 0
    assert "device: cpu" in out
    assert "resume with: rlcore resume run" in out
    assert json.loads((workdir / "run/result.json").read_text())["finished"] is False

    status, out, _ = rlcore_("resume", "run")
    assert status == 0
    assert "resuming from step 1,024" in out
    result = json.loads((workdir / "run/result.json").read_text())
    assert result["finished"] is True
    assert result["steps"] == 2048
    assert result["seed"] == 4
    assert {"torch", "rlcore", "gymnasium", "numpy", "python", "device", "threads"} <= result["made_with"].keys()
    assert result["figures"]["eval/return"] > 5
    assert {path.name for path in (workdir / "run/checkpoints").iterdir()} == {"best.pt", "last.pt"}
    assert config.load(workdir / "run/config.yaml").config.seed == 4
    assert list((workdir / "run").glob("events.*"))

    status, out, _ = rlcore_("resume", "run")
    assert status == 0
    assert "has finished at step" in out
    status, out, _ = rlcore_("resume", "run", "trainer.total_steps=2304")
    assert status == 0
    assert "results will not be bit-identical" in out

    status, out, _ = rlcore_("eval", "run", "--episodes", 3, "--json")
    assert status == 0
    assert json.loads(out)["episodes"] == 3
    status, out, _ = rlcore_("eval", "run", "--checkpoint", "last", "--report", "episodes", "bins=4")
    assert status == 0
    assert "figures/episodes.png" in out
    assert (workdir / "run/figures/episodes.png").is_file()
    assert json.loads((workdir / "run/result.json").read_text())["evaluation"]["checkpoint"] == "last"

    agent = rlcore.load(workdir / "run")
    assert agent.predict(torch.zeros(3, 4)).action.shape == (3,)
    assert not agent.training

    settings = (workdir / "run/config.yaml").read_text()
    (workdir / "run/config.yaml").write_text(re.sub("(?m)^device: .*", "device: cuda:99", settings))
    with pytest.raises(InputError, match="there is no cuda:99"):
        rlcore.load(workdir / "run")
    same(rlcore.load(workdir / "run", device="cpu").state_dict(), agent.state_dict())


def test_a_run_resumed_after_kill_9_ends_in_the_bits_of_an_unbroken_one(rlcore_, workdir):
    long = "trainer.total_steps=10_000", "trainer.eval_every=null"
    assert rlcore_("train", "quick.yaml", "--run-dir", "whole", *long)[0] == 0
    words = ["train", "quick.yaml", "--run-dir", "killed", *long]
    process = subprocess.Popen([sys.executable, "-m", "rlcore", *words], stdout=subprocess.DEVNULL)
    last = workdir / "killed/checkpoints/last.pt"
    deadline = time.monotonic() + 100
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert checkpoint.load(last)["steps"] < 10_000
    assert rlcore_("resume", "killed")[0] == 0
    whole, killed = (checkpoint.load(workdir / run / "checkpoints/last.pt") for run in ("whole", "killed"))
    same(whole, killed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_finish_the_update_save_and_say_how_to_resume(workdir, number, status):
    (workdir / "quick.yaml").write_text(QUICK)
    words = ["train", "quick.yaml", "--run-dir", "run", "trainer.total_steps=100_000_000"]
    process = subprocess.Popen([sys.executable, "-m", "rlcore", *words], stdout=subprocess.PIPE, text=True)
    while not (workdir / "run/checkpoints/last.pt").is_file():
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert re.search(r"saved at step [\d,]+; resume with: rlcore resume run", out)
    assert checkpoint.load(workdir / "run/checkpoints/last.pt")["steps"] > 0


def test_seeds_run_side_by_side_and_share_the_cores(rlcore_, workdir, monkeypatch):
    monkeypatch.setattr("rlcore.device.NUM_THREADS", 2)
    wide = "agent.network.hidden=[330,330]", "trainer.total_steps=256"
    status, out, _ = rlcore_("train", "quick.yaml", *wide, "--seeds", 2, "--jobs", 2, "--run-dir", "many")
    assert status == 0
    assert "eval/return" in out
    assert sorted(path.name[-5:] for path in (workdir / "many").iterdir()) == ["seed1", "seed2"]
    assert all("torch threads: 1 " in log.read_text() for log in workdir.glob("many/*/train.log"))


DEADLY = """\
import os, signal, sys
if any(word.startswith("seed=2") for word in sys.argv):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_seed_that_was_killed_is_no_success(rlcore_, workdir):
    (workdir / "deadly.py").write_text(DEADLY)
    (workdir / "deadly.yaml").write_text(QUICK + "imports: [deadly]\n")
    status, _, err = rlcore_("train", "deadly.yaml", "trainer.total_steps=256", "--seeds", 2)
    assert status == 128 + signal.SIGKILL
    assert "seed2: exit status 137" in err


def test_every_fold_is_held_out_once(rlcore_, workdir):
    changed = ("env.num_envs=20", "env.test_fraction=0", "trainer.epochs=2")
    status, out, _ = rlcore_("train", "iris_perceptron", *changed, "--folds", 2, "--jobs", 2, "--run-dir", "folds")
    assert status == 0
    assert all(f"fold{number}" in out for number in range(2))
    settings = [rlcore.run.Run(path).load().config.env.settings for path in sorted(Path("folds").iterdir())]
    assert [(each.folds, each.fold) for each in settings] == [(2, 0), (2, 1)]
    status, _, err = rlcore_("train", "quick.yaml", "--folds", 3)
    assert (status, "env.folds: unknown key" in err) == (2, True)
    status, _, err = rlcore_("train", "iris_perceptron", "--folds", 3, "--seeds", 2)
    assert (status, err) == (2, "rlcore: --folds: all have the config's seed; leave out --seeds\n")


@pytest.mark.parametrize("several", ["--folds", "--seeds"])
def test_what_cannot_run_is_told_once_and_starts_nothing(rlcore_, workdir, several):
    waits = ("trainer.hooks=[{name: early_stopping, figure: eval/accuracy, patience: 1}]", "trainer.eval_every=null")
    for changed, message in (
        (["env.num_envs=151"], "rlcore: env.num_envs: a batch of 151 is larger than"),
        (["env.num_envs=10", *waits], "rlcore: trainer.hooks: early_stopping: needs evaluations"),
    ):
        status, _, err = rlcore_("train", "iris_perceptron", *changed, several, 2, "--run-dir", "none")
        assert (status, err.count("\n"), message in err) == (2, 1, True)
        assert not Path("none").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_to_all_seeds_which_save(workdir, number):
    (workdir / "quick.yaml").write_text(QUICK)
    words = [
        "train",
        "quick.yaml",
        "trainer.total_steps=100_000_000",
        "--seeds",
        "3",
        "--jobs",
        "2",
        "--run-dir",
        "many",
    ]
    process = subprocess.Popen([sys.executable, "-m", "rlcore", *words])
    while len(list(workdir.glob("many/*/checkpoints/last.pt"))) < 2:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    logs = [path.read_text() for path in workdir.glob("many/*/train.log")]
    assert [bool(re.search(r"saved at step [\d,]+; resume with", log)) for log in logs] == [
        True,
        True,
    ]  # the third never began


def test_a_run_that_cannot_be_written_to_may_be_evaluated(rlcore_, workdir, monkeypatch):
    assert rlcore_("train", "quick.yaml", "--run-dir", "run")[0] == 0

    def refused(folder):
        raise InputError(f"cannot write into {folder}: Read-only file system")

    monkeypatch.setattr("rlcore.run.locked", refused)
    status, out, err = rlcore_("eval", "run", "--report", "episodes")
    assert (status, "not kept in the run: cannot write into" in err) == (0, True)
    assert "return" in out
    assert not (workdir / "run/figures").exists()
    status, _, err = rlcore_("resume", "run")
    assert (status, "cannot write into" in err) == (2, True)


def test_a_folder_of_runs_names_the_latest(rlcore_):
    assert rlcore_("train", "quick.yaml", "--run-dir", "several/one")[0] == 0
    status, _, err = rlcore_("eval", "several")
    assert (status, err.strip().endswith("; the latest run in it is several/one")) == (2, True)


def test_a_report_that_says_what_the_evaluation_said_is_printed_once(rlcore_):
    assert rlcore_("train", "iris_perceptron", "trainer.epochs=1", "--run-dir", "run")[0] == 0
    status, out, _ = rlcore_("eval", "run", "--report", "confusion")
    assert (status, out.count("truth")) == (0, 1)


def test_verify_says_pass_or_fail(rlcore_, workdir):
    status, out, _ = rlcore_("verify", "quick.yaml")
    assert (status, "pass" in out, "any policy" in out) == (0, True, True)
    (workdir / "more").mkdir()
    (workdir / "more/quick.yaml").write_text(QUICK.replace("at_least: 5", "at_least: 501"))
    status, out, _ = rlcore_("verify", "quick.yaml", "more/quick.yaml", "--seeds", 2, "--jobs", 3)
    assert status == 1
    verdicts = re.findall(r"^(\S+): eval/return +[\d.]+ +[\d.]+, (\w+)$", out, re.MULTILINE)
    assert verdicts == [("quick.yaml", "pass"), ("more/quick.yaml", "FAIL")]
    for words in ([], ["quick.yaml", "--all"]):
        status, out, error = rlcore_("verify", *words)
        assert (status, out) == (2, "")
        assert "--all" in error


def test_every_claim_is_reread_by_verify_all(rlcore_, monkeypatch):
    verified = []

    def train_all(trainings, jobs):
        verified.extend(training.source for training in trainings)
        return iter([])

    monkeypatch.setattr(sys.modules[rlcore.commands.verify.__module__], "train_all", train_all)
    assert rlcore_("verify", "--all")[0] == 0
    assert verified == [name for name in config.shipped_names() if "expect:" in config.find(name).read_text()]


def test_the_settings_of_everything_are_explained(rlcore_, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    from rlcore.commands.list_names import KINDS

    for name in ["trainer", *(name for known in KINDS.values() for name in known.names())]:
        status, out, _ = rlcore_("list", name)
        assert status == 0, name
        assert name in out
    out = rlcore_("list", "trainer")[1]
    assert re.search(r"eval_every +auto +Steps between evaluations; auto: total_steps / 10", out)
    out = rlcore_("list", "supervised")[1]  # an agent and an environment
    assert re.search(r"network +mlp +Network from an example", out)
    assert re.search(r"action +logits +What an answer is, and its reward\. One of logits, label", out)


def test_list_and_show(rlcore_):
    status, out, _ = rlcore_("list")
    assert status == 0
    for name in ("ppo", "reinforce", "cartpole", "gym", "mlp", "episodes", "cartpole_ppo"):
        assert name in out
    status, out, _ = rlcore_("show", "quick.yaml", "agent.gamma=0.9")
    assert status == 0
    assert re.search(r"agent.gamma +│ 0.9 +│ command line", out)
    assert rlcore_("show", "quick.yaml", f"seed={2**63}")[0] == 0
    assert re.search(r"agent.horizon +│ 32 +│ quick.yaml", out)
    assert re.search(r"agent.clip_range +│ 0.2 +│ default", out)
    assert "107 parameters; 48 multiply-adds per answer" in out  # two bodies of 4-8, heads of 2 and 1; V is not asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "quick.yaml", "agent.gama=0.9"], "command line: agent.gama: unknown key (did you mean 'gamma'?)"),
        (["train", "nothing.yaml"], "there is no file nothing.yaml"),
        (["train", "cartpole_pp"], "did you mean 'cartpole_ppo'"),
        (["eval", "nowhere"], "nowhere is not a run: there is no nowhere/config.yaml"),
        (["resume", "."], ". is not a run"),
        (["list", "agent"], "unknown kind or name 'agent' (did you mean 'agents'?)"),
        (["train", "quick.yaml", "agent.name=pppo"], "command line: agent: unknown agent 'pppo' (did you mean 'ppo'?)"),
        (["train", "quick.yaml", "agent.name=pppo"], "; one of your own: name its file in imports"),
        (["train", "quick.yaml", "agent.gama=1", "agent.gamma=2"], "; also wrong: agent.gamma\n"),
        (["train", "quick.yaml", "device=cuda:99"], "device: there is no cuda:99"),
        (
            ["train", "quick.yaml", "--seeds", "2", "--run-dir", "quick.yaml"],
            "cannot create the folder quick.yaml/",
        ),
        (["show", "quick.yaml", "seed=!!int x"], "command line: "),
    ],
)
def test_a_mistake_is_one_line_and_status_2(rlcore_, workdir, words, message):
    status, out, err = rlcore_(*words)
    assert status == 2
    assert out == "" or "runs/" in out
    assert err.startswith("rlcore: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (workdir / "runs").exists() or not any((workdir / "runs").rglob("*.yaml"))  # no empty run is left


def test_mistakes_with_a_run(rlcore_, workdir):
    assert rlcore_("train", "quick.yaml", "--run-dir", "run", "trainer.stop_at=256")[0] == 0
    before = (workdir / "run/checkpoints/last.pt").read_bytes()

    def fails(*words):
        status, _, err = rlcore_(*words)
        assert (status, err.count("\n")) == (2, 1), err
        return err

    assert "already holds a run" in fails("train", "quick.yaml", "--run-dir", "run")
    assert "config.yaml is damaged or not a checkpoint" in fails("eval", "run", "--checkpoint", "run/config.yaml")
    assert "there is no checkpoint gone.pt: the run has best, last;" in fails("eval", "run", "--checkpoint", "gone.pt")
    assert "did you mean 'last'" in fails("eval", "run", "--checkpoint", "lst")
    assert "seed: a run keeps its seed" in fails("resume", "run", "seed=7")
    assert "unknown report 'episods' (did you mean 'episodes'?)" in fails("eval", "run", "--report", "episods")
    assert "bins: must be greater than 0" in fails("eval", "run", "--report", "episodes", "bins=0")
    assert "does not fit" in fails("resume", "run", "agent.network.hidden=[3]")
    assert "is of 8 environments" in fails("resume", "run", "env.num_envs=16")
    assert "num_envs: 8" in (workdir / "run/config.yaml").read_text()
    assert len(list((workdir / "run").glob("events.*"))) == 1
    (workdir / "run/result.json").write_text("{bad")
    status, out, err = rlcore_("eval", "run", "--json")
    assert (status, json.loads(out)["episodes"]) == (0, 20)  # the answer is given all the same
    assert "result.json: " in err
    (workdir / "run/result.json").unlink()
    assert "of the agent 'ppo', not of 'reinforce'" in fails("resume", "run", "agent={name: reinforce}")
    assert (workdir / "run/checkpoints/last.pt").read_bytes() == before
    (workdir / "run/checkpoints/last.pt").write_bytes(before[:100])
    assert re.search("damaged|refused", fails("resume", "run"))


def test_a_mistake_leaves_the_users_folder_alone(rlcore_, workdir):
    (workdir / "keep").mkdir()
    (workdir / "keep/events.mine").write_text("x")
    status, _, _ = rlcore_("train", "quick.yaml", "env={name: gym, id: Nope-v0}", "--run-dir", "keep")
    assert status == 2
    assert [path.name for path in (workdir / "keep").iterdir()] == ["events.mine"]


def _ends(group):
    """No process of the group is left, or none will be in a moment: a fork server ends behind its parent."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("number", "context"),
    [(signal.SIGTERM, "fork"), (signal.SIGINT, "fork"), (signal.SIGINT, "spawn"), (signal.SIGINT, "forkserver")],
)
def test_a_signal_to_the_whole_group_saves_where_environments_are_processes(workdir, number, context):
    """As Ctrl-C sends it: to the workers, too, which must not die of it first."""
    (workdir / "quick.yaml").write_text(QUICK)
    num_envs = 1 if context == "spawn" else 2  # a spawned process imports everything anew
    env = f"env={{name: gym, id: CartPole-v1, num_envs: {num_envs}, vectorization: async, context: {context}}}"
    words = [
        "train",
        "quick.yaml",
        env,
        "agent.minibatch_size=null",
        "--run-dir",
        "run",
        "trainer.total_steps=10_000_000",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlcore", *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (workdir / "run/checkpoints/last.pt").is_file():
        time.sleep(0.01)
        assert process.poll() is None
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "saved at step" in out
    assert _ends(process.pid)


def test_a_worker_that_dies_ends_the_run_in_one_line_and_what_was_learned_is_saved(workdir):
    (workdir / "quick.yaml").write_text(QUICK)
    words = ["train", "quick.yaml", "env={name: gym, id: CartPole-v1, num_envs: 2, vectorization: async}"]
    words += ["agent.minibatch_size=null", "--run-dir", "run", "trainer.total_steps=10_000_000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlcore", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    last = workdir / "run/checkpoints/last.pt"
    while not last.is_file():
        time.sleep(0.01)
        assert process.poll() is None
    before = checkpoint.load(last)["steps"]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.fullmatch(r"rlcore: environment 1 \(seed \d+\) died in (step|reset), exit code -9\n", err)
    assert checkpoint.load(last)["steps"] >= before
    assert _ends(process.pid)


def test_nan_is_one_line_status_2_and_a_dump(rlcore_, workdir):
    (workdir / "spoiled.py").write_text(
        "import rlcore\nfrom rlcore.envs.probes import Target\n"
        "@rlcore.registry.envs.register('spoiled')\nclass Spoiled(Target):\n"
        "    def reward(self, action):\n        return super().reward(action) / 0\n"
    )
    (workdir / "spoiled.yaml").write_text("imports: [spoiled]\n" + QUICK.replace("cartpole", "spoiled"))
    status, _, err = rlcore_("train", "spoiled.yaml", "--run-dir", "run")
    assert (status, err.count("\n")) == (2, 1)
    assert "the reward is -inf at step 0, environment 0" in err
    assert checkpoint.load(workdir / "run/nonfinite.pt")["rollout"]["reward"].isinf().any()


def test_help_does_not_import_torch():
    program = (
        "import sys; sys.argv = ['rlcore', '--help']\nfrom rlcore.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout


def test_a_plugin_adds_a_command(rlcore_, monkeypatch):
    def greet(name: str) -> None:
        """Greets."""
        print(f"hello {name}")

    monkeypatch.setitem(registry.commands._registered, "greet", greet)
    assert rlcore_("greet", "world")[:2] == (0, "hello world\n")


def test_the_readmes_agent_trains_from_a_file_outside_the_repository(workdir):
    for name in ("my_agent.py", "my_agent.yaml"):
        shutil.copy(ROOT / "examples" / name, workdir / name)
    code = (workdir / "my_agent.py").read_text()
    assert code in (ROOT / "README.md").read_text()
    assert len([line for line in code[code.index("@rlcore") :].splitlines() if line.strip()]) <= 30
    quick = "trainer.total_steps=60_000", "trainer.eval_every=60_000"
    result = command("train", "my_agent.yaml", *quick, "--run-dir", "run", cwd=workdir)
    assert result.returncode == 0, result.stderr
    assert json.loads((workdir / "run/result.json").read_text())["figures"]["eval/return"] > 300
    elsewhere = workdir / "elsewhere"
    elsewhere.mkdir()
    result = command("eval", "../run", "--json", "--episodes", 1, cwd=elsewhere)  # the module is found from anywhere
    assert result.returncode == 0, result.stderr


def test_an_agent_a_network_and_an_environment_of_an_installed_package_train(workdir, monkeypatch):
    """A third party's package, by its entry points: what pip would leave in site-packages."""
    (workdir / "their_package.py").write_text(
        "import torch\nfrom rlcore.agents.ppo import PPO\nfrom rlcore.envs.probes import Identity\n"
        "from rlcore.networks import Network\n"
        "class TheirAgent(PPO):\n    pass\n"
        "class TheirEnv(Identity):\n    pass\n"
        "class TheirNetwork(Network):\n"
        "    def __init__(self, in_shape, out_features, settings):\n"
        "        super().__init__()\n        self.num_features = 5\n"
        "        self.layer = torch.nn.Linear(in_shape[0], 5)\n"
        "    def forward(self, x):\n        return self.layer(x).relu()\n"
    )
    info = workdir / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rlcore.agents]\ntheirs = their_package:TheirAgent\n[rlcore.envs]\ntheirs = their_package:TheirEnv\n"
        "[rlcore.networks]\ntheirs = their_package:TheirNetwork\n"
    )
    (workdir / "theirs.yaml").write_text(
        "env: {name: theirs}\nagent: {name: theirs, network: {name: theirs}}\ntrainer: {total_steps: 2048}\n"
    )
    result = command("train", "theirs.yaml", "--run-dir", "run", env={**os.environ, "PYTHONPATH": str(workdir)})
    assert result.returncode == 0, result.stderr
    assert (workdir / "run/result.json").is_file()


def test_from_the_command_line_to_the_optimizers_step_is_eight_calls(rlcore_, monkeypatch):
    """So few that a reader can hold them in mind; those of typer, torch and the standard library are not counted."""
    found, step = [], Adam.step

    def seen(self, *given):
        frames = traceback.extract_stack()
        found.append([frame.name for frame in frames if frame.filename.startswith(str(ROOT / "rlcore"))])
        return step(self, *given)

    monkeypatch.setattr(Adam, "step", seen)
    assert rlcore_("train", "quick.yaml", "--run-dir", "run")[0] == 0
    assert found[0] == ["main", "train", "train", "updates", "update", "learn", "minimize"]
