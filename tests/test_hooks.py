"""Hooks, the loop that is a generator, and collectors: what users do beside training, from outside the repository."""

import csv
import math
import signal
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from compare import same
from trainers import CARTPOLE, MLP, NORMALIZED, make, make_trainer

import rlcore
from rlcore import GymEnvironment, Hook, InputError, Rollout, Step, Trainer, checkpoint, commands, config
from rlcore.agents.ppo import PPO
from rlcore.agents.supervised import Supervised
from rlcore.collector import Collector
from rlcore.envs.cartpole import CartPole
from rlcore.spaces import Logits

QUICK = {
    "env": {"name": "cartpole", **CARTPOLE},
    "agent": {"name": "ppo", **NORMALIZED, "network": MLP},
    "trainer": {"total_steps": 512, "eval_every": 128, "eval_episodes": 4},
}


def quick(folder, **trainer):
    tree = {**QUICK, "trainer": {**QUICK["trainer"], **trainer}}
    (folder / "quick.yaml").write_text(yaml.safe_dump(tree))
    return tree


# The loop


def test_the_loop_is_the_callback_and_fit_is_the_loop():
    by_hand, by_fit = make_trainer("ppo", eval_every=96), make_trainer("ppo", eval_every=96)
    seen = [(by_hand.steps, float(metrics["entropy"])) for metrics in by_hand.updates()]
    assert [steps for steps, _ in seen] == list(range(32, 2017, 32))
    assert all(math.isfinite(entropy) for _, entropy in seen)
    report = by_fit.fit()
    same(by_hand.checkpoint(), by_fit.checkpoint())
    assert by_hand.report.scalars == report.scalars
    assert list(by_hand.updates()) == []


def test_leaving_the_loop_saves(tmp_path):
    trainer = make_trainer("ppo")
    trainer.write_to(tmp_path)
    for _ in trainer.updates():
        trainer.log({"mine/steps": trainer.steps})
        if trainer.steps >= 96:
            break
    assert checkpoint.load(tmp_path / "checkpoints/last.pt")["steps"] == 96

    def with_a_mistake():
        for _ in trainer.updates():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        with_a_mistake()
    assert checkpoint.load(tmp_path / "checkpoints/last.pt")["steps"] == 128


def test_a_loop_over_seeds_ends_with_an_interruption(tmp_path):
    begun = []

    def train_all():
        for seed in range(3):
            trainer = make_trainer("ppo")
            trainer.write_to(tmp_path / str(seed))
            learn = trainer.agent.learn
            trainer.agent.learn = lambda rollout, learn=learn: signal.raise_signal(signal.SIGINT) or learn(rollout)
            begun.append(seed)
            trainer.fit()

    with pytest.raises(KeyboardInterrupt):
        train_all()
    assert begun == [0]
    assert checkpoint.load(tmp_path / "0/checkpoints/last.pt")["steps"] == 32


# Hooks of one's own


MINE = """
import torch
import rlcore

@rlcore.registry.hooks.register("mine")
class Mine(rlcore.Hook):
    class Settings(rlcore.Hook.Settings):
        every: int = 2

    settings: Settings

    def __init__(self, settings):
        super().__init__(settings)
        self.num_updates, self.generator = 0, torch.Generator().manual_seed(1)
        self.seen = []

    def on_start(self, trainer):
        self.seen.append("start")

    def on_rollout(self, trainer, rollout):
        self.seen.append(f"rollout {len(rollout)}")

    def on_update(self, trainer, metrics):
        self.num_updates += 1
        if self.num_updates % self.settings.every == 0:
            metrics["drawn"] = torch.rand((), generator=self.generator)

    def on_evaluation(self, trainer, report):
        self.seen.append(f"evaluation at {trainer.steps}: {trainer.figures['eval/return'] == report.scalars['return']}")
"""


