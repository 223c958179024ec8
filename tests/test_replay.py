"""Transitions of a rollout and of a replay, compared with a search through all that was seen."""

import copy

import numpy as np
import pytest
import torch

from rlcore import InputError, checkpoint
from rlcore.errors import CheckpointError
from rlcore.replay import SumTree, TransitionReplay
from rlcore.returns import n_step_returns
from rlcore.rollout import Rollout, Step

GAMMA = 0.9


class Seen:
    """Rollouts at random, with both flags, and all that was seen, by environment.

    An observation is [N, 2]: its own number, and the environment's; the true successor of a cut step is 0.5 more than
    the number of that step.
    """

    def __init__(self, num_envs=3, seed=0, ends=0.3, dtype=torch.float32):
        self.rng, self.num_envs, self.ends, self.dtype = np.random.default_rng(seed), num_envs, ends, dtype
        self.history = [[] for _ in range(num_envs)]  # (number, reward, terminated, cut)
        self.count = 0
        self.obs = self._observe()

    def _observe(self):
        numbers = torch.tensor([[float(self.count), n] for n in range(self.num_envs)], dtype=self.dtype)
        self.count += 1
        return numbers

    def rollout(self, T):
        made = Rollout()
        for _ in range(T):
            reward = torch.tensor(self.rng.normal(size=self.num_envs), dtype=torch.float32)
            terminated, truncated = (torch.tensor(self.rng.random(self.num_envs) < self.ends / 2) for _ in range(2))
            for n in range(self.num_envs):
                cut = bool(truncated[n] and not terminated[n])
                self.history[n].append((self.obs[n, 0].item(), reward[n].item(), bool(terminated[n]), cut))
            final = self.obs.clone()
            final[:, 0] += 0.5
            step = Step(self.obs[:, 0].long())
            made.append(self.obs, step, reward, terminated, truncated, {"final_obs": final})
            self.obs = self._observe()
        made.last_obs = self.obs
        return made

    def transition(self, env, number, n, newest=None):
        """What a transition from the observation of that number is to be: reward, next number, terminated, discount."""
        history = self.history[env][: None if newest is None else newest + 1]
        (t,) = (i for i, row in enumerate(history) if row[0] == number)
        total = 0.0
        for m in range(n):
            row = history[t + m]
            total += GAMMA**m * row[1]
            if row[2] or row[3] or t + m == len(history) - 1:
                break
        follows = row[0] + 0.5 if row[3] else row[0] + 1
        return total, follows, row[2], GAMMA ** (m + 1)


def check(drawn, seen, n):
    assert len(drawn.reward) > 0
    for b in range(len(drawn.reward)):
        number, env = drawn.obs[b].tolist()
        reward, follows, terminated, discount = seen.transition(int(env), number, n)
        assert drawn.action[b] == int(number)
        assert drawn.reward[b].item() == pytest.approx(reward, abs=1e-5)
        assert drawn.terminated[b].item() == terminated
        assert drawn.discount[b].item() == pytest.approx(discount, abs=1e-6)
        if not terminated:
            assert drawn.next_obs[b].tolist() == [follows, env]


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("T", [1, 4, 20])
def test_transitions_of_a_rollout_are_those_found_by_hand(n, T):
    seen = Seen(seed=n)
    made = seen.rollout(T).transitions(n, GAMMA)
    assert len(made.reward) == 3 * T
    check(made, seen, n)


def test_n_step_returns_at_an_end_and_at_the_last_row():
    reward, done = torch.tensor([[1.0], [2.0], [4.0], [8.0]]), torch.tensor([[False], [True], [False], [False]])
    total, steps = n_step_returns(reward, done, 3, 0.5)
    assert total.flatten().tolist() == [2.0, 2.0, 8.0, 8.0]
    assert steps.flatten().tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize(("T", "alpha"), [(1, None), (4, None), (1, 0.6), (4, 0.6)])
