import copy
import math
import signal
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from compare import Calls, same
from gymnasium.spaces import Box, Discrete
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlcore import check_agent, checkpoint
from rlcore.agent import Agent
from rlcore.agents.ppo import PPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.envs.cartpole import CartPole
from rlcore.envs.probes import Identity, Probe, Target
from rlcore.errors import CheckpointError, ContractError, InputError, NonFiniteError
from rlcore.evaluation import Report, ReportChoice, play
from rlcore.gym_environment import GymEnvironment
from rlcore.rollout import Step, collect
from rlcore.seeding import derive_seed
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.tracking import Tracker
from rlcore.trainer import DUMP_FILE, Trainer


def ppo(env):
    return PPO(env, PPO.Settings(horizon=16, minibatch_size=64))


def reinforce(env):
    return Reinforce(env, Reinforce.Settings(baseline=True, value_steps=2))


def make(agent=ppo, run_dir=None, total_steps=4096, stop_at=None, purge_step=None, env=None, **settings):
    torch.manual_seed(1)
    env = env or CartPole()
    settings = Trainer.Settings(
        total_steps=total_steps, stop_at=stop_at, checkpoint_every=500, log_every=256, **settings
    )
    tracker = Tracker(run_dir, purge_step=purge_step) if run_dir else None
    return Trainer(agent(env), env, settings, seed=3, run_dir=run_dir, tracker=tracker)


def scalars(run_dir):
    events = EventAccumulator(str(run_dir)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("time/")
    }


@pytest.mark.parametrize("agent", [ppo, reinforce])
def test_the_same_seed_gives_the_same_bits(agent):
    one, two = make(agent), make(agent)
    one.fit()
    two.fit()
    same(one.checkpoint(), two.checkpoint())


@pytest.mark.parametrize("agent", [ppo, reinforce])
def test_a_resumed_run_ends_in_the_bits_of_an_unbroken_one(agent, tmp_path):
    whole = make(agent, tmp_path / "whole")
    whole.fit()
    whole.tracker.close()
    part = make(agent, tmp_path / "part", stop_at=1500)
    part.fit()
    assert 1500 <= part.steps < 4096
    part.tracker.close()

    saved = checkpoint.load(tmp_path / "part" / "checkpoints" / "last.pt")
    rest = make(agent, tmp_path / "part", purge_step=saved["steps"] + 1)
    torch.manual_seed(99)  # whatever happened in this process
    assert rest.restore(saved) == []
    rest.fit()
    rest.tracker.close()
    same(whole.checkpoint(), rest.checkpoint())
    for name in ("last", "best"):
        paths = [tmp_path / run / "checkpoints" / f"{name}.pt" for run in ("whole", "part")]
        same(*map(checkpoint.load, paths))
    broken, unbroken = scalars(tmp_path / "part"), scalars(tmp_path / "whole")
    for tag, points in unbroken.items():
        assert set(map(str, points)) <= set(map(str, broken[tag])), tag


class Restless(CartPole):
    """Draws random numbers when it is made."""

    def __init__(self, settings=None, device="cpu"):
        super().__init__(settings, device)
        torch.rand(3)


def test_evaluation_changes_no_bit():
    with_evaluations, without = (make(eval_every=every, env=Restless()) for every in (256, 10**6))
    with_evaluations.fit()
    without.fit()
    a, b = with_evaluations.checkpoint(), without.checkpoint()
    for saved in (a, b):
        for part in ("best", "figures", "settings"):
            saved["learns"].pop(part)
    same(a, b)


def test_evaluation_restores_modes():
    trainer = make()
    trainer.agent.train()
    trainer.agent.body.eval()
    trainer.evaluate()
    assert trainer.agent.training
    assert not trainer.agent.body.training


def test_evaluations_do_not_favour_short_episodes():
    env = CartPole()
    trainer = make(env=env)
    report = env.evaluation(4).score(trainer.agent, 10, seed=1)
    assert len(report.columns["return"]) == 12  # three from each of four
    assert report.scalars["return"] == pytest.approx(np.mean(report.columns["return"]))


def test_metrics_of_the_last_update_are_logged_at_its_step(tmp_path):
    trainer = make(run_dir=tmp_path, total_steps=1000)
    trainer.fit()
    trainer.tracker.close()
    logged = scalars(tmp_path)
    assert trainer.steps == 1024
    for tag in ("train/policy_loss", "train/value_loss", "train/entropy", "train/approx_kl", "train/clip_fraction",
                "train/explained_variance", "train/grad_norm", "train/learning_rate", "rollout/return",
                "rollout/length", "eval/return", "eval/return_std", "eval/return_min", "eval/return_max",
                "eval/return_low", "eval/return_high"):  # fmt: skip
        assert logged[tag][-1][0] == 1024, tag
        assert math.isfinite(logged[tag][-1][1])


