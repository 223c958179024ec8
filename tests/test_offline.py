"""Learning from recorded episodes: what is drawn, losses by hand, what is learned, from offline to online."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given
from hypothesis import strategies as st
from test_docs import blocks

from rlcore import InputError, Trainer, collect, registry
from rlcore.agents.bc import BC
from rlcore.agents.cql import CQL
from rlcore.agents.discrete_cql import DiscreteCQL
from rlcore.agents.dqn import DQN
from rlcore.agents.iql import IQL, expectile_loss
from rlcore.agents.ppo import PPO
from rlcore.agents.sac import SAC
from rlcore.agents.supervised import Supervised
from rlcore.agents.td3 import TD3
from rlcore.agents.td3_bc import TD3BC
from rlcore.envs.cartpole import CartPole
from rlcore.envs.offline import OfflineEnv
from rlcore.envs.probes import Identity, Target, TwoStep
from rlcore.experience import Episode, Recorded
from rlcore.experience.description import describe
from rlcore.rollout import Transition
from rlcore.supervised.environment import SupervisedEnv
from rlcore.warm_start import init_from

MLP = {"name": "mlp", "hidden": [32], "activation": "relu", "init": "torch"}
CONTINUOUS = [TD3BC, IQL, CQL]
SHORT = {PPO: {"horizon": 8, "minibatch_size": 32}}
OBS, CHOICE, NUMBER = Box(-np.inf, np.inf, (1,), np.float32), Discrete(3), Box(-2.0, 2.0, (1,), np.float32)


def made(kind, env, **settings):
    torch.manual_seed(1)
    return kind(env, kind.Settings.model_validate({"network": MLP, **settings}))


def offline(recorded, **settings):
    return OfflineEnv(OfflineEnv.Settings.model_validate(settings), recorded=recorded)


def counted(lengths, endings, action_space=CHOICE):
    """Episodes whose observations count on, 100 e, 100 e + 1, ... of episode e; so do rewards and actions."""
    episodes = []
    for e, (T, (terminated, truncated)) in enumerate(zip(lengths, endings, strict=True)):
        obs = np.arange(T + 1, dtype=np.float32)[:, None] + 100 * e
        last = np.arange(T) == T - 1
        action = np.arange(T) % 3 if isinstance(action_space, Discrete) else np.zeros((T, 1), np.float32)
        episodes.append(Episode(obs, action, obs[:-1, 0] + 0.5, last & terminated, last & truncated))
    return Recorded.of(episodes, OBS, action_space)


def one_step(num, reward, action, obs=None, action_space=NUMBER, observation_space=OBS):
    """Episodes of one step."""
    obs = torch.rand(num, 1) * 2 - 1 if obs is None else obs
    done = torch.ones(num, dtype=torch.bool)
    rows = zip(obs, action, reward, strict=True)
    episodes = [Episode(torch.stack([s, s]), a[None], r[None], done[:1], ~done[:1]) for s, a, r in rows]
    return Recorded.of(episodes, observation_space, action_space)


def targets(num=2_000, spread=1.0):
    """Target's episodes: an action near what is shown, reward minus the squared error."""
    obs = torch.rand(num, 1) * 2 - 1
    action = (obs + spread * torch.randn(num, 1)).clamp(-2, 2)
    return one_step(num, -(action - obs).square().squeeze(1), action, obs, observation_space=Box(-1.0, 1.0, (1,)))


endings = st.sampled_from([(True, False), (False, True), (True, True), (False, False)])


# --- what is drawn ---


@given(
    st.lists(st.tuples(st.integers(1, 6), endings), min_size=1, max_size=5),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2**20),
)
def test_windows_are_what_was_recorded(episodes, num_steps, n, seed):
    """Every valid row, and every n-step transition, compared with a walk along its episode."""
    lengths, flags = zip(*episodes, strict=True)
    recorded = counted(lengths, flags)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(recorded), (7,), generator=generator)
    rollout = recorded.rollout(first, num_steps)
    b = rollout.transitions(n, 0.5)
    rows = iter(
        zip(*(x.tolist() for x in (b.obs[:, 0], b.action, b.reward, b.next_obs[:, 0], b.terminated)), strict=True)
    )
    discounts = iter(b.discount.tolist())
    where_is = [(e, t) for e, T in enumerate(lengths) for t in range(T)]
    places = [where_is[i] for i in first.tolist()]
    for t in range(num_steps):
        for e, start in places:
            now, end = start + t, min(start + num_steps, lengths[e])  # of the window
            if now >= end:
                continue
            last = min(now + n, end)
            reward = sum(0.5**k * (100 * e + now + k + 0.5) for k in range(last - now))
            terminated = flags[e][0] and last == lengths[e]
            obs, action, got, next_obs, ended = next(rows)
            assert (obs, action, ended) == (100 * e + now, now % 3, terminated)
            assert got == pytest.approx(reward)
            assert next(discounts) == 0.5 ** (last - now)
            if not terminated:
                assert next_obs == 100 * e + last
    assert next(rows, None) is None
    assert rollout.num_steps == len(b.reward)


