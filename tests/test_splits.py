"""Classes left out, examples kept back, and the choice to ask a person."""

import re

import numpy as np
import pytest
import torch

import rlcore
from rlcore import Agent, Hook, InputError, Step, Trainer
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.networks import NetworkChoice
from rlcore.run import Run
from rlcore.supervised.datasets import Dataset, from_arrays, from_torch, load
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reports.foreign import foreign_inputs


def make(**settings):
    return SupervisedEnv(SupervisedEnv.Settings(**{"num_envs": 8, "dataset": "iris", **settings}))


def test_asking_a_person_in_closed_form():
    env = make(action="ask", wrong=3.0, num_envs=4)
    target = torch.tensor([0, 1, 2, 2])
    assert env.action.reward(torch.tensor([0, 2, 3, 2]), target).tolist() == [1, -3, 0, 1]
    assert env.single_action_space.n == 4
    assert env.criterion == "reward"


def test_the_cost_of_a_mistake_rises_and_goes_on_rising_from_a_checkpoint():
    env = make(action="ask", wrong=9.0, wrong_warmup=32)
    wrong_class = torch.full((8,), 99) % 3  # class 0, wherever that is wrong
    env.reset(seed=1)
    paid = []
    for _ in range(3):
        paid.append(env.step(wrong_class)[1].min().item())
    other = make(action="ask", wrong=9.0, wrong_warmup=32)
    other.reset()
    other.restore(env.checkpoint())
    paid += [other.step(wrong_class)[1].min().item() for _ in range(3)]
    assert paid == [0, -2.25, -4.5, -6.75, -9, -9]
    assert env.evaluation(1).action.wrong == 9


class Asks(Agent):
    """Says class 0, or asks where the first feature is above its mean."""

    def act(self, obs, state=None):
        return Step(torch.where(obs[:, 0] > 5.84, 3, 0))

    def learn(self, rollout):
        return {}


def test_an_evaluation_tells_what_was_asked_and_how_good_the_answers_were():
    env = make(action="ask", wrong=1.0).evaluation(1)
    report = env.score(Asks(env), 1, 1)
    asked = env.inputs(slice(None))[:, 0] > 5.84
    right = (env.targets == 0) & ~asked
    assert report.scalars["asked"] == pytest.approx(asked.float().mean().item())
    assert report.scalars["accuracy"] == pytest.approx((right.sum() / (~asked).sum()).item())
    assert report.scalars["reward"] == pytest.approx(((2 * right.sum() - (~asked).sum()) / len(asked)).item())


@pytest.mark.parametrize("wrong", [0.0, 99.0])
def test_reinforce_asks_if_a_mistake_is_dear_and_only_then(wrong):
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(300, 2)).astype(np.float32)
    data = from_arrays(inputs, rng.integers(0, 2, 300))  # there is nothing to be known
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=60, action="ask", wrong=wrong), dataset=data)
    torch.manual_seed(1)
    agent = Reinforce(
        env,
        Reinforce.Settings(
            network=NetworkChoice.model_validate({"name": "mlp", "hidden": [16]}), learning_rate=1e-2, normalize=False
        ),
    )
    scalars = Trainer(agent, env, Trainer.Settings(total_steps=18_000, eval_every=18_000)).fit().scalars
    assert scalars["asked"] > 0.95 if wrong else scalars["asked"] < 0.05


def test_examples_kept_back_are_neither_trained_nor_tested_on():
    env = make(validation_fraction=0.25)
    data = env.dataset
    assert (len(data.train.targets), len(data.validation.targets), len(data.test.targets)) == (90, 30, 30)
    assert data.validation.targets.bincount().tolist() == [10, 10, 10]
    rows = [tuple(row) for split in (data.train, data.validation, data.test) for row in split.inputs.tolist()]
    whole = load("iris").train.inputs
    assert sorted(rows) == sorted(map(tuple, whole.tolist()))
    assert env.num_examples == 90
    assert len(data.test.targets[:10].unique()) > 1  # in random order: reports show the first ones
    twin, test = env.evaluation(1), env.test(1)
    assert torch.equal(twin.targets, data.validation.targets)
    assert torch.equal(twin.inputs(slice(None)), data.validation.inputs)
    assert torch.equal(test.targets, data.test.targets)
    assert torch.equal(test.dataset.validation.inputs, data.validation.inputs)  # of a temperature, not of figures
    assert make().test(1) is None
    assert torch.equal(make().evaluation(1).targets, make().dataset.test.targets)