def test_a_hook_from_a_file_is_called_and_saved(workdir, capsys):
    (workdir / "mine.py").write_text(MINE)
    tree = quick(workdir, hooks=[{"name": "mine", "every": 1}, "monitor"], total_steps=160, log_every=1)
    (workdir / "quick.yaml").write_text(yaml.safe_dump({**tree, "imports": ["mine"]}))
    trainer, _ = config.build(config.load("quick.yaml").config)
    trainer.fit()
    mine = trainer.hooks[0]
    assert mine.seen == ["start", *["rollout 8"] * 4, "evaluation at 128: True", "rollout 8", "evaluation at 160: True"]
    drawn = torch.Generator().manual_seed(1)
    assert trainer.figures["train/drawn"] == pytest.approx(
        [torch.rand((), generator=drawn).item() for _ in range(5)][-1]
    )
    again, _ = config.build(config.load("quick.yaml").config)
    again.restore(trainer.checkpoint())
    assert again.hooks[0].num_updates == 5
    assert torch.equal(again.hooks[0].generator.get_state(), mine.generator.get_state())
    assert commands.list_names("mine", ["mine"]) == 0
    assert "every" in capsys.readouterr().out
    for hooks, told in (
        ([{"name": "mine", "evry": 1}], r"trainer\.hooks\.0\.evry: unknown key \(did you mean 'every'\?\)"),
        (["early_stoping"], r"unknown hook 'early_stoping' \(did you mean 'early_stopping'\?\)"),
        (["early_stopping"], r"trainer\.hooks\.0\.figure: missing"),
    ):
        (workdir / "wrong.yaml").write_text(yaml.safe_dump({**tree, "trainer": {"total_steps": 64, "hooks": hooks}}))
        with pytest.raises(InputError, match=told):
            config.load("wrong.yaml")


def test_hooks_that_were_not_there_before_begin_anew():
    class Counting(Hook):
        count = 0

        def on_update(self, trainer, metrics):
            self.count += 1

    def trainer(hooks):
        env = CartPole(CartPole.Settings(num_envs=4))
        return Trainer(PPO(env, PPO.Settings(horizon=8, minibatch_size=16)), env, total_steps=320, hooks=hooks)

    one, two = trainer([Counting(), Counting()]), trainer([Counting(), Counting(), Counting()])
    one.fit()
    assert two.restore(one.checkpoint()) == ["the hook Counting was not in the run before: it begins anew"]
    assert [hook.count for hook in two.hooks] == [10, 10, 0]


# Shipped hooks


def test_a_run_that_is_good_enough_ends_and_stays_ended(workdir):
    quick(workdir, hooks=[{"name": "early_stopping", "figure": "eval/length", "at_least": 1}], loggers=["csv"])
    assert commands.train("quick.yaml", [], "run", None, 1) == 0
    run = rlcore.run.Run("run")
    assert run.result["steps"] == 128
    assert run.result["finished"]
    saved = checkpoint.load(Path("run/checkpoints/last.pt"))
    assert saved["learns"]["stopped"].startswith("eval/length is ")
    assert commands.resume("run", []) == 0
    assert run.result["steps"] == 128
    with open("run/progress.csv") as file:
        scored = [row["step"] for row in csv.DictReader(file) if row["eval/return"]]
    assert scored == ["128"]  # the closing evaluation is that at which it ended
    assert commands.resume("run", ["trainer.hooks=[]"]) == 0
    assert run.result["steps"] == 512


@pytest.mark.parametrize(("larger", "ends"), [(True, 5), (False, 2)])
def test_patience_counts_evaluations_without_a_better_one(larger, ends):
    """The figures are 1, 3, 2, 3, 0, ...: of the larger ones the best is the second, of the smaller ones the first."""
    patience = {"figure": "eval/return", "patience": 3 if larger else 1, "larger_is_better": larger}
    trainer = make_trainer("ppo", eval_every=32, hooks=[{"name": "early_stopping", **patience}])
    figures = iter([1.0, 3.0, 2.0, 3.0, 0.0, 9.0])
    trainer.evaluator.env = trainer.env.evaluation(1)
    trainer.evaluator.env.score = lambda *given: rlcore.Report({"return": next(figures)})
    with pytest.warns(UserWarning, match="the run ends at step"):
        trainer.fit()
    assert trainer.steps == 32 * ends