def test_nothing_is_learned_across_windows():
    """A replay that is given random windows has the true successor of each step, though others come next."""
    recorded = counted([4, 3, 5], [(True, False), (False, True), (False, False)])
    env = offline(recorded, num_envs=8)
    env.reset(seed=1)
    agent = made(DQN, env, replay_size=800, learning_starts=8, batch_size=8)
    for _ in range(20):
        agent.replay.add(env.draw(1))
    b = agent.replay.sample(500)
    kept = ~b.terminated
    assert torch.equal(b.next_obs[kept], b.obs[kept] + 1)
    assert set(b.obs[b.terminated].flatten().tolist()) == {3.0}


def test_all_steps_are_drawn_alike():
    env = offline(counted([1, 9, 2], [(True, False)] * 3), num_envs=4096)
    env.reset(seed=3)
    counts = torch.zeros(300)
    for _ in range(20):
        counts.index_add_(0, env.draw(1).obs.flatten().long(), torch.ones(4096))
    shares = counts[counts > 0] / counts.sum()
    assert len(shares) == 12
    assert ((shares - 1 / 12).abs() < 5 * math.sqrt(1 / 12 / counts.sum())).all()


def test_columns_are_all_steps_in_order():
    recorded = counted([4, 3, 5, 2], [(True, False), (False, True), (False, False), (True, False)])
    env = offline(recorded, num_envs=3)
    agent = made(DQN, env, replay_size=100, learning_starts=8, batch_size=8, n_step=2, gamma=0.5)
    for rollout in recorded.columns(3, 2, 99):
        agent.replay.add(rollout)
    assert len(agent.replay) == 12  # of 14: two are left out
    steps = [(b.obs.flatten().tolist(), b.next_obs.flatten(), b.terminated) for b, _ in agent.replay.steps()]
    assert [obs for obs, _, _ in steps] == [[2, 102, 203], [3, 200, 204], [100, 201, 300], [101, 202, 301]]
    agent.replay.add(env.draw(1))  # which does not follow from the columns
    steps = [(b.obs.flatten().tolist(), b.next_obs.flatten(), b.terminated) for b, _ in agent.replay.steps()]
    for obs, next_obs, terminated in steps[:4]:
        assert torch.equal(next_obs[~terminated], (torch.tensor(obs) + 1)[~terminated])


def test_a_flag_in_the_middle_of_an_episode_ends_what_is_learned_there():
    done = torch.tensor([False, True, False, False])
    obs = torch.arange(5.0)[:, None]
    recorded = Recorded.of(
        [Episode(obs, torch.zeros(4, dtype=torch.int64), torch.ones(4), done, ~done & False)], OBS, CHOICE
    )
    b = recorded.rollout(torch.tensor([0, 1, 2]), 3).transitions(3, 1.0)
    assert dict(zip(b.obs.flatten().tolist(), b.reward.tolist(), strict=True)) == {0: 2, 1: 1, 2: 2, 3: 1}


def test_the_best_episodes_and_scaled_rewards():
    recorded = counted([2, 3, 1, 4], [(True, False)] * 4)
    env = offline(recorded, num_envs=4, best_share=0.5, reward_scale="returns", reward_shift=-1.0)
    assert env.recorded.lengths.tolist() == [3, 4]
    assert env.recorded.obs.flatten().tolist() == [100, 101, 102, 103, 300, 301, 302, 303, 304]
    low, high = 301.5 + 3, 1202 + 6
    assert torch.allclose(env.recorded.reward[0], torch.tensor(100.5 * 1000 / (high - low) - 1))
    with pytest.raises(InputError, match=r"env\.reward_scale: returns differ in nothing"):
        _ = offline(counted([2], [(True, False)]), reward_scale="returns").recorded


