import math
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import Calls, same
from torch.nn import functional as F

import rlcore
from rlcore import InputError, Trainer, check_agent, check_environment
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.ppo import PPO
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.envs.probes import Product
from rlcore.gym_environment import GymEnvironment
from rlcore.networks import NetworkChoice
from rlcore.seeding import TRAINING, derive_seed
from rlcore.supervised.datasets import Dataset, Split, from_arrays
from rlcore.supervised.environment import MOST_CLASSES, SupervisedEnv, confusion_matrix
from rlcore.supervised.reports.foreign import foreign_inputs


def toy(n=50, shape=(3,), num_classes=4, num_test=7, dtype=np.float32, seed=0):
    """Example i carries i in its first number."""
    rng = np.random.default_rng(seed)

    def split(count):
        inputs = (rng.normal(size=(count, *shape)) * 50 + 100).clip(0, 255).astype(dtype)
        inputs.reshape(count, -1)[:, 0] = np.arange(count)
        targets = rng.integers(num_classes, size=count)
        targets[:num_classes] = np.arange(num_classes)
        return inputs, targets

    return from_arrays(*split(n), *split(num_test))


def make(dataset=None, **settings):
    return SupervisedEnv(SupervisedEnv.Settings(**{"num_envs": 8, **settings}), dataset=dataset or toy())


def network(**settings):
    return NetworkChoice.model_validate({"name": "mlp", "hidden": [16], "activation": "relu", "init": "he", **settings})


# The stream


@pytest.mark.parametrize("num_envs", [8, 50, 1, 7])
def test_each_example_is_seen_exactly_once_an_epoch_though_batches_straddle(num_envs):
    env = make(num_envs=num_envs)
    obs, _ = env.reset(seed=3)
    seen = []
    while len(seen) < 3 * 50:
        seen += obs[:, 0].tolist()
        obs, *_ = env.step(torch.zeros(num_envs, 4))
    for epoch in range(3):
        assert sorted(seen[epoch * 50 : (epoch + 1) * 50]) == list(range(50))
    assert seen[:50] != seen[50:100]


