"""What rlcore doctor finds, by made-up figures and steps of which the answer is known, and in short runs."""

import ast
import json
import math
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from torch import nn
from torch.nn import functional as F

import rlcore
from rlcore import Trainer, commands, registry
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.dqn import DQN
from rlcore.agents.ppo import PPO
from rlcore.agents.supervised import Supervised
from rlcore.doctor import Curve, Examination, Finding, Unseen, examine, examine_all, networks, playing
from rlcore.doctor import learning as checks
from rlcore.doctor.curves import MOST_POINTS, Curves
from rlcore.doctor.diagnosis import ask
from rlcore.doctor.examination import Layer, episodes_of, random_returns
from rlcore.doctor.seeds import seeds_disagree
from rlcore.envs.cartpole import CartPole
from rlcore.errors import InputError
from rlcore.hooks.doctor import Doctor
from rlcore.networks import NetworkChoice
from rlcore.rollout import Rollout, Step
from rlcore.supervised import doctor as of_data
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

SMALL = {"horizon": 16, "minibatch_size": 64, "network": {"name": "mlp", "hidden": [8]}}


def curves(**figures):
    """Figures by tag, each constant or a list of values over the steps of the run."""
    filled = {tag.replace("__", "/"): np.atleast_1d(np.array(values, float)) for tag, values in figures.items()}
    return {tag: Curve(np.linspace(1, 1000, len(values)), values) for tag, values in filled.items()}


def examination(agent=PPO, figures=None, rollouts=(), progress=1.0, start=None, settings=None, env=None, **known):
    """That of an agent which has learned nothing, with made-up evidence; ``known`` takes the place of what is found."""
    env = env or CartPole()
    trainer = Trainer(
        agent(env, agent.Settings.model_validate(settings or (SMALL if agent is PPO else {}))), env, total_steps=1000
    )
    begun = {name: p.detach().clone() for name, p in trainer.agent.named_parameters()} if start is None else start
    x = Examination(trainer, figures or {}, begun, rollouts, progress)
    vars(x).update(known)
    return x


BAD, GOOD = np.array([20.0, 22.0, 18.0, 20.0]), np.array([1.0, 2.0, 3.0, 2.0])
"""Returns of random actions, where a return of 10 is worse or better than they are."""


@pytest.mark.parametrize(
    ("check", "ill", "well", "known"),
    [
        (checks.rewards_unscaled, {"train__explained_variance": 0.01}, {"train__explained_variance": 0.5},
         {"targets": torch.tensor([0.0, 1000.0])}),
        (checks.entropy_never_falls, {"train__entropy": 0.69, "rollout__return": 10}, {"train__entropy": 0.5},
         {"random": BAD}),
        (checks.entropy_collapses, {"train__entropy": [0.6, 0, 0, 0], "rollout__return": 10},
         {"train__entropy": 0.3, "rollout__return": 10}, {"random": BAD}),
        (checks.kl_spikes, {"train__approx_kl": [0.01] * 9 + [3]}, {"train__approx_kl": [0.02] * 10}, {}),
        (checks.clip_fraction_high, {"train__clip_fraction": 0.8}, {"train__clip_fraction": 0.3}, {}),
        (checks.log_std_explodes, {"train__action_std": [1, 2, 9], "train__clipped_share": 0.9},
         {"train__action_std": [1, 0.5], "train__clipped_share": 0}, {}),
        (checks.learning_rate_too_large, {"rollout__return": 400, "train__approx_kl": 9},
         {"rollout__return": 400, "train__approx_kl": 0.01},
         {"movement": 40.0, "random": BAD, "num_updates": 100}),
        (playing.values_out_of_range, {"train__q": 1e6}, {"train__q": 50},
         {"targets": torch.ones(4), "rewards": [torch.ones(2, 2)]}),
    ],
)  # fmt: skip
def test_a_figure_is_named_where_it_is_ill_alone(check, ill, well, known):
    found = check(examination(figures=curves(**ill), **known))
    assert isinstance(found, Finding)
    assert any(character.isdigit() for character in found.evidence)
    assert "agent." in found.remedy
    assert check(examination(figures=curves(**well), **known)) is None


