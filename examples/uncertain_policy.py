"""How sure a policy is where it was not trained: python examples/uncertain_policy.py RUN [RUN ...]

The runs are of a policy with dropout: ``rlcore train cartpole_ppo_dropout --seeds 5``. Plays CartPole with other
gravity, pole or force, and asks Monte Carlo dropout about every state on the way. Prints a table, draws
docs/images/policy_uncertainty.png, and prints what share of the rows PPO would clip at once if it did not keep masks.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import rlcore
from rlcore.agents.ppo import PPO
from rlcore.envs.cartpole import CartPole
from rlcore.networks.dropout import recalled
from rlcore.uncertainty.mc_dropout import MCDropout

FACTORS = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
TRAINED = {"gravity": 9.8, "length": 0.5, "force_mag": 10.0}
NUM_ENVS, NUM_STEPS, PASSES = 20, 500, 50
OUT = Path(__file__).parent.parent / "docs" / "images" / "policy_uncertainty.png"


def played(agent: PPO, seed: int, **physics: float) -> tuple[float, float, float]:
    """Mean return of the first episodes; mean predictive entropy and mutual information (nats) of their states."""
    env = CartPole(CartPole.Settings(num_envs=NUM_ENVS, **physics))
    obs, _ = env.reset(seed=seed)
    alive = torch.ones(NUM_ENVS, dtype=torch.bool)
    steps, states = 0, []
    while alive.any():
        states.append(obs[alive])
        steps += int(alive.sum())
        obs, _, terminated, truncated, _ = env.step(agent.predict(obs).action)
        alive &= ~(terminated | truncated)
    found = MCDropout(agent, PASSES).uncertainty(torch.cat(states))
    return steps / NUM_ENVS, found.predictive_entropy.mean().item(), found.mutual_information.mean().item()


def clipped_without_masks(agent: PPO) -> float:
    """The share of a rollout's rows whose ratio is outside of [0.8, 1.2] before any update, under new masks."""
    env = CartPole(CartPole.Settings(num_envs=8))
    agent.train()
    rollout = rlcore.collect(agent, env, env.reset(seed=1)[0], 256)
    rows, _ = agent.training_rows(rollout)
    with torch.no_grad():
        ratio = (agent.distribution(rollout.rows(rollout.obs)).log_prob(rows.action) - rows.log_prob).exp()
        with recalled(agent.policy_dropouts, rows.masks):
            kept = (agent.distribution(rollout.rows(rollout.obs)).log_prob(rows.action) - rows.log_prob).exp()
    agent.eval()
    assert (kept - 1).abs().max() < 1e-4, "with the masks kept it is the policy that acted"
    return ((ratio - 1).abs() > 0.2).float().mean().item()


def main(runs: list[str]) -> None:
    agents = [rlcore.load(run) for run in runs]
    shares = [clipped_without_masks(agent) for agent in agents]
    print(f"clipped at once with new masks: {min(shares):.0%} to {max(shares):.0%}; with the masks kept: none\n")
    figure = Figure(figsize=(9, 3), layout="constrained")
    print(f"{'':>10}  {'factor':>6}  {'return':>7}  {'entropy':>8}  {'mutual information (range)':>30}")
    for axes, (name, value) in zip(figure.subplots(1, 3, sharey=True), TRAINED.items(), strict=True):
        curve = []
        for factor in FACTORS:
            each = [played(agent, seed, **{name: factor * value}) for seed, agent in enumerate(agents)]
            score, entropy, information = torch.tensor(each).T
            curve.append(information)
            spread = f"{information.mean():.4f} ({information.min():.4f} to {information.max():.4f})"
            print(f"{name:>10}  {factor:>6g}  {score.mean():7.1f}  {entropy.mean():8.4f}  {spread:>30}")
        lines = torch.stack(curve)
        axes.plot(FACTORS, lines.mean(1), marker="o", markersize=3)
        axes.fill_between(FACTORS, lines.amin(1), lines.amax(1), alpha=0.2)
        axes.axvline(1, color="grey", linestyle=":", linewidth=0.8)
        axes.set(xscale="log", xlabel=f"{name} / trained")
        axes.set_xticks(FACTORS, [f"{factor:g}" for factor in FACTORS], minor=False)
        axes.minorticks_off()
    figure.axes[0].set_ylabel("mutual information, nats")
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