def test_the_normaliser_knows_all_observations_exactly():
    """Beside a large offset: the statistics are of float64, and float64 is what is drawn."""
    obs = 1e6 + torch.randn(1001, 1, dtype=torch.float64)
    done = torch.arange(1000) == 999
    space = Box(-np.inf, np.inf, (1,), np.float64)
    episode = Episode(obs, torch.zeros(1000, 1), torch.zeros(1000), done, done & False)
    env = offline(Recorded.of([episode], space, NUMBER), num_envs=64)
    agent = made(TD3BC, env, normalize_observations=True)
    trainer = Trainer(agent, env, total_steps=640)
    moments = agent.normalizer.single
    assert moments.mean.item() == pytest.approx(obs[:1000].mean().item(), rel=1e-14)
    assert moments.var.item() == pytest.approx(obs[:1000].var(correction=0).item(), rel=1e-6)
    before = moments.mean.clone()
    trainer.fit()
    assert torch.equal(moments.mean, before)
    seen = agent.normalized(env.draw(1).obs[0])
    assert seen.dtype == torch.float32
    assert 0.5 < seen.std() < 1.5
    plain = offline(Recorded.of([episode], space, NUMBER), num_envs=64)
    Trainer(made(TD3BC, plain), plain, total_steps=64)
    assert plain.draw(1).obs.dtype == torch.float32


# --- behaviour cloning is supervised learning ---


def test_bc_is_the_supervised_agent():
    """On the same rows and from the same weights, the same gradient steps bit by bit."""
    flowers = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=30))
    inputs, labels = flowers.dataset.train.inputs.float(), flowers.targets
    num = len(labels)
    done = torch.ones(1, dtype=torch.bool)
    rows = zip(inputs, labels, strict=True)
    episodes = [Episode(torch.stack([s, s]), a[None], torch.zeros(1), done, ~done) for s, a in rows]
    space = Box(-np.inf, np.inf, (4,), np.float32)
    env = offline(Recorded.of(episodes, space, Discrete(3)), num_envs=30)
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.5, "learning_rate_schedule": "linear"}
    clone = made(BC, env, **settings, network={"name": "mlp", "hidden": [8]})
    learner = made(Supervised, flowers, **settings, network={"name": "mlp", "hidden": [8]})
    with torch.no_grad():
        for mine, theirs in zip(clone.parameters(), learner.parameters(), strict=True):
            mine.copy_(theirs)
    collector = env.collector(1)
    flowers.reset(seed=1)
    for step in range(10):
        progress = step / 10
        which = torch.randint(num, (30,))
        env._drawn = lambda which=which: which
        mine = clone.learn(collector.collect(clone, progress))
        flowers.examples.next = lambda which=which: which
        theirs = learner.learn(flowers_rollout(learner, flowers, progress))
        assert mine["loss"] == theirs["loss"]
    for a, b in zip(clone.parameters(), learner.parameters(), strict=True):
        assert torch.equal(a, b)


def flowers_rollout(agent, env, progress):
    obs, _ = env.reset()
    return collect(agent, env, obs, 1, progress=progress)


@pytest.mark.parametrize("space", [CHOICE, NUMBER])
def test_bc_finds_the_distribution(space):
    """Of a constant observation: frequencies; or mean and standard deviation, by maximum likelihood."""
    num, obs = 3_000, torch.zeros(3_000, 1)
    if space is CHOICE:
        action = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), num, replacement=True)
    else:
        action = (0.7 + 0.3 * torch.randn(num, 1)).clamp(-2, 2)
    env = offline(one_step(num, torch.zeros(num), action, obs, space), num_envs=256)
    agent = made(BC, env, learning_rate=0.01, learning_rate_schedule="linear")
    Trainer(agent, env, total_steps=256 * 600, seed=1).fit()
    pi = agent.distribution(torch.zeros(1, 1))
    if space is CHOICE:
        frequency = torch.bincount(action).float() / num
        assert torch.allclose(pi.log_probs.exp()[0], frequency, atol=0.02)
    else:
        assert pi.mean.item() == pytest.approx(action.mean().item(), abs=0.02)
        assert pi.log_std.exp().item() == pytest.approx(action.std().item(), abs=0.02)