def test_training_is_judged_by_validation_and_the_test_is_at_its_end():
    env = make(validation_fraction=0.25)
    torch.manual_seed(1)
    agent = Supervised(env, Supervised.Settings(learning_rate=0.03))
    trainer = Trainer(agent, env, total_steps=8 * 100)
    scored = []
    for _ in trainer.updates():
        scored.append("test/accuracy" in trainer.figures)
    assert not any(scored)
    evaluation, test = env.evaluation(1).score(agent, 1, 1), env.test(1).score(agent, 1, 1)
    assert trainer.figures["eval/accuracy"] == evaluation.scalars["accuracy"]
    assert (
        trainer.figures["test/log_likelihood"]
        == test.scalars["log_likelihood"]
        == trainer.report.scalars["log_likelihood"]
    )
    assert trainer.figures["eval/log_likelihood"] != trainer.figures["test/log_likelihood"]


def test_the_best_checkpoint_is_that_of_the_least_error_in_validation(tmp_path):
    rng = np.random.default_rng(1)
    data = from_arrays(rng.normal(size=(60, 3)).astype(np.float32), rng.normal(size=60).astype(np.float32))
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=20, action="values", validation_fraction=0.5), dataset=data)
    agent = Supervised(env, Supervised.Settings(learning_rate=0.05))
    settings = Trainer.Settings(total_steps=20 * 80, eval_every=20)
    trainer = Trainer(agent, env, settings, run_dir=tmp_path)
    seen = [trainer.figures["eval/squared_error"] for _ in trainer.updates()]
    assert min(seen) < seen[-1]  # there is nothing to be learned: it overfits
    assert -trainer.best == min(seen)
    agent.restore(torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)["agent"])
    assert env.evaluation(1).score(agent, 1, 1).scalars["squared_error"] == min(seen)


def test_a_best_checkpoint_is_chosen_by_another_figure_if_asked():
    env = make(validation_fraction=0.25)
    trainer = Trainer(Supervised(env), env, Trainer.Settings(total_steps=80, best_by="log_likelihood"))
    trainer.fit()
    assert trainer.best == max(trainer.best, trainer.figures["eval/log_likelihood"])
    assert trainer.best < 0
    with pytest.raises(InputError, match=r"trainer\.best_by: no best checkpoint is chosen here; a data set needs val"):
        Trainer(Supervised(make()), make(), Trainer.Settings(total_steps=80, best_by="accuracy"))


MISSPELT = [{"name": "early_stopping", "figure": "eval/acuracy", "patience": 2}]
CURRICULUM = [
    {"name": "curriculum", "figure": "eval/acuracy", "stages": [{"env": {"augment": []}, "until": 1}, {"env": {}}]}
]


def trainer_of(env, added=(), **settings):
    agent = Supervised(env, Supervised.Settings(network={"name": "mlp", "hidden": [8], "dropout": 0.1}))
    return Trainer(agent, env, Trainer.Settings(total_steps=80, **settings), hooks=added)


@pytest.mark.parametrize("asked", [{"best_by": "acuracy"}, {"hooks": MISSPELT}, {"hooks": CURRICULUM}])
def test_a_figure_that_evaluations_will_not_have_is_told_before_training(asked):
    where = "best_by" if "best_by" in asked else f"hooks: {asked['hooks'][0]['name']}"
    words = f"trainer.{where}: there is no figure 'acuracy' (did you mean 'accuracy'?); an evaluation has log_likelih"
    env = make(validation_fraction=0.25)
    with pytest.raises(InputError, match=re.escape(words)):
        trainer_of(env, **asked)


