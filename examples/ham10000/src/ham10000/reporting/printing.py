"""What `localise` prints: tables of at most 80 columns."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from ham10000.printing import console
from ham10000.reporting.sections import words

__all__ = ["print_gaze"]


def print_gaze(gaze: Mapping[str, Any]) -> None:
    """Print where a model looks, and where it would with its eyes closed."""
    out = console()
    out.print(_table(gaze["localisation"]["methods"]))
    faithfulness = gaze["faithfulness"]
    if faithfulness["images"]:
        out.print(_table(faithfulness["methods"]))
        out.print(
            f"Deletion (lower is better) and insertion (higher is better): areas under the curve "
            f"on {faithfulness['images']} images."
        )
    out.print(
        f"{gaze['images']:,} images; left out: {gaze['without_mask']:,} without a mask, "
        f"{gaze['empty_mask']:,} with an empty one. In brackets: intervals of 95 % from "
        f"{gaze['resamples']:,} draws of lesions, seed {gaze['seed']}."
    )


def _table(methods: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    for score in next(iter(methods.values())):
        table.add_column(words(score), no_wrap=True)
    for method, scores in methods.items():
        cells = (
            f"{each['value']:.3f} \\[{each['low']:.3f}, {each['high']:.3f}]"
            for each in scores.values()
        )
        table.add_row(words(method), *cells)
    return table
