"""Checks of a data set: whether what is held out was held out, and whether its labels can be told from its inputs."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlcore.doctor import Examination, Finding, Unseen
from rlcore.supervised.environment import SupervisedEnv

ROWS = 2000
"""Examples of a split whose labels are looked at."""
MOST_NUMBERS = 2**28
"""Numbers in the inputs that are compared."""


def leakage(x: Examination) -> Finding | None:
    """Examples that are held out are among those of training."""
    data = _env(x).dataset
    named = {"training": data.train, "validation": data.validation, "test": data.test}
    splits = {name: split.inputs for name, split in named.items() if split is not None}
    inputs = {name: part for name, part in splits.items() if isinstance(part, Tensor) and part.numel() < MOST_NUMBERS}
    if len(inputs) < len(splits):
        raise Unseen("the data set is not in memory, or too large")
    train = inputs.pop("training")
    held = {name: part for name, part in inputs.items() if part.shape != train.shape or not torch.equal(part, train)}
    if not held:
        raise Unseen("nothing is held out")
    known = set(_rows(train))
    for name, part in held.items():
        rows = _rows(part)
        num = sum(row in known for row in rows)
        if num >= 3 and num > 0.03 * len(rows):  # iris has a pair of twins
            evidence = f"{num} of the {len(rows):,} {name} examples are in the training split, number by number"
            return Finding(evidence, "remove duplicates before splitting; split by source, not by row")
    return None


def labels_shuffled(x: Examination) -> Finding | None:
    """Labels that cannot be told from the inputs: what is held out is answered as by chance."""
    env, held = _env(x), x.trainer.evaluator.make()
    if env.classes is None or held is env:
        raise Unseen("targets are no classes")
    x.require_progress(0.5)
    (inputs, labels, answers), (others, truths, said) = (_answered(x, one) for one in (env, held))
    chance = np.bincount(truths).max() / len(truths)
    noise = 3 * np.sqrt(chance * (1 - chance) / len(truths))
    trained, tested = float((answers == labels).mean()), float((said == truths).mean())
    if tested > chance + noise or (
        trained < chance + noise + 0.1 and _neighbours(inputs, labels, others, truths) > chance + noise
    ):
        return None
    evidence = (
        f"{trained:.0%} of the training and {tested:.0%} of the held-out labels are answered, by chance {chance:.0%}"
    )
    return Finding(
        evidence, "compare some inputs with their labels (rlcore eval RUN --report examples); were they sorted apart?"
    )


def _env(x: Examination) -> SupervisedEnv:
    if not isinstance(x.env, SupervisedEnv):
        raise Unseen("no data set")
    return x.env


def _rows(inputs: Tensor) -> list[bytes]:
    flat: NDArray[Any] = inputs.flatten(1).numpy(force=True)
    return [row.tobytes() for row in np.ascontiguousarray(flat)]


def _answered(x: Examination, env: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Inputs [n, D], labels [n] and answers [n] of some examples, spread over those that an environment shows."""
    rows = torch.linspace(0, env.num_examples - 1, min(ROWS, env.num_examples)).long().unique().to(env.device)
    inputs, labels = env.inputs(rows), env.targets[rows]
    with x.undisturbed():
        answers = env.action.label(x.agent.predict(inputs).action)
    return inputs.flatten(1).float().numpy(force=True), labels.numpy(force=True), answers.numpy(force=True)


def _neighbours(inputs: Any, labels: Any, others: Any, truths: Any) -> float:
    """The accuracy of the nearest neighbour's label, which needs no training."""
    from sklearn.neighbors import KNeighborsClassifier

    return float(KNeighborsClassifier(1).fit(inputs, labels).score(others, truths))
