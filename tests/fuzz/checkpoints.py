"""Checkpoints with damaged bytes, which must be refused, and with wrong contents under a right digest."""

import random
import shutil
from pathlib import Path
from typing import Any

import torch

from fuzz.damage import damaged
from fuzz.trial import Outcome, must, run
from rlcore import checkpoint

NUM = 600  # half of each kind
LAST = "checkpoints/last.pt"
SMALL = "agent.network={name: mlp, hidden: [8]}"
RUNS = {
    "ppo": ["cartpole_ppo", SMALL, "agent.normalize_observations=true", "agent.normalize_rewards=true"],
    "reinforce": ["cartpole_reinforce", SMALL],
    "recurrent": ["cartpole_recurrent_ppo", "agent.network={name: lstm, size: 8}"],
    "gym": ["acrobot_ppo", SMALL, "agent.horizon=32"],
    "dqn": [
        "dqn_cartpole", "env={name: cartpole, num_envs: 4}", SMALL, "agent.horizon=8", "agent.priority_alpha=0.6",
        "agent.replay_size=400", "agent.learning_starts=200",
    ],
    "sac": ["sac_pendulum", SMALL, "agent.batch_size=16", "agent.updates_per_step=0.1"],
    "iris": ["iris_ppo"],
    "alphazero": ["tictactoe_alphazero", "agent.network={name: policy_value, hidden: [8], head: 8}", "env.num_envs=8"],
    "versus": ["connect4_pool_reinforce", SMALL, "env.num_envs=8", "env.save_every=1", "env.positions=null"],
}  # fmt: skip
"""Configs of the runs that are damaged, stopped at half their length."""
STEPS, MORE = 512, 1024


def prepare(folder: Path) -> None:
    for name, words in RUNS.items():
        limits = [f"trainer.total_steps={MORE}", f"trainer.stop_at={STEPS}", "trainer.eval_episodes=2"]
        must(["train", *words, *limits, "trainer.max_episode_steps=50", "--run-dir", name], folder, name)


def trial(rng: random.Random, folder: Path, prepared: Path) -> Outcome:
    shutil.copytree(prepared / rng.choice(list(RUNS)), folder / "run")
    path = folder / "run" / LAST
    if rng.random() < 0.5:
        path.write_bytes(damaged(rng, path.read_bytes()))
        outcome = run(["resume", "run"], folder)
        return Outcome("wrong", "damaged bytes were accepted") if outcome.verdict == "fine" else outcome
    content = checkpoint.load(path)
    changes = [change(rng, content) for _ in range(rng.choice([1, 1, 1, 3]))]
    (folder / "changes.txt").write_text("\n".join(changes))
    checkpoint.save(path, {key: value for key, value in content.items() if key != "schema"})
    outcome = run(["resume", "run"], folder)
    return outcome if outcome.good else outcome._replace(detail=f"{outcome.detail}    [{'; '.join(changes)}]")


def change(rng: random.Random, content: dict[str, Any]) -> str:
    """Replaces or deletes a part of a checkpoint at a random depth; tells which, and by what."""
    inside, path = content, ""
    while True:
        key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        path += f".{key}" if isinstance(inside, dict) else f"[{key}]"
        value = inside[key]
        if not (isinstance(value, (dict, list)) and value) or rng.random() < 0.1:
            break
        inside = value
    if rng.random() < 0.1:
        del inside[key]
        return f"{path[1:]} deleted"
    inside[key] = other(rng, value)
    new = inside[key]
    return f"{path[1:]} = {(new.dtype, tuple(new.shape)) if isinstance(new, torch.Tensor) else repr(new)}"[:200]


def other(rng: random.Random, value: Any) -> Any:
    """Another value, of another type or shape, or of the same."""
    if isinstance(value, torch.Tensor) and rng.random() < 0.6:
        numbers = value.double() if not value.is_complex() else value.real
        return rng.choice([
            value[None], value.flatten()[:-1], value.new_zeros(0), torch.ones_like(value),
            value.mT if value.ndim > 1 else None,
            numbers, numbers.half(), numbers.bool(), (numbers * 1e6).nan_to_num(0).long(),
            numbers * float("nan"), numbers * 1e30, -numbers.abs() - 1,
        ])  # fmt: skip
    if isinstance(value, (int, float)) and rng.random() < 0.6:
        return rng.choice([-1, 0, 1, 10**18, -(10**18), 2**70, 0.5, float("nan"), float("inf"), not value, str(value)])
    return rng.choice([
        None, True, 0, -1, 2**70, 0.5, float("nan"), "", "x" * 300, "[/y]", [], {}, (), [None], {"a": {}}, {0: 1},
        torch.zeros(()), torch.zeros(3), torch.zeros(2, 0), torch.tensor([2**62]), torch.tensor([1j]),
    ])  # fmt: skip
