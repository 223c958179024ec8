"""Agents as files that run without rlcore: ONNX, and programs of ``torch.export``."""

import io
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rlcore import __version__, registry
from rlcore.agent import Agent
from rlcore.config import CONFIG_FILE, read_yaml
from rlcore.deployment import as_batch, device_of
from rlcore.distributions import FORBIDDEN
from rlcore.errors import InputError, one_line
from rlcore.evaluation import evaluating
from rlcore.exporting.examples import examples
from rlcore.exporting.programs import Program, Tensors, described
from rlcore.files import write_whole
from rlcore.imports import optional
from rlcore.run import load

INSTALL = "'rlcore[export]'"
OF_ENV = "name", "id", "game", "dataset"
"""Settings of an environment that say which one it is."""
BATCH = "batch"
EXAMPLES = 3
"""Rows by which a program is traced; of one, torch would take the number for granted."""
METADATA = "rlcore"
"""The key of what a file says of itself, JSON."""
FIRST_OPSET = 18
"""The oldest that torch writes."""
NUM_OBSERVATIONS = 1000
TOLERANCE = 1e-5
"""By which numbers may differ from the agent's, times the largest of the same answer where that is above 1."""
TIES = 1e-3
"""Share of observations whose discrete actions may differ, as two are equally good within rounding."""


class Exported(NamedTuple):
    """A file that was written, and how it compared with the agent."""

    path: Path
    metadata: dict[str, Any]
    """What it says of itself; see `export`."""
    num_observations: int
    """Rows that were compared."""
    difference: float
    """The largest difference of a number, divided by the largest of the same answer where that is above 1."""
    num_ties: int
    """Rows in which an integer differs."""


def export(
    run: str | Path | Agent,
    out: str | Path,
    checkpoint: str | None = None,
    sample: bool = False,
    format: str = "onnx",
    opset: int | None = None,
    trust: bool = False,
    num_observations: int = NUM_OBSERVATIONS,
) -> list[Exported]:
    """Writes the agent of a run as a program that needs neither rlcore nor torch, and compares it with the agent.

    Inputs, outputs and what they are is in each file: `metadata` of the result, the JSON under ``rlcore`` of an ONNX
    file's custom metadata, and the extra file ``rlcore.json`` of a pt2 file.

    Args:
        run: the run's folder, or an agent.
        out: the file, ``.onnx`` or ``.pt2``. Of an agent that is several programs each has its name before the ending.
        checkpoint: ``best``, ``last``, a kept one, or a path; None means ``best`` if there is one, else ``last``.
        sample: actions are drawn from the agent's distribution, by an input ``noise``.
        format: ``onnx``, or ``pt2``, a program of ``torch.export``.
        opset: of ONNX; None: torch's choice.
        trust: see `rlcore.load`.
        num_observations: drawn from the observation space, on which file and agent must answer alike.

    Raises:
        InputError: there is no such run, format or opset; a package is missing; the agent cannot be exported, or the
            program does not answer as the agent; or the file cannot be written.
    """
    out = Path(out)
    if format not in FORMATS:
        raise InputError(f"--format: must be one of {', '.join(FORMATS)}, got {format!r}")
    if out.suffix != f".{format}" or not out.parent.is_dir() or out.is_dir():
        raise InputError(f"export: --format {format} writes a file *.{format} into a folder that exists; got {out}")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"export: cannot write into {out.parent}: it may only be read")
    writer = FORMATS[format](opset)
    agent = run if isinstance(run, Agent) else load(run, checkpoint, "cpu", trust)
    origin = {} if isinstance(run, Agent) else _origin(Path(run))
    origin |= {"agent": registry.agents.name_of(type(agent)) or type(agent).__name__, "sample": sample}
    written = []
    with evaluating(agent), _quiet():
        programs = agent.programs(_observations(agent, num_observations), sample)
        for name, program in programs.items():
            outputs = program.run(program.inputs)
            metadata = {"version": __version__, **origin, "program": name, **_described(agent, program, outputs)}
            content = writer.write(_traced(agent, program), program.inputs, outputs, metadata)
            path = out if len(programs) == 1 else out.with_name(f"{out.stem}.{name}{out.suffix}")
            written.append((Exported(path, metadata, *_compared(writer.read(content), program, outputs)), content))
    for exported, content in written:
        _check(exported)
        _write(exported.path, content)
    return [exported for exported, _ in written]


