"""`ham10000 report`: the results of a run or a study as one self-contained HTML page."""

from pathlib import Path
from typing import Any

import jinja2

from ham10000.data import LICENCE
from ham10000.reporting.inputs import open_source
from ham10000.reporting.sections import (
    gallery_section,
    results_section,
    saliency_section,
    setup_section,
)
from ham10000.reporting.style import DARK, LIGHT
from ham10000.reporting.tables import (
    comparison_tables,
    headline,
    look_table,
    published_table,
    summary_items,
)
from ham10000.utils import write_text

__all__ = ["write_report"]


def write_report(folder: Path, out: Path, *, data: Path | None = None, each: int = 1) -> Path:
    """Write the report of a run or a study.

    Saliency is measured unless `evaluation/` of the run has it for the run's weights; measured
    results are stored there. A report on synthetic data says so and has no published results.

    Args:
        folder: Folder of a run or a study.
        out: Path of the page.
        data: Folder of the data set, for masks and images. Defaults to the one in the recipe.
            Without a data set, the page says what is missing.
        each: Number of images in the gallery for each class and outcome (correct and incorrect).

    Returns:
        Path of the page. A page with a gallery contains pixels of the images, so the licence of
        the data applies to it.

    Raises:
        Ham10000Error: The run or the study cannot be read.
        WriteError: The page cannot be written.
    """
    source = open_source(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ham10000.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content: dict[str, Any] = {
        "title": source.title,
        "synthetic": source.is_synthetic,
        "summary": summary_items(source),
        "headline": headline(source),
        "looks": look_table(source),
        "published": published_table(source),
        "comparison": comparison_tables(source),
        "results": [results_section(run) for run in source.runs],
        "saliency": [saliency_section(run, data) for run in source.runs],
        "gallery": gallery_section(source, data, each),
        "setups": [setup_section(run) for run in source.runs],
        "licence": LICENCE,
        "themes": {"light": LIGHT, "dark": DARK},
    }
    write_text(out, environment.get_template("report.html.j2").render(content))
    return out
