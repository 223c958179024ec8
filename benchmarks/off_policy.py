"""The speed of agents with a replay beside Stable-Baselines3's: python benchmarks/off_policy.py [sac|td3|dqn|costs ...]

SAC and TD3 on gymnasium's Pendulum, one environment: two hidden layers of 256, batches of 256, one update a step. DQN
on CartPole at rl-zoo's settings: gymnasium's, and rlcore's own, 8 of them x 32 steps a rollout instead of 1 x 256, as
much work. Torch on one thread, one process, the rivals alternating block by block, process CPU time. ``a bare update``
is SAC's update alone, by hand on the same tensors, without environment, replay and loop. Then what a step costs
besides: one environment, horizon 1, no update; and what the replay takes to add a step and to draw 256 rows of
HalfCheetah's sizes.
"""

import sys
import time
import warnings

import gymnasium
import torch
from measure import interleave, table
from torch import nn
from torch.nn import functional as F

from rlcore.agents.dqn import DQN
from rlcore.agents.sac import SAC
from rlcore.agents.td3 import TD3
from rlcore.envs.cartpole import CartPole
from rlcore.gym_environment import GymEnvironment
from rlcore.replay import TransitionReplay
from rlcore.rollout import Rollout, Step
from rlcore.trainer import Trainer

ZOO = {
    "learning_rate": 2.3e-3, "batch_size": 64, "replay_size": 100_000, "learning_starts": 1_000, "target_every": 10,
    "horizon": 256, "updates_per_step": 0.5,
}  # fmt: skip
THEIRS = {
    "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1_000,
    "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128,
}  # fmt: skip


def ours(kind, env_id: str, steps: int, own: bool = False, **settings):
    """A block of so many steps of an agent of rlcore; in gymnasium's environment, or in rlcore's own CartPole, of 8."""
    env = CartPole(CartPole.Settings(num_envs=8)) if own else GymEnvironment(env_id, num_envs=1)
    torch.manual_seed(1)
    agent = kind(env, kind.Settings.model_validate(settings))
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=10**7, eval_every=None), seed=1)
    while len(agent.replay) < max(1_000, agent.settings.learning_starts):
        trainer.update()

    def block() -> int:
        before = trainer.steps
        while trainer.steps < before + steps:
            trainer.update()
        return trainer.steps - before

    return block


def theirs(name: str, env_id: str, steps: int, **settings):
    """A block of so many steps of an agent of Stable-Baselines3."""
    import stable_baselines3

    kind = getattr(stable_baselines3, name)
    settings.setdefault("learning_starts", 1_000)
    arguments = {"seed": 1, "device": "cpu", "policy_kwargs": {"net_arch": [256, 256]}, **settings}
    model = kind("MlpPolicy", gymnasium.make(env_id), **arguments)
    model.learn(1_100)

    def block() -> int:
        model.learn(steps, reset_num_timesteps=False)
        return steps

    return block


def bare(num_inputs: int = 3, num_numbers: int = 1, size: int = 256):
    """SAC's update by hand: eager torch, two critics one after the other, torch.optim.Adam."""

    def network(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))

    actor, critics = network(num_inputs, 2 * num_numbers), [network(num_inputs + num_numbers, 1) for _ in range(2)]
    targets = [network(num_inputs + num_numbers, 1) for _ in range(2)]
    log_alpha = torch.zeros((), requires_grad=True)
    actor_adam = torch.optim.Adam(actor.parameters(), lr=3e-4, fused=True)
    critic_adam = torch.optim.Adam([p for critic in critics for p in critic.parameters()], lr=3e-4, fused=True)
    alpha_adam = torch.optim.Adam([log_alpha], lr=3e-4)
    obs, next_obs = torch.randn(size, num_inputs), torch.randn(size, num_inputs)
    action, reward = torch.rand(size, num_numbers) * 2 - 1, torch.randn(size)

    def draw(x):
        mean, log_std = actor(x).chunk(2, 1)
        log_std = log_std.clamp(-20, 2)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.919 - 2 * (0.6931 - u - F.softplus(-2 * u))
        return u.tanh(), log_prob.sum(1)

    def block(num: int = 100) -> int:
        for _ in range(num):
            alpha = log_alpha.detach().exp()
            with torch.no_grad():
                a, log_prob = draw(next_obs)
                x = torch.cat([next_obs, a], 1)
                y = reward + 0.99 * (torch.minimum(*(target(x).squeeze(1) for target in targets)) - alpha * log_prob)
            x = torch.cat([obs, action], 1)
            loss = sum(F.mse_loss(critic(x).squeeze(1), y) for critic in critics)
            critic_adam.zero_grad()
            loss.backward()
            critic_adam.step()
            a, log_prob = draw(obs)
            x = torch.cat([obs, a], 1)
            for critic in critics:
                critic.requires_grad_(False)
            actor_loss = (alpha * log_prob - torch.minimum(*(critic(x).squeeze(1) for critic in critics))).mean()
            actor_adam.zero_grad()
            actor_loss.backward()
            actor_adam.step()
            for critic in critics:
                critic.requires_grad_(True)
            alpha_loss = -(log_alpha * (log_prob.detach() - num_numbers).mean())
            alpha_adam.zero_grad()
            alpha_loss.backward()
            alpha_adam.step()
            with torch.no_grad():
                for target, critic in zip(targets, critics, strict=True):
                    torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), 0.005)
        return num

    return block