def test_dropout_and_batch_norm_in_bc():
    env = offline(counted([50], [(True, False)]), num_envs=32)
    agent = made(BC, env, network={**MLP, "dropout": 0.2, "batch_norm": True})
    Trainer(agent, env, total_steps=320, seed=1).fit()
    assert all(x.isfinite().all() for x in agent.state_dict().values() if x.is_floating_point())
    agent.eval()
    obs = torch.rand(5, 1)
    assert torch.equal(agent.predict(obs).action, agent.predict(obs).action)


# --- losses by hand ---


def test_the_expectile():
    """tau = 1/2 is half the square; the minimiser over a constant is the expectile of a sample."""
    error = torch.tensor([-2.0, 0.0, 3.0])
    assert torch.equal(expectile_loss(error, 0.5), error.square() / 2)
    sample = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    grid = torch.linspace(0, 5, 5001, dtype=torch.float64)
    losses = torch.stack([expectile_loss(sample - value, 0.9).sum() for value in grid])
    value = grid[losses.argmin()]  # 0.9 (5 - v) = 0.1 (v + v - 1): v = 4.6 / 1.1
    assert value.item() == pytest.approx(4.6 / 1.1, abs=1e-3)


def batch(num=64, terminated=False):
    rows = torch.rand(num, 1), torch.rand(num, 1) * 4 - 2, torch.randn(num), torch.rand(num, 1)
    return Transition(*rows, torch.full((num,), terminated), torch.full((num,), 0.9))


def steps_taken(agent):
    """The losses that the agent would minimise."""
    losses = []
    agent.minimize = lambda loss, optimizer=None: losses.append(loss.detach()) or {"loss": loss.detach()}
    return losses


def test_iql_by_hand():
    agent = made(IQL, Target(Target.Settings(num_envs=4)), expectile=0.8, beta=2.0, largest_weight=3.0, tau=1.0)
    b, losses = batch(), steps_taken(agent)
    numbers = b.action / 2
    with torch.no_grad():
        target_Q = agent.target_critic(b.obs, numbers).squeeze(2).amin(0)
        V, next_V = agent.value(b.obs).view(-1), agent.value(b.next_obs).view(-1)  # as no step is taken here
        u = target_Q - V
        value_loss = (torch.where(u < 0, 0.2, 0.8) * u**2).mean()
        critic_loss = ((agent.critic(b.obs, numbers).squeeze(2) - b.reward - 0.9 * next_V) ** 2).sum(0).mean()
        mean = agent.policy(b.obs).tanh()
        log_prob = (-0.5 * (numbers - mean) ** 2 - 0.5 * math.log(2 * math.pi)).squeeze(1)
        policy_loss = -((2 * u).exp().clamp_max(3.0) * log_prob).mean()
    agent.update(b)
    for found, wanted in zip(losses, (value_loss, policy_loss, critic_loss), strict=True):
        assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_td3_bc_by_hand():
    agent = made(TD3BC, Target(Target.Settings(num_envs=4)), alpha=2.0, policy_delay=1)
    b, losses = batch(), steps_taken(agent)
    with torch.no_grad():
        numbers = agent.policy(b.obs).tanh()
        Q = agent.critic(b.obs, numbers)[0].squeeze(1)
        wanted = ((numbers - b.action / 2) ** 2).mean() - 2.0 * Q.mean() / Q.abs().mean()
    agent.update(b)
    assert losses[-1].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_sum_over_all_actions_of_cql():
    """With very many draws, the penalty is log of the integral of exp Q over [-1, 1], minus Q of what was recorded."""
    env = Target(Target.Settings(num_envs=4))
    agent, plain = (made(CQL, env, conservative_weight=w, num_draws=2_000) for w in (1.0, 0.0))
    b = batch(4, terminated=True)
    grid = torch.linspace(-1, 1, 4001)[:, None]
    with torch.no_grad():
        wanted = torch.zeros(4)
        for row in range(4):
            Q = agent.critic(b.obs[row].expand(4001, 1), grid).squeeze(2)  # [2, G]
            integral = torch.trapezoid(Q.exp(), grid.squeeze(1), dim=1).log()
            wanted[row] = (integral - agent.critic(b.obs[row : row + 1], b.action[row : row + 1] / 2).view(2)).sum()
        Q = agent.critic(b.obs, b.action / 2)
        y = b.reward[:, None]
        found = agent._critic_loss(Q, y, b) - plain._critic_loss(Q, y, b)
    assert torch.allclose(found, wanted, atol=0.05)


