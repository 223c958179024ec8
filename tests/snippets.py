"""Checks the Python of README.md and docs/ by mypy and pyright: ``python tests/snippets.py``.

Each block is a file of its own, so it imports what it uses. What it is given without saying so stands, invisible to
readers, in the line before it: ``<!-- given: import torch; obs = torch.zeros(2, 4) -->``.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SNIPPET = re.compile(
    r"(?:^<!-- given: (?P<given>[^\n]*) -->\n)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
MYPY = (
    "[mypy]\npython_version = 3.10\ncheck_untyped_defs = true\nignore_missing_imports = true\nfollow_imports = silent\n"
)


def documents() -> list[Path]:
    """The files that hold snippets."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(path: Path) -> list[tuple[str, str]]:
    """Each block of a document: a file's name, ``agents_71.py`` by the line where it begins, and its code."""
    text = path.read_text(encoding="utf-8")
    return [
        (
            f"{path.stem}_{text.count(chr(10), 0, found.start('code')) + 1}.py",
            f"{found['given'] or ''}\n{found['code']}",
        )
        for found in SNIPPET.finditer(text)
    ]


def check(paths: Iterable[Path]) -> int:
    """Writes the snippets of documents to a temporary folder and checks them; 0 if both checkers find them right."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [snippet for path in paths for snippet in snippets(path)]
        for file, code in files:
            (folder / file).write_text(code, encoding="utf-8")
        (folder / "mypy.ini").write_text(MYPY)
        settings = {"extraPaths": [str(ROOT)], "pythonVersion": "3.10", "reportUnusedExpression": False}
        (folder / "pyrightconfig.json").write_text(json.dumps(settings))
        cache = str(ROOT / ".mypy_cache" / "snippets")
        checks = (
            ["mypy", "--config-file", "mypy.ini", "--cache-dir", cache, *(file for file, _ in files)],
            ["pyright", "--pythonpath", sys.executable],
        )
        environment = {**os.environ, "MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
        statuses = [
            subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment).returncode for words in checks
        ]
    print(f"{len(files)} snippets: {'wrong; files are named by document and line' if any(statuses) else 'right'}")
    return max(statuses)


if __name__ == "__main__":
    sys.exit(check(documents()))