def test_an_agent_may_have_nothing_to_tell(tmp_path):
    class Silent(PPO):
        def learn(self, rollout):
            return {}

    trainer = make(lambda env: Silent(env, PPO.Settings(horizon=16, minibatch_size=64)), tmp_path, total_steps=512)
    trainer.fit()
    trainer.tracker.close()
    assert "rollout/return" in scalars(tmp_path)


def test_seeds_of_purposes_and_neighbours_have_nothing_in_common():
    seeds = [derive_seed(seed, purpose) for seed in range(50) for purpose in range(4)]
    assert len(set(seeds)) == 200


class Numbers(Probe):
    """Shows numbers that it draws."""

    def __init__(self, settings, device):
        super().__init__(settings, 1, Discrete(2), device)

    def observe(self):
        return torch.rand(self.num_envs, 1, generator=self._generator)


class Drawing(Agent):
    """Keeps what it saw and what it drew."""

    horizon = 4

    def __init__(self, env):
        super().__init__(env)
        self.seen, self.drawn = [], []

    def act(self, obs, state=None):
        self.seen += obs.flatten().tolist()
        self.drawn += torch.rand(len(obs)).tolist()
        return Step(torch.zeros(len(obs), dtype=torch.int64))

    predict = act

    def learn(self, rollout):
        return {}


def test_no_environment_shows_an_agent_its_own_random_numbers():
    env = Numbers(Numbers.Settings(num_envs=3), "cpu")
    agent = Drawing(env)
    Trainer(agent, env, total_steps=12).update()
    env.evaluation(3).score(agent, 6, seed=1)
    assert len(agent.seen) == len(agent.drawn) == 3 * 6
    assert not set(agent.seen) & set(agent.drawn)


class Spoiled(Target):
    """A NaN or infinity at the sixth step, in environment 2."""

    where, value = "reward", math.nan

    def step(self, actions):
        obs, reward, *rest = super().step(actions)
        self.count = getattr(self, "count", 0) + 1
        if self.count == 6:
            obs, reward = obs.clone(), reward.clone()
            (obs if self.where == "obs" else reward)[2] = self.value
        return obs, reward, *rest


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("where", "row"), [("obs", 6), ("reward", 5)])
def test_a_value_that_is_not_finite_stops_the_run_before_the_step(tmp_path, where, value, row):
    env = Spoiled()
    env.where, env.value = where, value
    trainer = make(env=env, run_dir=tmp_path)
    before = {name: value.clone() for name, value in trainer.agent.state_dict().items()}
    name = {"obs": "observation", "reward": "reward"}[where]
    with pytest.raises(
        NonFiniteError, match=rf"the {name} is {value} at step {row * 8 + 2}, environment 2 \(row {row} "
    ):
        trainer.fit()
    same(before, dict(trainer.agent.state_dict()))
    dump = checkpoint.load(tmp_path / DUMP_FILE)
    assert not dump["rollout"][{"obs": "obs", "reward": "reward"}[where]].isfinite().all()
    make(env=Target()).agent.restore(dump["agent"])


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(tmp_path):
    class Diverging(PPO):
        def minimize(self, loss, optimizer=None):
            return super().minimize(loss * math.inf, optimizer)

    trainer = make(lambda env: Diverging(env, PPO.Settings(horizon=16, minibatch_size=64)), tmp_path)
    before = {name: value.clone() for name, value in trainer.agent.state_dict().items()}
    with pytest.raises(NonFiniteError, match=r"loss is -?(inf|nan) in the update at step 0, though observations"):
        trainer.fit()
    same(before, dict(trainer.agent.state_dict()))
    assert (tmp_path / DUMP_FILE).is_file()


def test_on_a_device_that_must_not_wait_the_step_is_skipped_and_told_later(monkeypatch):
    """The way of CUDA, taken on the CPU: nothing is read until the next log."""
    monkeypatch.setattr("rlcore.agent.sync_is_costly", lambda device: True)
    monkeypatch.setattr("rlcore.finite.sync_is_costly", lambda device: True)
    env = Spoiled()
    trainer = make(env=env)
    trainer.log_every = 10**6
    before = {name: value.clone() for name, value in trainer.agent.state_dict().items()}
    trainer.update()
    same(before, dict(trainer.agent.state_dict()))
    with pytest.raises(NonFiniteError, match="within the"):
        trainer._log({})