@pytest.mark.parametrize("check", [checks.entropy_collapses, checks.learning_rate_too_large])
def test_what_is_better_than_random_actions_is_no_defect(check):
    figures = curves(train__entropy=0, rollout__return=10, train__approx_kl=0.01)
    assert check(examination(figures=figures, movement=40.0, num_updates=1, random=BAD))
    assert check(examination(figures=figures, movement=40.0, num_updates=1, random=GOOD)) is None


@pytest.mark.parametrize(
    "check", [checks.entropy_never_falls, checks.learning_rate_too_small, playing.rewards_constant]
)
def test_a_run_that_is_young_is_not_judged(check):
    with pytest.raises(Unseen, match=r"20% of the run is too early"):
        check(examination(progress=0.2))


def test_movement_is_in_units_of_the_first_weights():
    x = examination()
    with torch.no_grad():
        for param in x.agent.parameters():
            param.mul_(4)
    assert x.movement == pytest.approx(3)


def test_weights_that_hardly_moved_in_many_updates():
    def found(**known):
        return checks.learning_rate_too_small(examination(figures=curves(rollout__return=10), **known))

    named = found(movement=1e-4, num_updates=1000, random=BAD)
    assert named.evidence.startswith("weights have moved by 0.0% of their length in 1,000 updates, and rollout/return")
    assert "0.0003" in named.remedy
    assert found(movement=1e-4, num_updates=10, random=BAD) is None
    assert found(movement=0.0, num_updates=1000, random=BAD) is None  # there is no gradient
    assert found(movement=0.1, num_updates=1000, random=BAD) is None
    assert found(movement=1e-4, num_updates=1000, random=GOOD) is None


def test_updates_are_those_of_the_whole_run():
    assert checks.too_few_updates(examination(num_updates=8, progress=0.5)).evidence.endswith("so 16 in all")
    assert checks.too_few_updates(examination(num_updates=20, progress=0.25)) is None


@pytest.mark.parametrize(("each", "named"), [(0.001, True), (1.0, False), (50.0, True)])
def test_replay_ratio(each, named):
    x = examination(DQN, settings={"updates_per_step": each, "batch_size": 64})
    assert (checks.replay_ratio(x) is not None) == named
    with pytest.raises(Unseen, match=r"no setting agent.updates_per_step"):
        checks.replay_ratio(examination())


def layer(name, *columns):
    return Layer(name, torch.tensor(columns).T)


@pytest.mark.parametrize(
    ("check", "ill", "well"),
    [
        (networks.dead_units, layer("relu", [0.0, 0.0], [0.0, 0.0]), layer("relu", [0.0, 0.0], [0.0, 1.0])),
        (networks.saturated_units, layer("tanh", [1.0, -1.0], [1.0, 1.0]), layer("tanh", [0.5, -1.0], [0.1, 0.9])),
        (networks.saturated_units, layer("sigmoid", [1.0, 0.0]), layer("sigmoid", [0.5, 0.9])),
        (networks.units_alike, layer("tanh", *[[0.3, 0.5]] * 4), layer("tanh", [0.3, 0.5], *[[0.3, 0.4]] * 3)),
    ],
)
def test_units(check, ill, well):
    assert check(examination(obs=torch.zeros(2, 4), layers=[well, ill]))
    assert check(examination(obs=torch.zeros(2, 4), layers=[well])) is None


def test_activations_are_seen_in_modules_and_functions():
    x = examination(obs=torch.randn(5, 4))
    assert [(one.name, tuple(one.out.shape)) for one in x.layers] == [("tanh", (5, 8))]
    torch.testing.assert_close(x.layers[0].out, x.agent.body(x.agent.normalized(x.obs)).detach())


class Net(nn.Module):
    """A network in which something is done in every mode."""

    def __init__(self, extra):
        super().__init__()
        self.first, self.last, self.extra = nn.Linear(3, 16), nn.Linear(16, 2), extra

    def forward(self, x):
        return self.last(self.extra(self.first(x)))


