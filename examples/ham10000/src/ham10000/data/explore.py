"""`explore`: what is in a data set, as one page that opens anywhere and needs nothing else."""

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from ham10000.data.charts import CHARTS
from ham10000.data.facts import CLASS_NAMES, CLASSES, LICENCE
from ham10000.data.layout import open_folder
from ham10000.data.measure import contact_sheet, measure
from ham10000.utils import write_text

__all__ = ["explore"]

_SHOWN = 12


def explore(root: Path, out: Path, *, seed: int = 0, workers: int | None = None) -> Path:
    """Write a page with the distributions of a data set and a contact sheet for each class.

    Args:
        root: the data set's folder.
        out: where explore.html goes.
        seed: of the choice of images for the contact sheets.
        workers: how many threads; as many as there are cores unless given.

    Returns:
        The page. It holds its figures, and pixels of the images: their licence is the data's.

    Raises:
        Ham10000Error: the data set can't be used.
        WriteError: the page can't be written.
    """
    folder = open_folder(root)
    rng = np.random.default_rng(seed)
    samples = {name: _sample(folder.table, name, rng) for name in CLASSES}
    measured = measure(folder, [each for names in samples.values() for each in names], workers)
    table = measured.table
    charts = [
        {"title": title, "text": text, "image": _figure(draw(table))}
        for title, text, draw in CHARTS
        if title != "Lesion size" or table["area"].notna().any()
    ]
    sheets = []
    for name, chosen in samples.items():
        if chosen:
            file = io.BytesIO()
            sheet = contact_sheet([measured.thumbs[each] for each in chosen], 6)
            sheet.save(file, "JPEG", quality=88)
            text = f"{CLASS_NAMES[name]}; {int((table['dx'] == name).sum()):,} images"
            sheets.append({"title": name, "text": text, "image": _inline(file, "jpeg")})
    loader = jinja2.PackageLoader("ham10000.data", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("explore.html.j2").render(
        name=folder.root.resolve().name,
        facts=_facts(table, len(folder.masks)),
        charts=charts,
        sheets=sheets,
        licence=LICENCE,
    )
    path = out / "explore.html"
    write_text(path, page)
    return path


def _sample(table: pd.DataFrame, name: str, rng: np.random.Generator) -> list[str]:
    # One image a lesion, so that a sheet shows as much as it can.
    ids = table[table["dx"] == name].drop_duplicates("lesion_id")["image_id"].to_numpy()
    return sorted(str(each) for each in rng.permutation(ids)[:_SHOWN])


def _facts(table: pd.DataFrame, num_masks: int) -> list[tuple[str, str]]:
    sizes = table["lesion_id"].value_counts()
    return [
        ("images", f"{len(table):,}"),
        ("lesions", f"{len(sizes):,}"),
        ("lesions with one image", f"{int((sizes == 1).sum()):,}"),
        ("masks", f"{num_masks:,}"),
        ("age unknown", f"{int(table['age'].isna().sum()):,}"),
        ("sex unknown", f"{int((table['sex'] == 'unknown').sum()):,}"),
        ("site unknown", f"{int((table['localization'] == 'unknown').sum()):,}"),
    ]


def _figure(figure: object) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=140)  # type: ignore[attr-defined]
    return _inline(file, "png")


def _inline(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
