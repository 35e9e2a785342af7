"""The commands that get a data set and look at it.

The arguments of each function are its command's.
"""

import json as json_format
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from ham10000.commands.arguments import add_data, add_seed, add_workers
from ham10000.data import (
    IMAGE_WIDTH,
    LICENCE,
    PARTS,
    SOURCES,
    Part,
    data_folder,
    download_dataset,
    verify_dataset,
    write_pairs,
)
from ham10000.data import synthesize as synthesize_folder
from ham10000.utils import console

__all__ = ["ARGUMENTS", "COMMANDS"]


def download(
    out: Path,
    source: Literal["dataverse", "kaggle", "isic"] = "dataverse",
    parts: Sequence[Part] = ("images", "metadata"),
    mirror: str | None = None,
) -> int:
    """Download HAM10000 into a folder.

    Args:
        out: the folder.
        source: where from: the Dataverse, the mirror on Kaggle, or the challenge's archives.
        parts: which of images, metadata, masks and test.
        mirror: an address that serves the source's files under their names.
    """
    out_console = console()
    out_console.print(LICENCE, style="italic")
    download_dataset(
        out, source, parts, mirror=mirror, say=lambda text: out_console.print(text, markup=False)
    )
    out_console.print(f"Done. Check it with: ham10000 verify --data {out}", markup=False)
    return 0


def verify(
    data: Path | None = None,
    json: bool = False,
    pairs_out: Path | None = None,
    workers: int | None = None,
) -> int:
    """Check a data set: layout, table, images, masks, counts, duplicates.

    Exits with 0 if the data set is usable, with 1 if not; warnings don't count.

    Args:
        data: its folder; what HAM10000_DIR names unless given.
        json: print JSON instead of a table.
        pairs_out: write the near-duplicates across lesion ids here, for split --pairs.
        workers: how many threads; as many as there are cores unless given.
    """
    report = verify_dataset(data_folder(data), workers)
    if pairs_out is not None:
        write_pairs(report.pairs, pairs_out)
    if json:
        print(json_format.dumps(report.as_dict(), indent=2))
    else:
        from ham10000.reporting import print_report  # loads what trains

        print_report(report)
    return 0 if report.usable else 1


def synthesize(
    out: Path,
    images: int = 1000,
    seed: int = 0,
    width: int = IMAGE_WIDTH,
    workers: int | None = None,
) -> int:
    """Make up a data set in HAM10000's layout, where the real one can't be had.

    Args:
        out: the folder to make.
        images: how many.
        seed: of everything.
        width: of an image, in pixels; its height is three quarters of that.
        workers: how many threads; as many as there are cores unless given.
    """
    synthesize_folder(out, images, seed, width=width, workers=workers)
    console().print(f"{images:,} images, masks and a table in {out}", markup=False)
    return 0


def explore(out: Path, data: Path | None = None, seed: int = 0, workers: int | None = None) -> int:
    """Show what is in a data set, as one HTML page.

    Args:
        out: where explore.html goes.
        data: the data set's folder; what HAM10000_DIR names unless given.
        seed: of the choice of images that are shown.
        workers: how many threads; as many as there are cores unless given.
    """
    from ham10000.reporting import explore_dataset  # loads what trains

    page = explore_dataset(data_folder(data), out, seed=seed, workers=workers)
    console().print(f"Written to {page}", markup=False)
    return 0


def _download_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the data set's folder")
    parser.add_argument(
        "--source", choices=[*SOURCES, "kaggle"], default="dataverse", help="where from"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=["images", "metadata"],
        help="what; masks and the official test set are optional",
    )
    parser.add_argument(
        "--mirror", help="an address that serves the source's files under their names"
    )


def _verify_arguments(parser: ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--pairs-out", type=Path, help="write the near-duplicates here, for split --pairs"
    )
    add_workers(parser)


def _synthesize_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--images", type=int, default=1000, help="how many")
    add_seed(parser)
    parser.add_argument(
        "--width",
        type=int,
        default=IMAGE_WIDTH,
        help="of an image, in pixels; its height is 3/4 of it",
    )
    add_workers(parser)


def _explore_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="where explore.html goes")
    add_data(parser)
    add_seed(parser)
    add_workers(parser)


COMMANDS: dict[str, Callable[..., int]] = {
    "download": download,
    "verify": verify,
    "synthesize": synthesize,
    "explore": explore,
}

ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    "download": _download_arguments,
    "verify": _verify_arguments,
    "synthesize": _synthesize_arguments,
    "explore": _explore_arguments,
}
