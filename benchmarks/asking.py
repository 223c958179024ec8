"""Answer, or ask a person: python benchmarks/asking.py FOLDER

The reward is 1 if right, -c if wrong, 0 for asking. FOLDER holds runs as ``make uncertainty`` leaves them:
``threshold`` with those of ``mnist_ask_threshold``, and for each c ``reinforce-c`` and ``ppo-c``. Prints the mean
reward per test example, and the share that was asked about; means over the seeds (range):

- p > c / (1 + c): answer where the largest probability is above that (Chow 1970), of softmax and of MC dropout;
- entropy: answer where the predictive entropy is below the bound of highest reward on the validation examples;
- REINFORCE and PPO, which have learned it from the reward alone.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from rlcore.evaluation import evaluating
from rlcore.run import Run
from rlcore.supervised.environment import SupervisedEnv
from rlcore.uncertainty import ClassUncertainty, uncertainty
from rlcore.uncertainty.mc_dropout import MCDropout

COSTS = [1, 9, 99]
PASSES = 20


def paid(found: ClassUncertainty, target: Tensor, answers: Tensor, cost: float) -> tuple[float, float]:
    """Mean reward, and the share asked about; ``answers`` [n] bool says where the classifier answers itself."""
    pay = torch.where(found.probabilities.argmax(1) == target, 1.0, -cost) * answers
    return pay.mean().item(), 1 - answers.double().mean().item()


def best_bound(found: ClassUncertainty, target: Tensor, cost: float) -> float:
    """The entropy up to which answering gives the highest reward."""
    entropy, order = found.predictive_entropy.sort()
    pay = torch.where(found.probabilities.argmax(1) == target, 1.0, -cost)[order].cumsum(0)
    best = int(pay.argmax())
    return entropy[best].item() if pay[best] > 0 else -1.0


def thresholds(run: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """Maps decision rule and cost to mean reward and share asked."""
    trainer, _ = Run(run).trainer("last")
    env = trainer.env.evaluation(1)
    assert isinstance(env, SupervisedEnv)
    assert env.dataset.validation is not None
    assert env.dataset.test is not None
    payments = {}
    for name, ask in {"softmax": trainer.agent.answers, "MC dropout": MCDropout(trainer.agent, PASSES).answers}.items():
        with evaluating(trainer.agent):
            shown, test = (
                (uncertainty(ask(split.inputs)), split.targets) for split in (env.dataset.validation, env.dataset.test)
            )
        for cost in COSTS:
            sure = test[0].probabilities.amax(1) > cost / (1 + cost)
            payments[f"{name}, p > c / (1 + c)", cost] = paid(*test, sure, cost)
            calm = test[0].predictive_entropy <= best_bound(*shown, cost)
            payments[f"{name}, entropy", cost] = paid(*test, calm, cost)
    return payments


def main(folder: Path) -> None:
    tables = [thresholds(run) for run in sorted((folder / "threshold").iterdir())]
    found = {key: [table[key] for table in tables] for key in tables[0]}
    for name, label in (("reinforce", "REINFORCE"), ("ppo", "PPO")):
        for cost in COSTS:
            results = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-{cost}/*/result.json"))]
            found[label, cost] = [(one["figures"]["eval/reward"], one["figures"]["eval/asked"]) for one in results]
    print(f"{'':28}" + "".join(f"{f'c = {cost}':>34}" for cost in COSTS))
    for way in dict.fromkeys(way for way, _ in found):
        cells = []
        for cost in COSTS:
            pay, asked = torch.tensor(found[way, cost], dtype=torch.float64).T
            cells.append(f"{pay.mean():.4f} ({pay.min():.4f} to {pay.max():.4f}) asks {asked.mean():5.1%}")
        print(f"{way:28}" + "".join(f"{cell:>44}" for cell in cells))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