def test_no_checkpoint_holds_a_step_that_was_skipped(monkeypatch, tmp_path):
    """By an optimizer that does not skip it."""
    monkeypatch.setattr("rlcore.agent.sync_is_costly", lambda device: True)
    monkeypatch.setattr("rlcore.finite.sync_is_costly", lambda device: True)

    class Diverging(PPO):
        def __init__(self, env):
            super().__init__(env, PPO.Settings(horizon=16, minibatch_size=64))
            self.optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)

        def minimize(self, loss, optimizer=None):
            return super().minimize(loss * math.nan, optimizer)

    trainer = make(Diverging, tmp_path)
    trainer.log_every = 10**6
    with pytest.raises(NonFiniteError, match="within the"):
        trainer.fit()
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_of_another_agent_is_refused():
    with pytest.raises(CheckpointError, match="of the agent 'PPO', not of 'Reinforce'"):
        make(reinforce).restore(make(ppo).checkpoint())


def test_a_checkpoint_of_other_environments_is_refused():
    with pytest.raises(CheckpointError, match=r"is of 8 environments of Box.*not of 4 environments of Box"):
        make(env=CartPole(CartPole.Settings(num_envs=4))).restore(make().checkpoint())


def test_a_checkpoint_that_lacks_something_is_refused():
    saved = make().checkpoint()
    del saved["learns"]["episodes"]
    with pytest.raises(CheckpointError, match="does not fit this run: 'episodes' is missing"):
        make().restore(saved)


def test_a_checkpoint_in_memory_takes_a_trainer_back():
    trainer = make()
    trainer.update()
    before = trainer.checkpoint()
    trainer.update()
    kept = copy.deepcopy(before)
    for _ in range(2):
        trainer.restore(before)
        same(before, trainer.checkpoint())
        trainer.update()
        same(before, kept)


class Remembering(Agent):
    """Counts the steps of an episode in a state that is a NamedTuple."""

    class State(NamedTuple):
        count: torch.Tensor

    horizon = 4

    def act(self, obs, state=None):
        return Step((state.count % 2).long(), state=self.State(state.count + 1))

    def learn(self, rollout):
        return {"count": rollout.last_state.count.mean()}

    def initial_state(self, num_envs):
        return self.State(torch.zeros(num_envs))


def test_a_state_keeps_its_type_in_a_checkpoint(tmp_path):
    trainer = make(Remembering, tmp_path)
    trainer.update()
    trainer.save("last")
    again = make(Remembering)
    again.restore(checkpoint.load(tmp_path / "checkpoints" / "last.pt"))
    same(trainer.update(), again.update())


def test_fit_goes_on_after_an_interruption_and_after_updates_by_hand():
    trainer = make(total_steps=1024)
    trainer._interruption.signal = signal.SIGINT
    assert trainer.interrupted
    while not trainer.finished:
        trainer.update()
    assert trainer.fit().scalars["return"] > 0
    assert trainer.interrupted is None


class Finishing(PPO):
    """Counts how often it finished, and draws a number as it does."""

    def __init__(self, env):
        super().__init__(env, PPO.Settings(horizon=16, minibatch_size=64))
        self.register_buffer("num_finished", torch.zeros(()))
        self.predicted = 0

    def finish(self):
        torch.rand(3)
        self.num_finished += 1
        return {"num_finished": self.num_finished.clone()}

    def predict(self, obs, state=None):
        self.predicted += 1
        return super().predict(obs, state)


def test_an_agent_finishes_once_at_each_end_of_the_run(tmp_path):
    trainer = make(Finishing, tmp_path, total_steps=1024, eval_every=512)
    finish = trainer.agent.finish
    trainer.agent.finish = lambda: asked.append((trainer.steps, trainer.agent.predicted)) or finish()
    asked = []
    trainer.fit()
    (step, predicted), evaluated = asked[0], trainer.agent.predicted
    assert len(asked) == 1
    assert step == 1024
    assert 0 < predicted < evaluated  # after an evaluation on the way, before the closing one
    assert trainer.figures["train/num_finished"] == 1
    assert trainer.fit()
    assert trainer.agent.num_finished == 1
    trainer.tracker.close()
    assert scalars(tmp_path)["train/num_finished"] == [(1024, 1)]
    extended = make(Finishing, total_steps=1280)
    extended.restore(trainer.checkpoint())
    extended.fit()
    assert extended.agent.num_finished == 2
    old = extended.checkpoint()
    del old["learns"]["finished_at"]
    make(Finishing, total_steps=1280).restore(old)