class Writer(Protocol):
    """A format."""

    def write(
        self, program: torch.export.ExportedProgram, inputs: Tensors, outputs: Tensors, metadata: dict[str, Any]
    ) -> bytes:
        """The file's content."""

    def read(self, content: bytes) -> Callable[[Tensors], Tensors]:
        """What the file computes."""


class ONNX:
    """Files of ONNX, read by onnxruntime.

    Args:
        opset: of the operators; None: torch's choice.

    Raises:
        InputError: there is no such opset, or a package is missing.
    """

    def __init__(self, opset: int | None):
        self.onnx, self.runtime = (optional(name, "export: needs", INSTALL) for name in ("onnx", "onnxruntime"))
        optional("onnxscript", "export: needs", INSTALL)
        latest = self.onnx.defs.onnx_opset_version()
        if opset is not None and not FIRST_OPSET <= opset <= latest:
            raise InputError(f"--opset: must be from {FIRST_OPSET} to {latest}, got {opset}")
        self.opset = opset

    def write(
        self, program: torch.export.ExportedProgram, inputs: Tensors, outputs: Tensors, metadata: dict[str, Any]
    ) -> bytes:
        """See `Writer`."""
        try:
            made: Any = torch.onnx.export(
                program, dynamo=True, optimize=True, verbose=False, opset_version=self.opset,
                input_names=list(inputs), output_names=list(outputs),
            )  # fmt: skip
        except Exception as error:
            raise InputError(f"export: torch.onnx cannot write this agent: {one_line(_cause(error))}") from error
        named = {*inputs, *outputs}
        for node in made.model.graph:
            for value in node.outputs:  # torch may have named one within the program as an output is named here
                if value.name in named and not any(value is output for output in made.model.graph.outputs):
                    value.name = f"{value.name}/inner"
        model = made.model_proto
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = BATCH
        self.onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata)})
        content: bytes = model.SerializeToString()
        return content

    def read(self, content: bytes) -> Callable[[Tensors], Tensors]:
        """See `Writer`."""
        options = self.runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = self.runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(
                f"export: onnxruntime {self.runtime.__version__} cannot run this: {one_line(error)}"
            ) from error
        names = [output.name for output in session.get_outputs()]

        def run(inputs: Tensors) -> Tensors:
            arrays = {name: x.numpy(force=True) for name, x in inputs.items()}
            return {name: torch.as_tensor(x) for name, x in zip(names, session.run(names, arrays), strict=True)}

        return run


class PT2:
    """Programs of ``torch.export``, read by torch.

    Args:
        opset: must be None.

    Raises:
        InputError: it is not.
    """

    def __init__(self, opset: int | None):
        if opset is not None:
            raise InputError("--opset: is of ONNX; leave it out with --format pt2")

    def write(
        self, program: torch.export.ExportedProgram, inputs: Tensors, outputs: Tensors, metadata: dict[str, Any]
    ) -> bytes:
        """See `Writer`."""
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={f"{METADATA}.json": json.dumps(metadata)})
        return file.getvalue()

    def read(self, content: bytes) -> Callable[[Tensors], Tensors]:
        """See `Writer`."""
        module: Callable[[Tensors], Tensors] = torch.export.load(io.BytesIO(content)).module()
        return module


FORMATS: dict[str, Callable[[int | None], Writer]] = {"onnx": ONNX, "pt2": PT2}


class _Traced(nn.Module):
    """A program as a module that has the agent's parameters and buffers."""

    def __init__(self, agent: Agent, run: Callable[[Tensors], Tensors]):
        super().__init__()
        self.agent, self.run = agent, run

    def forward(self, inputs: Tensors) -> Tensors:
        return self.run(inputs)


