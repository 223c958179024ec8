"""Looks for what is wrong with a run: see docs/doctor.md."""

from rlcore.doctor.curves import Curve
from rlcore.doctor.diagnosis import Diagnosis, examine, examine_all
from rlcore.doctor.examination import Examination, Finding, Unseen

__all__ = ["Curve", "Diagnosis", "Examination", "Finding", "Unseen", "examine", "examine_all"]
