"""The time machine: what is replayed equals what was logged, from every kind of beginning."""

import sys

import numpy as np
import pytest
import torch
from compare import same
from trainers import TRAINERS, make_trainer

from rlcore import checkpoint, cli, commands
from rlcore.errors import InputError
from rlcore.replaying.replay import Recorder, Wanted, replay
from rlcore.runs.curves import read_log

MLP = "{name: mlp, hidden: [8]}"
PPO = f"{{name: ppo, horizon: 16, minibatch_size: 32, num_epochs: 2, network: {MLP}}}"
OFF_POLICY = f"horizon: 4, batch_size: 8, learning_starts: 16, replay_size: 128, network: {MLP}"
CARTPOLE, GYM = "{name: cartpole, num_envs: 4}", "{name: gym, id: CartPole-v1, num_envs: 2}"
RUNS = {
    "ppo": (CARTPOLE, PPO),
    "gym": (GYM, PPO),
    "dqn": (GYM, f"{{name: dqn, {OFF_POLICY}}}"),
    "sac": ("{name: gym, id: Pendulum-v1, num_envs: 2}", f"{{name: sac, {OFF_POLICY}}}"),
    "recurrent": (
        CARTPOLE,
        "{name: recurrent_ppo, horizon: 16, minibatch_size: 32, network: {name: lstm, size: 4, body: " + MLP + "}}",
    ),
    "reinforce": (CARTPOLE, f"{{name: reinforce, network: {MLP}}}"),
    "supervised": ("{name: supervised, dataset: iris, num_envs: 30}", f"{{name: supervised, network: {MLP}}}"),
}


@pytest.fixture
def trained(workdir):
    """Trains a run of some updates; its folder."""

    def train(name, *overrides, **settings):
        env, agent = RUNS[name]
        settings = {"total_steps": 640, "log_every": 1, "checkpoint_every": 250, "eval_every": "null", **settings}
        trainer = ", ".join(f"{key}: {value}" for key, value in settings.items())
        (workdir / "quick.yaml").write_text(
            f"env: {env}\nagent: {agent}\ntrainer: {{{trainer}, keep_checkpoints: true}}\n"
        )
        assert commands.train("quick.yaml", overrides, "run", None, 1) == 0
        return workdir / "run"

    return train


@pytest.mark.parametrize("name", RUNS)
def test_an_update_is_as_logged(trained, name):
    run = trained(name)
    last = checkpoint.load(run / "checkpoints/last.pt")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    torch.manual_seed(99)
    made = replay(run, update=last["learns"]["num_updates"])
    assert made.as_logged
    assert made.verdict.startswith("as logged")
    assert made.notes[0].startswith("replayed from the checkpoint of step ")
    logged = read_log(run).curves
    for figure, value in made.metrics.items():
        assert np.float32(value) == np.float32(logged[f"train/{figure}"].value[-1])
    T, N = made.fields["reward"].shape
    assert all(field.shape[:2] == (T, N) for field in made.fields.values())
    assert all(np.isfinite(norms).all() and len(norms) for norms in made.gradients.values())
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}  # nothing is written


def test_every_beginning_shows_the_same(trained):
    run = trained("gym")
    made = replay(run, update=20)
    for path in (run / "checkpoints").glob("[0-9]*.pt"):
        path.unlink()
    again = replay(run, update=20)
    assert again.notes[0] == "replayed from the beginning of the run"
    assert again.as_logged
    assert made.metrics == again.metrics
    for name, field in made.fields.items():
        np.testing.assert_array_equal(field, again.fields[name])
    for name, norms in made.gradients.items():
        np.testing.assert_array_equal(norms, again.gradients[name])


def test_values_and_probabilities_are_those_that_the_agent_learned_from(trained):
    made = replay(trained("ppo"), update=3)
    p, action = made.fields["probabilities"], made.fields["action"]
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
    taken = np.log(np.take_along_axis(p, action[..., None], -1)[..., 0])
    np.testing.assert_allclose(made.fields["log_prob"], taken, rtol=1e-5)
    np.testing.assert_allclose(made.fields["target"], made.fields["value"] + made.fields["advantage"], rtol=1e-5)
    assert made.metrics["entropy"] == pytest.approx(made.fields["entropy"].mean())
    assert {len(norms) for norms in made.gradients.values()} == {4}  # two epochs of two minibatches
    whole = np.sqrt(sum(np.square(norms) for norms in made.gradients.values()))
    assert made.metrics["grad_norm"] == pytest.approx(whole.mean(), rel=1e-5)


def test_after_a_resume_in_the_middle(trained):
    run = trained("gym", "trainer.stop_at=320")
    assert commands.resume(str(run), []) == 0
    assert read_log(run).resumed_at == [320]
    for path in (run / "checkpoints").glob("[0-9]*.pt"):
        path.unlink()
    assert replay(run, update=15).as_logged  # across the resume, as the environment was saved