def _traced(agent: Agent, program: Program) -> torch.export.ExportedProgram:
    """The program's operations on tensors, for any number of rows."""
    batch = torch.export.Dim(BATCH)
    rows = {name: x[:EXAMPLES] for name, x in program.inputs.items()}
    shapes = ({name: {0: batch} for name in rows},)
    try:
        return torch.export.export(_Traced(agent, program.run).eval(), (rows,), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise InputError(
            f"the agent {type(agent).__name__} cannot be exported: {one_line(_cause(error))}; an agent can be whose "
            "predict computes with tensors alone, for any number of rows (Agent.programs)"
        ) from error


def _cause(error: BaseException) -> Exception | str:
    """The first line of the error that began a chain."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return str(error).strip().split("\n")[0] or type(error).__name__


def _observations(agent: Agent, num: int) -> Any:
    """Examples of observations, [num, *O], as the agent reads them."""
    space = agent.observation_space
    return as_batch(examples(space, num, seed=0), space, device_of(agent), agent.reads_float64).obs


def _compared(run: Callable[[Tensors], Tensors], program: Program, outputs: Tensors) -> tuple[int, float, int]:
    """How many rows were compared, the largest difference of a number, and the rows in which an integer differs."""
    inputs = program.inputs
    rows = next(iter(inputs.values())).shape[0]
    found = run(inputs)
    alone = run({name: x[:1] for name, x in inputs.items()})
    difference, differs = 0.0, torch.zeros(rows, dtype=torch.bool)
    for name, x in outputs.items():
        expected, got = x.cpu(), torch.cat([alone[name].cpu(), found[name].cpu()[1:]])
        if got.shape != expected.shape or got.dtype != expected.dtype:
            difference = math.inf
        elif expected.is_floating_point():
            off = (got.double() - expected.double()).reshape(rows, -1).abs() / _scale(expected.double())
            difference = max(difference, off.nan_to_num(math.inf).max().item())
        else:
            differs |= (got != expected).flatten(1).any(1) if got.ndim > 1 else got != expected
    return rows, difference, int(differs.sum())


def _scale(x: Tensor) -> Tensor:
    """The largest number of each row of [B, ...], at least 1, [B, 1]; those of forbidden actions do not count."""
    usual = torch.where(x <= FORBIDDEN / 2, 0.0, x).reshape(x.shape[0], -1)
    return usual.abs().amax(1, keepdim=True).clamp_min(1)


def _check(exported: Exported) -> None:
    """Raises an InputError if the file does not answer as the agent."""
    if exported.difference > TOLERANCE or exported.num_ties > TIES * exported.num_observations:
        raise InputError(
            f"{exported.path} was not written: of {exported.num_observations:,} observations it answers "
            f"{exported.num_ties:,} with another action, and its numbers differ from the agent's by up to "
            f"{exported.difference:.1g}; at most {TIES:.1%} and {TOLERANCE:g} are allowed"
        )


def _origin(run: Path) -> dict[str, Any]:
    """What a run's settings say of where the agent acts, and the run's name."""
    env = read_yaml(run / CONFIG_FILE)["env"]
    folder = run.resolve()
    named = {key: env[key] for key in OF_ENV if env.get(key) is not None}
    return {"run": f"{folder.parent.name}/{folder.name}", "env": named}


def _described(agent: Agent, program: Program, outputs: Tensors) -> dict[str, Any]:
    """What the inputs and outputs of a program are."""
    spec = agent.spec
    names = {"classes": spec.classes, "target_names": spec.target_names}
    spaces = {name: described(getattr(agent, name)) for name in ("observation_space", "action_space")}
    return {
        **spaces,
        **{name: list(values) for name, values in names.items() if values is not None},
        "inputs": [_tensor(name, x, program.about) for name, x in program.inputs.items()],
        "outputs": [_tensor(name, x, program.about) for name, x in outputs.items()],
    }


def _tensor(name: str, x: Tensor, about: dict[str, str]) -> dict[str, Any]:
    found = {"name": name, "dtype": str(x.dtype).removeprefix("torch."), "shape": [BATCH, *x.shape[1:]]}
    return {**found, "about": about[name]} if name in about else found


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, lambda file: file.write(content))
    except OSError as error:
        raise InputError(f"export: cannot write {path}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of its own parts while it exports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
