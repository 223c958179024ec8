"""Modules that a config names under ``imports``, and as what they are imported; and packages that are optional."""

import importlib
import os
import sys
import traceback
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rlcore.errors import InputError

PACKAGE_FILE = "__init__.py"


def optional(package: str, who: str, install: str | None = None) -> Any:
    """A package that rlcore does not require, imported where it is used.

    Args:
        package: its name.
        who: needs it, for the message: ``a table needs``.
        install: what pip installs; None: the package.

    Raises:
        InputError: it is not installed; says how to.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"{who} {package} ({error}): pip install {install or package}") from error


def import_module(name: str, config: Path, trust: bool = True) -> str:
    """Imports a module or a package that a config names.

    A name (``my_agent``, ``my_package``, ``my_package.agents``) is looked for beside the config, in the working folder
    and among the installed packages; a path ends in ``.py``, or is a package's folder. A file in a package is imported
    as a part of it, so that relative imports work. What is not at its absolute path any more is looked for beside the
    config and in the working folder, by as much of its path as is there.

    Args:
        name: of the module, or path of the file.
        config: the file that names it.
        trust: whether a file within the config's folder may be run.

    Returns:
        The file's absolute path, or the name of an installed module: what to import when the run is resumed from
        elsewhere.

    Raises:
        InputError: the module is missing, is named like another one that it would replace, or its import fails.
    """
    file = _find(name, config.parent)
    if file is not None and not trust and config.parent.resolve() in file.resolve().parents:
        raise InputError(
            f"{config.name}: imports: {file} is code inside a run that was trained elsewhere; it is run only if you "
            "trust it: --trust, or trust=True in Python"
        )
    if file is not None and (owner := _owner(file)) is not None:
        raise InputError(f"{config.name}: imports: {file} is named like {owner}, which it would replace; rename it")
    try:
        if file is None:
            importlib.import_module(name)
            return name
        _import_file(file)
        return str(file)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and file is None and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"{config.name}: imports: cannot import {name!r}: {error}; looked in "
                f"{config.parent.resolve()}, {Path.cwd()} and the installed packages"
            ) from error
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError) else f" ({place.filename}:{place.lineno})"
        if isinstance(error, ImportError) and "no known parent package" in str(error):
            where += f"; relative imports need a package, a folder with an {PACKAGE_FILE}"
        raise InputError(f"{config.name}: imports: {name!r} fails: {type(error).__name__}: {error}{where}") from error


def search(folder: Path) -> None:
    """Lets modules in a folder be imported by name, unless Python itself or an installed package has that name."""
    if (path := os.path.abspath(folder)) not in sys.path:
        sys.path.append(path)


def _find(name: str, folder: Path) -> Path | None:
    """The absolute path of the file that a config in that folder names, if there is one."""
    if name.endswith(".py"):
        paths = [Path(name)]
    else:
        base = Path(name if os.sep in name else name.replace(".", os.sep))
        paths = [base / PACKAGE_FILE, Path(f"{base}.py")]
    if paths[0].is_absolute():
        parts = paths[0].parts[1:]
        ends = [Path(*parts[start:]) for start in range(len(parts))]
        paths += [end for end in ends if str(end) != PACKAGE_FILE]
    places = (start / path for start in (folder, Path()) for path in paths)
    found = next((place for place in places if place.is_file()), None)
    return None if found is None else Path(os.path.abspath(found))


class _Place(NamedTuple):
    """Where a file is imported from, and as what."""

    folder: Path
    """Outside of every package."""
    parts: list[str]
    """Its name there: those of its packages, from the outermost one, and its own."""
    first: Path
    """The file that is imported first: that of the outermost package, or itself."""


def _place(file: Path) -> _Place:
    is_package = file.name == PACKAGE_FILE
    folder, parts = file.parent, [] if is_package else [file.stem]
    while (folder / PACKAGE_FILE).is_file():
        folder, parts = folder.parent, [folder.name, *parts]
    return _Place(folder, parts, folder / parts[0] / PACKAGE_FILE if is_package or len(parts) > 1 else file)


def _owner(file: Path) -> str | None:
    """What already has the name that a file would be imported by, and must keep it: others import it by that name."""
    _, (top, *_), first = _place(file)
    found = PathFinder.find_spec(top) if top not in sys.modules else None
    place: str | None = getattr(sys.modules.get(top), "__file__", None) if found is None else found.origin
    if _is_at(place, first):
        return None
    if top in sys.stdlib_module_names or top == "__main__":
        return f"Python's own module {top}"
    if top == "rlcore" or (place is not None and {"site-packages", "dist-packages"} & set(Path(place).parts)):
        return f"the installed {place}"
    return None


def _is_at(place: str | None, file: Path) -> bool:
    return place is not None and Path(place).resolve() == file.resolve()


def _import_file(file: Path) -> None:
    """Imports a file as a part of its package, if it has one; another module of the same name is forgotten.

    What a failed import leaves is forgotten, too: otherwise it would count as imported once the mistake is fixed.
    """
    folder, parts, first = _place(file)
    top = parts[0]
    search(folder)
    search(file.parent)  # its neighbours may be imported by their names alone
    importlib.invalidate_caches()
    before = _loaded(top)
    try:
        if top not in before or not _is_at(getattr(before[top], "__file__", None), first):
            for name in before:
                del sys.modules[name]
            spec = spec_from_file_location(top, first)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[top] = module_from_spec(spec)
            spec.loader.exec_module(module)
        if len(parts) > 1:
            importlib.import_module(".".join(parts))
    except BaseException:
        for name in _loaded(top):
            del sys.modules[name]
        sys.modules.update(before)
        raise


def _loaded(top: str) -> dict[str, ModuleType]:
    """A module and those inside it, as far as they have been imported."""
    return {name: module for name, module in sys.modules.items() if f"{name}.".startswith(f"{top}.")}