class Scores(SupervisedEnv):
    """Has a figure of its own, of which its base knows nothing."""

    def score(self, agent, num_episodes, seed):
        report = super().score(agent, num_episodes, seed)
        report.scalars["mine"] = report.scalars["accuracy"]
        return report


class Adds(Hook):
    def on_evaluation(self, trainer, report):
        report.scalars["mine"] = trainer.figures["eval/mine"] = report.scalars["accuracy"]


@pytest.mark.parametrize("kind", [SupervisedEnv, Scores])
def test_a_figure_that_an_evaluation_may_have_is_waited_for(kind):
    env = kind(kind.Settings(num_envs=8, dataset="iris", validation_fraction=0.25))
    adds = [Adds()] if kind is SupervisedEnv else []
    trainer = trainer_of(env, adds, best_by="mine")
    trainer.fit()
    assert 0 < trainer.best <= 1
    other = trainer_of(env, adds, best_by="yours")
    with pytest.raises(InputError, match=r"returned .*mine; trainer\.best_by is 'yours'"):
        other.fit()


def test_a_hook_that_names_its_figures_is_asked_for_them():
    class Named(Adds):
        score_names = ("mine",)

    env = make(validation_fraction=0.25)
    trainer_of(env, [Named()], best_by="mine").check_figure("mine", "here")
    with pytest.raises(InputError, match=r"no figure 'mime'.*'mine'.*; an evaluation has .*, mine"):
        trainer_of(env, [Named()], best_by="mime")


def test_a_figure_of_a_report_is_waited_for():
    env = make(validation_fraction=0.25)
    hooks = [
        {"name": "early_stopping", "figure": "uncertainty/softmax_calibration_error", "patience": 1, "min_delta": 1.0}
    ]
    trainer = trainer_of(env, eval_every=8, reports=["uncertainty"], hooks=hooks)
    with pytest.warns(UserWarning, match="the run ends at step"):
        trainer.fit()
    assert trainer.stopped.startswith("uncertainty/softmax_calibration_error has not improved")


def test_a_run_that_chooses_its_best_is_evaluated_on_data_that_nothing_is_chosen_by(workdir):
    iris = load("iris").train
    np.savez("iris.npz", inputs=iris.inputs.numpy(), targets=iris.targets.numpy())
    changed = ["env.num_envs=20", "env.validation_fraction=0.2", "trainer.epochs=2", "trainer.best_by=recall_setosa"]
    assert rlcore.commands.train("iris_perceptron", changed, "run", None, 1) == 0
    trainer, _ = Run("run").trainer("best", ("env.dataset=iris.npz", "env.test_fraction=0"))
    assert trainer.evaluation_env(1).num_examples == 150


def test_early_stopping_knows_errors():
    env = make(action="values", validation_fraction=0.25)
    agent = Supervised(env, Supervised.Settings(learning_rate=1e-6))  # the error falls all the time
    hooks = [{"name": "early_stopping", "figure": "eval/squared_error", "patience": 2}]
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=80, eval_every=8, hooks=hooks))
    trainer.fit()
    assert trainer.stopped is None
    assert trainer.steps == 80


def test_folds_are_disjoint_stratified_and_together_everything():
    whole = sorted(map(tuple, make().dataset.train.inputs.tolist()))
    held = []
    for number in range(4):
        data = make(folds=4, fold=number).dataset
        assert data.validation.targets.bincount().tolist() == [10, 10, 10]
        assert sorted(map(tuple, [*data.train.inputs.tolist(), *data.validation.inputs.tolist()])) == whole
        held += data.validation.inputs.tolist()
    assert sorted(map(tuple, held)) == whole
    alone = make(folds=5, test_fraction=0)
    assert (alone.num_examples, alone.test(1)) == (120, None)
    with pytest.raises(ValueError, match=r"fold: must be below folds, 3; got 3"):
        make(folds=3, fold=3)
    with pytest.raises(ValueError, match="folds: instead of validation_fraction"):
        make(folds=3, validation_fraction=0.1)


