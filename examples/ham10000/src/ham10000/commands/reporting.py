"""The commands that show what a model does: where it looks, image by image, and a page of all.

The arguments of each function are its command's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from ham10000.commands.arguments import add_data, add_seed
from ham10000.data import CLASSES, SPLITS
from ham10000.errors import ArgumentError
from ham10000.utils import console

__all__ = ["ARGUMENTS", "COMMANDS"]


def localise(
    run: Path,
    out: Path | None = None,
    data: Path | None = None,
    split: str = "test",
    faithful: int = 100,
    seed: int = 0,
) -> int:
    """Measure whether a run's model looks at the lesion, against the masks.

    Args:
        run: a run's folder.
        out: the folder for localisation.json and localisation.csv; evaluation in the run's folder
            unless given.
        data: the data set's folder, for the masks; what the run was trained on unless given.
        split: train, val or test.
        faithful: on how many images deletion and insertion are followed; 0 for none.
        seed: of all draws.
    """
    # Loading what trains takes seconds, and the other commands don't need it.
    from ham10000.reporting import print_saliency
    from ham10000.saliency import evaluate_saliency, write_saliency
    from ham10000.training import open_run

    if faithful < 0:
        raise ArgumentError(f"localising: faithful must be 0 or more, found {faithful}.")
    gaze, images = evaluate_saliency(open_run(run), split, data=data, faithful=faithful, seed=seed)
    place = out if out is not None else run / "evaluation"
    write_saliency(gaze, images, place)
    print_saliency(gaze)
    console().print(f"Written to {place}", markup=False, soft_wrap=True)
    return 0


def explain(
    run: Path,
    out: Path,
    image: Sequence[str] | None = None,
    worst: int | None = None,
    dx: str | None = None,
    split: str = "test",
    data: Path | None = None,
) -> int:
    """Draw images with the attention to them, the outline of the lesion and the probabilities.

    Args:
        run: a run's folder.
        out: the folder for a figure of each image.
        image: names of images, as ISIC_0024306.
        worst: so many images whose true class got the least probability.
        dx: only images of this class.
        split: train, val or test.
        data: the data set's folder, for the masks; what the run was trained on unless given.
    """
    from ham10000.reporting import choose, make_cases, write_case
    from ham10000.training import find_predictions, open_run

    if image is None and worst is None and dx is None:
        raise ArgumentError(
            "explaining: nothing says which images. Pass --image NAME, --worst 20 or --class mel."
        )
    opened = open_run(run)
    predictions = find_predictions(run, split)
    names = choose(predictions, image or (), worst=worst, dx=dx)
    for case in make_cases(opened, predictions, names, split=split, data=data):
        write_case(case, out)
    console().print(f"{len(names):,} figures in {out}", markup=False, soft_wrap=True)
    return 0


def report(folder: Path, out: Path, data: Path | None = None, each: int = 1) -> int:
    """Write what a run or a study found as one page, which opens anywhere.

    Args:
        folder: of a run or a study.
        out: the page to write.
        data: the data set's folder, for masks and pictures; what was trained on unless given.
        each: how many images of each class the gallery shows that the model is right about, and
            how many that it isn't; 0 for no pictures of the data set.
    """
    from ham10000.reporting import write_report

    if each < 0:
        raise ArgumentError(f"reporting: each must be 0 or more, found {each}.")
    page = write_report(folder, out, data=data, each=each)
    console().print(f"Written to {page}", markup=False, soft_wrap=True)
    return 0


def _localise_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "--out", type=Path, help="the folder for files; evaluation in the run's unless given"
    )
    add_data(parser)
    _split(parser)
    parser.add_argument(
        "--faithful", type=int, default=100, help="images for deletion and insertion; 0 for none"
    )
    add_seed(parser)


def _explain_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder for figures")
    parser.add_argument("--image", nargs="+", help="names of images, as ISIC_0024306")
    parser.add_argument(
        "--worst", type=int, help="so many whose true class got the least probability"
    )
    parser.add_argument("--class", dest="dx", choices=CLASSES, help="only images of this class")
    _split(parser)
    add_data(parser)


def _report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="of a run or a study")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    add_data(parser)
    parser.add_argument(
        "--each", type=int, default=1, help="images a class, right and wrong each; 0 for none"
    )


def _split(parser: ArgumentParser) -> None:
    parser.add_argument("--split", choices=SPLITS, default="test", help="which images")


COMMANDS: dict[str, Callable[..., int]] = {
    "localise": localise,
    "explain": explain,
    "report": report,
}

ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    "localise": _localise_arguments,
    "explain": _explain_arguments,
    "report": _report_arguments,
}
