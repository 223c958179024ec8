"""What was replayed, as a page without any other file, and as arrays."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlcore.files import write_text, write_whole
from rlcore.replaying.replay import Replayed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, DATA = "index.html", "data.npz"
LINES = 8
"""Environments, or numbers of a vector, that a figure draws at most."""
IMAGES = 16
STYLE = "body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{text-align:right;padding:0 1em}"


def write(made: Replayed, folder: Path) -> list[Path]:
    """Writes ``index.html`` and ``data.npz``.

    The arrays are the fields of `Replayed` by name, ``metrics/<name>``, and ``gradients/<parameter>``.

    Raises:
        InputError: a file cannot be written.
    """
    arrays: dict[str, Any] = dict(made.fields)
    arrays |= {f"metrics/{name}": np.float64(value) for name, value in made.metrics.items()}
    arrays |= {f"gradients/{name}": norms for name, norms in made.gradients.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / DATA, lambda file: np.savez_compressed(file, **arrays))
    write_text(folder / PAGE, page(made))
    return [folder / PAGE, folder / DATA]


def page(made: Replayed) -> str:
    """The page, HTML with its figures inside."""
    parts = [f"<p>{escape(line)}</p>" for line in (*made.notes, made.verdict)]
    parts += [f"<h2>{escape(name)}</h2><img src='{_source(figure)}'>" for name, figure in figures(made).items()]
    parts += ["<h2>metrics</h2>", _table(("figure", "value"), [(k, f"{v:.6g}") for k, v in made.metrics.items()])]
    norms = [(k, str(len(x)), f"{x.mean():.4g}", f"{x.max():.4g}") for k, x in made.gradients.items()]
    parts += ["<h2>gradients</h2>", _table(("parameter", "steps", "mean norm", "largest"), norms)] if norms else []
    title = escape(made.title)
    head = f"<meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html><html><head>{head}</head><body><h1>{title}</h1>{''.join(parts)}</body></html>\n"


def figures(made: Replayed) -> dict[str, Figure]:
    """Numbers of each step, vectors of the first environment's, what it saw if that are images, and gradients."""
    drawn = {}
    scalars = {name: x for name, x in made.fields.items() if x.ndim == 2 and x.dtype.kind == "f"}
    vectors = {name: x for name, x in made.fields.items() if x.ndim == 3 and x.dtype.kind == "f"}
    if scalars:
        drawn["each step"] = _lines(made, {name: x[:, :LINES] for name, x in scalars.items()}, "environment")
    if vectors:
        drawn["vectors of environment 0"] = _lines(made, {k: x[:, 0, :LINES] for k, x in vectors.items()}, "number")
    for name, x in made.fields.items():
        if name.startswith("obs") and x.ndim == 5:
            drawn[f"{name} of environment 0"] = _images(x[:, 0])
    if made.gradients:
        drawn["gradients by parameter"] = _gradients(made)
    return drawn


def _lines(made: Replayed, fields: dict[str, NDArray[Any]], what: str) -> Figure:
    """A graph for each field [T, K], with K lines."""
    from matplotlib.figure import Figure

    figure = Figure((9, 1.8 * len(fields)), layout="constrained")
    graphs = figure.subplots(len(fields), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, x) in zip(graphs, fields.items(), strict=True):
        steps = np.arange(len(x)) + made.first_step
        for k in range(x.shape[1]):
            axes.plot(steps, x[:, k], ".-" if len(x) < 3 else "-", linewidth=1, label=f"{what} {k}")
        axes.set_ylabel(name)
        if x.shape[1] > 1:
            axes.legend(fontsize=6, ncol=4)
    graphs[-1].set_xlabel("step")
    return figure


def _images(images: NDArray[Any]) -> Figure:
    """Some images [T, C, H, W] or [T, H, W, C], evenly over the steps."""
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int))
    figure = Figure((9, 1.4 * -(-len(chosen) // 8)), layout="constrained")
    for axes, t in zip(figure.subplots(-(-len(chosen) // 8), 8, squeeze=False).flat, chosen, strict=False):
        image = images[t] if images.shape[-1] in (1, 3) else np.moveaxis(images[t], 0, -1)
        shown = image if image.shape[-1] in (1, 3) else image[..., -1:]  # of a stack, the latest
        axes.imshow(shown.squeeze(), cmap="gray")
        axes.set_title(str(t), fontsize=6)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def _gradients(made: Replayed) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((9, 1 + 0.25 * len(made.gradients)), layout="constrained")
    axes = figure.subplots()
    names = list(made.gradients)[::-1]
    axes.barh(names, [made.gradients[name].mean() for name in names])
    axes.plot([made.gradients[name].max() for name in names], names, "k|", label="largest")
    axes.set_xscale("log")
    axes.set_xlabel("2-norm before clipping, mean over the optimizer's steps")
    axes.legend(fontsize=6)
    return figure


def _source(figure: Figure) -> str:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(x)}</th>' for x in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(x)}</td>' for x in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"