def data_trainer(extra=torch.relu, inputs=None, targets=None, **held):
    """A trainer of a classifier with that in the middle, which has learned nothing."""
    random = np.random.default_rng(1)
    inputs = random.normal(size=(200, 3)).astype(np.float32) if inputs is None else inputs
    targets = (inputs[:, 0] > 0).astype(int) if targets is None else targets
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=50), dataset=from_arrays(inputs, targets, **held))
    network = NetworkChoice.model_validate(lambda in_shape, out_features: Net(extra))
    agent = Supervised(env, Supervised.Settings(network=network, learning_rate=0.01))
    return Trainer(agent, env, Trainer.Settings(epochs=30, eval_every=None))


def of(trainer, progress=1.0):
    return Examination(trainer, {}, {}, [], progress)


@pytest.mark.parametrize(
    ("extra", "random", "company"),
    [
        (torch.relu, False, False),
        (lambda x: F.dropout(x, 0.5), True, False),
        (lambda x: F.batch_norm(x, None, None, training=True), False, True),
        (nn.Dropout(0.5), False, False),
        (nn.BatchNorm1d(16), False, False),
    ],
)
def test_an_answer_depends_on_the_question_alone(extra, random, company):
    x = of(data_trainer(extra))
    assert (networks.evaluation_random(x) is not None) == random
    assert (networks.evaluation_depends_on_company(x) is not None) == company


def test_an_examination_changes_nothing_of_the_agent():
    trainer = data_trainer(nn.Sequential(nn.BatchNorm1d(16, momentum=None), nn.Dropout(0.1)))
    trainer.agent.network.module.extra[0].train()
    before = {name: value.clone() for name, value in trainer.agent.state_dict().items()}
    modes, generator = [one.training for one in trainer.agent.modules()], torch.get_rng_state()
    trainer.agent.network.module.extra[0].register_forward_pre_hook(
        lambda module, _: module.train() and None
    )  # as in a mistake
    ask(of(trainer))
    assert all(torch.equal(value, before[name]) for name, value in trainer.agent.state_dict().items())
    assert [one.training for one in trainer.agent.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)


def test_dropout_that_training_does_not_reach():
    class Off(nn.Dropout):
        def train(self, mode=True):
            return super().train(False)

    assert networks.dropout_never_drops(of(data_trainer(Off(0.5))))
    assert networks.dropout_never_drops(of(data_trainer(nn.Dropout(0.5)))) is None


def test_statistics_of_batch_norm_that_are_never_updated():
    x = of(data_trainer(nn.BatchNorm1d(16)))
    vars(x)["num_updates"] = 3
    assert "all 1 batch norms" in networks.batch_norm_unused(x).evidence
    x.agent.train()
    x.agent.outputs(x.obs)
    assert networks.batch_norm_unused(x) is None


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_code_that_says_nothing(scale):
    env = ReconstructionEnv(ReconstructionEnv.Settings(dataset="digits", num_envs=32))
    agent = AutoencoderAgent(env, AutoencoderAgent.Settings.model_validate({"network": {"latent": 4, "hidden": [8]}}))
    with torch.no_grad():
        agent.network.code.weight.normal_(std=scale)
    found = networks.posterior_collapse(of(Trainer(agent, env, Trainer.Settings(epochs=1))))
    assert (found is not None) == (scale == 0)


def steps(reward, terminated, truncated, obs=None, action=None):
    """A rollout of columns [T, N]."""
    rollout, shape = Rollout(), torch.tensor(reward).shape
    obs = torch.zeros(*shape, 4) if obs is None else obs
    action = torch.zeros(shape, dtype=torch.int64) if action is None else action
    for t in range(shape[0]):
        flags = [torch.tensor(column[t], dtype=torch.bool) for column in (terminated, truncated)]
        row = obs[t] if isinstance(obs, torch.Tensor) else {key: value[t] for key, value in obs.items()}
        rollout.append(row, Step(action[t]), torch.tensor(reward[t]), *flags, {})
    return rollout


