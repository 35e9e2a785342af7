"""`report`: what a run or a study found, as one page that opens anywhere and needs nothing else."""

from pathlib import Path
from typing import Any

import jinja2

from ham10000.data import LICENCE
from ham10000.reporting.inputs import open_subject
from ham10000.reporting.sections import (
    figures_of,
    gallery_of,
    gaze_of,
    setup_of,
)
from ham10000.reporting.style import DARK, LIGHT
from ham10000.reporting.tables import comparison_table, headline, published_table
from ham10000.utils import write_text

__all__ = ["write_report"]


def write_report(folder: Path, out: Path, *, data: Path | None = None, each: int = 1) -> Path:
    """Write the report of a run or a study.

    Where attention looks is measured if it wasn't yet with the run's weights, and kept in the run's
    folder.

    Args:
        folder: of a run or a study.
        out: the page.
        data: the data set's folder, for masks and pictures; the recipe's unless given. Without it
            the page says what is missing.
        each: how many images of each class the gallery has that the model is right about, and how
            many that it isn't.

    Returns:
        The page. With a gallery it holds pixels of the images: their licence is the data's.

    Raises:
        Ham10000Error: the run or the study can't be read.
        WriteError: the page can't be written.
    """
    subject = open_subject(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ham10000.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content: dict[str, Any] = {
        "title": subject.title,
        "headline": headline(subject),
        "published": published_table(subject),
        "comparison": comparison_table(subject),
        "runs": [figures_of(found) for found in subject.found],
        "gaze": [gaze_of(found, data) for found in subject.found],
        "gallery": gallery_of(subject, data, each),
        "setups": [setup_of(found) for found in subject.found],
        "licence": LICENCE,
        "themes": {"light": LIGHT, "dark": DARK},
    }
    write_text(out, environment.get_template("report.html.j2").render(content))
    return out
