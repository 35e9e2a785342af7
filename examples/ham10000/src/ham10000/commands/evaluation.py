"""The commands after training: what predictions are worth, and which of two are better.

The arguments of each function are its command's.
"""

from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser

from ham10000.commands.arguments import add_data, add_seed
from ham10000.data import SPLITS, data_folder
from ham10000.errors import ArgumentError
from ham10000.evaluation import (
    check_images,
    read_groundtruth,
    read_predictions,
    scored,
    to_json,
    write_evaluation,
    write_submission,
)
from ham10000.evaluation import compare as compare_predictions
from ham10000.evaluation import evaluate as evaluate_predictions
from ham10000.training import find_predictions, open_run
from ham10000.utils import console, write_text

__all__ = ["ARGUMENTS", "COMMANDS"]


def evaluate(
    run: Path | None = None,
    predictions: Path | None = None,
    data: Path | None = None,
    split: str = "test",
    tta: int | None = None,
    out: Path | None = None,
    seed: int = 0,
) -> int:
    """Say what predictions are worth, with an interval for every number.

    Args:
        run: a run's folder; its written predictions are used where they are what is asked for.
        predictions: a file of predictions instead.
        data: the data set; what the run was trained on unless given. Predictions from a file are
            checked against it.
        split: train, val or test.
        tta: over how many views of an image the run's model averages: 1, 2, 4 or 8; as many as its
            recipe says unless given.
        out: the folder for predictions.csv, metrics.json and figures; evaluation in the run's
            folder unless given.
        seed: of the draws of lesions.
    """
    from ham10000.reporting import print_evaluation, write_figures  # loads what trains

    source = _one_source("evaluating", run, predictions)
    if out is None and run is None:
        raise ArgumentError("evaluating: no --out says where to. It is needed with --predictions.")
    place = out if out is not None else source / "evaluation"
    found = find_predictions(source, split, tta, data and data_folder(data))
    evaluation = evaluate_predictions(found, seed=seed)
    write_evaluation(evaluation, found, place)
    write_figures(evaluation, found, place)
    print_evaluation(evaluation)
    console().print(f"Written to {place}", markup=False, soft_wrap=True)
    return 0


def submission(
    out: Path,
    run: Path | None = None,
    predictions: Path | None = None,
    groundtruth: Path | None = None,
    data: Path | None = None,
    tta: int | None = None,
) -> int:
    """Write predictions in the form of the challenge ISIC 2018, Task 3.

    With --groundtruth they are of the official test set, and scored as the challenge does; without,
    of the run's own test split.

    Args:
        out: the file to write.
        run: a run's folder.
        predictions: a file of predictions instead.
        groundtruth: the official truth of the test set, of the Dataverse (1,511 images) or of the
            challenge (1,512).
        data: the folder with the official test images; what HAM10000_DIR names unless given.
        tta: over how many views of an image the run's model averages: 1, 2, 4 or 8; as many as its
            recipe says unless given.
    """
    source = _one_source("writing a submission", run, predictions)
    say = console()
    if groundtruth is None:
        found = find_predictions(source, tta=tta)
    else:
        truth = read_groundtruth(groundtruth)
        if run is not None:
            found = open_run(run).predict_official(data_folder(data), truth, tta)
        else:
            found = read_predictions(source)
            check_images(found, truth[["image_id", "dx"]], str(groundtruth))
        metrics = evaluate_predictions(scored(found)).per_image.metrics
        score = metrics["balanced_accuracy"]
        say.print(
            f"Balanced accuracy on the official test set: {score.value:.3f}, interval of 95 % "
            f"{score.low:.3f} to {score.high:.3f}"
        )
    write_submission(found, out)
    whose = "the split test" if groundtruth is None else "the official test set"
    say.print(f"Written to {out}: {len(found):,} images of {whose}", markup=False, soft_wrap=True)
    return 0


def compare(
    run_a: Path, run_b: Path, out: Path | None = None, seed: int = 0, json: bool = False
) -> int:
    """Compare two models on the same test images, pair by pair.

    Args:
        run_a: a run's folder, or a file of predictions.
        run_b: another one.
        out: a file for every difference, as JSON.
        seed: of the draws of lesions.
        json: print that JSON instead of tables.
    """
    from ham10000.reporting import print_comparison  # loads what trains

    comparison = compare_predictions(
        find_predictions(run_a), find_predictions(run_b), (str(run_a), str(run_b)), seed=seed
    )
    text = to_json(comparison.as_dict())
    if out is not None:
        write_text(out, text)
    if json:
        print(text, end="")
        return 0
    print_comparison(comparison)
    if out is not None:
        console().print(f"Written to {out}", markup=False, soft_wrap=True)
    return 0


def _one_source(doing: str, run: Path | None, predictions: Path | None) -> Path:
    source = run if predictions is None else predictions
    if source is None or (run is not None and predictions is not None):
        found = "neither" if source is None else "both"
        raise ArgumentError(
            f"{doing}: pass a run's folder or --predictions with a file; found {found}."
        )
    return source


def _evaluate(parser: ArgumentParser) -> None:
    _add_source(parser)
    add_data(parser)
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="which part of the run's split"
    )
    _add_tta(parser)
    parser.add_argument(
        "--out", type=Path, help="a folder; evaluation in the run's folder unless given"
    )
    add_seed(parser)


def _submission(parser: ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument(
        "--groundtruth",
        type=Path,
        help="the official test set's truth, of the Dataverse or the challenge",
    )
    add_data(parser)
    _add_tta(parser)


def _compare(parser: ArgumentParser) -> None:
    for name in ("run_a", "run_b"):
        parser.add_argument(name, type=Path, help="a run's folder, or a file of predictions")
    parser.add_argument("--out", type=Path, help="a file for every difference, as JSON")
    add_seed(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _add_source(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, nargs="?", help="a run's folder")
    parser.add_argument("--predictions", type=Path, help="a file of predictions instead")


def _add_tta(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--tta",
        type=int,
        choices=[1, 2, 4, 8],
        help="over how many views of an image the model averages; as the recipe says unless given",
    )


COMMANDS: dict[str, Callable[..., int]] = {
    "evaluate": evaluate,
    "submission": submission,
    "compare": compare,
}

ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    "evaluate": _evaluate,
    "submission": _submission,
    "compare": _compare,
}