def test_a_run_that_was_killed_or_interrupted_at_its_end_finishes_once():
    whole, cut, killed, interrupted, stopped, late = (
        make(Finishing, total_steps=1024, stop_at=stop_at, eval_every=10**9)
        for stop_at in (None, None, None, None, 512, None)
    )
    whole.fit()
    cut.agent.predict = lambda obs, state: signal.raise_signal(signal.SIGINT)
    before = {}
    log = cut._log
    cut._log = lambda metrics: log(metrics) or before.update(cut.checkpoint())
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    assert cut.report.scalars == {}
    assert cut.agent.num_finished == 1
    assert before["steps"] == 1024
    assert before["learns"]["finished_at"] is None
    for rest, saved in ((killed, before), (interrupted, cut.checkpoint())):
        rest.restore(saved)
        rest.fit()
        same(rest.checkpoint(), whole.checkpoint())
    stopped.fit()
    assert stopped.agent.num_finished == 0
    learn = late.agent.learn
    late.agent.learn = lambda rollout: (late.steps == 896 and signal.raise_signal(signal.SIGINT)) or learn(rollout)
    with pytest.raises(KeyboardInterrupt):
        late.fit()
    assert late.finished
    assert late.agent.num_finished == 0
    late.agent.learn = learn
    late.fit()
    same(late.checkpoint(), whole.checkpoint())


def test_schedules_end_with_the_run():
    trainer = make(lambda env: PPO(env, PPO.Settings(horizon=64, learning_rate_schedule="linear")), total_steps=1024)
    rates = [trainer.update()["learning_rate"] for _ in range(4)]
    assert rates == pytest.approx([3e-4, 1.5e-4, 0, 0])


def test_a_trainer_needs_an_environment_and_its_settings():
    env = CartPole()
    with pytest.raises(InputError, match=r"Trainer needs an rlcore.Environment, e.g. rlcore.GymEnvironment; got"):
        Trainer(ppo(env), gymnasium.make_vec("CartPole-v1", 8), total_steps=100)
    with pytest.raises(InputError, match="Trainer needs either settings"):
        Trainer(ppo(env), env, 100)


def test_evaluation_puts_back_every_generator():
    class Drawing(PPO):
        def predict(self, obs, state=None):
            np.random.rand()  # noqa: NPY002
            torch.rand(1, generator=self.own)
            return super().predict(obs, state)

    trainer = make(lambda env: Drawing(env, PPO.Settings(horizon=16, minibatch_size=64)))
    trainer.agent.own = torch.Generator()
    trainer.update()
    before = trainer.checkpoint()
    trainer.evaluate()
    after = trainer.checkpoint()
    same(before["learns"]["rng"], after["learns"]["rng"])
    same(before["agent"], after["agent"])


def test_a_checkpoint_of_another_network_is_refused():
    saved = make().checkpoint()
    with pytest.raises(CheckpointError, match="does not fit the agent PPO"):
        make(env=Identity()).restore_agent(saved)


def descending(env, **settings):
    return Supervised(env, Supervised.Settings.model_validate(settings))


def test_optimizers_follow_settings_that_have_changed():
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=30))
    before = descending(env)
    before.optimizer.param_groups[0]["lr"] = 0.5  # by the agent itself, as it learned
    saved = before.checkpoint()
    same_settings, others = descending(env), descending(env, weight_decay=0.1)
    same_settings.restore(saved)
    assert same_settings.optimizer.param_groups[0]["lr"] == 0.5
    others.restore(saved)
    group = others.optimizer.param_groups[0]
    assert (group["weight_decay"], group["lr"]) == (0.1, others.settings.learning_rate)
    for one, other in (("adam", "sgd"), ("sgd", "adam")):
        saved = descending(env, optimizer=one).checkpoint()
        with pytest.raises(CheckpointError, match=r"its optimizer has .*(betas|momentum).*, this one"):
            descending(env, optimizer=other).restore(saved)


