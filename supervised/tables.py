"""Tables: .csv and .parquet files, whose columns are known by their names.

Numbers stay numbers; texts and booleans are categories, one-hot. The categories, and what a missing value counts as,
are fitted to the training split and kept with an agent, as the columns of `rlcore.spaces.Inputs`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlcore.errors import InputError, one_line
from rlcore.imports import optional
from rlcore.registry import did_you_mean
from rlcore.spaces import Column
from rlcore.supervised.datasets import Dataset, Split, as_floats

if TYPE_CHECKING:
    from rlcore.supervised.environment import SupervisedEnv

SUFFIXES = (".csv", ".parquet")
"""Of files that are tables."""
DECIMAL_COMMA = r"^\s*[-+]?\d+,\d+\s*$"
SEPARATORS = ",;\t"
MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL")
"""Texts that are missing values."""
SPELLINGS = {**dict.fromkeys(MISSING), "True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
"""What other programs write as what polars writes."""
OF_ITS_OWN = ""
"""The category of missing values, where they are one: no other is empty."""
MOST_CATEGORIES = 1000
"""Of one column; each is an input."""
MOST_NAMES = 20
"""Names that a message lists; and values of a column that may be texts though most are numbers."""

FILL = "set env.missing to mean, median or most_common, or leave the column out: env.ignore"
FILL_LATER = "fill it in, or train with env.missing=mean, median or most_common"

Missing = Literal["refuse", "mean", "median", "most_common"]


class TableFile(NamedTuple):
    """The content of a file."""

    name: str
    """In messages."""
    frame: Any
    """A polars DataFrame."""
    is_text: bool
    """Whether all cells are text, whatever they mean: it was a .csv file."""


class Rows:
    """The rows of a table as inputs [n, D], made when they are read.

    Args:
        values: polars Series by name, of floats or text, null where a value is missing.
        columns: what they become, in order.
    """

    def __init__(self, values: dict[str, Any], columns: Sequence[Column]):
        self.names: list[str] | None = None
        self.remarks: list[str] = []
        """A line for each column in which there are categories that are not known."""
        self._parts: list[tuple[NDArray[Any], int | None]] = []  # a number each; or a place each, -1 for none, of K
        for column in columns:
            series = values[column.name]
            if column.fill is not None:
                series = series.fill_null(column.fill)
            if column.categories is None:
                self._parts.append((series.to_numpy(), None))
            else:
                self._parts.append((_places(series, column.categories), len(column.categories)))
                self.remarks += _unknown(series, column)
        numbers = [part for part, size in self._parts if size is None]
        with np.errstate(over="ignore"):
            is_single = all((part.astype(np.float32) == part).all() for part in numbers)
        self.dtype = np.float32 if is_single else np.float64
        """float64 where float32 would round."""

    def __len__(self) -> int:
        return len(self._parts[0][0])

    def __getitem__(self, rows: slice | NDArray[Any]) -> NDArray[Any]:
        """Some rows, [B, D]."""
        pieces = [
            part[rows, None] if size is None else part[rows, None] == np.arange(size) for part, size in self._parts
        ]
        return np.concatenate(pieces, 1, dtype=self.dtype, casting="unsafe")


class Table(NamedTuple):
    """A table from which inputs are made once it is known which rows are for training."""

    name: str
    """In messages."""
    values: dict[str, Any]
    """Of each feature, a polars Series [n] of floats or text, null where a value is missing."""

    def fit(self, rows: Tensor, missing: Missing) -> tuple[Column, ...]:
        """What each column becomes, by some of the rows [B] int64.

        Raises:
            InputError: a column has no value there, or too many categories.
        """
        return tuple(self._fit(name, series.gather(rows.numpy()), missing) for name, series in self.values.items())

    def _fit(self, name: str, series: Any, missing: Missing) -> Column:
        here, without = f"{self.name}: column {name!r}", f"leave it out: env.ignore=[{name}]"
        present = series.drop_nulls()
        if not len(present):
            raise InputError(f"{here} has no value in the training split; {without}")
        fill = present.mode().sort()[0] if missing == "most_common" else None
        if series.dtype.is_numeric():
            if missing in ("mean", "median"):
                fill = present.mean() if missing == "mean" else present.median()
            return Column(name, fill=fill)
        if missing in ("mean", "median"):
            fill, present = OF_ITS_OWN, series.fill_null(OF_ITS_OWN)
        categories = tuple(present.unique().sort())
        if len(categories) > MOST_CATEGORIES:
            raise InputError(
                f"{here} has {len(categories):,} different texts, each of which would be an input, at most "
                f"{MOST_CATEGORIES:,}; {without}"
            )
        return Column(name, categories, fill)


def load(
    settings: "SupervisedEnv.Settings",
    numbers: bool,
    columns: Sequence[Column] | None = None,
    classes: Sequence[str] = (),
) -> tuple[Table, Dataset]:
    """The table of a data set, and the data set, whose inputs [n, 1] are the numbers of rows.

    Targets that are text are classes, in alphabetical order; integers too, in theirs, unless they are meant as numbers.

    Args:
        settings: of the environment.
        numbers: whether integers are meant as numbers.
        columns: what an agent reads; None: what the settings say.
        classes: that an agent knows.

    Raises:
        InputError: a file or a column is missing or cannot be read, a value is missing, or no targets are named.
    """
    assert settings.dataset is not None
    paths = {"env.dataset": settings.dataset, "env.test_dataset": settings.test_dataset}
    sources = [read(path, f"{key}: {path}") for key, path in paths.items() if path is not None]
    targets = [settings.target] if isinstance(settings.target, str) else settings.target or []
    num, num_train = sum(len(source.frame) for source in sources), len(sources[0].frame)
    rows, answers, names, why = torch.arange(num)[:, None], torch.zeros(num), None, ""
    if targets:
        answers, names, why = _targets(sources, targets, numbers, classes)
    if columns is None:
        advice = "" if settings.missing != "refuse" else FILL
        values = {name: _together(sources, name, advice) for name in _features(sources[0], targets, settings)}
    else:
        values = _known(sources, columns)
    train = Split(rows[:num_train], answers[:num_train])
    test = Split(rows[num_train:], answers[num_train:]) if len(sources) > 1 else None
    together = tuple(targets) if len(targets) > 1 else None
    return Table(sources[0].name, values), Dataset(train, test, names, why_numbers=why, target_names=together)


def read(path: str | Path, name: str = "") -> TableFile:
    """The content of a .csv or .parquet file.

    Args:
        path: of the file.
        name: for messages; empty: the path.

    Raises:
        InputError: there is no such file, it has no rows, it cannot be read; or polars is not installed.
    """
    polars, name = polars_module(), name or str(path)
    is_text = str(path).endswith(".csv")
    try:
        if is_text:
            with open(path, "rb") as file:
                separator = max(SEPARATORS, key=file.readline().decode("latin-1").count)
            rows = polars.read_csv(path, separator=separator, infer_schema=False, has_header=False)
            names = [(column or "").strip() for column in rows.row(0)]
            if repeated := [column for column in names if names.count(column) > 1]:
                raise InputError(f"{name} has several columns {repeated[0]!r}; give each a name of its own")
            frame = rows[1:].rename(dict(zip(rows.columns, names, strict=True)))
            for column in frame:
                if separator != "," and len(column) and column.str.contains(DECIMAL_COMMA).all():
                    raise InputError(f"{name}: column {column.name!r} has decimal commas ({column[0]}); write points")
        else:
            frame = polars.read_parquet(path)
            kinds = (polars.Boolean, polars.Categorical, polars.Enum, polars.Null)
            frame = frame.with_columns(polars.selectors.by_dtype(kinds).cast(polars.String))
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file") from None
    except InputError:
        raise
    except Exception as error:  # reading damaged bytes may raise anything
        raise InputError(f"{name} cannot be read as a table: {one_line(error)}") from None
    if not len(frame):
        raise InputError(f"{name} has no rows")
    text = polars.selectors.string()
    return TableFile(name, frame.with_columns(text.str.strip_chars().replace(SPELLINGS)), is_text)


def encoded(source: TableFile, columns: Sequence[Column]) -> Rows:
    """The rows of a table as the inputs of an agent.

    Args:
        source: with these columns, in any order, perhaps beside others.
        columns: what the agent reads.

    Raises:
        InputError: a column is missing; or a value, and the agent was not trained to fill it; or it is no number.
    """
    return Rows(_known([source], columns), columns)


def _features(source: TableFile, targets: Sequence[str], settings: "SupervisedEnv.Settings") -> list[str]:
    """The columns that are read as inputs, as the settings say."""
    if settings.features is not None and settings.ignore:
        raise InputError("env.ignore: leaves out of all columns, but env.features names some; set one of the two")
    if settings.features is not None:
        names = settings.features
        if both := [name for name in names if name in targets]:
            raise InputError(f"env.features: {both[0]!r} is the target")
    else:
        for name in settings.ignore:
            _require(source, name)
        names = [name for name in source.frame.columns if name not in (*targets, *settings.ignore)]
    if not names or len(set(names)) < len(names):
        raise InputError(f"env.features: must be one column or more, each once; got {', '.join(names) or 'none'}")
    return names


def _targets(
    sources: Sequence[TableFile], names: Sequence[str], numbers: bool, known: Sequence[str]
) -> tuple[Tensor, tuple[str, ...] | None, str]:
    """Targets [n] or [n, D] of all files, the names of the classes, and why integers are none; see `Dataset`."""
    advice = "there is no right answer: remove these rows"
    columns = [_together(sources, name, advice, True if known else None) for name in names]
    is_text = any(not column.dtype.is_numeric() for column in columns)
    if len(columns) > 1 and is_text:
        raise InputError(f"env.target: several targets must all be numbers; got {', '.join(names)}")
    values = torch.empty(0)
    if not is_text:
        stacked = torch.from_numpy(np.stack(columns, 1))
        values = as_floats(stacked if len(columns) > 1 else stacked[:, 0])
        if numbers or len(columns) > 1 or not all(_typed(source, names[0]).dtype.is_integer() for source in sources):
            return values, None, ""
    polars, (column,), num = polars_module(), columns, len(sources[0].frame)
    labels = column.unique().sort()
    if not is_text:
        column, labels = (x.cast(polars.Int64).cast(polars.String) for x in (column, labels))
    classes = (*known, *(label for label in labels if label not in known))
    seen = {*known, *column[:num].unique()}
    if new := [label for label in labels if label not in seen]:
        raise InputError(f"{sources[1].name}: the target {names[0]!r} has {_some(new)}, which training lacks")
    if not known and not 2 <= len(classes) <= max(2, num // 2):
        kind = "texts" if is_text else "integers"
        why = f"the target {names[0]!r} has {len(classes):,} different {kind} in {num:,} rows"
        if is_text:
            raise InputError(f"{sources[0].name}: {why}; classes must be two or more, each with several rows")
        return values, None, why
    return torch.from_numpy(_places(column, classes)), classes, ""


def _known(sources: Sequence[TableFile], columns: Sequence[Column]) -> dict[str, Any]:
    """The columns of several files, of the kinds that an agent reads, by name."""
    return {
        name: _together(sources, name, FILL_LATER if fill is None else "", categories is not None)
        for name, categories, fill in columns
    }


def _together(sources: Sequence[TableFile], name: str, advice: str, is_text: bool | None = None) -> Any:
    """A column of several files, one after another; of the kind that the first has, unless that is given."""
    first = _column(sources[0], name, advice, is_text)
    others = [_column(source, name, advice, not first.dtype.is_numeric()) for source in sources[1:]]
    return polars_module().concat([first, *others])


def _column(source: TableFile, name: str, advice: str, is_text: bool | None = None) -> Any:
    """A column as a polars Series of float64 or text, null where a value is missing.

    Args:
        source: where it is.
        name: of the column.
        advice: how to mend missing values, which are refused; empty: they are not.
        is_text: whether it has categories; None: as its values say.
    """
    polars, here = polars_module(), f"{source.name}: column {name!r}"
    series = _typed(source, name) if is_text is None else _require(source, name)
    if series.dtype.is_temporal():
        raise InputError(
            f"{here} holds dates or times; write what matters of them into columns of numbers (the year, the month, "
            f"days since a day), or leave it out: env.ignore=[{name}]"
        )
    if not series.dtype.is_numeric() and series.dtype != polars.String:
        message = "it must be numbers, texts or booleans; leave it out"
        raise InputError(f"{here} holds {series.dtype}, {message}: env.ignore=[{name}]")
    as_numbers = series.cast(polars.Float64, strict=False)
    if is_text is None:  # where most of many values are numbers, the others are mistakes
        is_mixed = series.count() / 2 < as_numbers.count() < series.count() and series.n_unique() > MOST_NAMES
        is_text = not series.dtype.is_numeric() and not is_mixed
    if is_text:
        series = series.cast(polars.String)
    else:
        if (bad := series.is_not_null() & as_numbers.is_null()).any():
            row = bad.arg_max()
            raise InputError(f"{here} has numbers, but {series[row]!r} in row {row}; mend it, or leave its cell empty")
        series = as_numbers.fill_nan(None)
        if (bad := series.abs() > np.finfo(np.float32).max).any():
            row = bad.arg_max()
            raise InputError(f"{here} has {series[row]:g} in row {row}, which is infinite or too large for float32")
    if advice and (num := series.null_count()):
        rows = f"{num:,} of {len(series):,} rows, the first is row {series.is_null().arg_max()}"
        raise InputError(f"{here} has no value in {rows}; {advice}")
    return series


def _typed(source: TableFile, name: str) -> Any:
    """A column; of a .csv file as integers, numbers or dates, if all its values are."""
    polars, series = polars_module(), _require(source, name)
    if not source.is_text or not series.count():
        return series
    for dtype in (polars.Int64, polars.Float64):
        numbers = series.cast(dtype, strict=False)
        if numbers.count() == series.count():
            return numbers
    try:
        return series.str.to_datetime()
    except polars.exceptions.PolarsError:
        return series


def _require(source: TableFile, name: str) -> Any:
    """The column of that name.

    Raises:
        InputError: there is none.
    """
    names = source.frame.columns
    if name not in names:
        raise InputError(f"{source.name} has no column {name!r}{did_you_mean(name, names)}; it has {_some(names)}")
    return source.frame[name]


def _places(series: Any, names: Sequence[str]) -> NDArray[np.int64]:
    """The place of each text among names, [n]; -1 where it is none of them."""
    places = series.replace_strict(list(names), range(len(names)), default=-1, return_dtype=polars_module().Int64)
    return np.array(places.to_numpy())


def _unknown(series: Any, column: Column) -> list[str]:
    """A line, if a column has texts that are none of its categories."""
    assert column.categories is not None
    others = series.filter(~series.is_in(column.categories))
    if not len(others):
        return []
    names = _some([name or "no value" for name in others.unique().sort()])
    return [
        f"column {column.name!r} has categories that training lacks ({names}) in {len(others):,} of {len(series):,} "
        "rows: all its inputs are 0 there"
    ]


def _some(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")


def polars_module() -> Any:
    """The library that reads tables.

    Raises:
        InputError: it is not installed.
    """
    return optional("polars", "a table needs")
