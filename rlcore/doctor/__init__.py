"""Looks for what is wrong with a run: see docs/doctor.md."""

from rlcore.doctor.diagnosis import Diagnosis, examine, examine_all
from rlcore.doctor.examination import Examination, Finding, Unseen
from rlcore.runs.curves import Curve

__all__ = ["Curve", "Diagnosis", "Examination", "Finding", "Unseen", "examine", "examine_all"]