def test_unshuffled_examples_come_in_the_order_of_the_data():
    env = make(shuffle=False)
    obs, _ = env.reset(seed=3)
    assert obs[:, 0].tolist() == list(range(8))
    for _ in range(6):
        obs, *_ = env.step(torch.zeros(8, 4))
    assert obs[:, 0].tolist() == [48, 49, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("action", ["logits", "label", "values"])
def test_the_contract_of_environments_is_kept(action):
    check_environment(make(action=action))


def test_every_step_ends_an_episode():
    env = make()
    env.reset(seed=1)
    _, reward, terminated, truncated, _ = env.step(torch.zeros(8, 4))
    assert terminated.all()
    assert not truncated.any()
    assert reward.shape == (8,)


def test_a_checkpoint_goes_on_in_mid_epoch_and_across_it():
    env, other = make(), make()
    env.reset(seed=5)
    for _ in range(9):  # the second epoch
        env.step(torch.zeros(8, 4))
    other.reset(seed=77)
    other.restore(env.checkpoint())
    for _ in range(20):
        answers = torch.randn(8, 4)
        ours, theirs = env.step(answers), other.step(answers)
        same(ours[:4], theirs[:4])


def test_the_twin_shows_the_test_split_and_its_last_short_batch_once():
    seen = []

    class Witness(Supervised):
        def predict(self, obs, state=None):
            seen.append(obs[:, 0].tolist())
            return super().predict(obs)

    env = make(dataset=toy(num_test=2345))
    twin = env.evaluation(20)
    report = twin.score(Witness(env), num_episodes=20, seed=1)
    assert [len(batch) for batch in seen] == [1000, 1000, 345]
    assert [index for batch in seen for index in batch] == list(range(2345))
    assert len(report.columns["reward"]) == 2345


def test_reinforce_sees_every_example_too():
    """Its whole episodes end together; a reset behind them would throw a batch away unseen."""
    env = make(action="label", num_envs=10)
    trainer = Trainer(Reinforce(env), env, total_steps=1000)
    seen = []
    for _ in range(5):
        trainer.update()
    obs = trainer.collector.obs
    for _ in range(5):
        seen += obs[:, 0].tolist()
        trainer.update()
        obs = trainer.collector.obs
    assert sorted(seen) == list(range(50))


# Rewards


def test_rewards_in_closed_form():
    target = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    dataset = Dataset(
        Split(torch.zeros(8, 2), target), Split(torch.zeros(4, 2), torch.arange(4)), ("oak", "elm", "ash", "yew")
    )
    logits = torch.randn(8, 4)

    def reward(action, answers):
        env = make(dataset=dataset, action=action, shuffle=False)
        env.reset(seed=1)
        return env.step(answers)[1]

    torch.testing.assert_close(reward("logits", logits), logits.log_softmax(1)[torch.arange(8), target])
    assert reward("label", torch.tensor([0, 0, 2, 2, 0, 0, 2, 2])).tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    torch.testing.assert_close(reward("values", logits), -((logits - torch.eye(4)[target]) ** 2).sum(1))


def test_log_odds_pay_the_bernoulli_log_likelihood():
    target = np.array([0, 1, 0, 1, 1, 1, 0, 0])
    env = make(
        dataset=from_arrays(np.zeros((8, 2)), target, np.zeros((2, 2)), np.arange(2)), action="log_odds", shuffle=False
    )
    env.reset(seed=1)
    a = torch.randn(8, 1)
    p = a.sigmoid().squeeze(1)
    y = torch.from_numpy(target)
    torch.testing.assert_close(env.step(a)[1], torch.where(y == 1, p, 1 - p).log())
    assert env.action.label(a).tolist() == (p > 0.5).long().tolist()


def test_regression_has_numbers_for_targets():
    x = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    env = make(dataset=from_arrays(x, 3 * x[:, 0] - 1), action="values", num_envs=32)
    agent = Supervised(env, Supervised.Settings(network=network(hidden=[]), learning_rate=0.05))
    report = Trainer(agent, env, Trainer.Settings(epochs=200)).fit()
    assert report.scalars["squared_error"] < 1e-3
    assert set(report.scalars) == {"squared_error", "rmse", "mae"}


def test_scaling_reads_the_training_split_alone():
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4)).astype(np.uint8)
    dataset = from_arrays(images, np.arange(40) % 3, images[:10] // 2, np.arange(10) % 3)
    x = torch.from_numpy(images).float()
    for scaling, expected in {"raw": x, "unit": x / 255, "standard": (x - x.mean()) / x.std(correction=0)}.items():
        env = make(dataset=dataset, scaling=scaling, channels="first", shuffle=False, num_envs=40)
        assert torch.equal(env.reset(seed=1)[0], torch.from_numpy(images))
        torch.testing.assert_close(env.scaled(env.reset(seed=1)[0]), expected)
        if scaling == "standard":
            twin = env.evaluation(1)
            test = (x[:10] // 2 - x.mean()) / x.std(correction=0)
            torch.testing.assert_close(twin.scaled(twin.inputs(torch.arange(10))), test)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_a_large_offset_is_subtracted_before_numbers_are_rounded(dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) if dtype is np.float64 else rng.integers(-9, 9, (60, 2)).astype(float)
    offset = np.array([1.7e9, -3e8], dtype)  # float32 has only every 128th and 32nd number there
    y = np.arange(60) % 2
    expected = torch.from_numpy((x - x[:40].mean(0)) / x[:40].std(0)).float()
    shown = offset + x.astype(dtype)
    env = make(dataset=from_arrays(shown[:40], y[:40], shown[40:], y[40:]), scaling="standard", shuffle=False)
    assert env.reset(seed=1)[0].dtype == torch.float64
    check_environment(env)
    torch.testing.assert_close(env.scaled(env.inputs(slice(None))), expected[:40], atol=1e-5, rtol=0)
    twin = env.evaluation(1)
    assert torch.equal(twin.inputs(slice(None)), torch.from_numpy(shown[40:]).double())
    torch.testing.assert_close(twin.scaled(twin.dataset.test.inputs), expected[40:], atol=1e-5, rtol=0)
    one = make(dataset=from_arrays(shown[:, :1], y), scaling="standard")
    assert one.scaled(foreign_inputs(one.dataset)["noise"]).unique().numel() > 4
    raw = make(dataset=from_arrays(shown, y), scaling="raw", test_fraction=0, shuffle=False)
    assert torch.equal(raw.inputs(slice(None)), torch.from_numpy(shown).float())


def test_a_constant_beside_rounding_stays_one():
    x = np.full((40, 2), 0.3)
    x[::2, 0] = 0.1 + 0.2  # differs in the last bit
    x[:, 1] = np.arange(40)
    env = make(dataset=from_arrays(x, np.arange(40) % 2), scaling="standard")
    assert env.scaled(env.inputs(slice(None)))[:, 0].abs().max() < 1e-15


def test_a_test_split_is_drawn_by_class_and_shares_nothing_with_training():
    inputs = np.arange(90, dtype=np.float32)[:, None]
    env = make(dataset=from_arrays(inputs, np.arange(90) % 3), test_fraction=0.2)
    train, test = env.dataset.train, env.dataset.test
    assert sorted([*train.inputs.flatten().tolist(), *test.inputs.flatten().tolist()]) == list(range(90))
    assert torch.bincount(test.targets).tolist() == [6, 6, 6]
    whole = make(dataset=from_arrays(inputs, np.arange(90) % 3), test_fraction=0)
    assert len(whole.dataset.test.targets) == whole.num_examples == 90


def test_report_gives_accuracy_recall_and_confusion():
    assert confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist() == [[1, 1], [0, 1]]

    class AlwaysTwo(Supervised):
        def predict(self, obs, state=None):
            return rlcore.Step(F.one_hot(torch.full((len(obs),), 2), 4).float() * 5)

    env = make(dataset=toy(num_test=40))
    report = env.evaluation(1).score(AlwaysTwo(env), 1, 1)
    share = float((env.dataset.test.targets == 2).float().mean())
    assert report.scalars["accuracy"] == pytest.approx(share)
    assert [report.scalars[f"recall_{k}"] for k in range(4)] == [0, 0, 1, 0]
    right, wrong = 5 - math.log(math.exp(5) + 3), -math.log(math.exp(5) + 3)
    assert report.scalars["log_likelihood"] == pytest.approx(share * right + (1 - share) * wrong, rel=1e-5)
    assert report.text.splitlines()[3].split()[-1] == "100.0%"


# Channels of images


def images(shape, n=12):
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "given", "channels"),
    [
        ((3, 7, 5), None, "first"),
        ((5, 7, 3), None, "last"),
        ((1, 8, 8), None, "first"),
        ((8, 8, 1), None, "last"),
        ((60, 80, 60), None, None),
        ((4, 6, 3), None, None),
        ((4, 6, 3), "first", "first"),
        ((4, 6, 3), "last", "last"),
        ((3, 7, 5), "last", "last"),
        ((9, 9, 3), "first", "first"),
    ],
)
def test_channels_are_known_by_their_number_where_it_is_plain_and_are_scaled_to_be_first(shape, given, channels):
    pixels, (a, b, c) = torch.from_numpy(images(shape)), shape
    readings = f"have {a} channels of {b} x {c} pixels, or {c} channels of {a} x {b}: set env.channels=first or"
    dataset = from_arrays(pixels, np.arange(12) % 2)
    env = make(dataset, channels=given, num_envs=4, test_fraction=0)
    shown = pixels.permute(0, 3, 1, 2) if channels == "last" else pixels
    assert env.single_observation_space.shape == shape
    for one in (env, env.evaluation(1)):
        assert torch.equal(one.inputs(slice(None)), pixels)
        assert torch.equal(one.scaled(pixels), shown / 255)
    Supervised(env, Supervised.Settings(network=network()))  # reads all numbers alike
    for kind, action in ((Supervised, "logits"), (PPO, "label"), (Reinforce, "label"), (RandomSearch, "label")):
        env = make(dataset, channels=given, num_envs=4, test_fraction=0, action=action)
        settings = {"network": {"name": "depthwise_cnn", "channels": [2]}}
        if channels is not None:
            agent = kind(env, kind.Settings.model_validate(settings))
            assert agent.predict(env.reset(seed=1)[0]).action.shape[0] == 4
            assert next(p for p in agent.parameters() if p.ndim == 4).shape[1] == shown.shape[1]
            continue
        with pytest.raises(InputError, match=readings):
            kind(env, kind.Settings.model_validate(settings))
    if channels is None:
        with pytest.raises(InputError, match=f"^env.scaling: standard is per channel; .*{readings}"):
            make(dataset, num_envs=4, scaling="standard")
        return
    env = make(dataset, channels=given, num_envs=4, test_fraction=0, scaling="standard")
    scaled = env.scaled(env.inputs(slice(None)))
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(shown.shape[1]), atol=1e-5, rtol=0)


