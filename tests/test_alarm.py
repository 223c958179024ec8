"""An alarm of changed physics: its threshold, its windows, and the surprise that raises it."""

import math

import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rlcore import EnvSpec
from rlcore.agents.reinforce import Reinforce
from rlcore.envs.cartpole import CartPole
from rlcore.errors import InputError
from rlcore.evaluation import ReportChoice
from rlcore.rollout import Rollout, Step, collect_episodes
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.uncertainty.alarm import Alarm, highest_mean, moving_mean
from rlcore.uncertainty.alarm_report import episodes
from rlcore.uncertainty.dynamics import DynamicsEnsemble

NAN = math.nan


def test_moving_means_are_of_what_there_is():
    scores = torch.tensor([[1.0, NAN], [3.0, 4.0], [8.0, 6.0], [NAN, 2.0]])
    expected = torch.tensor([[1.0, NAN], [2.0, 4.0], [5.5, 5.0], [NAN, 4.0]])
    torch.testing.assert_close(moving_mean(scores, 2), expected, equal_nan=True)
    torch.testing.assert_close(moving_mean(scores, 9)[2], torch.tensor([4.0, 5.0]))
    torch.testing.assert_close(moving_mean(scores, 1), scores, equal_nan=True)
    assert highest_mean(scores, 2).tolist() == [5.5, 5.0]
    assert highest_mean(torch.full((2, 1), NAN), 2).tolist() == [-math.inf]


@pytest.mark.parametrize(("false_alarms", "threshold"), [(0.05, 19.0), (0.1, 18.0), (0.15, 17.0), (0.5, 10.0)])
def test_threshold_is_the_order_statistic(false_alarms, threshold):
    scores = torch.arange(1.0, 20).flip(0)[None]
    assert Alarm(scores, false_alarms).threshold == threshold


def test_false_alarms_are_as_many_as_asked_for():
    """Of exchangeable episodes a new one is above the k-th of n with probability 1 - k / (n + 1), here 1 - 18 / 20."""
    draws = torch.randn(3000, 7, 20, generator=torch.Generator().manual_seed(1))
    raised = [Alarm(one[:, :19], 0.1, 3).first(one[:, 19:]).item() > 0 for one in draws]
    assert sum(raised) / len(raised) == pytest.approx(0.1, abs=0.02)


def test_step_by_step_it_is_raised_where_it_is_in_whole_episodes():
    generator = torch.Generator().manual_seed(2)
    alarm = Alarm(torch.rand(8, 40, generator=generator), 0.2, 4)
    lengths = [5, 1, 9, 3]
    each = [torch.rand(length, 1, generator=generator) * 1.3 for length in lengths]
    each[2][4] = NAN
    expected = torch.cat([moving_mean(scores, 4) > alarm.threshold for scores in each])
    ends = torch.tensor(lengths).cumsum(0) - 1
    raised = [alarm(score, torch.tensor([step in ends])) for step, score in enumerate(torch.cat(each))]
    assert 0 < expected.sum() < len(expected)
    assert torch.equal(torch.stack(raised), expected)


def test_first_alarm_is_a_number_of_steps():
    alarm = Alarm(torch.ones(1, 19), 0.05, 2)
    scores = torch.tensor([[0.0, 9.0, 1.0], [1.0, NAN, 1.0], [4.0, NAN, 1.0]])
    assert alarm.first(scores).tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_alarms": 0.05}, "false_alarms: 0.05 takes 19 nominal episodes or more, got 18"),
        ({"false_alarms": 1.0}, "false_alarms: must be in"),
        ({"false_alarms": 0.1, "window": 0}, "window: must be at least 1"),
    ],
)
def test_impossible_alarms_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Alarm(torch.zeros(3, 18), **settings)


def slide(push=0.1, seed=1, discrete=True, unit=1.0, num_envs=30, num_steps=20):
    """A thing on ice, pushed to a side or the other; of the first environment the last step is cut, others fall off."""
    generator = torch.Generator().manual_seed(seed)
    x, rollout = torch.randn(num_envs, 2, generator=generator), Rollout()
    for t in range(num_steps):
        action = torch.randint(2, (num_envs,), generator=generator)
        side = (2 * action - 1)[:, None] * torch.tensor([1.0, -0.5])
        after = x + push * side + 0.01 * torch.randn(num_envs, 2, generator=generator)
        last = torch.full((num_envs,), t == num_steps - 1)
        first = torch.arange(num_envs) == 0
        given = action if discrete else (2.0 * action - 1)[:, None]
        flags = last & ~first, last & first
        info = {"final_obs": unit * after} if last.any() else {}
        rollout.append(unit * x, Step(given), torch.ones(num_envs), *flags, info)
        x = after
    rollout.last_obs = torch.full_like(x, 1000.0)  # the next episode's, which is no successor
    actions = Discrete(2) if discrete else Box(-1, 1, (1,))
    return rollout, EnvSpec(num_envs, Box(-math.inf, math.inf, (2,)), actions, torch.device("cpu"))