def test_an_agent_that_was_loaded_to_answer_learns_as_one_that_is_new():
    network = {"name": "mlp", "hidden": [8], "batch_norm": True, "dropout": 0.2}
    for kind, settings in ((PPO, {"horizon": 16, "minibatch_size": 64}), (Reinforce, {})):
        new, loaded = (
            make(lambda env, k=kind, s=settings: k(env, k.Settings(network=network, **s)), total_steps=256)
            for _ in range(2)
        )
        loaded.agent.eval()
        new.fit()
        loaded.fit()
        same(new.agent.state_dict(), loaded.agent.state_dict())
        assert loaded.agent.dropouts[0].training
        assert not any(norm.training for norm in loaded.agent.batch_norms)


def test_another_length_of_the_run_is_told():
    saved = make().checkpoint()
    notes = make(total_steps=8192).restore(saved)
    assert any("total_steps was 4,096, is 8,192" in note for note in notes)


def test_an_environment_that_cannot_be_saved_is_reset_and_told(monkeypatch):
    monkeypatch.setattr(GymEnvironment, "_why_not_saved", lambda self: "its state is elsewhere")

    def env():
        return GymEnvironment(GymEnvironment.Settings(id="CartPole-v1"))

    part = make(env=env(), stop_at=1024)
    part.fit()
    rest = make(env=env())
    notes = rest.restore(part.checkpoint())
    assert any("environment was not saved (its state is elsewhere)" in note for note in notes)
    rest.fit()
    assert rest.steps == 4096


def test_returns_of_episodes_that_were_broken_off_are_forgotten(monkeypatch):
    monkeypatch.setattr(GymEnvironment, "_why_not_saved", lambda self: "its state is elsewhere")

    def trainer():
        env = GymEnvironment(GymEnvironment.Settings(id="CartPole-v1"))
        settings = PPO.Settings(horizon=16, minibatch_size=64, normalize_rewards=True)
        return make(lambda env: PPO(env, settings), env=env, stop_at=256)

    part, rest = trainer(), trainer()
    part.fit()
    assert part.agent.reward_normalizer.running.any()
    rest.restore(part.checkpoint())
    assert not rest.agent.reward_normalizer.running.any()


def test_an_evaluation_without_its_criterion_is_told():
    env = CartPole()
    trainer = make(env=env, total_steps=128)
    trainer.evaluator.env = CartPole()
    trainer.evaluator.env.score = lambda agent, num_episodes, seed: Report({"worth": 1.0})
    with pytest.raises(InputError, match=r"CartPole\.score returned worth; its criterion is 'return'"):
        trainer.fit()


def test_a_number_of_episodes_may_end_the_run():
    trainer = make(total_episodes=30, total_steps=100_000)
    trainer.fit()
    assert 30 <= trainer.episodes.count() < 100


def test_python_calls_of_a_vector_step_stay_few():
    """A guard of the cost by a count, since time is noisy: act, step and bookkeeping of one step of 8 environments."""

    trainer = make()
    trainer.update()
    with Calls() as calls:
        collect(trainer.agent, trainer.env, trainer.collector.obs, 64)
    assert calls.count / 64 < 44


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    from rlcore.evaluation import bootstrap_interval

    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(torch.randn(30, generator=generator, dtype=torch.float64), num_draws=500)
        covered += low < 0 < high
    assert 0.90 < covered / 300 < 0.98
    assert bootstrap_interval(torch.full((5,), 3.0)) == (3.0, 3.0)


class Slow(gymnasium.Env):
    """A signal comes in the middle of its step, if there is a number of steps left until one."""

    observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)
    left: int | None = None

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if Slow.left:  # as an environment is stepped when it is saved, too
            Slow.left -= 1
            if Slow.left == 0:
                signal.raise_signal(signal.SIGINT)
        return np.zeros(2, np.float32), 1.0, False, False, {}


gymnasium.register("Slow-v0", Slow, max_episode_steps=20)


@pytest.mark.parametrize("closing", [False, True])
def test_a_signal_ends_an_evaluation(tmp_path, closing):
    """Which may last for hours, where an episode does; what is saved is as it was before."""
    env = GymEnvironment(GymEnvironment.Settings(id="Slow-v0", num_envs=8))
    eval_every = 10**9 if closing else 128
    trainer = make(run_dir=tmp_path, total_steps=256, eval_every=eval_every, eval_episodes=8, env=env)
    evaluate, states = trainer.evaluate, []

    def signalled():
        Slow.left = 3
        states.append(torch.get_rng_state())
        return evaluate()

    trainer.evaluate = signalled
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.report.scalars == {}
    assert trainer.interrupted == signal.SIGINT
    assert Slow.left == 0
    saved = checkpoint.load(tmp_path / "checkpoints/last.pt")
    assert trainer.steps == saved["steps"] == (256 if closing else 128)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert trainer.agent.training
    Slow.left = None
    rest = make(run_dir=tmp_path, total_steps=256, eval_every=eval_every, eval_episodes=8, env=env)
    rest.restore(saved)
    rest.fit()
    rest.tracker.close()
    assert [step for step, _ in scalars(tmp_path)["eval/return"]] == ([256] if closing else [128, 256])