def test_episodes_across_rollouts():
    one = steps([[1.0, 5.0], [2.0, 6.0]], [[0, 1], [0, 0]], [[0, 0], [0, 0]])
    two = steps([[3.0, 7.0], [4.0, 8.0]], [[0, 0], [0, 0]], [[1, 0], [0, 1]])
    found = episodes_of([one, two])
    assert found.returns.tolist() == [6, 5, 21]
    assert found.lengths.tolist() == [3, 1, 3]
    assert found.terminated.tolist() == [False, True, False]
    assert episodes_of([one, two], complete=False).returns.tolist() == [21]


def fixed(length, kind):
    """Eight episodes of one length in two environments."""
    ends = [[(t + 1) % length == 0] * 2 for t in range(4 * length)]
    never = [[False] * 2] * len(ends)
    return steps([[1.0] * 2] * len(ends), *((ends, never) if kind == "terminated" else (never, ends)))


@pytest.mark.parametrize(
    ("length", "kind", "named"), [(20, "terminated", 1), (20, "truncated", 0), (3, "terminated", 0)]
)
def test_time_limits_told_as_deaths(length, kind, named):
    found = playing.time_limit_as_death(examination(rollouts=[fixed(length, kind)]))
    assert (found is not None) == named
    if named:
        assert found.evidence == "100% of 8 episodes terminated after exactly 20 steps; none was truncated"


def test_a_known_time_limit_is_named():
    env = CartPole()
    env.spec = SimpleNamespace(max_episode_steps=20, id="Some-v0")
    found = playing.time_limit_as_death(examination(rollouts=[fixed(20, "terminated")], env=env))
    assert "the time limit of Some-v0" in found.evidence


def test_returns_that_nothing_changes():
    alike = fixed(20, "truncated")
    found = playing.rewards_constant(examination(rollouts=[alike], random=np.full(4, 20.0)))
    assert found.evidence == "8 episodes of the agent and 4 of random actions all return 20"
    assert playing.rewards_constant(examination(rollouts=[alike], random=np.array([20.0, 9.0]))) is None


@pytest.mark.parametrize(("scale", "named"), [(1e4, True), (10.0, False)])
def test_numbers_that_no_network_is_made_for(scale, named):
    found = playing.observations_unscaled(examination(obs=torch.randn(100, 4) * torch.tensor([1.0, 1.0, scale, 1.0])))
    assert (found is not None) == named
    if named:
        assert found.evidence.startswith("number 2 of an observation")


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_mask_by_another_name(allowed):
    mask = torch.tensor([[[1, 0]] * 2] * 5, dtype=torch.int8)
    obs = {"here": torch.zeros(5, 2, 3), "legal_moves": mask}
    action = torch.full((5, 2), 1 - allowed)
    x = examination(rollouts=[steps([[0.0] * 2] * 5, [[0] * 2] * 5, [[0] * 2] * 5, obs, action)])
    x.agent.observation_space = Dict({"here": Box(-1, 1, (3,)), "legal_moves": MultiBinary(2)})
    assert x.agent.action_space == Discrete(2)
    found = playing.mask_unused(x)
    assert (found is None) == bool(allowed)
    if not allowed:
        assert found.evidence == "100% of the actions are not allowed by the observation's legal_moves"
        assert "action_mask" in found.remedy


def test_rows_of_training_among_those_held_out():
    x = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
    y = np.arange(100) % 2
    found = of_data.leakage(of(data_trainer(inputs=x, targets=y, test_inputs=x[:40], test_targets=y[:40])))
    assert found.evidence == "40 of the 40 test examples are in the training split, number by number"
    apart = data_trainer(inputs=x[:60], targets=y[:60], test_inputs=x[60:], test_targets=y[60:])
    assert of_data.leakage(of(apart)) is None


