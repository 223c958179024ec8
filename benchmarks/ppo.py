"""PPO's speed compared with its peers', with the same settings and the same number of updates.

CartPole:                                     python benchmarks/ppo.py
Through the gymnasium adapter:                python benchmarks/ppo.py Acrobot-v1 (or Pendulum-v1, LunarLander-v3)
Each environment in a process, wall time:     python benchmarks/ppo.py LunarLander-v3 async
Pixels, with the network of Mnih et al.:      python benchmarks/ppo.py ale_py:ALE/Breakout-v5 (or CarRacing-v3)

8 environments x 128 steps, minibatches of 256, 4 epochs, two 64-64 tanh networks, Adam; torch on one thread for
all; one process, the rivals alternating block by block, process CPU time. A block is 8 rollouts with their updates; for
pixels 1 rollout, and for CarRacing 2 environments. On CartPole rlcore steps its own batched environment, its peers
gymnasium's, and so does a second rlcore. On Atari both use gymnasium's usual preprocessing and its stacks of 4 frames.
Also prints where rlcore's wall time goes.
"""

import sys
import time
import warnings

import gymnasium
import numpy as np
import torch
from measure import interleave, table
from torch import nn

from rlcore.agents.ppo import PPO
from rlcore.envs.cartpole import CartPole
from rlcore.gym_environment import GymEnvironment
from rlcore.trainer import Trainer

ENV_ID = sys.argv[1] if len(sys.argv) > 1 else "CartPole-v1"
ATARI, PIXELS = ENV_ID.startswith("ale_py:"), ENV_ID.startswith(("ale_py:", "CarRacing"))
OPTIONS = {"frameskip": 1} if ATARI else {}
WRAPPERS = ["AtariPreprocessing", "FrameStackObservation"] if ATARI else []
ARGUMENTS = [{}, {"stack_size": 4}]
NUM_ENVS, ROLLOUTS = (2 if "CarRacing" in ENV_ID else 8), (1 if PIXELS else 8)
HORIZON, MINIBATCH, EPOCHS = 128, 256, 4
STEPS = NUM_ENVS * HORIZON * ROLLOUTS


class CleanRLStyle:
    """The single-file loop as CleanRL's ppo.py writes it: SyncVectorEnv, Categorical, a value at every step."""

    def __init__(self, env_id: str):
        self.envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(env_id)] * NUM_ENVS)
        num_inputs = int(np.prod(self.envs.single_observation_space.shape))

        def network(num_outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(num_inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, num_outputs)
            )

        self.actor, self.critic = network(int(self.envs.single_action_space.n)), network(1)
        self.parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=3e-4, eps=1e-5)
        obs, _ = self.envs.reset(seed=1)
        self.next_obs, self.next_done = torch.Tensor(obs), torch.zeros(NUM_ENVS)

    def action_and_value(self, x, action=None):
        probs = torch.distributions.Categorical(logits=self.actor(x))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)

    def __call__(self) -> int:
        for _ in range(ROLLOUTS):
            self.update()
        return STEPS

    def update(self) -> None:
        shape = self.envs.single_observation_space.shape
        obs = torch.zeros((HORIZON, NUM_ENVS, *shape))
        actions, logprobs, rewards, dones, values = (torch.zeros((HORIZON, NUM_ENVS)) for _ in range(5))
        for step in range(HORIZON):
            obs[step], dones[step] = self.next_obs, self.next_done
            with torch.no_grad():
                action, logprob, _, value = self.action_and_value(self.next_obs)
                values[step] = value.flatten()
            actions[step], logprobs[step] = action, logprob
            next_obs, reward, terminations, truncations, _ = self.envs.step(action.cpu().numpy())
            rewards[step] = torch.tensor(reward).view(-1)
            self.next_obs = torch.Tensor(next_obs)
            self.next_done = torch.Tensor(np.logical_or(terminations, truncations))
        with torch.no_grad():
            next_value = self.critic(self.next_obs).reshape(1, -1)
            advantages, lastgaelam = torch.zeros_like(rewards), 0
            for t in reversed(range(HORIZON)):
                nonterminal = 1.0 - (self.next_done if t == HORIZON - 1 else dones[t + 1])
                nextvalues = next_value if t == HORIZON - 1 else values[t + 1]
                delta = rewards[t] + 0.99 * nextvalues * nonterminal - values[t]
                advantages[t] = lastgaelam = delta + 0.99 * 0.95 * nonterminal * lastgaelam
            returns = advantages + values
        b_obs, b_logprobs, b_actions = obs.reshape(-1, *shape), logprobs.reshape(-1), actions.reshape(-1)
        b_advantages, b_returns = advantages.reshape(-1), returns.reshape(-1)
        indices, rng = np.arange(HORIZON * NUM_ENVS), np.random.default_rng()
        for _ in range(EPOCHS):
            rng.shuffle(indices)
            for start in range(0, len(indices), MINIBATCH):
                rows = indices[start : start + MINIBATCH]
                _, newlogprob, entropy, newvalue = self.action_and_value(b_obs[rows], b_actions.long()[rows])
                logratio = newlogprob - b_logprobs[rows]
                ratio = logratio.exp()
                with torch.no_grad():
                    ((ratio - 1) - logratio).mean()
                    ((ratio - 1.0).abs() > 0.2).float().mean().item()
                a = b_advantages[rows]
                a = (a - a.mean()) / (a.std() + 1e-8)
                pg_loss = torch.max(-a * ratio, -a * torch.clamp(ratio, 0.8, 1.2)).mean()
                v_loss = 0.5 * ((newvalue.view(-1) - b_returns[rows]) ** 2).mean()
                loss = pg_loss - 0.0 * entropy.mean() + v_loss * 0.5
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters, 0.5)
                self.optimizer.step()