def test_a_figure_that_does_not_exist_is_told():
    trainer = make_trainer(
        "ppo", eval_every=32, hooks=[{"name": "early_stopping", "figure": "eval/retrun", "at_least": 1}]
    )
    with pytest.raises(InputError, match=r"there is no figure 'eval/retrun' \(did you mean 'eval/return'\?\)"):
        trainer.fit()


def test_the_average_is_evaluated_and_deployed_and_learning_goes_on_without_it(workdir):
    """average <- d average + (1 - d) parameters, by hand."""
    quick(workdir, hooks=[{"name": "ema", "decay": 0.5}], total_steps=160)
    trainer, _ = config.build(config.load("quick.yaml").config)
    plain, _ = config.build(config.load("quick.yaml", ["trainer.hooks=[]"]).config)
    for one in (trainer, plain):
        one.write_to(f"run{one is plain:d}")
    average = [param.detach().clone() for param in plain.agent.parameters()]
    for _ in plain.updates():
        average = [
            0.5 * kept + 0.5 * param.detach() for kept, param in zip(average, plain.agent.parameters(), strict=True)
        ]
    trainer.fit()
    same(dict(trainer.agent.named_parameters()), dict(plain.agent.named_parameters()))
    saved = checkpoint.load(Path("run0/checkpoints/last.pt"))
    for (name, _), expected in zip(trainer.agent.named_parameters(), average, strict=True):
        torch.testing.assert_close(saved["agent"]["parameters"][name], expected)
    with trainer.hooks[0].answering(trainer):
        seen = trainer.evaluator.env.score(trainer.agent, 4, rlcore.seeding.derive_seed(1, rlcore.seeding.EVALUATION))
    assert seen.scalars == trainer.report.scalars


def curriculum(**settings):
    stages = [{"until": 100, "env": {"max_episode_steps": 5}}, {"env": {}}]
    return {"name": "curriculum", "figure": "steps", "stages": stages, **settings}


def test_a_curriculum_changes_the_environment_and_not_the_evaluation():
    trainer = make_trainer("ppo", eval_every=32, hooks=[curriculum()])
    lengths = []
    for metrics in trainer.updates():
        lengths.append((trainer.steps, metrics["stage"], trainer.env.settings.max_episode_steps))
        assert trainer.evaluator.env.settings.max_episode_steps == 12
        if trainer.steps >= 160:
            break
    assert lengths == [(32, 0, 5), (64, 0, 5), (96, 0, 5), (128, 1, 12), (160, 1, 12)]


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([{"env": {}}, {"env": {}}], "curriculum: stage 1 of 2: all but the last need until"),
        (
            [{"until": 1, "env": {"lenght": 3}}, {"env": {}}],
            r"stage 1: env\.lenght: unknown key \(did you mean 'length'",
        ),
        ([{"until": 1, "env": {"num_envs": 3}}, {"env": {}}], "the new environment must have 4 environments, has 3"),
    ],
)
def test_a_curriculum_that_cannot_be_is_one_line(stages, told):
    with pytest.raises(InputError, match=told):
        make_trainer("ppo", hooks=[curriculum(stages=stages)])


# Numbers in info, and the file of every episode


