"""Run everything once on a small scale: data set, study of two recipes, and report."""

import os
from collections.abc import Callable
from pathlib import Path

from ham10000.data import DATA_VARIABLE, synthesize
from ham10000.recipe import find_recipe
from ham10000.reporting.report import write_report
from ham10000.study import run_study

__all__ = ["run_demo"]

IMAGES = 1200
"""Number of synthetic images, if there is no data set."""

EPOCHS = 20
"""Epochs of each of the four runs, of 512 images each."""

PROCESSES = 2
"""Training processes of one run."""


def run_demo(out: Path, data: Path | None = None, log: Callable[[str], None] = print) -> Path:
    """Train `smoke` and `smoke_sa` with two seeds each, compare them, and write a report.

    Args:
        out: Folder of all outputs. Finished steps are not repeated.
        data: Folder of a data set. Defaults to the folder in HAM10000_DIR and, if that is not
            set, to a synthetic data set.
        log: Called with one line for each step.

    Returns:
        Path of the report, an HTML page.

    Raises:
        Ham10000Error: A step failed.
    """
    root = data or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if root is None:
        root = out / "data"
        if not root.exists():
            log(f"Generating {IMAGES:,} synthetic images in {root}")
            synthesize(root, IMAGES, seed=0, width=100)
    study = out / "study"
    result = run_study(
        [find_recipe("smoke"), find_recipe("smoke_sa")],
        seeds=[0, 1],
        out=study,
        parallel=1,
        processes=PROCESSES,
        overrides=[
            f"data.root={root.absolute()}",
            "data.protocol=paper",
            f"training.epochs={EPOCHS}",
        ],
        log=log,
    )
    page = out / "report.html"
    write_report(study, page)
    log(str(result["verdict"]))
    return page