def test_a_signal_while_learning_leaves_out_the_evaluation(tmp_path):
    trainer = make(run_dir=tmp_path, total_steps=256, eval_every=128)
    learn = trainer.agent.learn
    trainer.agent.learn = lambda rollout: signal.raise_signal(signal.SIGTERM) or learn(rollout)
    trainer.agent.predict = None
    with pytest.raises(SystemExit, match="143"):
        trainer.fit()
    assert trainer.report.scalars == {}
    assert trainer.steps == 128


class Unscored(CartPole):
    def score(self, agent, num_episodes, seed):
        raise ZeroDivisionError


class Twinless(CartPole):
    def evaluation(self, num_envs):
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Unscored, Twinless, CartPole])
def test_what_was_learned_before_an_evaluation_fails_is_saved(tmp_path, monkeypatch, kind):
    env = kind()
    trainer = Trainer(ppo(env), env, total_steps=4096, run_dir=str(tmp_path), tracker=Tracker(str(tmp_path)))
    if kind is CartPole:
        monkeypatch.setattr(trainer.tracker, "report", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    saved = checkpoint.load(tmp_path / "checkpoints/last.pt")
    assert 0 < saved["steps"] == trainer.steps < 4096
    assert saved["learns"]["evaluation_pending"]  # so that it is made when the run goes on


class Breaks(CartPole):
    """Breaks in its tenth rollout of 16 steps."""

    num_steps = 0

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == 150:
            raise KeyError("boom")
        return super().step(action)


def test_what_was_learned_before_an_environment_breaks_is_saved(tmp_path):
    env = Breaks()
    trainer = Trainer(ppo(env), env, total_steps=4096, run_dir=str(tmp_path))
    with pytest.raises(KeyError, match="boom"):
        trainer.fit()
    saved = checkpoint.load(tmp_path / "checkpoints/last.pt")
    assert saved["steps"] == trainer.steps == 144 * env.num_envs
    again = Trainer(ppo(CartPole()), CartPole(), total_steps=4096)
    assert any("environment was not saved" in note for note in again.restore(saved))
    same(again.agent.state_dict(), trainer.agent.state_dict())
    again.fit()
    assert again.finished
    trainer.update()  # or it goes on where it is
    assert trainer.checkpoint()["learns"]["collector"]["env"] is not None


def test_a_failure_while_learning_saves_nothing(tmp_path, monkeypatch):
    trainer = make(run_dir=tmp_path)
    monkeypatch.setattr(trainer.agent, "learn", lambda rollout: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (None, "learn must return a dict of metrics, got NoneType"),
        ({"loss": torch.zeros(3)}, r"the metric loss must be 0-d, has shape \(3,\)"),
        ({"loss": torch.zeros((), requires_grad=True)}, "the metric loss has a graph: detach it"),
        ({"loss": "0"}, "the metric loss must be a number, got '0'"),
    ],
)
def test_what_learn_returns_is_looked_at_with_every_log(monkeypatch, metrics, told):
    trainer = make()
    monkeypatch.setattr(trainer.agent, "learn", lambda rollout: metrics if trainer.steps else {})
    with pytest.raises(InputError, match=told):
        trainer.fit()


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda action: action.float(), r"an action must have the kind of numbers of Discrete\(2\), got torch.float32"),
        (lambda action: action + 7, r"actions must be counted from 0 and lie in Discrete\(2\), got [78]"),
        (lambda action: action.int() * 0 - 1, r"actions must be counted from 0 and lie in Discrete\(2\), got -1"),
    ],
)
def test_actions_of_the_first_rollout_are_looked_at(monkeypatch, act, told):
    trainer = make()
    proper = trainer.agent.act

    def spoilt(obs, state=None):
        step = proper(obs, state)
        return step._replace(action=act(step.action))

    monkeypatch.setattr(trainer.agent, "act", spoilt)
    with pytest.raises(InputError, match=told):
        trainer.update()


