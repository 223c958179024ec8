"""``rlcore export``."""

from rlcore.errors import InputError
from rlcore.exporting import files as exporting
from rlcore.exporting.files import Exported
from rlcore.exporting.page import export_page


def export(
    run: str,
    out: str,
    format: str,
    web: bool,
    runtime: str | None,
    checkpoint: str | None,
    sample: bool,
    opset: int | None,
    trust: bool,
) -> int:
    """Writes the agent of a run as files that run without rlcore, and says what is in them."""
    if web and format != "onnx":
        raise InputError(f"--web: the page runs ONNX; leave out --format {format}")
    if runtime is not None and not web:
        raise InputError("--runtime: is what the page of --web runs by")
    if web:
        files = export_page(run, out, runtime, checkpoint, sample, opset, trust)
    else:
        files = exporting.export(run, out, checkpoint, sample, format, opset, trust)
    for exported in files:
        print("\n".join(_lines(exported)))
    if web:
        print(f"serve it: python -m http.server --directory {out}")
    return 0


def _lines(exported: Exported) -> list[str]:
    """What a file takes and gives, and how it compared with the agent."""
    lines = [str(exported.path)]
    for kind in ("inputs", "outputs"):
        for tensor in exported.metadata[kind]:
            shape = ", ".join(map(str, tensor["shape"]))
            about = f": {tensor['about']}" if "about" in tensor else ""
            lines.append(f"  {kind[:-1]} {tensor['name']} {tensor['dtype']} [{shape}]{about}")
    same = "the same integers"
    if exported.num_ties:
        same = f"other integers in {exported.num_ties}, where two actions are equally good within rounding"
    return [*lines, f"  {exported.num_observations:,} observations: {same}, numbers within {exported.difference:.1g}"]
