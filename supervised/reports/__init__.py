"""Reports on agents in data sets, a file each."""

from rlcore.supervised.reports.boundary import BoundaryReport
from rlcore.supervised.reports.common import classified, figure_of, terminal_lines
from rlcore.supervised.reports.confusion import ConfusionReport
from rlcore.supervised.reports.examples import ExamplesReport
from rlcore.supervised.reports.filters import FiltersReport
from rlcore.supervised.reports.packed import PackedReport

__all__ = [
    "BoundaryReport",
    "ConfusionReport",
    "ExamplesReport",
    "FiltersReport",
    "PackedReport",
    "classified",
    "figure_of",
    "terminal_lines",
]