class Doubles(CartPole):
    """Shows observations of another dtype than its space has."""

    def reset(self, **given):
        obs, info = super().reset(**given)
        return obs.double(), info


def test_what_made_the_first_rollout_fail_is_named(monkeypatch):
    env = Doubles()
    with pytest.raises(ContractError, match=r"obs must be torch\.float32, got torch\.float64"):
        Trainer(ppo(env), env, total_steps=4096).fit()
    trainer = make()
    monkeypatch.setattr(trainer.agent, "act", lambda obs, state=None: torch.zeros(len(obs), dtype=torch.int64))
    with pytest.raises(ContractError, match="act must return a Step, got Tensor"):
        trainer.update()
    with pytest.raises(ContractError, match="act must return a Step, got Tensor"):
        check_agent(trainer.agent, trainer.env)
    trainer = make()
    trainer.agent.body.num_features = 7
    trainer.agent.policy_head = torch.nn.Linear(7, 2)
    with pytest.raises(ContractError, match=r"MLP returns \[8, 64\], but its num_features is 7: it must return"):
        trainer.update()
    trainer = make()
    del trainer.agent.body.num_features
    check_agent(trainer.agent, trainer.env)
    env = GymEnvironment(GymEnvironment.Settings(id="Pendulum-v1", num_envs=8))
    trainer = Trainer(ppo(env), env, total_steps=4096)
    monkeypatch.setattr(trainer.agent, "act", lambda obs, state=None: Step(torch.zeros(len(obs))))
    with pytest.raises(ContractError, match=r"an action must have shape \(8, 1\), got \(8,\)"):
        trainer.update()


@pytest.mark.parametrize("horizon", [0, -1, 2.5, True])
def test_a_horizon_that_no_rollout_has_is_refused(horizon):
    def agent(env):
        made = ppo(env)
        made.horizon = horizon
        return made

    with pytest.raises(InputError, match=rf"PPO.horizon: must be a number of steps, or None .*; got {horizon}"):
        make(agent)
    env = CartPole()
    with pytest.raises(InputError, match="horizon"):
        check_agent(agent(env), env)
    horizon = np.int64(16)
    make(agent).update()