def test_what_a_replay_draws_is_what_was_seen(n, T, alpha):
    seen = Seen(seed=10 * n + T)
    replay = TransitionReplay(24, 3, n, GAMMA, alpha)
    torch.manual_seed(1)
    for _ in range(60 // T):
        replay.add(seen.rollout(T))
        drawn = replay.sample(64)
        check(drawn, seen, n)
        newest = seen.count - 2  # of the steps made
        assert drawn.obs[:, 0].min() >= newest - 8 + 1  # 24 steps of 3 environments
    every = {tuple(x) for x in replay.sample(2000).obs.tolist()}
    assert every == {(float(t), float(e)) for t in range(newest - 7, newest + 1) for e in range(3)}
    assert len(replay) == 24


def test_windows_grow_as_more_is_seen():
    seen = Seen(num_envs=1, ends=0.0)
    replay = TransitionReplay(10, 1, 3, GAMMA)
    replay.add(seen.rollout(2))
    assert sorted(set(replay.sample(50).discount.tolist())) == pytest.approx([GAMMA**2, GAMMA])
    replay.add(seen.rollout(2))
    drawn = replay.sample(50)
    assert drawn.discount[drawn.obs[:, 0] < 2].tolist() == pytest.approx([GAMMA**3] * int((drawn.obs[:, 0] < 2).sum()))


@pytest.mark.parametrize("alpha", [None, 0.7])
@pytest.mark.parametrize("rollouts", [3, 17])
def test_a_replay_goes_on_from_its_state_with_the_same_draws(alpha, rollouts, tmp_path):
    seen = Seen(seed=5)
    replay = TransitionReplay(24, 3, 3, GAMMA, alpha)
    for _ in range(rollouts):
        replay.add(seen.rollout(2))
        if alpha:
            drawn = replay.sample(8)
            replay.update(drawn.place, drawn.reward)
    checkpoint.save(tmp_path / "replay.pt", replay.state_dict())
    twin = TransitionReplay(24, 3, 3, GAMMA, alpha)
    twin.load_state_dict(checkpoint.load(tmp_path / "replay.pt"))
    for _ in range(20):
        rollout = seen.rollout(2)
        drawn = []
        for one in (replay, twin):
            one.add(rollout)
            torch.manual_seed(7)
            drawn.append(one.sample(32))
            if alpha:
                one.update(drawn[-1].place, drawn[-1].reward)
        for a, b in zip(*drawn, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
        check(drawn[0], seen, 3)


@pytest.mark.parametrize("capacity", [9, 60])
@pytest.mark.parametrize("alpha", [None, 0.7])
def test_the_latest_steps_go_into_a_replay_of_another_size(capacity, alpha):
    seen = Seen(seed=6)
    replay = TransitionReplay(24, 3, 1, GAMMA, alpha)
    for _ in range(15):
        replay.add(seen.rollout(2))
    other = TransitionReplay(capacity, 3, 1, GAMMA, alpha)
    other.load_state_dict(copy.deepcopy(replay.state_dict()))
    assert len(other) == min(capacity, 24)
    for _ in range(3):
        drawn = other.sample(200)
        check(drawn, seen, 1)
        assert drawn.obs[:, 0].min() == (22 if capacity == 60 else seen.count - 1 - 3)
        other.add(seen.rollout(1))
    fewer = TransitionReplay(24, 2, 1, GAMMA, alpha)
    fewer.load_state_dict(replay.state_dict())
    assert len(fewer) == 0  # of other environments: it begins anew
    with pytest.raises(CheckpointError, match="stacks or priorities"):
        TransitionReplay(24, 3, 1, GAMMA, None if alpha else 0.5).load_state_dict(replay.state_dict())


def test_abandoned_episodes_are_not_followed_by_the_next_ones():
    seen = Seen(num_envs=2, ends=0.0)
    replay = TransitionReplay(100, 2, 3, GAMMA)
    replay.add(seen.rollout(3))
    left = seen.obs[:, 0].clone()
    replay.end_episodes()
    seen.count += 100  # other observations
    seen.obs = seen._observe()
    replay.add(seen.rollout(2))
    drawn = replay.sample(200)
    old = drawn.obs[:, 0] < 3
    assert torch.equal(drawn.next_obs[old][:, 0], left[:1].expand(int(old.sum())))
    assert not drawn.terminated.any()


def test_every_observation_is_kept_once_in_its_own_dtype():
    seen = Seen(num_envs=4, ends=0.0, dtype=torch.uint8)
    seen.obs = torch.zeros(4, 84, 84, dtype=torch.uint8)
    seen._observe = lambda: torch.zeros(4, 84, 84, dtype=torch.uint8)
    rollout = Rollout()
    for _ in range(10):
        flags = torch.zeros(4, dtype=torch.bool)
        rollout.append(seen.obs, Step(torch.zeros(4, dtype=torch.int64)), torch.zeros(4), flags, flags, {})
    rollout.last_obs = seen.obs
    replay = TransitionReplay(400, 4)
    replay.add(rollout)
    used = sum(x.numel() * x.element_size() for x in vars(replay._rows).values() if x is not None)
    assert replay._rows.obs.dtype == torch.uint8
    assert used < 1.05 * 400 * (84 * 84 + 8 + 4 + 1)


def image_rollouts(num, F=4, N=2, seed=3, black=False):
    """Rollouts of 1 to 3 rows whose observations are stacks of F images, of episodes that end now and then."""
    rng = np.random.default_rng(seed)

    def first():
        stack = image().expand(N, F, 3, 3).clone()
        if black:
            stack[:, :-1] = 0
        return stack

    def image():
        return torch.tensor(rng.integers(0, 255, (N, 1, 3, 3)), dtype=torch.uint8)

    stack = first()
    for _ in range(num):
        rollout = Rollout()
        for _ in range(int(rng.integers(1, 4))):
            after = torch.cat([stack[:, 1:], image()], 1)
            terminated, truncated = (torch.tensor(rng.random(N) < 0.15) for _ in range(2))
            flags = terminated, truncated
            rollout.append(stack, Step(torch.zeros(N, dtype=torch.int64)), torch.zeros(N), *flags, {"final_obs": after})
            begins = (terminated | truncated)[:, None, None, None]
            stack = torch.where(begins, first(), after)
        rollout.last_obs = stack
        yield rollout


@pytest.mark.parametrize("black", [False, True])
def test_stacks_of_images_are_kept_once_and_come_back(black):
    F, N = 4, 2
    replay, plain = TransitionReplay(40, N, 2, GAMMA, frames=F), TransitionReplay(40, N, 2, GAMMA)
    for rollout in image_rollouts(50, F, N, black=black):
        drawn = []
        for one in (plain, replay):
            one.add(rollout)
        torch.manual_seed(1)
        first = replay._num_unreadable * N
        age = torch.randint(first, replay.size * N, (64,))
        for one in (plain, replay):
            place = (age + (one.head - one.size) % one.num_rows * N) % (one.num_rows * N)
            drawn.append(_at(one, place, age))
        live = ~drawn[0].terminated
        assert torch.equal(drawn[0].obs, drawn[1].obs)
        assert torch.equal(drawn[0].next_obs[live], drawn[1].next_obs[live])
    assert replay._rows.obs.shape == (21, N, 3, 3)
    images = replay._rows.obs
    for capacity in (20, 80):
        other = TransitionReplay(capacity, N, 2, GAMMA, frames=F)
        other.load_state_dict(copy.deepcopy(replay.state_dict()))
        drawn, whole = other.sample(400), {x.numpy().tobytes() for x in plain._rows.obs.flatten(0, 1)}
        assert all(x.numpy().tobytes() in whole for x in drawn.obs)
    assert images.shape == (21, N, 3, 3)
    twin = TransitionReplay(40, N, 2, GAMMA, frames=F)
    twin.load_state_dict(copy.deepcopy(replay.state_dict()))
    torch.manual_seed(2)
    expected = replay.sample(30)
    torch.manual_seed(2)
    assert torch.equal(twin.sample(30).obs, expected.obs)


@pytest.mark.parametrize(("alpha", "black"), [(None, False), (0.7, False), (0.7, True)])
def test_stacks_of_an_episode_whose_beginning_was_not_saved_are_not_drawn(alpha, black):
    rollouts = list(image_rollouts(60, black=black))
    before, after = (TransitionReplay(40, 2, 2, GAMMA, alpha, frames=4) for _ in range(2))
    before.saves_steps = False
    for rollout in rollouts[:5]:
        before.add(rollout)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    seen: set[bytes] = set()
    for rollout in rollouts[5:]:
        seen |= {x.numpy().tobytes() for x in rollout.obs.flatten(0, 1)}
        after.add(rollout)
        if after.size <= 3:
            with pytest.raises(InputError, match="the replay is empty"):
                after.sample(1)
        else:
            assert {x.numpy().tobytes() for x in after.sample(100).obs} <= seen


def _at(replay, place, age):
    """What a replay draws at given places."""
    inner = torch.randint
    torch.randint = lambda *_, **__: age
    try:
        return replay.sample(len(place))
    finally:
        torch.randint = inner


@pytest.mark.parametrize("T", [1, 3])
def test_stacks_that_are_none_are_refused(T):
    seen = Rollout()
    flags = torch.zeros(1, dtype=torch.bool)
    for k in range(T):
        seen.append(torch.full((1, 4, 2, 2), float(k)), Step(torch.zeros(1)), torch.zeros(1), flags, flags, {})
    seen.last_obs = torch.full((1, 4, 2, 2), 9.0)
    with pytest.raises(InputError, match=r"agent\.frames: an observation must be a stack"):
        TransitionReplay(20, 1, frames=4).add(seen)
    with pytest.raises(InputError, match=r"must be a stack of 3 images|3 images of a stack .* got shape \[4, 2, 2\]"):
        TransitionReplay(20, 1, frames=3).add(seen)


def test_priorities_follow_another_exponent():
    seen = Seen(num_envs=1, ends=0.0)
    replay, other = TransitionReplay(8, 1, alpha=1.0), TransitionReplay(8, 1, alpha=0.5)
    replay.add(seen.rollout(4))
    replay.update(torch.arange(4), torch.tensor([1.0, 4.0, 9.0, 16.0]))
    other.load_state_dict(replay.state_dict())
    assert other._tree[torch.arange(4)].tolist() == pytest.approx([1, 2, 3, 4], rel=1e-4)
    assert other._largest.item() == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize("size", [1, 100, 128, 129, 20_000])
def test_the_sum_tree_is_a_cumulative_sum(size):
    rng = np.random.default_rng(0)
    tree, plain = SumTree(size), np.zeros(size)
    for _ in range(20):
        places = rng.permutation(size)[: max(1, size // 7)]
        numbers = rng.exponential(size=len(places)) * (rng.random(len(places)) < 0.8)
        plain[places] = numbers
        tree.update(torch.tensor(places), torch.tensor(numbers))
        assert tree.total.item() == pytest.approx(plain.sum())
        if not plain.sum():
            continue
        mass = torch.tensor(rng.random(200) * plain.sum())
        found = tree.find(mass)
        expected = np.minimum(np.searchsorted(plain.cumsum(), mass.numpy(), side="right"), size - 1)
        assert (plain[found.numpy()] > 0).all()
        assert (found.numpy() == expected).mean() > 0.99  # but for rounding at a border


def test_the_ends_of_a_sum_tree_are_found():
    tree = SumTree(300)
    tree.update(torch.tensor([0, 299]), torch.tensor([1.0, 1.0]))
    assert tree.find(torch.tensor([0.0, 0.999, 1.0, 1.9999999, 2.0], dtype=torch.float64)).tolist() == [
        0,
        0,
        299,
        299,
        299,
    ]


def test_priorities_are_those_of_the_paper():
    """P is p^alpha / sum, a weight (num P)^-beta over the largest of the batch; a new step has the largest p."""
    seen = Seen(num_envs=1, ends=0.0)
    alpha, beta = 0.5, 0.4
    replay = TransitionReplay(4, 1, 1, GAMMA, alpha)
    replay.add(seen.rollout(4))
    replay.update(torch.arange(4), torch.tensor([0.0, 1.0, -4.0, 9.0]))
    p = (np.array([0.0, 1.0, 4.0, 9.0]) + 1e-6) ** alpha
    drawn = replay.sample(60_000, beta)
    share = np.bincount(drawn.place.numpy(), minlength=4)[:4] / 60_000
    assert share == pytest.approx(p / p.sum(), abs=2e-3)
    weight = (4 * p / p.sum()) ** -beta
    in_batch = weight[np.unique(drawn.place.numpy())].max()
    assert drawn.weight.numpy() == pytest.approx((weight / in_batch)[drawn.place.numpy()], rel=1e-5)
    replay.add(seen.rollout(1))
    assert replay._tree[torch.arange(5)].tolist() == pytest.approx([0, p[1], p[2], p[3], p[3]])  # the oldest left


@pytest.mark.parametrize(("change", "match"), [
    (lambda: TransitionReplay(4, 4), "agent.replay_size: 4 is too small for 4 environments"),
    (lambda: TransitionReplay(10, 1).sample(1), "the replay is empty"),
    (lambda: TransitionReplay(10, 1).update(torch.zeros(1), torch.zeros(1)), "drawn uniformly; set alpha"),
    (lambda: TransitionReplay(3, 1).add(Seen(1).rollout(4)), "takes no rollout of 4 rows"),
])  # fmt: skip
def test_bad_use_is_one_line(change, match):
    with pytest.raises(InputError, match=match):
        change()


def test_an_observation_of_another_dtype_and_a_priority_that_is_no_number_are_one_line():
    seen, other = Seen(), Seen(dtype=torch.float64)
    replay = TransitionReplay(30, 3, alpha=1.0)
    replay.add(seen.rollout(2))
    with pytest.raises(
        InputError, match=r"TransitionReplay.add: .* is a tensor of torch.float64 .* not a tensor of torch.float32"
    ):
        replay.add(other.rollout(2))
    with pytest.raises(InputError, match="a priority is no finite number"):
        replay.update(torch.zeros(1, dtype=torch.int64), torch.tensor([torch.nan]))