def microseconds(work, num: int = 2_000) -> float:
    """CPU time of one call, the least of five averages."""
    times = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(num):
            work()
        times.append((time.process_time() - start) / num * 1e6)
    return min(times)


def replay_costs() -> None:
    """Prints what it takes to add a step, and to draw rows of HalfCheetah's sizes."""
    for alpha in (None, 0.6):
        replay = TransitionReplay(1_000_000, 1, alpha=alpha)
        flags = torch.zeros(1, dtype=torch.bool)
        obs, action, reward = torch.zeros(1, 17), torch.zeros(1, 6), torch.zeros(1)

        def add(replay=replay) -> None:
            rollout = Rollout()
            rollout.append(obs, Step(action), reward, flags, flags, {"final_obs": obs})  # noqa: B023
            rollout.last_obs = obs  # noqa: B023
            replay.add(rollout)

        added = microseconds(add)
        drawn = microseconds(lambda replay=replay: replay.sample(256))
        kind = "uniformly" if alpha is None else "by priority"
        print(f"the replay, {kind}: to add a step {added:.0f} us, to draw 256 rows of HalfCheetah {drawn:.0f} us")


def overhead() -> None:
    """Prints what a step costs besides the environment, the policy and the updates."""
    env = GymEnvironment("Pendulum-v1", num_envs=1)
    agent = SAC(env, SAC.Settings(learning_starts=900_000))
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=10**7, eval_every=None), seed=1)
    trainer.update()
    action = torch.zeros(1, 1)
    whole, step = microseconds(trainer.update), microseconds(lambda: env.step(action))
    act = microseconds(lambda: agent.act(trainer.collector.obs))
    print(f"one environment, horizon 1: {whole:.0f} us a step; of the environment {step:.0f}, of act {act:.0f}")


def main() -> None:
    """Measures those that are named, or all."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the command line does; here its peers gain from it, too
    chosen = sys.argv[1:] or ["sac", "td3", "dqn", "costs"]
    print(f"torch {torch.__version__}, one thread")
    if "sac" in chosen:
        rivals = {"rlcore": ours(SAC, "Pendulum-v1", 100), "Stable-Baselines3": theirs("SAC", "Pendulum-v1", 100)}
        rivals["a bare update"] = bare()
        print("\nSAC on Pendulum-v1, steps\n" + table(interleave(rivals, 10), "rlcore"))
    if "td3" in chosen:
        rivals = {"rlcore": ours(TD3, "Pendulum-v1", 100), "Stable-Baselines3": theirs("TD3", "Pendulum-v1", 100)}
        print("\nTD3 on Pendulum-v1, steps\n" + table(interleave(rivals, 10), "rlcore"))
    if "dqn" in chosen:
        rivals = {
            "rlcore": ours(DQN, "CartPole-v1", 2_560, **ZOO),
            "rlcore, its own CartPole": ours(DQN, "CartPole-v1", 2_560, own=True, **{**ZOO, "horizon": 32}),
            "Stable-Baselines3": theirs("DQN", "CartPole-v1", 2_560, **THEIRS),
        }
        print("\nDQN on CartPole-v1, steps\n" + table(interleave(rivals, 10), "rlcore"))
    if "costs" in chosen:
        print()
        replay_costs()
        overhead()


if __name__ == "__main__":
    main()