def test_all_splits_keep_their_layout_and_have_their_channels_first_in_memory():
    pixels, targets = torch.from_numpy(images((6, 5, 3), 24)), torch.arange(24) % 3
    dataset = Dataset(Split(pixels, targets), None, ("a", "b", "c"))
    env = make(dataset, num_envs=2, classes=["a", "b"], validation_fraction=0.25, test_fraction=0.5)
    data = env.test(1).dataset
    kinds = (data.train.inputs, data.test.inputs, data.validation.inputs, data.foreign)
    assert all(x.shape[1:] == (6, 5, 3) and x.movedim(3, 1).is_contiguous() for x in kinds)
    assert {tuple(x.flatten().tolist()) for x in torch.cat(kinds)} <= {tuple(x.flatten().tolist()) for x in pixels}
    foreign = foreign_inputs(data, channels_last=True)
    assert all(x.shape[1:] == (6, 5, 3) for x in foreign.values())
    with pytest.raises(InputError, match=r"env\.channels: is for images of three dimensions, .* shape \(3,\)"):
        make(channels="first")


# Integers as numbers


def test_integers_are_numbers_where_answers_are_and_classes_elsewhere():
    ages, x = np.array([18, 89, 40, 18]), np.zeros((4, 2))
    env = make(from_arrays(x, ages, x[:2], np.array([17, 90])), action="values", num_envs=4, shuffle=False)
    env.reset(seed=1)
    assert env.single_action_space.shape == (1,)
    _, reward, *_ = env.step(torch.full((4, 1), 20.0))
    assert reward.tolist() == [-4, -(69**2), -400, -4]
    report = env.evaluation(1).score(Supervised(env), 1, 1)
    assert list(report.scalars) == ["squared_error", "rmse", "mae"]
    for targets in (-ages, ages.astype(np.uint16), np.stack([ages, ages], 1), np.array([True, False, True, True])):
        paid = make(from_arrays(x, targets), action="values", num_envs=4, test_fraction=0, shuffle=False)
        paid.reset(seed=1)
        _, reward, *_ = paid.step(torch.zeros(4, *paid.single_action_space.shape))
        assert reward.tolist() == (-(targets.astype(float) ** 2).reshape(4, -1).sum(1)).tolist()
    few = from_arrays(x, np.array([0, 2, 1, 1]))
    assert make(few, num_envs=2, test_fraction=0).single_action_space.shape == (3,)
    assert make(few, num_envs=2, test_fraction=0, action="values").dataset.classes is None
    assert make(few, num_envs=1, test_fraction=0, action="values", classes=["0", "1"]).dataset.classes == ("0", "1")
    named = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", action="values", num_envs=8))
    assert named.single_action_space.shape == (3,)


