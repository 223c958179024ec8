"""``rlcore export``."""

from rlcore.exporting import Exported
from rlcore.exporting import export as write


def export(
    run: str, out: str, checkpoint: str | None, sample: bool, format: str, opset: int | None, trust: bool
) -> int:
    """Writes the agent of a run as files that run without rlcore, and says what is in them."""
    for exported in write(run, out, checkpoint, sample, format, opset, trust):
        print("\n".join(_lines(exported)))
    return 0


def _lines(exported: Exported) -> list[str]:
    """What a file takes and gives, and how it compared with the agent."""
    lines = [f"{exported.path}"]
    for kind, tensors in (("input", exported.metadata["inputs"]), ("output", exported.metadata["outputs"])):
        for tensor in tensors:
            shape = ", ".join(map(str, tensor["shape"]))
            about = f": {tensor['about']}" if "about" in tensor else ""
            lines.append(f"  {kind} {tensor['name']} {tensor['dtype']} [{shape}]{about}")
    ties = f"{exported.num_ties} in which two actions are equally good" if exported.num_ties else "the same actions"
    return [*lines, f"  {exported.num_observations:,} observations: {ties}, numbers within {exported.difference:.1g}"]