def test_cql_without_a_penalty_is_soft_actor_critic():
    env = Target(Target.Settings(num_envs=4))
    agent, sac = made(CQL, env, conservative_weight=0.0, num_draws=1), made(SAC, env)
    agent.backs_up_entropy = True
    sac.load_state_dict(agent.state_dict())
    agent._critic_loss = super(CQL, agent)._critic_loss  # which draws nothing
    b = batch()
    for one in (agent, sac):
        torch.manual_seed(5)
        one.update(b)
    for a, other in zip(agent.parameters(), sac.parameters(), strict=True):
        assert torch.equal(a, other)


def test_discrete_cql_by_hand():
    agent = made(DiscreteCQL, TwoStep(TwoStep.Settings(num_envs=2)), conservative_weight=0.5, gamma=0.9)
    losses = steps_taken(agent)
    obs = torch.rand(6, *agent.observation_space.shape)
    action, reward = torch.randint(int(agent.action_space.n), (6,)), torch.randn(6)
    b = Transition(obs, action, reward, obs.flip(0), torch.arange(6) > 3, torch.full((6,), 0.9))
    with torch.no_grad():
        Q, next_Q, target = (
            f(x).squeeze(2) for f, x in ((agent.q, obs), (agent.q, b.next_obs), (agent.target, b.next_obs))
        )
        rows = torch.arange(6)
        y = reward + 0.9 * ~b.terminated * target[rows, next_Q.argmax(1)]
        wanted = ((Q[rows, action] - y) ** 2).mean() + 0.5 * (Q.logsumexp(1) - Q[rows, action]).mean()
    agent.update(b)
    assert losses[0].item() == pytest.approx(wanted.item(), rel=1e-5)


# --- what they learn ---


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_continuous_agents_find_what_was_best(kind):
    """Actions were drawn widely about the target: to imitate is to be 0 on average, too, but not for each draw."""
    env = OfflineEnv(OfflineEnv.Settings.model_validate({"num_envs": 128, "env": "probe_target"}), recorded=targets())
    settings = {"learning_rate": 1e-2, "learning_rate_schedule": "linear"}
    if kind is CQL:
        settings |= {"conservative_weight": 0.1, "num_draws": 4}
    once = Trainer.Settings(total_steps=128 * 250, eval_every=128 * 250)
    report = Trainer(made(kind, env, **settings), env, once, seed=1).fit().scalars
    assert report["return"] > -0.06  # at random: -1.7; by one fixed number: -1/3


@pytest.mark.parametrize("kind", [BC, DiscreteCQL])
def test_discrete_agents_find_what_was_best(kind):
    """Three actions, one of which is right; to imitate finds the one that was taken most often, which is wrong."""
    num = 3_000
    obs = torch.rand(num, 1) * 2 - 1
    right = (obs > 0).long().squeeze(1)
    action = torch.where(torch.rand(num) < 0.5, torch.full((num,), 2), torch.randint(2, (num,)))
    reward = (action == right).float()
    env = offline(one_step(num, reward, action, obs, CHOICE), num_envs=128)
    agent = made(kind, env, learning_rate=3e-3, **({} if kind is BC else {"conservative_weight": 0.05}))
    Trainer(agent, env, total_steps=128 * 400, seed=1).fit()
    agent.eval()
    test = torch.tensor([[-0.8], [-0.3], [0.3], [0.8]])
    wanted = [2, 2, 2, 2] if kind is BC else [0, 0, 1, 1]
    assert agent.predict(test).action.tolist() == wanted


def test_what_follows_a_step():
    """Targets follow, step sizes fall, bounds hold, and no gradient goes where none should."""
    agent = made(DiscreteCQL, TwoStep(TwoStep.Settings(num_envs=2)), tau=0.25)
    obs = torch.rand(6, *agent.observation_space.shape)
    b = Transition(obs, torch.zeros(6, dtype=torch.int64), torch.ones(6), obs, torch.ones(6) > 0, torch.ones(6))
    before = [x.clone() for x in agent.target.parameters()]
    agent.update(b)
    for x, old, q in zip(agent.target.parameters(), before, agent.q.parameters(), strict=True):
        assert torch.allclose(x, old + 0.25 * (q - old), atol=1e-6)
    env = Target(Target.Settings(num_envs=4))
    iql = made(IQL, env, learning_rate_schedule="linear")
    iql.progress = 0.75
    iql.update(batch())
    assert iql.optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * 3e-4)
    assert iql.critic_optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)
    with torch.no_grad():
        iql.log_std.fill_(-30.0)
    assert iql.gaussian(torch.zeros(1, 1)).log_std.item() == -5.0
    assert not CQL.backs_up_entropy