def test_what_needs_classes_says_why_integers_are_none():
    x = np.zeros((4, 2))
    for targets, test, why in (
        ([0, 1, 10**9, 1], None, "labels from 0 to 1,000,000,000 are more classes than the 4 training examples"),
        ([0, 1, -2, 1], None, "a training label is -2; classes are counted from 0"),
        ([0, 0, 0, 0], None, "all targets are class 0"),
        ([0, 1, 0, 1], [2, 0], "a test label is 2; with 2 classes, labels run from 0 to 1"),
    ):
        dataset = from_arrays(x, np.array(targets), *([] if test is None else [x[:2], np.array(test)]))
        for action in ("logits", "label", "ask"):
            with pytest.raises(InputError, match=f"env.action: {action} needs classes, but {why}.*use values$"):
                make(dataset, action=action, num_envs=2, test_fraction=0)


def test_several_outcomes_of_0_or_1_have_log_odds():
    outcomes = np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
    env = make(from_arrays(np.zeros((4, 2)), outcomes), action="log_odds", num_envs=4, test_fraction=0, shuffle=False)
    env.reset(seed=1)
    torch.testing.assert_close(env.step(torch.zeros(4, 2))[1], torch.full((4,), 2 * math.log(0.5)))


def test_one_outcome_in_several_dimensions_has_two_classes():
    env = make(
        from_arrays(np.ones((4, 2)), np.array([0.0, 1, 1, 0])[:, None, None]),
        action="log_odds",
        num_envs=2,
        test_fraction=0,
    )
    agent = Supervised(env)
    obs, _ = env.reset(seed=1)
    torch.testing.assert_close(agent.answers(obs).p[0, :, 1], agent(obs).sigmoid().flatten())


