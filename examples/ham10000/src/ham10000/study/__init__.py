"""A comparison of recipes with a control over folds and seeds: plan, runs and result."""

from ham10000.study.cluster import JobOptions
from ham10000.study.estimate import describe_plan, estimate_seconds
from ham10000.study.launcher import LocalLauncher, claim_runs
from ham10000.study.plan import PRIMARY, RULE, PlannedRun, StudyPlan, make_plan
from ham10000.study.preregistration import PLAN, StudyRecord
from ham10000.study.results import publish_study, restore_study
from ham10000.study.study import run_study
from ham10000.study.summary import (
    RESULT,
    describe_change,
    describe_verdict,
    read_study,
    summarize_study,
)
from ham10000.study.verification import StudyCheck, quote_results, verify_study

__all__ = [
    "PLAN",
    "PRIMARY",
    "RESULT",
    "RULE",
    "JobOptions",
    "LocalLauncher",
    "PlannedRun",
    "StudyCheck",
    "StudyPlan",
    "StudyRecord",
    "claim_runs",
    "describe_change",
    "describe_plan",
    "describe_verdict",
    "estimate_seconds",
    "make_plan",
    "publish_study",
    "quote_results",
    "read_study",
    "restore_study",
    "run_study",
    "summarize_study",
    "verify_study",
]
