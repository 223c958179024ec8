"""A folder with one page that runs an exported agent in the browser, by onnxruntime-web."""

import json
import shutil
from pathlib import Path

from rlcore.agent import Agent
from rlcore.errors import InputError
from rlcore.exporting.files import NUM_OBSERVATIONS, Exported, export
from rlcore.files import write_text

PAGE = Path(__file__).parent / "webpage"
RUNTIME = Path("node_modules/onnxruntime-web")
OF_RUNTIME = "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
"""What the page needs of onnxruntime-web: its JavaScript, and itself as WebAssembly."""
PROGRAMS_FILE = "programs.json"


def export_page(
    run: str | Path | Agent,
    folder: str | Path,
    runtime: str | Path | None = None,
    checkpoint: str | None = None,
    sample: bool = False,
    opset: int | None = None,
    trust: bool = False,
    num_observations: int = NUM_OBSERVATIONS,
) -> list[Exported]:
    """Writes ``index.html``, its JavaScript, the agent as ONNX, and onnxruntime-web, to be served by any web server.

    Args:
        run: the run's folder, or an agent.
        folder: where to; made if it is not there. A page in it is replaced.
        runtime: the installed npm package onnxruntime-web; None: that in ``node_modules``.
        checkpoint: see `rlcore.export`, as of the others.
        sample: see there.
        opset: see there.
        trust: see there.
        num_observations: see there.

    Raises:
        InputError: onnxruntime-web is not there, the folder holds something else or cannot be written to; or see
            `rlcore.export`.
    """
    folder, runtime = Path(folder), Path(runtime or RUNTIME)
    missing = [name for name in OF_RUNTIME if not (runtime / "dist" / name).is_file()]
    if missing:
        raise InputError(
            f"export: --web needs onnxruntime-web; {runtime} has no dist/{missing[0]}: npm install onnxruntime-web, or "
            "name its folder by --runtime"
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PROGRAMS_FILE).is_file():
        raise InputError(f"export: {folder} holds other files; name a new folder for the page")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"export: cannot write into {folder}: {error}") from error
    # first, as it may be refused, and what is in the folder then would not be known as a page
    exported = export(run, folder / "agent.onnx", checkpoint, sample, "onnx", opset, trust, num_observations)
    try:
        (folder / "runtime").mkdir(exist_ok=True)
        for file in PAGE.iterdir():
            shutil.copyfile(file, folder / file.name)
        for name in OF_RUNTIME:
            shutil.copyfile(runtime / "dist" / name, folder / "runtime" / name)
    except OSError as error:
        raise InputError(f"export: cannot write into {folder}: {error}") from error
    programs = [{"file": one.path.name, **one.metadata} for one in exported]
    write_text(folder / PROGRAMS_FILE, json.dumps(programs))
    return exported