@pytest.mark.parametrize("kind", [float, int])
def test_targets_that_float32_makes_equal_are_refused(kind):
    targets = (np.arange(40) % 7).astype(kind)
    x = np.zeros((40, 2))
    with pytest.raises(InputError, match=r"rounds away how the targets vary around 1\.7e\+09; subtract their mean$"):
        make(from_arrays(x, targets + kind(1.7e9)), action="values")
    env = make(from_arrays(x, targets + kind(1e6)), action="values")
    assert env.evaluation(1).num_examples == 8
    make(from_arrays(x, np.full(40, 0.1)), action="values")  # a constant has nothing to lose


# Sizes taken from data


def test_many_classes_have_a_recall_but_no_matrix():
    n = MOST_CLASSES + 1
    targets = np.arange(n).repeat(2)
    settings = {"dataset": from_arrays(np.zeros((2 * n, 1)), targets), "test_fraction": 0}
    env = make(**settings, action="label").evaluation(1)

    class Last(Supervised):
        def predict(self, obs, state=None):
            return rlcore.Step(torch.full((len(obs),), n - 1))

    report = env.score(Last(make(**settings, action="logits")), 1, 1)
    assert report.text == f"the confusion matrix of {n} classes is not shown; at most {MOST_CLASSES}"
    assert [report.scalars[f"recall_{k}"] for k in (0, n - 2, n - 1)] == [0, 0, 1]
    with pytest.raises(InputError, match=f"report confusion: needs at most {MOST_CLASSES} classes, there are {n}"):
        rlcore.registry.reports["confusion"](None)(None, env, report)


def test_an_evaluation_shows_at_most_4_million_numbers_at_once_and_at_least_a_training_batch():
    def batch(shape, num_envs, num_test):
        split = Split(torch.zeros(num_test, *shape, dtype=torch.uint8), torch.arange(num_test) % 2)
        env = make(Dataset(split, split, ("a", "b")), num_envs=num_envs)
        return env.evaluation_batch, env.evaluation(1).num_envs

    assert batch((4,), 8, num_test=1200) == (1000, 1000)
    assert batch((4,), 1100, num_test=1200) == (1100, 1100)
    assert batch((4,), 8, num_test=300) == (1000, 300)
    assert batch((3, 224, 224), 8, num_test=40) == (27, 27)
    assert batch((3, 224, 224), 32, num_test=40) == (32, 32)
    assert batch((3, 2048, 2048), 1, num_test=2) == (1, 1)


# Learning