@pytest.mark.parametrize("number", range(3))
def test_no_class_is_held_out_whole_and_one_that_a_split_lacks_is_named(number):
    targets = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2])
    data = from_arrays(torch.arange(8.0).view(8, 1), targets)
    env = SupervisedEnv(
        SupervisedEnv.Settings(num_envs=2, folds=3, fold=number, test_fraction=0, data_seed=number), dataset=data
    )
    assert env.dataset.train.targets.unique().tolist() == [0, 1, 2]
    assert env.remarks == ("the validation split has no example of 1",)


def test_the_size_of_batches_in_evaluation_is_a_setting_and_changes_no_figure():
    env, small = make(validation_fraction=0.25), make(validation_fraction=0.25, evaluation_batch=7)
    torch.manual_seed(1)
    agent = Supervised(env)
    assert (env.evaluation(1).num_envs, small.evaluation(1).num_envs) == (30, 7)
    scalars = [one.evaluation(1).score(agent, 1, 1).scalars for one in (env, small)]
    assert scalars[0] == pytest.approx(scalars[1], rel=1e-6)


def test_classes_left_out_are_foreign_and_the_others_numbered_anew():
    env = make(classes=["virginica", "setosa"], num_envs=10)
    data = env.dataset
    assert data.classes == ("virginica", "setosa")
    assert len(data.train.targets) == 80
    whole = load("iris").train
    assert sorted(data.foreign.tolist()) == sorted(whole.inputs[whole.targets == 1].tolist())
    virginica = {tuple(row) for row in whole.inputs[whole.targets == 2].tolist()}
    assert {tuple(row) for row in data.train.inputs[data.train.targets == 0].tolist()} <= virginica
    assert env.evaluation(1).dataset.classes == data.classes
    for wrong in (["setosa"], ["setosa", "setosa"], ["rose", "setosa"], ["setosa", "versicolor", "virginica"]):
        with pytest.raises(InputError, match=r"env\.classes: must be two or more"):
            make(classes=wrong)


def test_foreign_images_are_what_their_names_say():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 200, (30, 1, 20, 20)).astype(np.uint8)
    env = SupervisedEnv(
        SupervisedEnv.Settings(num_envs=4, classes=["0", "2"], test_fraction=0.5),
        dataset=from_arrays(images, np.arange(30) % 3),
    )
    kinds = foreign_inputs(env.dataset, num=6)
    assert list(kinds) == ["classes", "rotated", "shuffled", "digits", "noise"]
    assert all(x.shape == (6, 1, 20, 20) and x.dtype == torch.uint8 for x in kinds.values())
    shown = {tuple(image.flatten().tolist()) for image in env.dataset.test.inputs}
    assert {tuple(image.rot90(-1, (1, 2)).flatten().tolist()) for image in kinds["rotated"]} <= shown
    assert not {tuple(image.flatten().tolist()) for image in kinds["shuffled"]} & shown
    assert {tuple(sorted(image.flatten().tolist())) for image in kinds["shuffled"]} <= {tuple(sorted(x)) for x in shown}
    left_out = {tuple(image.flatten().tolist()) for image in images[1::3]}
    assert {tuple(image.flatten().tolist()) for image in kinds["classes"]} <= left_out
    assert kinds["digits"].float().std() > 30
    assert len(kinds["noise"].unique()) > 50
    again = foreign_inputs(env.dataset, num=6)
    assert all(torch.equal(kinds[name], again[name]) for name in kinds)
    assert list(foreign_inputs(make().dataset)) == ["noise"]