def test_the_weight_of_the_critic_has_no_gradient():
    agent = made(TD3BC, Target(Target.Settings(num_envs=4)))
    b = batch()
    numbers = agent.policy(b.obs).tanh()
    Q = agent.critic(b.obs, numbers)[0]
    wanted = (numbers - b.action / 2).square().mean() - 2.5 / Q.abs().mean().item() * Q.mean()
    found = torch.autograd.grad(agent._policy_loss(b), list(agent.policy.parameters()))
    for a, b_ in zip(found, torch.autograd.grad(wanted, list(agent.policy.parameters())), strict=True):
        assert torch.allclose(a, b_, atol=1e-6)


def test_what_is_in_it():
    found = describe(counted([3, 1, 4], [(True, False), (False, True), (True, False)])).scalars
    assert (found["episodes"], found["steps"], found["length"]) == (3, 8, pytest.approx(8 / 3))
    assert (found["return_min"], found["return_max"]) == (4.5, 808)
    assert (found["terminated"], found["truncated"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    shares = torch.tensor([4, 2, 2]) / 8
    assert found["action_entropy"] == pytest.approx((-(shares * shares.log()).sum() / math.log(3)).item())
    action = 0.2 * torch.arange(-10, 0)[:, None] + 0.1  # one in each of ten of the twenty parts
    action[0] = -2
    found = describe(one_step(10, torch.zeros(10), action)).scalars
    assert found["action_coverage"] == 0.5
    assert found["action_at_bounds"] == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [IQL, TD3BC])
def test_values_are_right_across_time_limits(kind):
    """A reward of 1 for ever: 1 / (1 - gamma) where the episodes were cut, 1 where each of their ends is a death."""
    done = torch.arange(20) == 19

    def value(terminated, truncated):
        episode = Episode(torch.zeros(21, 1), torch.zeros(20, 1), torch.ones(20), terminated, truncated)
        env = offline(Recorded.of([episode] * 4, OBS, NUMBER), num_envs=32)
        agent = made(kind, env, gamma=0.8, learning_rate=1e-2, tau=0.1)
        Trainer(agent, env, Trainer.Settings(total_steps=32 * 400, eval_every=None), seed=1).fit()
        return agent.critic(torch.zeros(1, 1), torch.zeros(1, 1)).mean().item()

    assert value(done & False, done) == pytest.approx(5.0, abs=0.4)
    every = torch.ones(20, dtype=torch.bool)
    assert value(every, every & False) == pytest.approx(1.0, abs=0.1)


def test_without_an_environment_actions_are_compared():
    num = 100
    action = torch.rand(num, 1)
    env = offline(one_step(num, torch.zeros(num), action), num_envs=32)
    agent = made(TD3BC, env)
    found = env.evaluation(5).score(agent, 5, 1).scalars["action_error"]
    agent.eval()
    difference = agent.predict(env.recorded.obs[::2]).action - action
    assert found == pytest.approx(difference.square().mean().sqrt().item(), rel=1e-6)
    env = offline(one_step(num, torch.zeros(num), torch.arange(num) % 3, action_space=CHOICE), num_envs=32)
    agent = made(DiscreteCQL, env)
    found = env.evaluation(5).score(agent, 5, 1).scalars["agreement"]
    agent.eval()
    assert found == (agent.predict(env.recorded.obs[::2]).action == torch.arange(num) % 3).float().mean()


def test_where_agents_are_evaluated():
    """Reports, films and figures are those of the environment that is named."""
    cartpole = CartPole(CartPole.Settings(num_envs=2))
    done = torch.ones(1, dtype=torch.bool)
    episode = Episode(torch.zeros(2, 4), torch.zeros(1, dtype=torch.int64), torch.ones(1), done, ~done)
    recorded = Recorded.of([episode], cartpole.single_observation_space, cartpole.single_action_space)
    settings = {"env": {"name": "cartpole", "max_episode_steps": 10}, "num_envs": 4}
    env = OfflineEnv(OfflineEnv.Settings.model_validate(settings), recorded=recorded)
    reports = ["episodes", {"name": "normalized_score", "random": 5.0, "expert": 25.0}]
    given = Trainer.Settings.model_validate({"total_steps": 8, "reports": reports, "eval_episodes": 4})
    trainer = Trainer(made(DiscreteCQL, env), env, given)
    report = trainer.fit()
    assert report.scalars["length"] <= 10
    assert trainer.figures["normalized_score/mean"] == pytest.approx(5 * (report.scalars["return"] - 5))
    assert env.evaluated.filming().num_envs == 1
    alone = offline(recorded, num_envs=4)
    with pytest.raises(InputError, match="report normalized_score: this environment's evaluation has no returns"):
        Trainer(made(DiscreteCQL, alone), alone, given.model_copy(update={"reports": given.reports[1:]}))


# --- from offline to online ---


def run_of(agent, env, folder, name):
    trainer = Trainer(agent, env, total_steps=64, run_dir=folder, name=name)
    trainer.save("last")
    return folder / "checkpoints" / "last.pt"


def learned(kind, env, folder, steps=640, **settings):
    agent = made(kind, env, **settings)
    Trainer(agent, env, total_steps=steps).fit()
    return agent.eval(), run_of(agent, env, folder, kind.__name__)


@pytest.mark.parametrize(("kind", "online"), [(TD3BC, TD3), (CQL, SAC), (BC, PPO), (DiscreteCQL, DQN)])
def test_the_online_agent_answers_as_the_offline_one(kind, online, tmp_path):
    discrete = kind is DiscreteCQL
    recorded = counted([40], [(True, False)]) if discrete else targets(200)
    agent, file = learned(kind, offline(recorded, num_envs=32), tmp_path, normalize_observations=True)
    stage = Identity(Identity.Settings(num_envs=4)) if discrete else Target(Target.Settings(num_envs=4))
    if discrete:  # of the same sizes as what was recorded
        stage.single_observation_space, stage.single_action_space = OBS, CHOICE
    further = made(online, stage, normalize_observations=True, **SHORT.get(online, {}))
    (line,) = init_from(further, file)
    assert ("new:" in line) == (online is PPO)  # whose value is new
    obs = torch.rand(7, 1)
    assert torch.equal(agent.predict(obs).action, further.eval().predict(obs).action)
    for name, x in further.state_dict().items():
        if name.startswith("target") and name in agent.state_dict():
            assert torch.equal(x, agent.state_dict()[name])
    if not discrete:
        Trainer(further.train(), stage, total_steps=400).fit()


def test_a_target_follows_what_was_copied(tmp_path):
    agent, file = learned(IQL, offline(targets(200), num_envs=32), tmp_path)
    further = made(TD3, Target(Target.Settings(num_envs=4)))
    init_from(further, file)
    obs = torch.rand(7, 1)
    assert torch.equal(further.policy(obs), agent.policy(obs))
    assert torch.equal(further.target_policy(obs), agent.policy(obs))
    assert torch.equal(further.target_critic(obs, obs), agent.target_critic(obs, obs))


def test_what_is_set_stays(tmp_path):
    """Bounds of another Box, and a temperature that is given."""

    class Wide(Target):
        def __init__(self, settings):
            super().__init__(settings)
            self.single_action_space = Box(-6.0, 10.0, (1,))

    agent, file = learned(CQL, offline(targets(200), num_envs=32), tmp_path, num_draws=1)
    further = made(SAC, Wide(Target.Settings(num_envs=4)), alpha=0.2)
    init_from(further, file)
    assert further.temperature().item() == pytest.approx(0.2)
    obs = torch.rand(7, 1)
    numbers = agent.predict(obs).action / 2
    assert torch.allclose(further.eval().predict(obs).action, 2 + 8 * numbers, atol=1e-5)


def test_what_would_answer_otherwise_is_refused(tmp_path):
    env = Target(Target.Settings(num_envs=4))
    _, plain = learned(TD3BC, offline(targets(200), num_envs=32), tmp_path / "a")
    _, normal = learned(TD3BC, offline(targets(200), num_envs=32), tmp_path / "b", normalize_observations=True)
    for file, settings, key in (
        (plain, {"normalize_observations": True}, "normalize_observations=false"),
        (normal, {}, "normalize_observations=true"),
        (plain, {"network": {**MLP, "activation": "tanh"}}, "network="),
    ):
        with pytest.raises(InputError, match=rf"learned with agent\.{key}.*would answer otherwise"):
            init_from(made(TD3, env, **settings), file)
    init_from(made(TD3, env, network={**MLP, "init": "he"}), plain)
    _, clone = learned(BC, offline(targets(200), num_envs=32), tmp_path / "c", squash=True)
    with pytest.raises(InputError, match=r"agent\.squash=true"):
        init_from(made(PPO, env, **SHORT[PPO]), clone)
    with pytest.raises(InputError, match="nothing that the agent"):
        init_from(made(DQN, TwoStep(TwoStep.Settings(num_envs=2)), network={**MLP, "hidden": [7]}), clone)
    with pytest.raises(InputError, match="there is no checkpoint"):
        init_from(made(TD3, env), tmp_path / "none.pt")


# --- from outside ---


def test_what_the_docs_show():
    by_hand, own = blocks("docs/offline.md", "python")
    exec(by_hand, {"torch": torch, "Box": Box})
    exec(own, {})
    num = 2_000
    obs, action = torch.rand(num, 1) * 2 - 1, torch.randint(3, (num,))
    reward = (action == (obs > 0).long().squeeze(1)).float()
    env = offline(one_step(num, reward, action, obs, CHOICE), num_envs=128)
    agent = registry.agents["my_offline"](env)
    Trainer(agent, env, total_steps=128 * 300, seed=1).fit()
    assert agent.eval().predict(torch.tensor([[-0.5], [0.5]])).action.tolist() == [0, 1]


# --- input ---


@pytest.mark.parametrize("kind", [*CONTINUOUS, BC])
def test_nobody_explores(kind):
    env = Target(Target.Settings(num_envs=4))
    agent = made(kind, env)
    with pytest.raises(InputError, match=f"{kind.__name__} learns from recorded episodes and does not explore"):
        Trainer(agent, env, total_steps=64)


@pytest.mark.parametrize("kind", [PPO, SAC, TD3])
def test_nobody_acts_in_what_was_recorded(kind):
    env = offline(targets(20), num_envs=4)
    with pytest.raises(InputError, match="nobody can act in recorded episodes"):
        env.step(torch.zeros(4, 1))
    agent = made(kind, env, **SHORT.get(kind, {}))
    with pytest.raises(InputError, match=f"{kind.__name__} learns from what it does itself"):
        Trainer(agent, env, total_steps=64)


def test_whole_episodes_are_not_drawn():
    env = offline(targets(20), num_envs=4)
    agent = made(BC, env)
    agent.horizon = None
    with pytest.raises(InputError, match="windows are drawn; set a number of steps"):
        Trainer(agent, env, total_steps=64).fit()


def test_spaces_must_be_those_of_the_environment():
    with pytest.raises(InputError, match=r"env\.dataset: what was recorded has the observation space Box"):
        OfflineEnv(OfflineEnv.Settings.model_validate({"env": "cartpole"}), recorded=targets(20))
    with pytest.raises(InputError, match=r"env\.dataset: name a data set"):
        OfflineEnv(OfflineEnv.Settings())


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BC, {"gamma": 0.5}, "gamma: behaviour cloning does not look at rewards"),
        (BC, {"normalize_rewards": True}, "normalize_rewards: behaviour cloning"),
        (TD3BC, {"normalize_rewards": True}, r"agent\.normalize_rewards: recorded steps come in no order"),
        (BC, {"momentum": 0.5}, "momentum: is a setting of sgd"),
    ],
)
def test_settings_without_an_effect_are_refused(kind, settings, message):
    with pytest.raises(Exception, match=message):
        made(kind, offline(targets(20), num_envs=4), **settings)


def test_a_space_that_does_not_fit_the_agent():
    env = offline(counted([5], [(True, False)]), num_envs=4)
    for kind in CONTINUOUS:
        with pytest.raises(InputError, match="chooses numbers in a Box"):
            made(kind, env)
    with pytest.raises(InputError, match="discrete_cql chooses one of several actions"):
        made(DiscreteCQL, offline(targets(20), num_envs=4))