def hand_loop(dataset, num_batches, batch, lr, momentum):
    """What anyone would write: a permutation, slices, cross-entropy, SGD."""
    generator = torch.Generator().manual_seed(derive_seed(1, TRAINING))
    torch.manual_seed(7)
    net = network().build((3,), 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum, fused=True)
    inputs, targets = dataset.train
    stream = torch.cat([torch.randperm(len(targets), generator=generator) for _ in range(20)])
    for rows in stream[: num_batches * batch].split(batch):
        loss = F.cross_entropy(net(inputs[rows] / 255), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_trainer_ends_with_the_bits_of_a_hand_written_loop(momentum):
    dataset = toy(dtype=np.uint8)
    env = make(dataset=dataset)
    torch.manual_seed(7)
    settings = Supervised.Settings(network=network(), optimizer="sgd", learning_rate=0.1, momentum=momentum)
    agent = Supervised(env, settings)
    Trainer(agent, env, Trainer.Settings(epochs=10), seed=1).fit()
    expected = hand_loop(dataset, math.ceil(10 * 50 / 8), 8, 0.1, momentum)
    same(agent.network.state_dict(), expected.state_dict())


def test_epochs_are_batches_rounded_up():
    env = make()
    trainer = Trainer(Supervised(env), env, Trainer.Settings(epochs=3))
    assert trainer.total_steps == math.ceil(3 * 50 / 8) * 8
    probe = rlcore.registry.envs["probe_constant_reward"]()
    with pytest.raises(InputError, match=r"ConstantReward has no epochs; set trainer\.total_steps"):
        Trainer(PPO(probe), probe, Trainer.Settings(epochs=3))


def test_label_smoothing_is_torchs_and_the_reward_stays_that_of_the_true_class():
    env = make()
    agent = Supervised(env, Supervised.Settings(network=network(), optimizer="sgd", label_smoothing=0.2))
    obs, _ = env.reset(seed=1)
    target = env._target
    rollout = rlcore.collect(agent, env, obs, 1)
    expected = F.cross_entropy(rollout.action[0], target, label_smoothing=0.2)
    torch.testing.assert_close(agent.learn(rollout)["loss"], expected.detach())
    torch.testing.assert_close(-rollout.reward.mean(), F.cross_entropy(rollout.action[0], target))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"max_grad_norm": 0.5},
        {"bias_correction": False},
        {"learning_rate_schedule": "cosine"},
    ],
)
def test_every_setting_learns(settings):
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=30, scaling="standard"))
    torch.manual_seed(1)
    agent = Supervised(env, Supervised.Settings(network=network(), learning_rate=0.01, **settings))
    assert Trainer(agent, env, Trainer.Settings(epochs=40)).fit().scalars["accuracy"] > 0.85
    check_agent(agent, env)


@pytest.mark.parametrize("kind", [Reinforce, PPO])
def test_iris_is_learned_from_right_or_wrong_alone(kind):
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=32, scaling="standard", action="label"))
    settings = {"learning_rate": 3e-3} | ({"horizon": 4, "minibatch_size": 64} if kind is PPO else {})
    torch.manual_seed(1)
    trainer = Trainer(kind(env, kind.Settings(**settings)), env, total_steps=20_000)
    assert trainer.fit().scalars["accuracy"] > 0.85


def test_dropout_and_batch_norm_learn_in_one_mode_and_answer_in_the_other():
    env = make()
    agent = Supervised(env, Supervised.Settings(network=network(batch_norm=True, dropout=0.5)))
    trainer = Trainer(agent, env, total_steps=400)
    trainer.update()
    twin = env.evaluation(1)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    first, second = (twin.score(agent, 1, seed).columns["reward"] for seed in (1, 2))
    assert first == second
    same(before, agent.state_dict())
    assert agent.training
    obs, _ = env.reset(seed=1)
    assert not torch.equal(agent.act(obs).action, agent.act(obs).action)


@pytest.mark.parametrize("kind", [PPO, Reinforce])
def test_a_policy_with_batch_norm_acts_and_learns_by_the_same_statistics(kind):
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=30, action="label"))
    torch.manual_seed(1)
    settings = {"horizon": 1, "minibatch_size": 30, "num_epochs": 1} if kind is PPO else {}
    agent = kind(env, kind.Settings(network=network(batch_norm=True), **settings))
    check_agent(agent, env)
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=15_000, eval_every=15_000))
    before = agent.body.after[0][0].running_mean.clone()
    metrics = trainer.update()
    assert not torch.equal(before, agent.body.after[0][0].running_mean)
    if kind is PPO:  # the first minibatch's ratio is 1
        assert float(metrics["approx_kl"]) == pytest.approx(0, abs=1e-6)
    assert trainer.fit().scalars["accuracy"] > 0.6


def test_random_search_keeps_what_scores_no_worse():
    env = Product(Product.Settings(num_envs=1))
    agent = RandomSearch(env, RandomSearch.Settings(std=0.05, network=network(hidden=[], init="zeros", bias=False)))
    trainer = Trainer(agent, env, total_steps=400)
    best = []
    while not trainer.finished:
        best.append(float(trainer.update()["best_score"]))
    assert best == sorted(best)
    assert best[0] < -5 < 0 < best[-1]
    obs = torch.ones(1, 1)
    _, reward, *_ = env.step(agent.predict(obs).action)
    assert float(reward[0]) == pytest.approx(best[-1], rel=1e-5)


