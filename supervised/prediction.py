"""The command ``rlcore predict``."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from torch import Tensor

from rlcore.agent import Agent
from rlcore.cli import Trust
from rlcore.deployment import as_batch, device_of
from rlcore.env_spec import EnvSpec
from rlcore.errors import InputError
from rlcore.evaluation import evaluating
from rlcore.files import write_whole
from rlcore.run import load
from rlcore.spaces import Inputs, LogOdds, Means, Normals
from rlcore.supervised import tables
from rlcore.supervised.environment import EVALUATION_BATCH, EVALUATION_NUMBERS
from rlcore.supervised.reading import open_inputs
from rlcore.uncertainty import ClassUncertainty, uncertainty
from rlcore.uncertainty.mc_dropout import MCDropout

Columns = dict[str, NDArray[Any]]
"""Names to what is written of each input, [n]."""


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A .csv, .parquet, .npz or .npy file, an image, a folder of images.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .csv, .parquet or .npz file to write.")],
    passes: Annotated[
        int | None, typer.Option(min=2, max=1000, help="Ask this many times with dropout, for the uncertainty.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Inputs at once; what takes memory.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last, a kept one, or a path. Default: best if there is one, else last.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    trust: Trust = False,
) -> None:
    """Write what an agent of a data set answers to other inputs, a row each."""
    if out.suffix not in WRITERS or not out.parent.is_dir() or out.resolve() == source.resolve():
        kinds = ", ".join(WRITERS)
        raise InputError(f"predict: OUT must be another file, {kinds}, in a folder that exists; got {out}")
    agent = load(run, checkpoint, device, trust)
    space = agent.observation_space
    if not isinstance(space, Inputs):
        raise InputError(f"predict: is for agents of data sets; this one observes {space}; in Python, see rlcore.load")
    inputs = open_inputs(source, space)
    for remark in inputs.remarks:
        print(remark)
    size = batch_size or max(1, min(EVALUATION_BATCH, EVALUATION_NUMBERS // math.prod(space.shape)))
    asked = agent if passes is None else MCDropout(agent, passes)
    pieces = []
    with evaluating(agent):
        for start in range(0, len(inputs), size):
            batch = as_batch(inputs[start : start + size], space, device_of(agent), agent.reads_float64)
            pieces.append(answer_columns(agent, batch.obs, asked))
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    if inputs.names is not None:
        columns = {"input": np.array(inputs.names), **columns}
    try:
        write_whole(out, lambda file: WRITERS[out.suffix](file, columns))
    except OSError as error:
        raise InputError(f"predict: cannot write {out}: {error}") from error
    print(f"{out}: {len(inputs):,} rows")


def answer_columns(agent: Agent, obs: Tensor, asked: Agent | MCDropout) -> Columns:
    """What is written of the answers to inputs [B, *shape]: classes with their probabilities, or numbers.

    Args:
        agent: in evaluation mode.
        obs: the inputs, on its device.
        asked: the agent itself, or its MC dropout.
    """
    spec, space = agent.spec, agent.action_space
    if asked is agent and not _has_distribution(agent):
        return _bare(agent.predict(obs).action, spec, isinstance(space, LogOdds))
    answers = asked.answers(obs)
    together, is_one = uncertainty(answers), len(answers[0]) == 1
    if isinstance(together, ClassUncertainty):
        p = together.probabilities.numpy(force=True)
        names = _names(spec.classes, p.shape[1])
        columns = {"class": names[p.argmax(1)], **{f"p_{name}": p[:, k] for k, name in enumerate(names)}}
        columns["entropy"] = together.predictive_entropy.numpy(force=True)
        if not is_one:
            columns["mutual_information"] = together.mutual_information.numpy(force=True)
        return columns
    columns = _bare(together.mean, spec)
    if isinstance(space, (Means, Normals)):  # else the reward is minus an error, which says nothing of noise
        columns |= _numbered("std", together.std, spec)
    return columns if is_one else {**columns, **_numbered("epistemic_std", together.epistemic_std, spec)}


def _has_distribution(agent: Agent) -> bool:
    """Whether more is known of an answer than the answer itself."""
    kind, space = type(agent), agent.action_space
    if isinstance(space, LogOdds) and math.prod(space.shape) > 1:
        return False  # several outcomes are no classes
    return kind.distribution is not Agent.distribution or kind.answers is not Agent.answers


def _bare(action: Tensor, spec: EnvSpec, is_log_odds: bool = False) -> Columns:
    """Actions [B] of classes, or numbers [B, *A]."""
    classes = spec.classes or ()
    if not action.is_floating_point():
        return {"class": _names(classes, len(classes) + 1)[action.numpy(force=True)]}
    if is_log_odds:
        return _numbered("p", action.sigmoid(), spec)
    values = _numbered("value", action, spec)
    return {"class": np.array(classes)[action.argmax(1).numpy(force=True)], **values} if classes else values


def _numbered(name: str, values: Tensor, spec: EnvSpec) -> Columns:
    """Numbers [B, *A] as a column each, named by the classes or targets that they are of, if these have names."""
    array = values.flatten(1).numpy(force=True)
    if array.shape[1] == 1:
        return {name: array[:, 0]}
    endings = spec.classes or spec.target_names or range(array.shape[1])
    return {f"{name}_{ending}": array[:, k] for k, ending in enumerate(endings)}


def _names(classes: Sequence[str] | None, num: int) -> NDArray[np.str_]:
    """The names of K answers; what follows the classes is to ask a person."""
    return np.array([*(classes or map(str, range(num))), "ask"][:num])


def _write_csv(file: IO[bytes], columns: Columns) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    text.detach()


def _write_parquet(file: IO[bytes], columns: Columns) -> None:
    tables.polars_module().DataFrame(columns).write_parquet(file)


def _write_npz(file: IO[bytes], columns: Columns) -> None:
    np.savez(file, **columns)  # type: ignore[arg-type]


WRITERS: dict[str, Callable[[IO[bytes], Columns], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".npz": _write_npz,
}
"""By the ending of the file."""