@pytest.mark.parametrize("shuffled", [False, True])
def test_labels_that_the_inputs_do_not_tell(shuffled):
    random = np.random.default_rng(2)
    x = random.normal(size=(600, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    if shuffled:
        random.shuffle(y)
    trainer = data_trainer(inputs=x, targets=y)
    trainer.fit()
    assert (of_data.labels_shuffled(of(trainer)) is not None) == shuffled


@pytest.mark.parametrize(
    ("ends", "named"),
    [
        ([9, 10, 100, 100], True),
        ([9, 99, 100], True),
        ([98, 99, 100, 97], False),
        ([0, 30, 60, 90], False),
        ([0, 60, 100], False),  # of three, one gap is always more than half of the range
        ([0, 20, 80, 100], False),
        ([0, 0, 0], False),
    ],
)
def test_seeds_in_two_groups(ends, named):
    runs = [curves(eval__return=[0, end, end]) for end in ends]
    assert (seeds_disagree(runs, "eval/return") is not None) == named
    with pytest.raises(Unseen):
        seeds_disagree(runs[:2], "eval/return")


def test_a_mistake_in_a_check_is_told_and_the_others_are_asked():
    registry.checks.register("of_the_test")(lambda x: Finding("1 of 1", "none"))
    registry.checks.register("unseen_of_the_test")(lambda x: x.curve("no/such"))
    registry.checks.register("broken_of_the_test")(lambda x: 1 / 0)
    try:
        found = ask(examination(obs=torch.zeros(9, 4)))
    finally:
        for name in ("of_the_test", "unseen_of_the_test", "broken_of_the_test"):
            del registry.checks._registered[name]
    assert Finding("1 of 1", "none", "of_the_test") in found.findings
    assert found.unseen["unseen_of_the_test"] == "no figure no/such"
    assert found.unseen["broken_of_the_test"] == "failed: ZeroDivisionError: division by zero"


def test_figures_in_memory_are_thinned_and_saved():
    kept = Curves()
    for step in range(3 * MOST_POINTS):
        kept.scalars({"a": float(step), "b": math.nan}, step)
    curve = kept.curves()["a"]
    assert MOST_POINTS / 2 <= len(curve.value) <= MOST_POINTS
    assert curve.first < MOST_POINTS < 2 * MOST_POINTS < curve.last
    assert "b" not in kept.curves()
    again = Curves()
    again.load_state_dict(kept.state_dict())
    assert again.points == kept.points


def test_random_actions_are_played_apart():
    env = CartPole()
    env.reset(seed=1)
    before, generator = env.checkpoint(), torch.get_rng_state()
    assert 10 < random_returns(env).mean() < 40  # 22 or so
    assert torch.equal(torch.get_rng_state(), generator)
    assert str(env.checkpoint()) == str(before)


CONFIG = """\
env: {name: cartpole, num_envs: 8}
agent: {name: ppo, horizon: 32, learning_rate: 3e-3, network: {name: mlp, hidden: [16]}}
trainer: {total_steps: 8_192, loggers: [LOGGER], HOOKS}
"""


@pytest.fixture
def trained(workdir, capsys):
    """Trains a config with some settings into a folder."""

    def train(folder, *settings, logger="csv", hooks="eval_every: 2048"):
        (workdir / "quick.yaml").write_text(CONFIG.replace("LOGGER", logger).replace("HOOKS", hooks))
        assert commands.train("quick.yaml", settings, folder, None, 1) == 0
        return capsys.readouterr().out

    return train


def test_a_run_that_is_well(trained, capsys, workdir):
    trained("run", logger="tensorboard")
    files = {file: file.stat().st_mtime_ns for file in workdir.rglob("*")}
    found = examine("run")
    assert found.findings == []
    assert {"kl_spikes", "saturated_units", "too_few_updates", "time_limit_as_death"} <= set(found.looked)
    assert found.unseen["leakage"] == "no data set"
    assert {*found.looked, *found.unseen} == set(registry.checks.names())
    assert commands.doctor("run") == 0
    out = capsys.readouterr().out
    assert "run: nothing found" in out
    assert "cannot be known" in out
    assert {file: file.stat().st_mtime_ns for file in workdir.rglob("*")} == files


def test_planted_defects_are_named_end_to_end(trained, capsys):
    trained("small", "agent.learning_rate=1e-7")
    trained("few", "agent.horizon=512", "agent.minibatch_size=null", "agent.num_epochs=1")
    assert commands.doctor("small") == 1
    out = capsys.readouterr().out
    assert "small: learning_rate_too_small: weights have moved by 0.0%" in out
    assert commands.doctor(".", as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert "too_few_updates" in [one["name"] for one in found["few"]["findings"]]
    assert {one["name"] for one in found["small"]["findings"]} >= {"learning_rate_too_small"}


def test_seeds_of_one_config_alone_can_disagree(trained):
    for seed in (1, 2, 3):
        trained(f"several/seeds/{seed}", "trainer.total_steps=1024", f"seed={seed}")
    found = examine_all("several")
    assert set(found) == {Path("several/seeds", name) for name in ("1", "2", "3", "")}
    assert found[Path("several/seeds")].unseen == {}
    trained("several/seeds/4", "trainer.total_steps=1024", "agent.learning_rate=1e-7")
    reason = {"seeds_disagree": "the runs differ in agent.learning_rate"}
    assert examine_all("several")[Path("several/seeds")].unseen == reason


def test_the_hook_warns_once_while_it_trains(trained):
    out = trained("run", "agent.learning_rate=1e-7", hooks="eval_every: 1024, hooks: [doctor]")
    assert out.count("note: learning_rate_too_small: ") == 1


def test_the_hook_changes_no_bit_of_training():
    def end(hooks):
        torch.manual_seed(1)
        env = CartPole()
        trainer = Trainer(PPO(env, PPO.Settings.model_validate(SMALL)), env, total_steps=512, hooks=hooks)
        trainer.fit()
        return trainer.agent.state_dict()

    one, other = end([Doctor()]), end([])
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_watch_looks_again_until_the_run_has_ended(trained, capsys, monkeypatch):
    trained("run", "agent.learning_rate=1e-7", "trainer.stop_at=6144")
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        commands.resume("run", [])
        capsys.readouterr()

    monkeypatch.setattr("time.sleep", sleep)
    looked = []
    monkeypatch.setattr(
        import_module("rlcore.commands.doctor"), "examine", lambda *run: looked.append(run) or examine(*run)
    )
    assert commands.doctor("run", watch=True, every=7.0) == 1
    assert naps == [7.0]
    assert len(looked) == 2
    assert "run has ended; 2 findings" in capsys.readouterr().out
    with pytest.raises(InputError, match="--watch: is for one run"):
        commands.doctor(".", watch=True)


def test_what_is_no_run(workdir):
    (workdir / "empty").mkdir()
    for folder in ("empty", "none"):
        with pytest.raises(InputError, match=rf"{folder}.* no run|there is no folder {folder}; expected a run"):
            examine_all(folder)


def test_a_run_without_checkpoint_or_events(trained, workdir):
    trained("run", logger="")
    with pytest.raises(InputError, match="run has no events: it logged no figures; train it longer, with "):
        examine("run")
    for file in (workdir / "run/checkpoints").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="run has no checkpoint yet"):
        examine("run")


def test_remedies_name_settings_that_there_are():
    kinds = {"agent": registry.agents, "env": registry.envs}
    known = {kind: {field for name in all_of.names() for field in all_of[name].Settings.model_fields}
             for kind, all_of in kinds.items()} | {"trainer": Trainer.Settings.model_fields}  # fmt: skip
    files = [*Path(rlcore.__file__).parent.glob("doctor/*.py"), Path(of_data.__file__)]
    texts = [node.value for file in files for node in ast.walk(ast.parse(file.read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]  # fmt: skip
    named = [found for text in texts for found in re.findall(r"\b(agent|env|trainer)\.([a-z_]+)(?!\w|\()", text)]
    assert len(named) > 20
    assert [one for one in named if one[1] not in known[one[0]]] == []


@pytest.mark.parametrize(
    ("losses", "named"), [([2.3, 40, 9, 0.4, 0.4], True), ([2.3, 1, 0.5, 0.4, 0.4], False), ([2.3] * 5, True)]
)
def test_a_supervised_loss_that_leaps_or_never_falls(losses, named):
    trainer = data_trainer()
    x = Examination(trainer, curves(train__loss=losses), {}, [], 1.0)
    vars(x).update(movement=9.0, num_updates=100)
    assert (checks.learning_rate_too_large(x) is not None) == named