def test_the_gradient_learns_the_product_in_fewer_steps_than_random_search():
    """Day 3: x y from (-2, 3); the gradient at the start is (3, -2)."""

    def steps_to_zero(agent, env):
        trainer = Trainer(agent, env, total_steps=10_000)
        while env.pay(agent.predict(torch.ones(1, 1)).action).item() < 0:
            trainer.update()
        return trainer.steps

    linear = network(hidden=[], init="zeros", bias=False)
    env = Product(Product.Settings(num_envs=1))
    gradient = Supervised(env, Supervised.Settings(network=linear, optimizer="sgd", learning_rate=0.01))
    trainer = Trainer(gradient, env, total_steps=10)
    trainer.update()
    torch.testing.assert_close(gradient.network.output.weight.flatten(), torch.tensor([0.03, -0.02]))
    search = RandomSearch(env, RandomSearch.Settings(std=0.01 * 13**0.5 / 2**0.5, network=linear))
    assert steps_to_zero(gradient, env) < steps_to_zero(search, env)


@pytest.mark.parametrize("kind", [Supervised, Reinforce, Ensemble])
def test_a_batch_norm_that_is_given_one_row_says_what_to_set(kind):
    def trainer(rows):
        num_envs = 2 * rows if kind is Ensemble else rows
        env = make(action="label" if kind is Reinforce else "logits", num_envs=num_envs)
        settings = {"network": {"name": "mlp", "batch_norm": True}}
        if kind is Ensemble:
            settings = {"members": 2, "agent": {"name": "supervised", **settings}}
        return Trainer(kind(env, kind.Settings.model_validate(settings)), env, total_steps=num_envs)

    with pytest.raises(InputError, match=r"^batch norm needs more than one row .* env\.num_envs"):
        trainer(rows=1).update()
    trainer(rows=2).update()


# Cost, counted


def test_an_update_makes_few_python_calls():
    env = make()
    trainer = Trainer(Supervised(env, Supervised.Settings(network=network())), env, total_steps=10_000)
    for _ in range(3):
        trainer.update()
    with Calls() as calls:
        for _ in range(10):
            trainer.update()
    assert calls.count / 10 < 110


# Bad input


def test_bad_settings_are_one_line(tmp_path):
    def line(function):
        with pytest.raises(InputError) as caught:
            function()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "a batch of 51 is larger than the 50 examples of the train split; at most 50" in line(
        lambda: make(num_envs=51)
    )
    assert "env.dataset: missing" in line(lambda: SupervisedEnv(SupervisedEnv.Settings()))
    named = SupervisedEnv.Settings(dataset="iris", num_envs=30)
    assert "env.dataset: given twice" in line(lambda: SupervisedEnv(named, dataset=SupervisedEnv(named).dataset))
    assert "two classes, the data set has 4; use logits" in line(lambda: make(action="log_odds"))
    numbers = from_arrays(np.zeros((9, 2)), np.linspace(0, 2, 9))
    assert "logits needs classes" in line(lambda: make(dataset=numbers, num_envs=2))
    assert "targets in [0, 1]" in line(lambda: make(dataset=numbers, num_envs=2, action="log_odds"))
    assert "0.01 of 9 examples is none" in line(
        lambda: make(dataset=numbers, num_envs=2, action="values", test_fraction=0.01)
    )
    assert "env.action=logits" in line(lambda: Supervised(make(action="label")))
    assert "label_smoothing" in line(
        lambda: Supervised(make(action="values"), Supervised.Settings(label_smoothing=0.1))
    )
    lenet = NetworkChoice.model_validate({"name": "lenet"})
    assert "(3,)" in line(lambda: Supervised(make(), Supervised.Settings(network=lenet)))


