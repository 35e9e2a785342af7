"""A comparison of two recipes over seeds and lesions: its plan, its runs and its result."""

from ham10000.study.plan import RULE, PlannedRun, StudyPlan, make_plan
from ham10000.study.preregistration import PLAN, StudyRecord
from ham10000.study.study import RESULT, run_study
from ham10000.study.summary import (
    describe_change,
    read_study,
    summarize_study,
    verdict,
)

__all__ = [
    "PLAN",
    "RESULT",
    "RULE",
    "PlannedRun",
    "StudyPlan",
    "StudyRecord",
    "describe_change",
    "make_plan",
    "read_study",
    "run_study",
    "summarize_study",
    "verdict",
]
