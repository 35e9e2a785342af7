"""Everything once, small: a data set, a study of two recipes with two seeds, and its report."""

import os
from collections.abc import Callable
from pathlib import Path

from ham10000.data.layout import DATA_VARIABLE
from ham10000.data.synthetic import synthesize
from ham10000.reporting.report import write_report
from ham10000.study import find_recipe, run_study

__all__ = ["run_demo"]

IMAGES = 1200
"""How many are made up, where there is no data set."""

EPOCHS = 20
"""Of 512 images each, in each of the four trainings."""

PROCESSES = 2
"""How many train together."""


def run_demo(out: Path, data: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Train `smoke` and `smoke_sa` with two seeds each, compare them, and write a report.

    Args:
        out: the folder for everything; what is there already is not done again.
        data: a data set; what HAM10000_DIR names, or else a made-up one, unless given.
        say: is told what happens.

    Returns:
        The report, an HTML page.

    Raises:
        Ham10000Error: something can't be done.
    """
    root = data or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if root is None:
        root = out / "data"
        if not root.exists():
            say(f"Making up {IMAGES:,} images in {root}")
            synthesize(root, IMAGES, seed=0, width=100)
    study = out / "study"
    result = run_study(
        [find_recipe("smoke"), find_recipe("smoke_sa")],
        seeds=[0, 1],
        out=study,
        parallel=1,
        processes=PROCESSES,
        changes=[
            f"data.root={root.absolute()}",
            "data.protocol=paper",
            f"training.epochs={EPOCHS}",
        ],
        say=say,
    )
    page = out / "report.html"
    write_report(study, page)
    say(str(result["verdict"]))
    return page