@pytest.mark.parametrize(
    "action", [torch.zeros(8, 4, dtype=torch.float64), torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64)]
)
def test_an_action_of_another_shape_or_dtype_is_refused(action):
    env = make()
    env.reset(seed=1)
    with pytest.raises(InputError, match=r"must be torch.float32 of shape \(8, 4\), got"):
        env.step(action)
    labels = make(action="label")
    labels.reset(seed=1)
    with pytest.raises(InputError, match=r"must be torch\.int64"):
        labels.step(torch.zeros(8))


def test_a_folder_of_data_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = SupervisedEnv.Settings(dataset="mnist", data_dir="data")
    assert settings.data_dir == str(tmp_path / "data")
    monkeypatch.chdir("/")
    with pytest.raises(InputError, match=f"env.data_dir: {tmp_path / 'data'} has no file"):
        SupervisedEnv(settings)


def test_a_file_of_arrays_works_from_yaml(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", inputs=x, targets=(x.sum(1) > 0).astype(np.int64))
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "env: {name: supervised, dataset: mine.npz, num_envs: 20}\n"
        "agent: {name: supervised, learning_rate: 1e-2}\n"
        "trainer: {epochs: 20, eval_every: 10_000, reports: [{name: confusion}, {name: boundary}]}\n"
    )
    assert rlcore.commands.train("mine.yaml", [], "run", None, 1) == 0
    assert {path.name for path in Path("run/figures").iterdir()} == {"confusion.png", "boundary.png"}
    monkeypatch.chdir("/")
    agent = rlcore.load(tmp_path / "run", "last")
    answers = agent.predict(torch.tensor([[2.0, 2.0], [-2.0, -2.0]])).action
    assert answers.argmax(1).tolist() == [1, 0]


OUTSIDE = '''
import torch

import rlcore
from rlcore.supervised.datasets import Dataset, Split
from rlcore.supervised.environment import SupervisedEnv


@rlcore.registry.datasets.register("stripes")
def stripes(data_dir, seed):
    """Images with one bright row, or one bright column."""
    number = torch.arange(400)
    inputs = torch.zeros(400, 1, 12, 12, dtype=torch.uint8)
    for n in number.tolist():
        inputs[n, 0, n % 12 if n % 2 else slice(None), slice(None) if n % 2 else n % 12] = 255
    return Dataset(Split(inputs, number % 2), None, ("column", "row"))


@rlcore.registry.envs.register("inverted")
class Inverted(SupervisedEnv):
    """Dark for bright."""

    def inputs(self, rows):
        return 255 - super().inputs(rows)
'''


def test_data_and_environment_of_ones_own_and_ppo_on_a_lenet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OUTSIDE)
    Path("mine.yaml").write_text(
        "imports: [mine.py]\n"
        "env: {name: inverted, dataset: stripes, num_envs: 40, action: label}\n"
        "agent: {name: ppo, horizon: 2, minibatch_size: 40, learning_rate: 2e-3, shared: true,\n"
        "        network: {name: lenet, padding: [2, 2]}}\n"
        "trainer: {total_steps: 8_000, eval_every: 8_000}\n"
    )
    assert rlcore.commands.train("mine.yaml", [], "run", None, 1) == 0
    assert rlcore.run.Run(Path("run")).result["figures"]["eval/accuracy"] > 0.95


def test_bytes_that_are_bits_are_not_dimmed_and_dim_ones_are_told():
    bits = np.random.default_rng(1).integers(0, 2, (64, 5)).astype(np.uint8)

    def env(inputs):
        return SupervisedEnv(SupervisedEnv.Settings(num_envs=16), dataset=from_arrays(inputs, bits[:, 0].astype(int)))

    def brightest(env):
        return env.scaled(env.inputs(slice(0, 50))).max()

    assert brightest(env(bits)) == 1
    assert env(bits).remarks == ()
    assert brightest(env(bits * 255)) == 1
    assert brightest(env(bits * 9)) == pytest.approx(9 / 255)
    with pytest.warns(UserWarning, match="the largest byte of the inputs is 9"):
        Trainer(Supervised(env(bits * 9)), env(bits * 9), total_steps=32).fit()


def test_a_reward_without_a_gradient_is_one_line():
    env = GymEnvironment(GymEnvironment.Settings(id="Pendulum-v1", num_envs=2))
    with pytest.raises(InputError, match="Supervised: no gradient goes through the loss"):
        Trainer(Supervised(env), env, total_steps=20).fit()
