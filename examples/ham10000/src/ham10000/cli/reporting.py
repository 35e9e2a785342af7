"""Commands that show what a model does: saliency scores, figures of images, and a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from ham10000.cli.options import Option, Seed, Split
from ham10000.data import CLASSES
from ham10000.errors import ArgumentError
from ham10000.reporting import choose, console, make_cases, print_saliency, write_case, write_report
from ham10000.saliency import evaluate_saliency, write_saliency
from ham10000.training import find_predictions, open_run

_Run = Annotated[Path, Option("Folder of a run.")]
_RunData = Annotated[
    Path | None,
    Option("Folder of the data set, for masks. Defaults to the data set of the training."),
]


def localise(
    run: _Run,
    /,
    *,
    out: Path | None = None,
    data: _RunData = None,
    split: Split = "test",
    faithful: int = 100,
    seed: Seed = 0,
) -> int:
    """Compare attention maps and other saliency maps with the lesion masks.

    Args:
        out: Folder for localisation.json and localisation.csv. Defaults to RUN/evaluation.
        faithful: Number of images for deletion and insertion curves; 0 for none.
    """
    if faithful < 0:
        raise ArgumentError(f"localising: --faithful must be 0 or more, found {faithful}.")
    scores, images = evaluate_saliency(
        open_run(run), split, data=data, faithful=faithful, seed=seed
    )
    folder = out if out is not None else run / "evaluation"
    write_saliency(scores, images, folder)
    print_saliency(scores)
    console().print(f"Written to {folder}", markup=False, soft_wrap=True)
    return 0


def explain(
    run: _Run,
    /,
    *,
    out: Path,
    image: Sequence[str] | None = None,
    worst: int | None = None,
    dx: Annotated[str | None, Option(name="class", choices=CLASSES)] = None,
    split: Split = "test",
    data: _RunData = None,
) -> int:
    """Draw images with attention, outline of the lesion and class probabilities.

    Args:
        out: Folder for the figures, one for each image.
        image: Image ids, as ISIC_0024306.
        worst: Number of images whose true class has the lowest probability.
        dx: Restrict to images of this class.
    """
    if image is None and worst is None and dx is None:
        raise ArgumentError(
            "explaining: no images are selected. Pass --image NAME, --worst 20 or --class mel."
        )
    opened = open_run(run)
    predictions = find_predictions(run, split)
    names = choose(predictions, image or (), worst=worst, dx=dx)
    for case in make_cases(opened, predictions, names, split=split, data=data):
        write_case(case, out)
    console().print(f"{len(names):,} figures in {out}", markup=False, soft_wrap=True)
    return 0


def report(
    folder: Path,
    /,
    *,
    out: Path,
    data: _RunData = None,
    each: int = 1,
) -> int:
    """Write the results of a run or a study as one self-contained HTML page.

    Args:
        folder: Folder of a run or a study.
        out: HTML file to write.
        each: Number of correctly and of incorrectly classified images of each class in the gallery;
            0 for no images of the data set.
    """
    if each < 0:
        raise ArgumentError(f"reporting: --each must be 0 or more, found {each}.")
    page = write_report(folder, out, data=data, each=each)
    console().print(f"Written to {page}", markup=False, soft_wrap=True)
    return 0