class Succeeds(gymnasium.Env):
    """Episodes of 3 steps; every second one of an environment succeeds, and tells how far it came."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        ended = self.t == 3
        info = {"position": float(self.t), "text": "none"}
        if ended:
            info["is_success"] = self.episode % 2 == 0
        return np.zeros(2, np.float32), 1.0, ended, False, info


def test_numbers_in_info_become_figures_and_columns_of_the_monitor(tmp_path):
    env = GymEnvironment(Succeeds, num_envs=2)
    settings = Trainer.Settings.model_validate(
        {"total_steps": 96, "log_every": 1, "hooks": ["monitor"], "eval_episodes": 8}
    )
    agent = PPO(env, PPO.Settings(horizon=6, minibatch_size=None))
    trainer = Trainer(agent, env, settings, run_dir=tmp_path)
    report = trainer.fit()
    assert trainer.figures["rollout/is_success"] == 0.5
    assert trainer.figures["rollout/position"] == 3
    assert report.scalars["position"] == trainer.figures["eval/position"] == 3
    assert report.columns["is_success"] == [0.0] * 8  # the first episode of each
    with open(tmp_path / "monitor.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    assert [row["env"] for row in rows[:4]] == ["0", "1", "0", "1"]
    assert {row["return"] for row in rows} == {"3.0"}
    assert {row["length"] for row in rows} == {"3"}
    assert [float(row["is_success"]) for row in rows[:4]] == [0, 0, 1, 1]
    assert [int(row["steps"]) for row in rows[:8]] == [12] * 4 + [24] * 4


def test_the_monitor_of_a_resumed_run_has_every_episode_once(workdir):
    for folder, stop_at in (("whole", "null"), ("part", "256")):
        quick(workdir, hooks=["monitor"])
        assert commands.train("quick.yaml", [f"trainer.stop_at={stop_at}"], folder, None, 1) == 0
    with open("part/monitor.csv", "a") as file:  # of updates after the checkpoint, when the process was killed
        file.write("300,9.9,0,1.0,1\r\n")
    assert commands.resume("part", []) == 0
    assert episodes_in("whole") == episodes_in("part")


def episodes_in(folder):
    with open(f"{folder}/monitor.csv") as file:
        return [[row[name] for name in ("steps", "env", "return", "length")] for row in csv.DictReader(file)]


# Data that exists already


class Recorded(Collector):
    """Rows of a data set in random order: nobody acts, and `learn` cannot tell."""

    def __init__(self, env, seed):
        super().__init__(env, seed)
        self.generator = torch.Generator().manual_seed(seed)

    def collect(self, agent, progress=0.0, interruption=None):
        rows = torch.randint(len(self.env.x), (self.env.num_envs,), generator=self.generator)
        rollout = Rollout(progress)
        with torch.enable_grad():
            step = agent.act(self.env.x[rows]) if agent.differentiable else Step(self.env.y[rows])
            reward = -torch.nn.functional.cross_entropy(step.action, self.env.y[rows], reduction="none")
        ended = torch.ones(len(rows), dtype=torch.bool)
        rollout.append(self.env.x[rows], step, reward, ended, ~ended, {})
        rollout.last_obs = self.env.x[rows]
        return rollout

    def checkpoint(self):
        return {"generator": self.generator.get_state()}

    def restore(self, saved, agent):
        self.generator.set_state(saved["generator"])
        return True


class Table(rlcore.Environment):
    """The sign of a sum."""

    num_examples = 400
    select_best = False

    def __init__(self):
        super().__init__(32, gymnasium.spaces.Box(-9, 9, (3,), np.float32), Logits(2))
        self.x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
        self.y = (self.x.sum(1) > 0).long()

    def reset(self, *, seed=None, options=None):
        raise NotImplementedError

    step = reset

    def collector(self, seed):
        return Recorded(self, seed)

    def evaluation(self, num_envs):
        return self

    def score(self, agent, num_episodes, seed):
        with rlcore.evaluation.evaluating(agent):
            right = agent.predict(self.x).action.argmax(1) == self.y
        return rlcore.Report({"accuracy": right.float().mean().item()})


def recorded(**settings):
    env = Table()
    torch.manual_seed(0)
    agent = Supervised(env, Supervised.Settings(learning_rate=1e-2))
    return Trainer(agent, env, Trainer.Settings(total_steps=16_000, eval_every=None, **settings), seed=3)


def test_a_collector_of_ones_own_is_trained_from_and_resumed():
    whole, cut, rest = recorded(), recorded(stop_at=6400), recorded()
    whole.fit()
    assert whole.env.score(whole.agent, 1, 1).scalars["accuracy"] > 0.97
    cut.fit()
    assert rest.restore(cut.checkpoint()) == []
    rest.fit()
    same(whole.agent.state_dict(), rest.agent.state_dict())


# Evaluation


def test_evaluation_is_off_where_it_says_so(workdir):
    quick(workdir, eval_every=None)
    assert commands.train("quick.yaml", [], "run", None, 1) == 0
    assert rlcore.run.Run("run").result["finished"]
    assert not any(name.startswith("eval/") for name in rlcore.run.Run("run").result["figures"])
    assert not Path("run/checkpoints/best.pt").exists()
    assert commands.resume("run", ["trainer.total_steps=640"]) == 0
    assert commands.evaluate("run", 4, None, True, None, []) == 0


def test_a_run_of_0_1_evaluates_as_it_did(workdir):
    """There, null was the default."""
    quick(workdir)
    commands.train("quick.yaml", ["trainer.stop_at=128"], "run", None, 1)
    tree = yaml.safe_load(Path("run/config.yaml").read_text())
    for key in ("hooks", "loggers", "eval_num_envs", "eval_deterministic"):
        del tree["trainer"][key]
    del tree["eval_env"]
    tree["trainer"] |= {"tensorboard": True, "eval_every": None}
    Path("run/config.yaml").write_text(yaml.safe_dump(tree))
    assert rlcore.run.Run("run").load().config.trainer.eval_every == "auto"
    assert commands.resume("run", []) == 0
    assert "eval/return" in rlcore.run.Run("run").result["figures"]


class Loud(gymnasium.Env):
    """One step pays 100 if the action is 1, else -1."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 100.0 if action == 1 else -1.0, True, False, {}