def rlcore_block(vectorization: str, own_cartpole: bool):
    if own_cartpole:
        env = CartPole(CartPole.Settings(num_envs=NUM_ENVS))
    else:
        wrappers = [{"name": name, **given} for name, given in zip(WRAPPERS, ARGUMENTS, strict=False)]
        given = {"id": ENV_ID, "num_envs": NUM_ENVS, "vectorization": vectorization}
        env = GymEnvironment(
            GymEnvironment.Settings.model_validate({**given, "options": OPTIONS, "wrappers": wrappers})
        )
    torch.manual_seed(1)
    settings = {"horizon": HORIZON, "minibatch_size": MINIBATCH, "num_epochs": EPOCHS}
    if PIXELS:
        settings |= {"network": {"name": "nature_cnn"}, "shared": True}
    trainer = Trainer(PPO(env, PPO.Settings.model_validate(settings)), env, total_steps=10**9, seed=1)

    def block() -> int:
        for _ in range(ROLLOUTS):
            trainer.update()
        return STEPS

    return block, trainer


def made(env_id: str, **options) -> gymnasium.Env:
    env = gymnasium.make(env_id, **options, **OPTIONS)
    for name, given in zip(WRAPPERS, ARGUMENTS, strict=False):
        env = getattr(gymnasium.wrappers, name)(env, **given)
    return env


def sb3_block(vectorization: str):
    from stable_baselines3 import PPO as SB3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    vec_env_cls = DummyVecEnv if vectorization == "sync" else SubprocVecEnv
    envs = make_vec_env(made, NUM_ENVS, seed=1, vec_env_cls=vec_env_cls, env_kwargs={"env_id": ENV_ID})
    model = SB3(
        "CnnPolicy" if PIXELS else "MlpPolicy", envs, n_steps=HORIZON, batch_size=MINIBATCH, n_epochs=EPOCHS,
        seed=1, device="cpu",
    )  # fmt: skip
    model.learn(HORIZON * NUM_ENVS)

    def block() -> int:
        model.learn(STEPS, reset_num_timesteps=False)
        return STEPS

    return block


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    vectorization = sys.argv[2] if len(sys.argv) > 2 else "sync"
    own_cartpole = ENV_ID == "CartPole-v1" and vectorization == "sync"
    ours, trainer = rlcore_block(vectorization, own_cartpole)
    rivals = {"rlcore": ours, "Stable-Baselines3": sb3_block(vectorization)}
    if own_cartpole:
        rivals["rlcore, gymnasium's"], _ = rlcore_block(vectorization, False)
    if vectorization == "sync" and trainer.env.single_action_space.dtype.kind == "i" and not PIXELS:
        rivals["CleanRL-style"] = CleanRLStyle(ENV_ID)
    clock = time.process_time if vectorization == "sync" else time.perf_counter
    print(f"PPO on {ENV_ID}, {vectorization}, torch {torch.__version__}, one thread")
    print(table(interleave(rivals, 5 if PIXELS else 15, clock=clock), "rlcore"))
    shares = {name: f"{share:.0%}" for name, share in trainer.timing().items() if name.endswith("share")}
    print("rlcore's time:", ", ".join(f"{name[5:-6]} {share}" for name, share in shares.items()))
    trainer.close()


if __name__ == "__main__":
    main()
