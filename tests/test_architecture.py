"""What docs/architecture.md says of imports."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from rlcore import registry

ROOT = Path(__file__).parent.parent
ROOMS = ("rlcore.supervised", "rlcore.agents", "rlcore.envs")
"""Each may import those after it, and the core."""


def modules():
    """Every module's name and file."""
    for folder in ("rlcore", "agents", "envs", "supervised"):
        for file in (ROOT / folder).rglob("*.py"):
            relative = file.relative_to(ROOT).with_suffix("")
            if not (ROOT / relative.parts[0] / relative.parts[1]).is_symlink():
                parts = relative.parts if folder == "rlcore" else ("rlcore", *relative.parts)
                yield ".".join(parts).removesuffix(".__init__"), file


def imported(file, known):
    """What a module imports, also in its functions, unless for type checkers alone."""
    waiting = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in full)


def graph():
    known = dict(modules())
    assert len(known) > 130
    return {name: {other for other in imported(file, known) if other in known} for name, file in known.items()}


def rank(module):
    return next((n for n, room in enumerate(ROOMS) if module.startswith(room)), len(ROOMS))


def test_imports_point_one_way():
    wrong = [(name, other) for name, others in graph().items() for other in others if rank(other) < rank(name)]
    assert wrong == []


def test_no_module_imports_itself_by_a_detour():
    TopologicalSorter(graph()).prepare()


def test_the_inside_of_torchs_modules_is_named_in_one_file():
    inside = ("._parameters", "._modules", "._buffers")
    found = [name for name, file in modules() if any(x in file.read_text(encoding="utf-8") for x in inside)]
    assert found == []  # module_internals names them as strings


def test_what_the_pages_name_is_there():
    wanted = re.compile(r"`((?:rlcore|agents|envs|supervised|tests|benchmarks|examples)/[\w/.]*)`")
    for page in ("docs/architecture.md", "docs/design.md", "CONTRIBUTING.md"):
        paths = wanted.findall((ROOT / page).read_text(encoding="utf-8"))
        assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) > 0


def test_the_groups_of_the_table_are_those_of_the_registry():
    table = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Where a new thing goes")[2]
    named = set(re.findall(r"\| `(rlcore\.[a-z]+)` \|", table))
    assert named == {one.group for one in vars(registry).values() if isinstance(one, registry.Registry)}
