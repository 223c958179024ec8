"""What agents learn where the answer is known."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from test_docs import blocks
from torch import nn

from rlcore import check_agent, config
from rlcore.agents.ppo import PPO
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.distributions import Categorical
from rlcore.envs.cartpole import CartPole
from rlcore.envs.probes import ConstantReward, Identity, RockPaperScissors, Target, TwoStep
from rlcore.errors import InputError
from rlcore.gym_environment import GymEnvironment
from rlcore.rollout import collect
from rlcore.stateful import attributes_of_type
from rlcore.trainer import Trainer
from rlcore.uncertainty import NumberUncertainty, best_answer

GAMMA = 0.9
FOREVER = 1 / (1 - GAMMA)
EIGHT_STEPS = (1 - GAMMA**8) / (1 - GAMMA)


def ppo(env, **settings):
    defaults = {"horizon": 32, "minibatch_size": 64, "learning_rate": 3e-3, "gamma": GAMMA}
    return PPO(env, PPO.Settings.model_validate({**defaults, **settings}))


def reinforce(env, **settings):
    return Reinforce(env, Reinforce.Settings.model_validate({"learning_rate": 1e-2, "gamma": 1.0, **settings}))


def fit(agent, env, steps):
    return Trainer(agent, env, Trainer.Settings(total_steps=steps, eval_every=steps), seed=1).fit().scalars


@pytest.mark.parametrize("make", [ppo, reinforce, lambda env: reinforce(env, baseline=True)])
@pytest.mark.parametrize("env", [CartPole, Target])
def test_contract(make, env):
    env = env(env.Settings(num_envs=8))
    check_agent(make(env), env)


@pytest.mark.parametrize("shared", [False, True])
def test_ppo_learns_the_identity(shared):
    env = Identity()
    assert fit(ppo(env, shared=shared), env, 12_000)["return"] == 1.0


def test_reinforce_learns_the_identity():
    env = Identity(Identity.Settings(num_envs=32))
    assert fit(reinforce(env), env, 8_000)["return"] == 1.0


def test_ppo_hits_the_target():
    env = Target()
    assert fit(ppo(env, learning_rate=1e-2), env, 12_000)["return"] > -0.02


def test_reinforce_hits_the_target():
    env = Target(Target.Settings(num_envs=64))
    assert fit(reinforce(env), env, 24_000)["return"] > -0.02


@pytest.mark.parametrize("make", [ppo, reinforce])
def test_credit_reaches_the_action_that_earned_it(make):
    env = TwoStep(TwoStep.Settings(num_envs=16))
    assert fit(make(env), env, 10_000)["return"] == 1.0


@pytest.mark.parametrize(("end", "value"), [("truncated", FOREVER), ("terminated", EIGHT_STEPS), ("both", EIGHT_STEPS)])
def test_value_counts_on_beyond_a_time_limit_and_not_beyond_an_end(end, value):
    env = ConstantReward(ConstantReward.Settings(end=end))
    agent = ppo(env, learning_rate=2e-2, learning_rate_schedule="linear", network={"name": "mlp", "hidden": [32]})
    fit(agent, env, 12_000)
    obs, _ = env.reset()
    assert agent.value(obs)[0].item() == pytest.approx(value, rel=0.03)


def test_baseline_counts_on_beyond_a_time_limit():
    env = ConstantReward(ConstantReward.Settings(end="truncated"))
    agent = reinforce(env, gamma=GAMMA, baseline=True, value_steps=4)
    fit(agent, env, 8_000)
    obs, _ = env.reset()
    assert agent.baseline(obs)[0].item() == pytest.approx(FOREVER, rel=0.05)


def test_baseline_learns_where_no_episode_is_truncated():
    env = GymEnvironment(GymEnvironment.Settings(id="FrozenLake-v1", num_envs=4, options={"max_episode_steps": 10_000}))
    agent = reinforce(env, baseline=True)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, None)
    assert not rollout.truncated.any()
    agent.learn(rollout)


def test_an_agent_needs_many_environments_and_its_own_settings():
    with pytest.raises(
        InputError, match=r"PPO acts in N environments at once; make them by rlcore.GymEnvironment, got <"
    ):
        PPO(gymnasium.make("CartPole-v1"))
    with pytest.raises(InputError, match=r"PPO needs PPO.Settings\(...\), got {'horizon': 8}"):
        PPO(CartPole(), {"horizon": 8})
    with pytest.raises(InputError, match=r"PPO needs PPO.Settings\(...\), got Settings"):
        PPO(CartPole(), Reinforce.Settings())


def test_against_an_adapting_opponent_the_policy_stays_stochastic():
    env = RockPaperScissors()
    agent = ppo(env, entropy_coefficient=0.1)
    greedy = fit(agent, env, 10_000)
    assert greedy["return"] <= -14  # any deterministic answer is beaten
    obs, _ = env.reset(seed=5)
    rollout = collect(agent, env, obs, 512)
    assert rollout.reward.mean() > -0.1
    assert agent.distribution(obs).entropy().min() > 1.0  # log 3 is 1.0986


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("env", [CartPole, Target])
def test_the_first_minibatchs_ratio_is_one(env, shared):
    env = env()
    agent = ppo(env, shared=shared)
    obs, _ = env.reset(seed=1)
    rows, _ = agent.training_rows(collect(agent, env, obs, 32))
    pi, value = agent.distribution(rows.obs[:64]), agent.value(rows.obs[:64])
    ratio = (pi.log_prob(rows.action[:64]) - rows.log_prob[:64]).exp()
    torch.testing.assert_close(ratio, torch.ones(64), atol=1e-6, rtol=0)
    torch.testing.assert_close(value, rows.value[:64], atol=1e-5, rtol=1e-5)


def test_the_clipped_objective_is_the_papers():
    env = CartPole()
    agent = ppo(env, normalize_advantages=False)
    obs, _ = env.reset(seed=1)
    b, _ = agent.training_rows(collect(agent, env, obs, 32))
    b = b._replace(log_prob=b.log_prob + torch.randn_like(b.log_prob), advantage=torch.randn_like(b.advantage))
    ratio = (agent.distribution(b.obs).log_prob(b.action) - b.log_prob).exp()
    assert ratio.min() < 0.8 < 1.2 < ratio.max()
    paper = torch.minimum(ratio * b.advantage, ratio.clamp(0.8, 1.2) * b.advantage).mean()
    torch.testing.assert_close(agent.losses(b, 0.2).policy, -paper)
    torch.testing.assert_close(agent.losses(b, None).policy, -(ratio * b.advantage).mean())


def test_the_clipped_value_loss_is_the_larger_of_two():
    env = CartPole()
    agent = ppo(env, value_clip=0.1)
    obs, _ = env.reset(seed=1)
    b, _ = agent.training_rows(collect(agent, env, obs, 32))
    b = b._replace(value=b.value + torch.randn_like(b.value) / 5, target=b.target.mean() + torch.randn_like(b.target))
    V = agent.value(b.obs)
    near = torch.maximum(torch.minimum(V, b.value + 0.1), b.value - 0.1)
    by_hand = torch.stack([(V - b.target) ** 2, (near - b.target) ** 2]).amax(0).mean()
    torch.testing.assert_close(agent.losses(b, 0.2).value, by_hand)


def test_ppo_learns_from_the_true_successor_of_a_truncated_row():
    env = CartPole(CartPole.Settings(num_envs=2, max_episode_steps=3))
    agent = ppo(env, gae_lambda=0.0)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 4)
    rows, _ = agent.training_rows(rollout)
    value = agent.value(rollout.final_obs)
    target = rows.target.view(4, 2)
    torch.testing.assert_close(target[2], 1 + GAMMA * value)
    torch.testing.assert_close(target[3], 1 + GAMMA * agent.value(rollout.last_obs))


def test_ppo_update_equals_a_hand_written_one():
    env = CartPole(CartPole.Settings(num_envs=4))
    torch.manual_seed(1)
    agent = ppo(env, horizon=16, minibatch_size=64, num_epochs=2, entropy_coefficient=0.01, max_grad_norm=0.5)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 16)
    state = torch.get_rng_state()
    by_hand = _update_by_hand(agent, rollout, state)
    torch.set_rng_state(state)
    agent.learn(rollout)
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(value, by_hand[name], atol=1e-6, rtol=1e-5)


def _update_by_hand(agent, rollout, rng):
    """Plain PPO with torch's own parts; a row's advantage by the recursion."""
    import copy

    net = copy.deepcopy(agent)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, eps=1e-5)
    T, N = rollout.reward.shape
    with torch.no_grad():
        values = net.value(rollout.obs.flatten(0, 1)).view(T, N)
        last = net.value(rollout.last_obs)
        advantage, running = torch.zeros(T, N), torch.zeros(N)
        for t in reversed(range(T)):
            done = rollout.terminated[t].float()
            following = last if t == T - 1 else values[t + 1]
            delta = rollout.reward[t] + GAMMA * following * (1 - done) - values[t]
            running = advantage[t] = delta + GAMMA * 0.95 * (1 - done) * running
        actions = rollout.action.flatten()
        features = net.body(rollout.obs.flatten(0, 1))
        old = torch.distributions.Categorical(logits=net.policy_head(features)).log_prob(actions)
    returns = (advantage + values).flatten()
    torch.set_rng_state(rng)
    for _ in range(2):
        order = torch.randperm(T * N)
        obs = rollout.obs.flatten(0, 1)[order]
        pi = torch.distributions.Categorical(logits=net.policy_head(net.body(obs)))
        A = advantage.flatten()[order]
        A = (A - A.mean()) / A.std(correction=0)
        ratio = (pi.log_prob(actions[order]) - old[order]).exp()
        objective = torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A).mean()
        value = net.value_head(net.value_body(obs)).squeeze(1)
        loss = -objective + 0.5 * (value - returns[order]).square().mean() - 0.01 * pi.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
    return net.state_dict()


def test_kl_stop_ends_the_update_before_the_first_minibatch_that_is_too_far_away():
    env = CartPole()
    agent = ppo(env, num_epochs=50, learning_rate=0.05, target_kl=0.01)
    distances, minimize, steps = [], agent.minimize, []
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 32)
    agent.minimize = lambda loss: steps.append(1) or minimize(loss)
    losses = agent.losses

    def watched(b, clip):
        distances.append(b)
        return losses(b, clip)

    agent.losses = watched
    agent.learn(rollout)
    assert len(steps) == len(distances) - 1 < 50 * 4  # the last one was looked at, and not learned from
    torch.manual_seed(1)
    free = ppo(env, num_epochs=2, learning_rate=0.05, target_kl=1e9)
    rollout, done = collect(free, env, obs, 32), []
    inner = free.minimize
    free.minimize = lambda loss: done.append(1) or inner(loss)
    free.learn(rollout)
    assert len(done) == 2 * 4
    losses = free.losses
    free.losses = lambda b, clip: losses(b, clip)._replace(log_ratio=torch.full_like(b.log_prob, 99.0))
    free.learn(collect(free, env, obs, 32))  # a network that answers another thing each time, say
    assert len(done) == 2 * 4 + 1


def test_reinforce_learns_from_what_was_played():
    """The mean return of the rows learned from is that of all episodes: none is dropped for its length."""
    env = CartPole(CartPole.Settings(num_envs=64))
    agent = reinforce(env)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, None)
    starts = agent._returns(rollout)[0]
    played = (rollout.reward * rollout.valid).sum(0)
    torch.testing.assert_close(starts, played)
    assert rollout.rows(agent._returns(rollout)).max() == played.max()


def test_minibatches_of_whole_episodes_are_refused():
    with pytest.raises(InputError, match=r"must be null where agent\.horizon is null"):
        ppo(CartPole(), horizon=None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_ppo_solves_cartpole(seed):
    trainer, _ = config.build(config.load("cartpole_ppo", [f"seed={seed}"]).config)
    assert trainer.fit().scalars["return"] == 500


def test_ppo_takes_a_loss_of_ones_own():
    env = CartPole(CartPole.Settings(num_envs=8))
    settings = PPO.Settings(horizon=32, minibatch_size=64)
    given = {"PPO": PPO, "torch": torch}
    exec(blocks("docs/agents.md", "python")[0], given)
    agent = given["Guesses"](env, settings)
    check_agent(agent, env)
    obs, _ = env.reset(seed=1)
    before = (agent.guess(agent.body(obs)) - 1).abs().mean()
    Trainer(agent, env, Trainer.Settings(total_steps=8_000, eval_every=8_000)).fit()
    assert (agent.guess(agent.body(obs)) - 1).abs().mean() < 0.2 * before


class Forgetful(PPO):
    """Counts its updates in a list, and learns less by each; the count is saved where ``saved``."""

    saved = False

    def __init__(self, env, settings):
        super().__init__(env, settings)
        if self.saved:
            self.register_buffer("count", torch.zeros(1))
        else:
            self.count = [0]

    def learn(self, rollout):
        self.count[0] += 1
        rollout.reward = rollout.reward / float(self.count[0])
        return super().learn(rollout)


class Untrained(PPO):
    """Has a layer that its optimizer does not know."""

    def __init__(self, env, settings):
        super().__init__(env, settings)
        self.late = nn.Linear(2, 2)


class Listed(Reinforce):
    """Keeps its optimizer in a list in a dict."""

    def __init__(self, env, settings):
        super().__init__(env, settings)
        self.kept = {"all": [self.optimizer]}
        del self.optimizer

    def learn(self, rollout):
        self.optimizer = self.kept["all"][0]
        try:
            return super().learn(rollout)
        finally:
            del self.optimizer


def test_what_a_checkpoint_would_lack_is_named(monkeypatch):
    env = CartPole(CartPole.Settings(num_envs=8))
    settings = PPO.Settings(horizon=32, minibatch_size=64)
    with pytest.raises(InputError, match=r"a restored agent learns a different .*: what learning changes must be"):
        check_agent(Forgetful(env, settings), env)
    monkeypatch.setattr(Forgetful, "saved", True)
    check_agent(Forgetful(env, settings), env)
    with pytest.raises(InputError, match=r"no optimizer has late\.weight, late\.bias"):
        check_agent(Untrained(env, settings), env)
    listed = Listed(env, Reinforce.Settings())
    assert [name for name, _ in attributes_of_type(listed, torch.optim.Optimizer)] == ["kept.all.0"]
    check_agent(listed, env)


class Aim(gymnasium.Env):
    """The best action is 20, in [5, 35]; an episode is one step."""

    observation_space, action_space = Box(0, 1, (1,), np.float32), Box(5, 35, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), -float(((action - 20) ** 2).mean()) / 100, True, False, {}


gymnasium.register("Aim-v0", Aim)


@pytest.mark.parametrize(
    "make",
    [
        lambda env: ppo(env, learning_rate=1e-2),
        lambda env: ppo(env, learning_rate=1e-2, squash=True),
        lambda env: reinforce(env, baseline=True, value_steps=2),
        lambda env: RandomSearch(env, RandomSearch.Settings()),
    ],
)
def test_a_box_far_from_0_is_explored(make):
    env = GymEnvironment(GymEnvironment.Settings(id="Aim-v0", num_envs=16))
    torch.manual_seed(1)
    agent = make(env)
    assert fit(agent, env, 5_000)["return"] > -0.02
    assert env.single_action_space.contains(agent.predict(torch.ones(1, 1)).action[0].numpy())


def test_what_predict_answers_lies_in_the_action_space():
    env = GymEnvironment(GymEnvironment.Settings(id="Aim-v0"))
    for agent in (ppo(env), reinforce(env)):
        with torch.no_grad():
            agent.policy_head.bias.copy_(torch.tensor([-7.0, 7.0]))
        assert agent.predict(torch.ones(3, 1)).action.tolist() == [[5, 35]] * 3
    together = NumberUncertainty(torch.tensor([[1.0, 40.0]]), *torch.ones(3, 1, 2))
    assert best_answer(together, env.single_action_space).tolist() == [[5, 35]]


def test_clipping_most_actions_is_told_once():
    env = GymEnvironment(GymEnvironment.Settings(id="Aim-v0"))
    agent = ppo(env, scale_actions=False)  # actions near 0 are all below 5
    settings = Trainer.Settings(total_steps=2048, log_every=256, eval_every=10**6)
    trainer = Trainer(agent, env, settings)
    with pytest.warns(UserWarning, match="clipped to the bounds of the space; agent.scale_actions=true") as told:
        trainer.fit()
    assert len([one for one in told if "clipped" in str(one.message)]) == 1
    assert trainer.figures["train/clipped_share"] == 1
    assert trainer.figures["train/action_std"] == pytest.approx(1, abs=0.1)
    trainer = Trainer(ppo(env, learning_rate=1e-6), env, settings)
    trainer.fit()
    assert trainer.figures["train/clipped_share"] < 0.5
    assert trainer.figures["train/action_std"] == pytest.approx(15, rel=0.1)


@pytest.mark.parametrize("kind", ["reinforce", "ppo"])
def test_a_single_row_is_learned_from(kind):
    """Normalised by its own mean, it would teach nothing."""
    env = Identity(Identity.Settings(num_envs=1))
    agent = reinforce(env) if kind == "reinforce" else ppo(env, horizon=None, minibatch_size=None)
    torch.manual_seed(1)
    obs, _ = env.reset(seed=1)
    before = {name: value.clone() for name, value in agent.policy_head.state_dict().items()}
    for _ in range(20):  # until an action is rewarded
        rollout = collect(agent, env, obs, None)
        obs = rollout.last_obs
        assert rollout.num_steps == 1
        agent.learn(rollout)
        if rollout.reward.any():
            break
    assert any(not torch.equal(value, before[name]) for name, value in agent.policy_head.state_dict().items())


def test_every_agent_can_be_pickled(tmp_path):
    for agent in (ppo(CartPole()), reinforce(CartPole()), RandomSearch(CartPole())):
        torch.save(agent, tmp_path / "agent.pt")
        again = torch.load(tmp_path / "agent.pt", weights_only=False)
        obs = torch.randn(5, 4)
        assert torch.equal(again.predict(obs).action, agent.predict(obs).action)


@pytest.mark.parametrize("kind", [PPO, RecurrentPPO, Reinforce])
def test_the_value_may_have_another_network_than_the_policy(kind):
    name = {"name": "gru", "size": 5} if kind is RecurrentPPO else {"name": "mlp", "hidden": [5]}
    others = {"baseline": True} if kind is Reinforce else {"horizon": 8, "minibatch_size": 64}
    env = CartPole(CartPole.Settings(num_envs=8, max_episode_steps=10))
    agent = kind(env, kind.Settings.model_validate({"value_network": name, **others}))
    value_body = agent.baseline[0] if kind is Reinforce else agent.value_body
    assert (agent.body.num_features, value_body.num_features) == (64, 5)
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=300, eval_episodes=2))
    before = [x.clone() for x in value_body.parameters()]
    trainer.fit()
    assert not any(map(torch.equal, before, value_body.parameters()))


def test_a_network_for_a_value_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="shared=true has one body for both"):
        PPO.Settings(shared=True, value_network="mlp")
    with pytest.raises(ValueError, match="set baseline=true"):
        Reinforce.Settings(value_network="mlp")
    env = CartPole(CartPole.Settings(num_envs=2))
    for kind, given in ((PPO, {}), (Reinforce, {"baseline": True})):
        with pytest.raises(InputError, match=r"agent\.value_network\.name: gru has a memory"):
            kind(env, kind.Settings(value_network="gru", **given))
    with pytest.raises(InputError, match=r"agent\.value_network\.name: mlp has no memory"):
        RecurrentPPO(env, RecurrentPPO.Settings(value_network="mlp"))


def test_what_a_subclass_overrides_or_replaces_is_used_everywhere():
    class Opinionated(PPO):
        def distribution(self, obs):
            return Categorical(torch.tensor([[0.0, 9.0]]).expand(len(obs), 2))

        def value(self, obs):
            return torch.full((len(obs),), 100.0)

    env = CartPole(CartPole.Settings(num_envs=2))
    agent = Opinionated(env, Opinionated.Settings(horizon=8, minibatch_size=8))
    obs, _ = env.reset(seed=1)
    assert agent.predict(obs).action.tolist() == [1, 1]
    rows, _ = agent.training_rows(collect(agent, env, obs, 8))
    assert rows.value.tolist() == [100.0] * 16
    plain = PPO(env, PPO.Settings(horizon=8, minibatch_size=8))
    plain.act(obs)
    plain.value_head = nn.Linear(64, 1)
    nn.init.zeros_(plain.value_head.weight)
    nn.init.constant_(plain.value_head.bias, 5.0)
    assert plain.training_rows(collect(plain, env, obs, 8))[0].value.tolist() == [5.0] * 16


@pytest.mark.parametrize("kind", [PPO, Reinforce, RecurrentPPO])
def test_policies_explore_by_one_noise_per_rollout_and_learn(kind):
    env = Target(Target.Settings(num_envs=8))
    given = {"state_dependent_noise": True, "log_std_init": -2.0, "gamma": 0.9}
    given |= {} if kind is Reinforce else {"horizon": 32, "minibatch_size": 64, "learning_rate": 1e-2}
    torch.manual_seed(1)
    agent = kind(env, kind.Settings.model_validate(given))
    check_agent(agent, env)
    obs = torch.full((8, 1), 0.3)
    state = agent.initial_state(8)
    first = agent.act(obs, state).action
    assert torch.equal(first, agent.act(obs, state).action)
    assert len(set(first.flatten().tolist())) == 8
    std = agent.distribution(obs).log_std.exp()
    agent.policy_head.noise.draw()
    second = agent.act(obs, state).action
    assert not torch.equal(first, second)
    drawn = []
    for _ in range(500):
        agent.policy_head.noise.draw()
        drawn.append(agent.act(obs, state).action)
    torch.testing.assert_close(torch.cat(drawn).std(), std.mean(), rtol=0.06, atol=0.0)
    if kind is PPO:
        torch.manual_seed(1)
        agent = kind(env, kind.Settings.model_validate(given))
        assert fit(agent, env, 6_000)["return"] > -0.05


def test_the_ratio_is_one_at_first_under_state_dependent_noise():
    env = Target(Target.Settings(num_envs=4))
    agent = ppo(env, state_dependent_noise=True, log_std_init=-2.0)
    obs, _ = env.reset(seed=1)
    rows, _ = agent.training_rows(collect(agent, env, obs, 32))
    torch.testing.assert_close(agent.actor_critic.answers(rows.obs)[0].log_prob(rows.action), rows.log_prob)
    with pytest.raises(InputError, match="is for actions in a Box"):
        ppo(Identity(), state_dependent_noise=True)
    with pytest.raises(InputError, match="is not squashed"):
        ppo(env, state_dependent_noise=True, squash=True)