gymnasium.register("Loud-v0", Loud)


def test_a_reward_that_is_clipped_in_training_is_reported_as_it_is(workdir):
    clip = {"name": "ClipReward", "min_reward": -1, "max_reward": 1}
    tree = {
        "env": {"name": "gym", "id": "Loud-v0", "wrappers": [clip]},
        "eval_env": {"wrappers": []},
        "agent": {"name": "ppo", "horizon": 8, "minibatch_size": None, "learning_rate": 0.02},
        "trainer": {"total_steps": 3200, "eval_episodes": 4, "eval_num_envs": 1},
    }
    (workdir / "loud.yaml").write_text(yaml.safe_dump(tree))
    trainer, _ = config.build(config.load("loud.yaml").config)
    assert trainer.fit().scalars["return"] == 100
    assert trainer.figures["rollout/return"] <= 1
    assert trainer.evaluator.env.num_envs == 1
    tree["eval_env"] = {"id": "CartPole-v1"}
    (workdir / "loud.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match="eval_env must have the observation space Box"):
        config.build(config.load("loud.yaml").config)


def test_actions_as_they_are_while_learning_can_be_evaluated():
    def spread(deterministic):
        trainer = make(
            CartPole, {"num_envs": 4}, PPO, {"horizon": 8, "minibatch_size": 16, "network": MLP},
            eval_deterministic=deterministic, eval_episodes=40,
        )  # fmt: skip
        trainer.agent.act = lambda obs, state=None: Step(torch.randint(2, (len(obs),)))
        trainer.agent.predict = lambda obs, state=None: Step(torch.zeros(len(obs), dtype=torch.int64))
        return trainer.evaluate().scalars

    assert spread(True)["length"] < 11 < 17 < spread(False)["length"]


def test_nothing_is_told_twice_and_no_warning_is_given():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer("ppo").fit()


# What is added, removed, failed or extended in between


def test_an_average_that_is_added_later_begins_with_what_was_learned():
    before, after = make_trainer("ppo"), make_trainer("ppo", hooks=["ema"])
    before.update()
    before.update()
    assert after.restore(before.checkpoint()) == [
        "trainer.hooks was [], is [{'name': 'ema', 'decay': 0.999}]",
        "the hook EMA was not in the run before: it begins anew",
    ]
    start = [param.detach().clone() for param in after.agent.parameters()]
    after.update()
    expected = [a + 0.001 * (b.detach() - a) for a, b in zip(start, after.agent.parameters(), strict=True)]
    torch.testing.assert_close(after.hooks[0]._average, expected)
    removed = make_trainer("ppo")
    assert "the hook EMA was in the run before, and is not any more" in removed.restore(after.checkpoint())


def test_several_averages_are_each_resumed():
    two = [{"name": "ema", "decay": 0.5}, {"name": "ema", "decay": 0.9}]
    whole, cut, rest = (make_trainer("ppo", eval_every=64, hooks=two) for _ in range(3))
    for one, updates in ((whole, 6), (cut, 3)):
        for n, _ in enumerate(one.updates(), 1):
            if n == updates:
                break
        saved = cut.checkpoint()
    rest.restore(saved)
    for n, _ in enumerate(rest.updates(), 1):
        if n == 3:
            break
    same(whole.checkpoint(), rest.checkpoint())


def test_means_begin_anew_with_a_stage():
    """Episodes of 5 steps, then of 12: the second stage is not left by the lengths of the first."""
    stages = [
        {"until": 5, "env": {"max_episode_steps": 5}},
        {"until": 11, "env": {"max_episode_steps": 8}},
        {"env": {}},
    ]
    hook = {"name": "curriculum", "figure": "rollout/length", "stages": stages}
    trainer = make_trainer("ppo", log_every=1, total_steps=640, hooks=[hook, "monitor"])
    seen = [(trainer.env.settings.max_episode_steps, trainer.figures.get("rollout/length")) for _ in trainer.updates()]
    assert [limit for limit, _ in seen] == [5, *[8] * 19]
    assert max(length for limit, length in seen[1:] if length is not None) <= 8


def test_a_run_that_failed_goes_on_with_new_episodes():
    class Fails(CartPole):
        left = 30

        def step(self, actions):
            self.left -= 1
            if self.left == 0:
                raise KeyError("boom")
            return super().step(actions)

    env = Fails(CartPole.Settings(num_envs=2))
    settings = Trainer.Settings(total_steps=320, eval_every=None)
    trainer = Trainer(PPO(env, PPO.Settings(horizon=8, minibatch_size=16)), env, settings)
    with pytest.raises(KeyError, match="boom"):
        trainer.fit()
    assert trainer.collector.failed
    trainer.update()
    trainer.episodes.flush()
    assert not trainer.collector.failed
    assert (trainer.episodes._running[1] <= 8).all()  # steps of the episodes in progress


def test_an_evaluation_whose_hook_fails_is_made_again():
    class Fails(Hook):
        def on_evaluation(self, trainer, report):
            if trainer.steps == 64 and not hasattr(trainer, "again"):
                raise ZeroDivisionError

    env = CartPole(CartPole.Settings(num_envs=4))
    settings = Trainer.Settings(total_steps=128, eval_every=64, eval_episodes=2)
    trainer = Trainer(PPO(env, PPO.Settings(horizon=8, minibatch_size=16)), env, settings, hooks=[Fails()])
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert trainer.checkpoint()["learns"]["evaluation_pending"]
    assert trainer.best == -math.inf
    trainer.again = True
    trainer.fit()
    assert trainer.best > 0


def test_a_rollout_that_a_hook_refused_is_not_half_of_the_run():
    class Fails(Hook):
        def on_rollout(self, trainer, rollout):
            raise ZeroDivisionError

    env = CartPole(CartPole.Settings(num_envs=4))
    agent = PPO(env, PPO.Settings(horizon=8, minibatch_size=16))
    trainer = Trainer(agent, env, total_steps=128, hooks=[Fails()])
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert trainer.checkpoint()["learns"]["collector"]["env"] is None


def test_a_run_that_was_ended_is_extended(workdir):
    quick(workdir, hooks=[{"name": "early_stopping", "figure": "eval/length", "at_least": 1}])
    commands.train("quick.yaml", [], "run", None, 1)
    assert commands.resume("run", ["trainer.total_steps=1024"]) == 0
    assert rlcore.run.Run("run").result["steps"] > 128


def test_a_threshold_of_training_needs_no_evaluation():
    hook = {"name": "early_stopping", "figure": "rollout/length", "at_least": 5}
    trainer = make_trainer("ppo", eval_every=None, log_every=1, hooks=[hook])
    trainer.fit()
    assert trainer.stopped is not None
    assert trainer.steps < 200
    with pytest.raises(InputError, match=r"early_stopping: needs evaluations; set trainer\.eval_every"):
        make_trainer("ppo", eval_every=None, hooks=[{"name": "early_stopping", "figure": "train/loss", "patience": 3}])


def test_an_environment_that_is_changed_later_is_changed_in_evaluation_too(workdir):
    quick(workdir)
    tree = yaml.safe_load((workdir / "quick.yaml").read_text())
    (workdir / "quick.yaml").write_text(yaml.safe_dump({**tree, "eval_env": {"num_envs": 2}}))
    commands.train("quick.yaml", [], "run", None, 1)
    loaded = rlcore.run.Run("run").load(["env.max_episode_steps=3"])
    trainer, _ = config.build(loaded.config)
    assert trainer.evaluate().scalars["length"] == 3
    with pytest.raises(InputError, match=r"eval_env: max_episode_stps: unknown key \(did you mean"):
        config.load("quick.yaml", ["eval_env.max_episode_stps=3"])


def test_the_rate_of_a_scheduler_is_kept_where_settings_change():
    class Halving(PPO):
        def __init__(self, env, settings):
            super().__init__(env, settings)
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)

        def learn(self, rollout):
            rate = self.optimizer.param_groups[0]["lr"]
            metrics = super().learn(rollout)
            self.optimizer.param_groups[0]["lr"] = rate
            self.scheduler.step()
            return metrics

    def trainer(gamma):
        env = CartPole(CartPole.Settings(num_envs=4))
        settings = PPO.Settings(horizon=8, minibatch_size=None, num_epochs=1, learning_rate=1.0, gamma=gamma)
        return Trainer(Halving(env, settings), env, total_steps=320)

    one, other = trainer(0.9), trainer(0.8)
    for _ in range(3):
        one.update()
    other.restore(one.checkpoint())
    assert other.agent.optimizer.param_groups[0]["lr"] == 0.125


class Told(Succeeds):
    """Shows integers, and tells numbers whose names are columns."""

    observation_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 1, {}

    def step(self, action):
        _, reward, ended, _, info = super().step(action)
        return 2, reward, ended, self.t == 2, {**info, "steps": 9.0, "env": 9.0}


def test_the_columns_of_the_monitor_are_its_own(tmp_path):
    env = GymEnvironment(Told, num_envs=2)
    settings = Trainer.Settings.model_validate({"total_steps": 24, "log_every": 1, "hooks": ["monitor"]})
    trainer = Trainer(PPO(env, PPO.Settings(horizon=6, minibatch_size=None)), env, settings, run_dir=tmp_path)
    trainer.fit()
    assert not any(name.endswith("final_obs") for name in trainer.figures)
    lines = (tmp_path / "monitor.csv").read_text().splitlines()
    assert lines[0] == "steps,seconds,env,return,length,position"
    assert [line.split(",")[0] for line in lines[1:3]] == ["12", "12"]
    assert [line.split(",")[2] for line in lines[1:3]] == ["0", "1"]