def test_a_validation_split_of_its_own_is_not_lost():
    whole = load("iris")
    data = Dataset(whole.train, whole.train, whole.classes, validation=whole.train)
    for settings in ({"validation_fraction": 0.2}, {"folds": 3}):
        with pytest.raises(InputError, match="the data set has a validation split of its own; leave it out"):
            SupervisedEnv(SupervisedEnv.Settings(num_envs=8, **settings), dataset=data)
    assert SupervisedEnv(SupervisedEnv.Settings(num_envs=8), dataset=data).select_best


@pytest.mark.parametrize("how", ["arrays", "npz", "folder", "torch"])
def test_training_is_judged_by_validation_arrays_which_it_never_sees(workdir, how):
    rng = np.random.default_rng(1)
    arrays = {}
    for number, part in enumerate(("", "test_", "validation_")):  # numbers that tell the splits apart
        arrays[f"{part}inputs"] = (10 * number + rng.random((20, 3))).astype(np.float32)
        arrays[f"{part}targets"] = np.arange(20) % 2
    settings = {"num_envs": 8, "scaling": "standard"}
    if how == "torch":
        train, test, validation = (
            torch.utils.data.TensorDataset(
                *(torch.from_numpy(arrays[f"{part}{kind}"]) for kind in ("inputs", "targets"))
            )
            for part in ("", "test_", "validation_")
        )
        data = from_torch(train, test, ["0", "1"], workers=0, validation=validation)
        env = SupervisedEnv(SupervisedEnv.Settings(**settings), dataset=data)
    elif how == "arrays":
        env = SupervisedEnv(SupervisedEnv.Settings(**settings), dataset=from_arrays(**arrays))
    elif how == "npz":
        np.savez("parts.npz", **arrays)
        env = SupervisedEnv(SupervisedEnv.Settings(**settings, dataset="parts.npz"))
    else:
        (workdir / "parts").mkdir()
        for name, array in arrays.items():
            np.save(f"parts/{name}.npy", array)
        env = SupervisedEnv(SupervisedEnv.Settings(**settings, dataset="parts/"))
    assert env.num_examples == 20
    assert env.select_best
    shown = [env.reset(seed=1)[0]] + [env.step(torch.zeros(8, 2))[0] for _ in range(10)]
    assert max(obs.max() for obs in shown) < 1
    assert env.single_observation_space.shift.flatten() == pytest.approx(arrays["inputs"].mean(0), rel=1e-6)
    for twin, part in ((env.evaluation(1), "validation_"), (env.test(1), "test_")):
        assert torch.equal(twin.inputs(slice(0, 20)), torch.from_numpy(arrays[f"{part}inputs"]))
        assert torch.equal(twin.targets, torch.from_numpy(arrays[f"{part}targets"]))


def test_wrong_validation_arrays_are_named():
    x, y = np.zeros((6, 3), np.float32), np.arange(6) % 2
    for held, words in (
        ((x, y[:5]), "the validation split has 6 inputs and 5 targets"),
        ((x[:, :2], y), "a validation input has shape (2,), a training input (3,)"),
        ((x, None), "must be numbers"),
        ((None, y), "must be numbers"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            from_arrays(x, y, None, None, *held)
    assert "a validation label is 2" in from_arrays(x, y, None, None, x, y + 1).why_numbers


def test_another_data_set_is_evaluated_whole_whatever_was_held_out_of_the_first(workdir, capsys):
    iris = load("iris").train
    np.savez("iris.npz", inputs=iris.inputs.numpy(), targets=iris.targets.numpy())
    changed = ["env.num_envs=20", "env.test_fraction=0", "env.folds=3", "env.fold=1", "trainer.epochs=2"]
    assert rlcore.commands.train("iris_perceptron", changed, "run", None, 1) == 0
    other = ("env.dataset=iris.npz", "env.test_fraction=0")
    trainer, _ = Run("run").trainer("best", other)
    twin = trainer.evaluator.make_test_env(1) or trainer.evaluation_env(1)
    assert twin.num_examples == 150
    same, _ = Run("run").trainer("best")
    assert same.evaluation_env(1).num_examples == 50