@pytest.mark.parametrize("discrete", [True, False])
def test_other_physics_surprise_more(discrete):
    rollout, spec = slide(discrete=discrete)
    torch.manual_seed(1)
    model = DynamicsEnsemble(spec, rollout, num_updates=500)
    usual, stronger, weaker = (model.surprise(slide(push, seed=2, discrete=discrete)[0]) for push in (0.1, 0.15, 0.05))
    assert usual.nanmean() < 1.2, "z^2 is about 1 where nothing has changed"
    assert usual[-1, 0] < 5, "the successor of a step that was cut is not the next episode's first observation"
    assert usual[-1, 1:].isnan().all(), "a step that ended its episode has no successor"
    assert not usual[:-1].isnan().any()
    highest = [highest_mean(surprise, 8) for surprise in (usual, stronger, weaker)]
    assert highest[0].max() < min(highest[1].min(), highest[2].min())


def test_surprise_has_no_unit():
    surprises = []
    for unit in (1.0, 1000.0):
        rollout, spec = slide(unit=unit)
        torch.manual_seed(1)
        surprises.append(DynamicsEnsemble(spec, rollout, num_updates=20).surprise(rollout))
    torch.testing.assert_close(*surprises, rtol=1e-2, atol=1e-2, equal_nan=True)


def test_what_cannot_be_predicted_is_refused():
    rollout, spec = slide()
    images = spec._replace(single_observation_space=Box(0, 255, (2,), "uint8"))
    with pytest.raises(InputError, match="Box of floats"):
        DynamicsEnsemble(images, rollout)
    ended, _ = slide(num_envs=3, num_steps=1)
    ended[0].terminated[:] = True
    with pytest.raises(InputError, match="no step of these episodes has a successor"):
        DynamicsEnsemble(spec, ended)


class Leaner(Reinforce):
    """Explores to the right, and knows that left is better."""

    def act(self, obs, state=None):
        return Step(torch.ones(len(obs), dtype=torch.int64))

    def predict(self, obs, state=None):
        return Step(torch.zeros(len(obs), dtype=torch.int64))


def test_whole_episodes_may_be_played_by_the_best_actions():
    env = CartPole(CartPole.Settings(num_envs=3))
    obs, _ = env.reset(seed=1)
    assert collect_episodes(Leaner(env), env, obs, deterministic=True).action.eq(0).all()
    assert collect_episodes(Leaner(env), env, env.reset()[0]).action.eq(1).all()


def test_episodes_leave_the_generators_of_training_alone():
    env = CartPole(CartPole.Settings(num_envs=3))
    agent = Reinforce(env)
    before = torch.get_rng_state()
    first, again = episodes(agent, env, 5), episodes(agent, env, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.obs, again.obs)


def report(env, agent, **settings):
    maker = ReportChoice.model_validate({"name": "alarm", "num_updates": 300, **settings}).make()
    maker.check(agent, env)
    return maker(agent, env, env.score(agent, env.num_envs, 1))


def test_report_tells_of_each_change():
    env = CartPole(CartPole.Settings(num_envs=20))
    agent = Reinforce(env)
    before = torch.get_rng_state()
    found = report(env, agent, changed=[{"gravity": 9.8}, {"force_mag": 30.0, "length": 0.6}])
    assert torch.equal(torch.get_rng_state(), before)
    _, *rows = found.text.splitlines()
    assert [line.split()[0] for line in rows] == ["nominal", "gravity=9.8", "force_mag=30.0,length=0.6"]
    for name in ("nominal", "gravity=9.8"):
        assert 0.2 < found.scalars[f"{name}_roc_area"] < 0.8
        assert found.scalars[f"{name}_raised"] < 0.5
    changed = {key: found.scalars[f"force_mag=30.0,length=0.6_{key}"] for key in ("raised", "roc_area", "delay")}
    assert changed == {"raised": 1.0, "roc_area": 1.0, "delay": pytest.approx(1, abs=2)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"gravitas": 1}, "changed.gravitas: unknown key"), ({"length": "long"}, "report alarm: changed.length")],
)
def test_wrong_changes_are_one_line(changed, message):
    env = CartPole(CartPole.Settings(num_envs=20))
    with pytest.raises(InputError, match=message) as error:
        report(env, Reinforce(env), changed=[changed])
    assert "\n" not in str(error.value)


def test_data_sets_have_no_physics():
    data = from_arrays(torch.zeros(4, 2), torch.arange(4) % 2)
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=2, test_fraction=0), dataset=data)
    with pytest.raises(InputError, match="no physics"):
        ReportChoice.model_validate({"name": "alarm", "changed": [{}]}).make().check(Reinforce, env)
