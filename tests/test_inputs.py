"""What a data set did to its inputs, and the names of its classes, are part of the agent."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import same

import rlcore
from rlcore import InputError, Trainer, check_agent, check_environment, checkpoint
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.ppo import PPO
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.env_spec import EnvSpec, plain_of, space_from
from rlcore.networks import NetworkChoice
from rlcore.observations import ScaledInputs, build_body, input_scaling, observation_shape
from rlcore.run import Run
from rlcore.spaces import Image, Inputs
from rlcore.supervised.datasets import from_arrays, load
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

MLP = {"name": "mlp", "hidden": [8]}
CNN = {"name": "depthwise_cnn", "channels": [2]}


def choice(settings):
    return NetworkChoice.model_validate(settings)


def make(inputs, targets=None, kind=SupervisedEnv, **settings):
    targets = np.arange(len(inputs)) % 2 if targets is None else targets
    return kind(kind.Settings(**{"num_envs": 4, "test_fraction": 0, **settings}), dataset=from_arrays(inputs, targets))


def numbers(*shape, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8)


# The space, and what a network sees


@pytest.mark.parametrize(
    "space",
    [
        Inputs((3,), np.float64, [1.7e9, 0.1, -3.0], [1.0, 2.0, 1 / 3]),
        Inputs((4, 5, 3), np.uint8, [[[1.5, 2, 3]]], [[[7.0, 8, 9]]], "last"),
        Inputs((1, 4, 4), np.uint8, scale=255.0, channels="first"),
        Inputs((2, 2), np.float32),
    ],
)
def test_a_space_of_inputs_is_saved_with_its_statistics(space):
    again = space_from(plain_of(space))
    assert (again, repr(again), again.channels) == (space, repr(space), space.channels)
    for name in ("shift", "scale"):
        assert np.array_equal(getattr(again, name), getattr(space, name))
    scaled = space.scaled
    assert scaled.dtype == np.float32
    assert isinstance(scaled, Image) == (space.channels is not None)
    assert scaled.shape == ((3, 4, 5) if space.channels == "last" else space.shape)


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"shift": np.zeros(4)}, {"scale": np.nan}, {"shift": [[0.0, 0, 0]]}])
def test_statistics_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError, match=r"of inputs \(3,\) must be finite numbers that broadcast to that shape"):
        Inputs((3,), np.float32, **wrong)


def test_scaling_in_closed_form_and_back():
    x = torch.from_numpy(numbers(5, 4, 3, 2))
    scaling = ScaledInputs(Inputs((4, 3, 2), np.uint8, [2.0, 4.0], [8.0, 0.5], "last"))
    expected = (x.float() - torch.tensor([2.0, 4.0])) / torch.tensor([8.0, 0.5])
    assert torch.equal(scaling(x), expected.movedim(-1, 1))
    assert scaling(x).is_contiguous()
    assert torch.equal(scaling.unscaled(scaling(x)), x)
    assert torch.equal(scaling(x.view(1, 5, 4, 3, 2))[0], scaling(x))  # any number of dimensions in front
    wide = ScaledInputs(Inputs((1,), np.float64, 1.7e9, 2.0))
    assert wide(torch.tensor([[1.7e9 + 1]], dtype=torch.float64)).tolist() == [[0.5]]
    narrow = ScaledInputs(Inputs((1,), np.float32, 1 / 3, 1.0))  # a number, but float32 is subtracted from in float64
    assert narrow(torch.tensor([[1 / 3]])).tolist() == [[np.float32(np.float64(np.float32(1 / 3)) - 1 / 3)]]
    with pytest.raises(InputError, match=r"^inputs must be bytes from 0 to 255 .* got torch\.float32$"):
        scaling(expected)


def test_floats_in_units_need_no_operation():
    env = make(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    assert input_scaling(env.single_observation_space) is None
    agent = Supervised(env)
    assert agent.scaling is None
    assert not [name for name in agent.state_dict() if not name.startswith("network.")]


@pytest.mark.parametrize("network", [MLP, CNN])
@pytest.mark.parametrize("scaling", ["unit", "standard", "raw"])
def test_every_agent_scales_by_the_same_module(network, scaling):
    images = numbers(8, 6, 5, 3)
    x = torch.from_numpy(images)
    scaled = x.float().movedim(-1, 1)
    if scaling == "unit":
        scaled = scaled / 255
    if scaling == "standard":
        std, mean = torch.std_mean(scaled.double(), (0, 2, 3), correction=0, keepdim=True)
        scaled = (scaled - mean.float()) / std.float()
    env = make(images, scaling=scaling)
    agent = Supervised(env, Supervised.Settings(network=network)).eval()
    assert torch.equal(agent(x), agent.network(scaled))
    assert env.scaled(x).equal(scaled)
    env = make(images, scaling=scaling, action="label")
    search = RandomSearch(env, RandomSearch.Settings(network=network)).eval()
    assert torch.equal(search.predict(x).action, search.kept(scaled).argmax(1))
    for kind in (PPO, Reinforce):
        policy = kind(env, kind.Settings(network=network)).eval()
        logits = policy.policy_head(policy.body(scaled))
        assert torch.equal(policy.predict(images).action, logits.argmax(1))
    torch.manual_seed(0)
    body = build_body(choice(network), env.single_observation_space).eval()  # as an agent of one's own makes it
    torch.manual_seed(0)
    plain = build_body(choice(network), env.single_observation_space.scaled).eval()
    assert torch.equal(body(x), plain(scaled))
    with pytest.raises(InputError, match="must be scaled; see build_body"):
        observation_shape(env.single_observation_space)


def test_a_policy_normalises_what_is_scaled():
    x = 1.7e9 + np.random.default_rng(0).normal(size=(64, 2))
    env = make(x, scaling="standard", action="label")
    agent = PPO(env, PPO.Settings(horizon=4, minibatch_size=16, network=MLP, normalize_observations=True))
    Trainer(agent, env, total_steps=64).fit()
    assert float(agent.normalizer.single.mean.abs().max()) < 1
    check_agent(agent, env)


@pytest.mark.parametrize("scaling", ["unit", "standard"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_contracts_are_kept_and_the_data_sets_layout_and_dtype_shown(dtype, scaling):
    x = numbers(8, 5, 4, 3).astype(dtype) + (dtype(0.1) if dtype is np.float64 else dtype(0))
    env = make(x, scaling=scaling)
    check_environment(env, num_steps=10)
    shown = np.float32 if dtype is np.float64 and scaling == "unit" else dtype
    assert env.single_observation_space.dtype == shown
    assert np.array_equal(env.evaluation(1).inputs(slice(None)).numpy(), x.astype(shown))
    check_agent(Supervised(env, Supervised.Settings(network=MLP)), env)


# Drawn pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_drawn_pixels_are_shown_in_the_units_of_the_data_and_scaled_to_0_and_1(binarize, dtype):
    images = numbers(8, 6, 5, 3)
    x = images if dtype is np.uint8 else images.astype(np.float32) / 255
    env = make(x, kind=ReconstructionEnv, binarize=binarize)
    obs, _ = env.reset(seed=1)
    assert obs.shape == (4, 6, 5, 3)
    assert set(obs.unique().tolist()) == ({0, 255} if dtype is np.uint8 else {0.0, 1.0})
    agent = AutoencoderAgent(env, AutoencoderAgent.Settings(network={"name": "vae", "latent": 2, "hidden": [4]}))
    bits = env.scaled(obs)
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(agent.eval().encode(obs).mean, agent.network.encode(bits).mean)
    _, reward, *_ = env.step((bits - 0.5) * 100)
    assert (reward > -1e-6).all()


def test_an_autoencoder_is_paid_for_scaled_inputs():
    x = 1e6 + np.random.default_rng(0).normal(size=(8, 3))
    env = make(x, kind=ReconstructionEnv, action="values", scaling="standard", shuffle=False)
    env.reset(seed=1)
    _, reward, *_ = env.step(torch.zeros(4, 3))
    scaled = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(reward, -(scaled[:4] ** 2).sum(1), rtol=1e-5)


# Runs: other data, raw rows, no data


def table(seed, n=600, shift=0.0):
    """Three classes, told by the first of two numbers of very different offsets and units."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.normal(shift, 1, n), rng.normal(0, 1, n)], 1)
    return 1e6 + x * [1.0, 300.0], np.digitize(x[:, 0], [-0.5, 0.5])


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The run of a classifier of a table, standardised."""
    monkeypatch.chdir(tmp_path)
    x, y = table(0)
    np.savez("train.npz", inputs=x, targets=y)
    Path("mine.yaml").write_text(
        "env: {name: supervised, dataset: train.npz, num_envs: 50, scaling: standard}\n"
        "agent: {name: supervised, learning_rate: 2e-2, network: {name: mlp, hidden: [16]}}\n"
        "trainer: {epochs: 30, eval_every: null}\n"
    )
    assert rlcore.commands.train("mine.yaml", [], "run", None, 1) == 0
    return Path("run")


def evaluated(run, capsys, *changed):
    capsys.readouterr()
    assert rlcore.commands.evaluate(str(run), None, None, True, None, [], changed) == 0
    return json.loads(capsys.readouterr().out)


def test_a_new_file_is_scaled_by_the_statistics_of_training(trained, capsys):
    x, y = table(1, shift=0.8)  # other statistics: by its own, most would be told wrong
    np.savez("other.npz", inputs=x, targets=y)
    found = evaluated(trained, capsys, "env.dataset=other.npz", "env.test_fraction=0")
    train = load("train.npz")
    agent = Run(trained).trainer("last")[0].agent
    kept = Run(trained).trainer("last")[0].env.dataset.train.inputs  # 80 % of the file
    by_hand = torch.from_numpy((x - kept.mean(0).numpy()) / kept.std(0, correction=0).numpy()).float()
    right = (agent.network(by_hand).argmax(1).numpy() == y).mean()
    assert found["accuracy"] == pytest.approx(right)
    assert found["accuracy"] > 0.95
    own = torch.from_numpy((x - x.mean(0)) / x.std(0)).float()
    assert (agent.network(own).argmax(1).numpy() == y).mean() < 0.7
    assert len(train.train.targets) == 600


def test_raw_rows_are_answered_without_the_data_as_the_evaluation_did(trained, capsys):
    found = evaluated(trained, capsys)
    dataset = Run(trained).trainer("last")[0].env.dataset
    x, y = dataset.test.inputs.numpy(), dataset.test.targets.numpy()
    Path("train.npz").unlink()
    agent = rlcore.load(trained)
    logits = agent(x)
    assert (logits.argmax(1) == y).mean() == found["accuracy"] > 0.95
    np.testing.assert_allclose(agent(x[3]), logits[3], rtol=1e-5)
    np.testing.assert_allclose(agent(x.tolist()), logits, rtol=1e-5)
    assert torch.equal(agent.predict(x).action, torch.from_numpy(logits))
    assert agent.spec.classes == ("0", "1", "2")
    assert agent.observation_space.dtype == np.float64
    with pytest.raises(InputError, match=r"^observations must be \[B, 2\] or one row; got \(2, 3\)$"):
        agent(np.zeros((2, 3)))


def test_a_file_may_lack_classes_and_have_no_others(trained, capsys):
    x, y = table(2)
    for kept in (y > 0, y < 2, y == 0):
        np.savez("few.npz", inputs=x[kept], targets=y[kept])
        found = evaluated(trained, capsys, "env.dataset=few.npz", "env.test_fraction=0")
        assert found["accuracy"] > 0.9
    np.savez("small.npz", inputs=x[:7], targets=y[:7])  # fewer than a training batch
    assert evaluated(trained, capsys, "env.dataset=small.npz", "env.test_fraction=0")["accuracy"] > 0.5
    for wrong, line in (
        (y + 1, "the agent knows 3 classes, but a training label is 3; with 3 classes, labels run from 0 to 2"),
        (y + 0.5, r"the agent knows 3 classes, but classes must be integers \[n\], got torch.float32 \(600,\)"),
    ):
        np.savez("other.npz", inputs=x, targets=wrong)
        with pytest.raises(InputError, match=f"^env.dataset: {line}$"):
            evaluated(trained, capsys, "env.dataset=other.npz")
    np.savez("other.npz", inputs=x[:, :1], targets=y)
    with pytest.raises(InputError, match=r"^env.dataset: the agent was trained on inputs of shape \(2,\); these have"):
        evaluated(trained, capsys, "env.dataset=other.npz")


def test_another_file_to_evaluate_on_while_training_is_scaled_by_the_statistics_of_training(trained, capsys):
    x, y = table(1, shift=0.8)
    np.savez("other.npz", inputs=x[y > 0].astype(np.float32), targets=y[y > 0])
    changed = ["eval_env.dataset=other.npz", "eval_env.test_fraction=0", "trainer.eval_every=30_000"]
    assert rlcore.commands.train("mine.yaml", changed, "another", None, 1) == 0
    assert Run("another").result["figures"]["eval/accuracy"] > 0.95


def test_a_trained_agent_keeps_its_scaling(trained, capsys):
    with pytest.raises(InputError, match=r"^env.scaling: is 'standard' for good, .*; 'raw' would have no effect$"):
        evaluated(trained, capsys, "env.scaling=raw")
    with pytest.raises(InputError, match=r"^env.scaling: is 'standard' for good"):
        rlcore.commands.resume(str(trained), ["env.scaling=unit", "trainer.epochs=31"])
    evaluated(trained, capsys, "env.scaling=standard")


def test_a_run_that_is_resumed_on_other_data_keeps_its_statistics(trained):
    x, y = table(1, shift=0.8)
    before = rlcore.load(trained)
    np.savez("train.npz", inputs=x, targets=y)
    assert rlcore.commands.resume(str(trained), ["trainer.epochs=31"]) == 0
    after = rlcore.load(trained)
    assert torch.equal(before.scaling.shift, after.scaling.shift)
    assert np.array_equal(before.observation_space.shift, after.observation_space.shift)
    assert after.spec.classes == ("0", "1", "2")


def test_classes_are_matched_by_their_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {"action": "label", "classes": ["virginica", "setosa"], "dataset": "iris", "num_envs": 8}
    env = SupervisedEnv(SupervisedEnv.Settings(**settings))
    spec = EnvSpec.of(env)
    assert spec.classes == ("virginica", "setosa")
    again = EnvSpec.from_plain(spec.plain(), torch.device("cpu"))
    assert again.classes == spec.classes
    assert EnvSpec.of(SupervisedEnv(SupervisedEnv.Settings(**{**settings, "action": "ask"}))).classes == spec.classes
    assert EnvSpec.of(ReconstructionEnv(ReconstructionEnv.Settings(dataset="digits", num_envs=8))).classes is None
    other = SupervisedEnv.for_agent(SupervisedEnv.Settings(**settings), "cpu", again)
    assert other.dataset.classes == spec.classes
    same(list(other.dataset.test), list(env.dataset.test))
    named = SupervisedEnv.Settings(**{**settings, "classes": None})
    with pytest.raises(InputError, match="knows 2 classes, virginica, setosa; the data set also has versicolor"):
        SupervisedEnv.for_agent(named, "cpu", again)
    swapped = spec._replace(classes=("versicolor", "virginica", "rose", "setosa"))
    dataset = SupervisedEnv.for_agent(named, "cpu", swapped).dataset
    assert torch.cat([dataset.train.targets, dataset.test.targets]).bincount().tolist() == [50, 50, 0, 50]


@pytest.mark.parametrize("shape", [(1, 6, 5), (6, 5, 3), (6, 5)])
def test_images_are_answered_as_the_file_has_them(tmp_path, monkeypatch, capsys, shape):
    monkeypatch.chdir(tmp_path)
    x, y = numbers(60, *shape, high=128), np.arange(60) % 3
    x.reshape(60, -1)[np.arange(60), y] = 255
    np.savez("train.npz", inputs=x, targets=y)
    Path("mine.yaml").write_text(
        "env: {name: supervised, dataset: train.npz, num_envs: 12, test_fraction: 0}\n"
        f"agent: {{name: supervised, learning_rate: 1e-2, network: {json.dumps(MLP)}}}\n"
        "trainer: {epochs: 20, eval_every: null}\n"
    )
    assert rlcore.commands.train("mine.yaml", [], "run", None, 1) == 0
    found = evaluated("run", capsys)
    np.savez("floats.npz", inputs=x.astype(float), targets=y)  # bytes in another dtype
    assert evaluated("run", capsys, "env.dataset=floats.npz")["accuracy"] == found["accuracy"]
    np.savez("unit.npz", inputs=x / 255, targets=y)
    with pytest.raises(InputError, match=r"inputs must be bytes, 0 to 255, as in training; got numbers from 0 to 1$"):
        evaluated("run", capsys, "env.dataset=unit.npz")
    Path("train.npz").unlink()
    agent = rlcore.load("run")
    assert (agent(x).argmax(1) == y).mean() == found["accuracy"]
    assert agent(x[0]).shape == (3,)
    assert torch.equal(agent(torch.from_numpy(x)), agent.predict(x).action)
    with pytest.raises(InputError, match=r"^observations must be torch.uint8, as Inputs\(.*\); got torch.float64$"):
        agent.predict(x / 255)


# Checkpoints of before


def as_before(saved, env):
    """A checkpoint as it was when inputs were scaled before they were shown."""
    space = env.single_observation_space
    learns = saved["learns"]
    learns["fits"] = learns["fits"].replace(str(space), str(space.scaled))
    learns["collector"]["obs"] = env.scaled(learns["collector"]["obs"])
    kept = {k: v for k, v in saved["agent"]["parameters"].items() if "scaling." not in k}
    saved["agent"]["parameters"] = kept
    saved["spec"] = {
        "num_envs": env.num_envs,
        "observation_space": plain_of(space.scaled),
        "action_space": plain_of(env.single_action_space),
    }
    return saved


BEFORE = {
    "bytes": (SupervisedEnv, numbers(24, 6, 5, 3), {}, Supervised, {"network": CNN}),
    "numbers": (SupervisedEnv, table(0, n=24)[0], {"scaling": "standard"}, Supervised, {"network": MLP}),
    "labels": (
        SupervisedEnv, table(0, n=24)[0].astype(np.float32), {"scaling": "standard", "action": "label"}, PPO,
        {"network": MLP, "horizon": 2, "minibatch_size": 4, "normalize_observations": True},
    ),
    "search": (SupervisedEnv, table(0, n=24)[0], {"scaling": "standard", "action": "label"}, RandomSearch, {}),
    "pixels": (
        ReconstructionEnv, numbers(24, 1, 4, 4), {"binarize": "dynamic"}, AutoencoderAgent,
        {"network": {"name": "vae", "latent": 2, "hidden": [4]}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE)
def test_checkpoints_of_before_go_on_bit_for_bit(name, tmp_path):
    kind, x, env_settings, agent, settings = BEFORE[name]

    def trainer():
        env = make(x, kind=kind, **env_settings)
        torch.manual_seed(1)
        return Trainer(agent(env, agent.Settings.model_validate(settings)), env, total_steps=400)

    whole, rest = trainer(), trainer()
    for _ in range(5):
        whole.update()
    checkpoint.save(tmp_path / "old.pt", as_before(whole.checkpoint(), whole.env))
    for _ in range(4):
        whole.update()
    assert rest.restore(checkpoint.load(tmp_path / "old.pt")) == []
    for _ in range(4):
        rest.update()
    same(whole.checkpoint(), rest.checkpoint())


def test_runs_of_before_take_raw_rows_by_the_statistics_of_their_data(trained, capsys):
    found = evaluated(trained, capsys)
    x = Run(trained).trainer("last")[0].env.dataset.test.inputs.numpy()
    expected = rlcore.load(trained)(x)
    path = trained / "checkpoints/last.pt"
    old = as_before(checkpoint.load(path), Run(trained).trainer("last")[0].env)
    checkpoint.save(path, old)
    assert np.array_equal(rlcore.load(trained)(x), expected)
    assert evaluated(trained, capsys) == found
    assert rlcore.commands.resume(str(trained), ["trainer.epochs=31"]) == 0
    checkpoint.save(path, {key: value for key, value in old.items() if key != "spec"})
    assert np.array_equal(rlcore.load(trained)(x), expected)


def test_a_data_set_of_ones_own_that_knows_of_no_spec_is_made_without():
    class Mine(SupervisedEnv):
        def __init__(self, settings, device="cpu"):
            super().__init__(settings, device)

    settings = SupervisedEnv.Settings(dataset="iris", num_envs=10)
    spec = EnvSpec.of(SupervisedEnv(settings))
    assert type(Mine.for_agent(settings, "cpu", spec)) is Mine
