"""Settings: typed, validated, frozen, declared beside what they configure; and their mistakes in one line each."""

import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from rlcore.errors import InputError
from rlcore.registry import Registry, did_you_mean

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of a random generator."""

ResolvedPath = Annotated[str, AfterValidator(lambda path: str(Path(path).resolve()))]
"""Absolute path, so that a run that is resumed from elsewhere finds it."""

LARGEST_FLOAT = 1e30
TAG = re.compile(r"^(literal|list|dict|tuple|function-\w+|lax-or-strict)\[|^constrained-")
"""What pydantic puts after the key of a union, to tell its members apart: ``literal['auto']``, ``constrained-int``."""

Mistake = tuple[tuple[str, ...], str]
"""Path of keys and what is wrong there."""


class Settings(BaseModel):
    """Base of every settings class; YAML and Python are checked alike.

    Unknown keys, wrong types (``"3"`` is not an integer, ``1`` is not a boolean), NaN and infinities are refused.
    Instances are frozen.

    Raises:
        pydantic.ValidationError: a field is unknown, of a wrong type or out of range; see `mistakes`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _within_float32(self) -> Self:
        """Refuses numbers that torch could not hold, or not multiply."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, float) and abs(value) > LARGEST_FLOAT:
                raise InputError(f"{name}: must be within {LARGEST_FLOAT:g}, which float32 holds; got {value:g}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """A choice without a name changes settings of the default one: ``network: {hidden: [256]}``."""
        if not isinstance(given, Mapping):
            return given
        choices = {key: field.default for key, field in cls.model_fields.items() if isinstance(field.default, Choice)}
        return _changed({key: default.model_dump() for key, default in choices.items() if key in given}, given)


class Choice(Settings):
    """A registered object by its name, with its own settings: ``{name: mlp, hidden: [64, 64]}``, or ``mlp``.

    Where a field has a default, a mapping without a name, ``{hidden: [64, 64]}``, keeps its name and other settings.
    A subclass sets ``registry``; objects registered there have a nested class ``Settings``.
    """

    registry: ClassVar[Registry]

    name: str
    settings: SerializeAsAny[Settings]

    if TYPE_CHECKING:
        # Type checkers read a field of this type as what __get__ returns, and let a constructor take what __set__ does.
        def __get__(self, instance: object, owner: Any = None) -> Self: ...
        def __set__(self, instance: object, value: Self | Mapping[str, Any] | str) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"name": given}
        if not isinstance(given, Mapping) or isinstance(given.get("settings"), Settings):
            return given
        settings = dict(given)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise InputError(f"needs a name, one of: {', '.join(cls.registry.names())}")
        schema = getattr(cls.registry[name], "Settings", None)
        if not (isinstance(schema, type) and issubclass(schema, Settings)):
            raise InputError(f"the {cls.registry.noun} {name!r} has no nested class Settings(rlcore.Settings)")
        try:
            return {"name": name, "settings": schema(**settings)}
        except ValidationError as error:
            found = mistakes(error, schema, ("name",))
            message = "; ".join(": ".join(filter(None, (".".join(path), text))) for path, text in found)
            raise PydanticCustomError("nested", "{message}", {"message": message, "mistakes": found}) from None

    @model_serializer(mode="plain")
    def _write(self) -> dict[str, Any]:
        return {"name": self.name, **self.settings.model_dump()}


def _changed(default: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given; choices in it that have no name, and the default has one, as changes to the default."""
    changed = dict(default)
    for key, value in given.items():
        is_change = isinstance(value, Mapping) and "name" not in value and _is_choice(default.get(key))
        changed[key] = _changed(default[key], value) if is_change else value
    return changed


def _is_choice(dumped: Any) -> bool:
    return isinstance(dumped, dict) and "name" in dumped


def mistakes(error: ValidationError, schema: type[BaseModel], also: tuple[str, ...] = ()) -> list[Mistake]:
    """Every mistake that pydantic found, in plain words.

    Args:
        error: what ``schema`` raised.
        schema: the settings class, for the names that it knows.
        also: further keys that are allowed beside its own.
    """
    found: list[Mistake] = []
    for item in error.errors():
        path = tuple(takewhile(lambda key: not TAG.search(key), map(str, item["loc"])))
        if item["type"] == "nested":
            found += [(path + inner, text) for inner, text in item["ctx"]["mistakes"]]
        elif item["type"] == "extra_forbidden":
            known = [*(also if len(path) == 1 else ()), *_fields(schema, path[:-1])]
            found.append((path, f"unknown key{did_you_mean(path[-1], known)}; known: {', '.join(known)}"))
        elif item["type"] == "missing":
            found.append((path, "missing"))
        elif item["type"] == "value_error":
            found.append((path, str(item["ctx"]["error"])))
        elif item["type"] == "model_type":
            found.append((path, f"must be a mapping of keys to values, got {item['input']!r}"))
        else:
            expected = item["msg"].replace("Input should be", "must be", 1)
            given = f", got {item['input']!r}"
            if len(path) < len(item["loc"]) and found and found[-1][0] == path and found[-1][1].endswith(given):
                expected = f"{found.pop()[1].removesuffix(given)} or {expected.removeprefix('must be ')}"  # of a union
            found.append((path, expected + given))
    return found


def with_changes(base: Settings, changes: Mapping[str, Any], where: str) -> Any:
    """Settings of the same class, of which some differ.

    Args:
        base: those that are changed.
        changes: by key.
        where: these are, for the message: ``curriculum: stage 2: env``.

    Raises:
        InputError: there is no such key, or it cannot have that value.
    """
    try:
        return type(base).model_validate({**base.model_dump(), **changes})
    except ValidationError as error:
        path, text = mistakes(error, type(base))[0]
        raise InputError(f"{where}.{'.'.join(path)}: {text}") from None


def _fields(schema: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """The field names of a settings class at a path."""
    inner: Any = schema
    for key in path:
        field = inner.model_fields.get(key)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
    return list(inner.model_fields)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to one with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
