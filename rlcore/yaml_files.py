"""YAML files: what of the language a config may use, and bounds on what is read."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from rlcore.errors import InputError

MOST_CHARACTERS, MOST_NODES, DEEPEST, MOST_DIGITS = 2**18, 10_000, 50, 400
"""Bounds of a YAML file: on its characters, its values, their nesting, and the digits of a number."""


class _Loader(yaml.SafeLoader):
    """YAML with unique keys, scalars of 1.2: ``1e-3`` is a float, ``1e6`` and ``1_000`` integers, ``no`` a string.

    No tags but those of these scalars, lists and mappings.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("str", "seq", "map")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a string", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is duplicated", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _scalar(tag: str, pattern: str, convert: Any) -> None:
    _Loader.add_implicit_resolver(tag, re.compile(pattern), None)
    _Loader.add_constructor(tag, lambda loader, node: convert(node.value))


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits is too long")
    number = Decimal(text)  # also reads 1e6
    if number != int(number):
        raise ValueError(f"{text} is not a whole number")
    return int(number)


_NUMBER = r"(0|[1-9][0-9_]*)"
_scalar("tag:yaml.org,2002:null", r"^(~|null|)$", lambda text: None)
_scalar("tag:yaml.org,2002:bool", r"^(true|false)$", lambda text: text == "true")
_scalar(
    "tag:yaml.org,2002:int",
    rf"^[-+]?{_NUMBER}([eE]\+?[0-9]{{1,2}})?$",
    lambda text: _whole(text.replace("_", "")),
)
_scalar(
    "tag:yaml.org,2002:float",
    rf"^[-+]?({_NUMBER}(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$",
    lambda text: float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")),
)


_LibYAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # where PyYAML was built with it


class _FastLoader(_LibYAML):
    """The same scalars by libyaml, several times faster; of keys that are there twice it takes the last."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
    yaml_constructors = _Loader.yaml_constructors


def parse_yaml(text: str, name: str) -> Any:
    """Parses YAML text into plain containers.

    Raises:
        InputError: names the line; or it is too large, or nested too deeply.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{name}: has {len(text):,} characters; a config has at most {MOST_CHARACTERS:,}")
    try:
        tree = yaml.load(text, _Loader)
        _check_size(tree)
        return tree
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{name}{line}: {error.problem}") from None
    except RecursionError:
        raise InputError(f"{name}: is nested too deeply") from None
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # the last two: a wrong tag, such as !!int x
        raise InputError(f"{name}: {' '.join(str(error).split())}") from None


def _check_size(tree: Any) -> None:
    """Raises a ValueError if there is too much in a tree; aliases are followed, by which it may grow exponentially."""
    waiting, size = [(tree, 0)], 0
    while waiting:
        branch, depth = waiting.pop()
        size += 1
        if size > MOST_NODES or depth > DEEPEST:
            raise ValueError(f"more than {MOST_NODES:,} values, or nested more than {DEEPEST} deep")
        if isinstance(branch, (dict, list)):
            waiting += [(inner, depth + 1) for inner in (branch.values() if isinstance(branch, dict) else branch)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        InputError: it does not hold one, or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    tree = parse_yaml(text, path.name)
    if not isinstance(tree, dict):
        raise InputError(f"{path.name}: must be a mapping of keys to values, got {type(tree).__name__}")
    return tree


def read_dumped(path: Path) -> dict[str, Any]:
    """Reads a YAML file that rlcore wrote: as `read_yaml`, but several times faster.

    Raises:
        InputError: see `read_yaml`.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _FastLoader)
        _check_size(tree)
    except (OSError, ValueError, ArithmeticError, RecursionError, yaml.YAMLError):
        tree = None
    return tree if isinstance(tree, dict) else read_yaml(path)  # which says what is wrong