def test_an_environment_that_cannot_be_saved(trained):
    """From the beginning up to the resume; after it from where the run was resumed, if that was kept."""
    single = "env.single_instance=true", "env.num_envs=1", "agent.minibatch_size=16"
    run = trained("gym", *single, "trainer.stop_at=320", checkpoint_every=320)
    assert replay(run, update=10).notes[0] == "replayed from the beginning of the run"
    assert commands.resume(str(run), []) == 0
    made = replay(run, update=30)
    assert made.notes[0] == "replayed from the checkpoint of step 320"
    assert made.as_logged
    (run / "checkpoints/320.pt").unlink()
    assert replay(run, update=10).as_logged
    with pytest.raises(
        InputError, match=r"replay: the run was resumed at step 320, where its environment began new ep"
    ):
        replay(run, update=30)


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_episodes_in_the_order_of_the_run(trained, name):
    run = trained(name)
    returns = checkpoint.load(run / "checkpoints/last.pt")["learns"]["episodes"]["latest"][0]
    for number in (1, 2, 6):
        made = replay(run, episode=number)
        length = len(made.fields["reward"])
        assert f"episode {number}: {length} steps of environment" in made.title
        assert made.fields["obs"].shape == (length, 1, 4)
        ended = (made.fields["terminated"] | made.fields["truncated"])[:, 0]
        assert ended.tolist() == [False] * (length - 1) + [True]
        assert np.abs(made.fields["obs"][0]).max() <= 0.05  # as CartPole begins
        assert made.fields["reward"].sum() == returns[number - 1]


def test_an_episode_that_began_before_a_checkpoint_is_whole(trained):
    run = trained("ppo", checkpoint_every=1)
    for number in (3, 9):
        made = replay(run, episode=number)
        assert made.as_logged
        assert np.abs(made.fields["obs"][0]).max() <= 0.05


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_what_was_logged_is_compared_whatever_has_logged_it(trained, logger):
    run = trained("ppo", f"trainer.loggers=[{logger}]")
    assert (run / "progress.csv").is_file() == (logger == "csv")
    assert replay(run, update=3).verdict.startswith("as logged: ")
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("gamma: 0.99", "gamma: 0.5"))
    made = replay(run, update=3)
    assert not made.as_logged
    assert made.verdict.startswith("not as logged: at step 64 train/")


@pytest.fixture
def rlcore_(monkeypatch, capsys):
    def call(*words):
        capsys.readouterr()  # of the training before
        monkeypatch.setattr(sys, "argv", ["rlcore", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return call


def test_the_command_its_page_and_its_arrays(trained, rlcore_):
    run = trained("ppo")
    status, out, _ = rlcore_("replay", run, "--update", 7, "--out", "page")
    assert status == 0
    for text in (
        "update 7, which ended at step 448",
        "as logged: ",
        "probabilities",
        "policy_head.weight",
        "grad_norm",
    ):
        assert text in out
    page = (run.parent / "page/index.html").read_text()
    assert page.count("<img src='data:image/png;base64,") == 3
    assert "http" not in page
    with np.load(run.parent / "page/data.npz") as data:
        assert data["obs"].shape == (16, 4, 4)
        assert data["gradients/policy_head.weight"].shape == (4,)
    status, out, _ = rlcore_("replay", run, "--episode", 2, "--step", 5)
    assert status == 0
    assert "step 5" in out


def test_a_figure_that_differs_is_named(trained, rlcore_):
    run = trained("ppo")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("gamma: 0.99", "gamma: 0.5"))
    status, out, _ = rlcore_("replay", run, "--update", 2)
    assert status == 1
    assert "not as logged: at step 64 train/" in out


def test_bad_input_is_one_line(trained, rlcore_):
    run = trained("ppo")
    for words, line in (
        (["replay", "nothing", "--update", 1], "nothing is not a run: there is no nothing/config.yaml"),
        (["replay", run], "replay: needs either --update N or --episode K"),
        (["replay", run, "--update", 1, "--episode", 1], "replay: needs either --update N or --episode K"),
        (["replay", run, "--update", 11], "--update: the run has 10 updates, counted from 1; got 11"),
        (["replay", run, "--update", 0], "--update: the run has 10 updates, counted from 1; got 0"),
        (["replay", run, "--episode", 999], "--episode: the run has "),
        (["replay", run, "--update", 1, "--step", 1], "--step: is a step of an episode, which --episode K must name"),
        (["replay", run, "--episode", 1, "--step", 501], "--step: episode 1 has "),
        (["replay", run, "--update", 1, "--out", "quick.yaml"], "--out: quick.yaml is a file; give a folder"),
    ):
        status, out, err = rlcore_(*words)
        assert (status, out) == (2, ""), words
        assert err.startswith(f"rlcore: {line}"), err
        assert err.count("\n") == 1
    for path in (run / "checkpoints").glob("*.pt"):
        path.unlink()
    assert f"rlcore: {run} has no checkpoint: " in rlcore_("replay", run, "--update", 1)[2]


def test_an_example_is_an_episode_of_one_step(trained):
    made = replay(trained("supervised"), episode=31)
    assert made.title.startswith("episode 31: 1 steps of environment 0, return ")
    assert made.title.endswith("learned from in update 2, at step 60")


@pytest.mark.parametrize("name", TRAINERS)
def test_every_agent_is_looked_at_without_a_change(name):
    one, other = make_trainer(name), make_trainer(name)
    recorder = Recorder(one, Wanted("update", 3))
    one.hooks.append(recorder)
    for trainer in (one, other):
        for number, _ in enumerate(trainer.updates(), 1):
            if number == 3:
                break
    one.hooks.remove(recorder)
    same(one.checkpoint(), other.checkpoint())
    shape = recorder.found["reward"].shape
    assert all(x.shape[:2] == shape for x in recorder.found.values())
