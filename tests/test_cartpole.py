import gymnasium
import numpy as np
import pytest
import torch

from rlcore import check_environment
from rlcore.envs import cartpole
from rlcore.envs.cartpole import ANGLE_LIMIT, POSITION_LIMIT, CartPole
from rlcore.errors import InputError


@pytest.fixture(params=["numpy", "torch"])
def namespace(request, monkeypatch):
    """Both ways in which the expressions are evaluated; the second is a GPU's."""
    if request.param == "torch":
        monkeypatch.setattr(cartpole, "_array_namespace", lambda device: torch)


def make(num_envs, state=None, **settings):
    env = CartPole(CartPole.Settings(num_envs=num_envs, **settings))
    env.reset(seed=1)
    if state is not None:
        env._state = env._array(torch.tensor(np.ascontiguousarray(state)))
    return env


def balance(obs):
    """A linear policy that balances for 500 steps."""
    return (3 * obs[..., 2] + obs[..., 3] + 0.1 * obs[..., 0] + 0.3 * obs[..., 1] > 0).astype(np.int64)


def episode(seed, policy):
    """gymnasium's states before each step, actions, observations after, and its flags."""
    env, rng = gymnasium.make("CartPole-v1"), np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    rows = []
    while True:
        action = int(policy(obs)) if policy else int(rng.integers(2))
        state = np.array(env.unwrapped.state)
        obs, _, terminated, truncated, _ = env.step(action)
        rows.append((state, action, obs, terminated, truncated))
        if terminated or truncated:
            return rows


@pytest.fixture(scope="module")
def random_episodes():
    return [episode(seed, None) for seed in range(1000)]


@pytest.fixture(scope="module")
def balancing_episodes():
    return [episode(seed, balance) for seed in range(100)]


def test_single_steps_equal_gymnasiums(namespace, random_episodes, balancing_episodes):
    rows = [row for rows in random_episodes + balancing_episodes for row in rows][:50_000]
    assert len(rows) == 50_000
    state, action, expected, terminated, _ = (np.stack(column) for column in zip(*rows, strict=True))
    env = make(len(rows), state.T)
    _, _, ours, _, info = env.step(torch.from_numpy(action))
    final_obs = info["final_obs"].numpy()
    np.testing.assert_allclose(final_obs, expected, atol=1e-6, rtol=0)
    distance = np.minimum(abs(abs(final_obs[:, 0]) - POSITION_LIMIT), abs(abs(final_obs[:, 2]) - ANGLE_LIMIT))
    assert ((ours.numpy() == terminated) | (distance < 1e-6)).all()
    assert terminated.any()


@pytest.mark.parametrize("which", ["random", "balancing"])
def test_episodes_replayed_open_loop_end_at_the_same_step_with_the_same_flag(
    namespace, which, random_episodes, balancing_episodes
):
    episodes = random_episodes if which == "random" else balancing_episodes
    env = make(len(episodes), np.stack([rows[0][0] for rows in episodes]).T)
    ended = [None] * len(episodes)
    for t in range(max(map(len, episodes))):
        actions = [rows[t][1] if t < len(rows) else 0 for rows in episodes]
        _, _, terminated, truncated, _ = env.step(torch.tensor(actions))
        for n in (terminated | truncated).nonzero().flatten().tolist():
            ended[n] = ended[n] or (t + 1, bool(terminated[n]), bool(truncated[n]))
    assert ended == [(len(rows), rows[-1][3], rows[-1][4]) for rows in episodes]
    if which == "balancing":
        assert {len(rows) for rows in episodes} == {500}


def test_contract(namespace):
    check_environment(CartPole(CartPole.Settings(num_envs=5, max_episode_steps=30)))


def test_an_ended_episode_is_followed_by_a_new_one(namespace):
    env = make(3)
    for _ in range(40):
        obs, _, terminated, _, info = env.step(torch.zeros(3, dtype=torch.int64))
        if terminated.any():
            assert (obs[terminated].abs() <= 0.05).all()
            assert (info["final_obs"][terminated, 2].abs() > ANGLE_LIMIT).all()
            assert torch.equal(obs[~terminated], info["final_obs"][~terminated])
            return
    pytest.fail("pushing left for 40 steps ended no episode")


def test_both_flags_may_be_set_in_one_step(namespace):
    state = np.zeros((4, 1))
    state[2] = ANGLE_LIMIT + 0.1
    env = make(1, state, max_episode_steps=1)
    _, _, terminated, truncated, _ = env.step(torch.tensor([1]))
    assert terminated.item()
    assert truncated.item()


def test_constants_may_differ_by_environment(namespace):
    state = np.tile(np.array([[0.01], [0.0], [0.02], [0.0]]), 2)
    both = make(2, state, length=[0.5, 1.5], gravity=[9.8, 3.7])
    obs, *_ = both.step(torch.ones(2, dtype=torch.int64))
    for n, (length, gravity) in enumerate([(0.5, 9.8), (1.5, 3.7)]):
        alone = make(1, state[:, :1], length=length, gravity=gravity)
        torch.testing.assert_close(alone.step(torch.ones(1, dtype=torch.int64))[0][0], obs[n])
    assert not torch.equal(obs[0], obs[1])


def test_the_twin_for_evaluation_repeats_constants_that_differ():
    twin = make(2, length=[0.5, 1.5]).evaluation(5)
    assert twin.settings.length == [0.5, 1.5, 0.5, 1.5, 0.5]
    assert twin.num_envs == 5


def test_constants_of_another_number_are_refused():
    with pytest.raises(InputError, match=r"env.length: 3 values for num_envs=2"):
        make(2, length=[0.5, 0.5, 0.5])


def test_a_saved_environment_goes_on_with_the_same_bits(namespace):
    one, two = make(4), make(4)
    actions = torch.randint(2, (80, 4))
    for action in actions[:40]:
        one.step(action)
    two.restore(one.checkpoint())
    for action in actions[40:]:
        for a, b in zip(one.step(action)[:4], two.step(action)[:4], strict=True):
            assert torch.equal(a, b)