class Endless(gymnasium.Env):
    """Ends with action 1 alone; a reward of 1 a step."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, bool(action == 1), False, {}


gymnasium.register("Endless-v0", Endless)
gymnasium.register("Long-v0", Endless, max_episode_steps=30_000)


class Decided(Agent):
    """Ends its episodes from a step on, or never."""

    horizon = None

    def __init__(self, env, ends_at=None):
        super().__init__(env)
        self.ends_at, self.t = ends_at, 0

    def act(self, obs, state=None):
        self.t += 1
        return Step(torch.full((len(obs),), int(self.ends_at is not None and self.t >= self.ends_at)))

    def learn(self, rollout):
        self.seen = rollout
        return {}


def endless(num_envs, **settings):
    env = GymEnvironment(GymEnvironment.Settings(id="Endless-v0", num_envs=num_envs))
    return Trainer(Decided(env), env, Trainer.Settings(total_steps=1000, **settings))


def test_an_evaluation_cuts_episodes_that_do_not_end():
    trainer = endless(2, max_episode_steps=50)
    env = trainer.evaluation_env(2)
    report = play(trainer.agent, env, 5, seed=1)
    assert report.columns["length"] == [50] * 6  # three each, after as many resets
    assert report.columns["return"] == [50] * 6
    assert "some episodes of an evaluation had not ended after 50 steps" in report.remarks[0]
    trainer.agent.ends_at = trainer.agent.t + 21
    report = play(trainer.agent, env, 4, seed=1)
    assert report.columns["length"] == [21, 1] * 2
    assert report.remarks == ()


def test_an_evaluation_goes_on_where_only_some_episodes_are_cut():
    """Those of other environments are counted to their quota, none twice."""

    class Alternating(Decided):
        def act(self, obs, state=None):
            self.t += 1
            return Step(torch.tensor([0, self.t % 10 == 0]).long())

    env = GymEnvironment(GymEnvironment.Settings(id="Endless-v0", num_envs=2))
    env.max_episode_steps = 40
    report = play(Alternating(env), env, 6, seed=1)
    assert report.columns["length"] == [40, 40, 40, 10, 10, 10]


def test_a_rollout_of_whole_episodes_cuts_those_that_do_not_end():
    trainer = endless(3, max_episode_steps=50)
    with pytest.warns(UserWarning, match="some episodes of a rollout had not ended after 50 steps"):
        trainer.update()
    rollout = trainer.agent.seen
    assert len(rollout) == 50
    assert rollout.num_steps == 150
    assert rollout.truncated[-1].all()
    assert not rollout.truncated[:-1].any()
    assert not rollout.terminated.any()
    assert rollout.final_obs.shape == (3, 2)
    assert trainer.episodes.means()["length"] == 50


def test_the_bound_of_an_episode_is_at_least_the_environments_own():
    env = GymEnvironment(GymEnvironment.Settings(id="Long-v0"))
    assert env.max_episode_steps == 30_000
    assert GymEnvironment(GymEnvironment.Settings(id="CartPole-v1")).max_episode_steps == 27_000


def test_settings_that_were_changed_in_between_are_told():
    saved = make().checkpoint()
    other = make(agent=lambda env: PPO(env, PPO.Settings(horizon=16, minibatch_size=64, learning_rate=1e-2)))
    assert "agent.learning_rate was 0.0003, is 0.01" in other.restore(saved)
    assert "trainer.eval_episodes was 20, is 3" in make(eval_episodes=3).restore(saved)
    assert make().restore(saved) == []


class Spoilt(Target):
    """What it shows, rewards or shows last becomes NaN, at the fifth step."""

    def __init__(self, spoil):
        super().__init__(Target.Settings(num_envs=4))
        self.spoil, self.t = spoil, 0

    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        self.t += 1
        if self.t == 5:
            if self.spoil == "next":
                obs = obs.clone()
                obs[2] = math.nan
            if self.spoil == "reward":
                reward = reward.clone()
                reward[2] = math.nan
            if self.spoil == "last":
                terminated, truncated = torch.zeros_like(terminated), torch.ones_like(truncated)
                last = obs.clone()
                last[2] = math.nan
                info = {"final_obs": last}
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("spoil", "horizon", "told"),
    [
        ("next", 8, r"the observation is nan at step 22, environment 2 \(row 5 of the rollout, component \[0\]\)"),
        ("next", 5, r"the observation is nan at step 22, environment 2 \(behind the last row"),
        ("reward", 8, r"the reward is nan at step 18, environment 2 \(row 4 of the rollout\)$"),
        ("last", 8, r"the last observation of a truncated episode is nan at step 18, environment 2 \(row 4"),
        ("action", 8, r"the action is nan at step 0.*observations until then are finite: the agent diverged"),
    ],
)
def test_the_first_cause_of_what_is_not_finite_is_named(spoil, horizon, told):
    env = Spoilt(spoil)
    agent = PPO(env, PPO.Settings(horizon=horizon, minibatch_size=None))
    if spoil == "action":
        agent.policy_head.bias.data.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=told):
        Trainer(agent, env, total_steps=100).fit()


def test_a_divergence_of_a_supervised_run_is_the_agents():
    inputs = np.random.default_rng(0).normal(size=(256, 5))
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=32, action="values"), dataset=from_arrays(inputs, inputs[:, 0]))
    agent = Supervised(env, Supervised.Settings(optimizer="sgd", learning_rate=1e9))
    with pytest.raises(NonFiniteError, match=r"the (reward|action) is -?(nan|inf).*the agent diverged; try a smaller"):
        Trainer(agent, env, total_steps=10_000).fit()


class Interrupting(CartPole):
    """Sends its process a signal at its n-th step."""

    at = 10**9

    def step(self, actions):
        self.at -= 1
        if self.at == 0:
            signal.raise_signal(signal.SIGINT)
        return super().step(actions)


def test_a_rollout_of_whole_episodes_is_broken_off_and_begins_again_where_it_began():
    """At once, though it may take long; the run ends in the bits of an unbroken one."""
    unbroken = make(reinforce)
    unbroken.fit()
    env = Interrupting()
    env.at = 40
    broken = make(reinforce, env=env)
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    assert broken.interrupted == signal.SIGINT
    assert env.at == 0  # no further step was played
    saved = broken.checkpoint()
    resumed = make(reinforce, env=Interrupting())
    resumed.restore(saved)
    resumed.fit()
    same(unbroken.agent.checkpoint(), resumed.agent.checkpoint())
    same(unbroken.env.checkpoint(), resumed.env.checkpoint())


def test_a_report_that_does_not_fit_is_refused_before_training():
    with pytest.raises(InputError, match="report confusion: needs a data set of classes"):
        make(reports=[ReportChoice.model_validate("confusion")])
