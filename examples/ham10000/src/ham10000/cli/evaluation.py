"""Commands for trained models: metrics, comparisons, ensembles, saliency, figures, and reports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from ham10000.cli.options import Figures, Option, RunFolder, Seed, Split, Tta
from ham10000.data import data_folder
from ham10000.errors import ArgumentError
from ham10000.evaluation import (
    CHALLENGE_IMAGES,
    Predictions,
    average_predictions,
    challenge_scores,
    check_images,
    only_one_right,
    read_groundtruth,
    read_predictions,
    scored,
    to_json,
    write_challenge,
    write_evaluation,
    write_submission,
)
from ham10000.evaluation import compare as compare_predictions
from ham10000.evaluation import evaluate as evaluate_predictions
from ham10000.reporting import (
    TableFormat,
    check_apart,
    choose,
    console,
    evaluate_sources,
    file_cases,
    frames_of_runs,
    make_cases,
    open_source,
    print_comparison,
    print_evaluation,
    print_evaluations,
    print_saliency,
    split_notes,
    table_texts,
    tables_of_run,
    write_case,
    write_figures,
    write_report,
    write_tables,
)
from ham10000.saliency import evaluate_saliency, write_saliency
from ham10000.training import find_images, find_predictions, open_run
from ham10000.utils import write_text

_Tables = Annotated[
    Sequence[TableFormat] | None,
    Option("Also write the tables: csv for one row per metric, latex or md for tables to print."),
]
_RunData = Annotated[
    Path | None, Option("Folder of the data set. Defaults to the data set of the training.")
]
_RunOrFile = Annotated[Path, Option("Folder of a run, or file of predictions.")]


def evaluate(
    runs: Annotated[Sequence[Path], Option("Folders of runs, or files of predictions.")],
    /,
    *,
    data: _RunData = None,
    split: Split = "test",
    tta: Tta = None,
    out: Path | None = None,
    seed: Seed = 0,
    tables: _Tables = None,
    figures: Figures = "png",
) -> int:
    """Compute all metrics of models with confidence intervals, also within strata of the images.

    Stored predictions of a run are used if they match --split and --tta. With --data, their images
    are compared with those of the data set.

    Args:
        out: Folder for predictions.csv, metrics.json, tables and figures; each of several runs has
            its own folder in it. Defaults to RUN/evaluation, and is required for files.
    """
    if out is None and not all(run.is_dir() for run in runs if run.exists()):
        raise ArgumentError("evaluating: a file of predictions needs --out with a folder.")
    found = evaluate_sources(runs, split=split, tta=tta, data=data, seed=seed)
    folders = []
    for each in found:
        folder = each.source / "evaluation" if out is None else out
        if out is not None and len(found) > 1:
            folder = out / each.name
        write_evaluation(each.evaluation, each.predictions, folder)
        write_tables(folder, tables or (), tables_of_run(each), frames_of_runs([each]))
        write_figures(each.evaluation, each.predictions, folder, figures)
        folders.append(folder)
    if len(found) == 1:
        print_evaluation(found[0].evaluation)
    else:
        print_evaluations(found)
    for folder in folders:
        console().print(f"Written to {folder}", markup=False, soft_wrap=True)
    return 0


def tables(
    folders: Annotated[Sequence[Path], Option("Folders of runs, or the folder of a study.")],
    /,
    *,
    format: TableFormat = "md",  # noqa: A002
    out: Path | None = None,
    data: _RunData = None,
) -> int:
    """Print the tables of runs or of a study, or write them to a folder.

    The tables are those of `report`. Several runs are compared with the first one. Without --out,
    csv is one table with a row for each metric; with it, also the other tables have files.

    Args:
        format: csv for one row per metric, latex (booktabs) or md (Markdown) for tables to print.
        out: Folder for one file for each table. Without it, the tables are printed.
    """
    texts = table_texts(open_source(folders, data=data), format, every=out is not None)
    if out is None:
        print("\n".join(texts.values()), end="")
        return 0
    for name, text in texts.items():
        write_text(out / name, text)
    console().print(f"Written to {out}: {', '.join(sorted(texts))}", markup=False, soft_wrap=True)
    return 0


def compare(
    run_a: _RunOrFile,
    run_b: _RunOrFile,
    /,
    *,
    out: Path | None = None,
    images: Path | None = None,
    seed: Seed = 0,
    json: bool = False,
) -> int:
    """Compare two models on the same test images.

    Args:
        out: JSON file with all differences.
        images: CSV file with the images that only one of the models classifies correctly.
        json: Print the JSON instead of tables.
    """
    both, names = (find_predictions(run_a), find_predictions(run_b)), (str(run_a), str(run_b))
    comparison = compare_predictions(*both, names, seed=seed)
    if images is not None:
        table = only_one_right(*both, names)
        write_text(images, table.to_csv(index=False, lineterminator="\n"))
    text = to_json(comparison.as_dict())
    if out is not None:
        write_text(out, text)
    if json:
        print(text, end="")
        return 0
    print_comparison(comparison)
    for path in filter(None, (out, images)):
        console().print(f"Written to {path}", markup=False, soft_wrap=True)
    return 0


def ensemble(
    runs: Annotated[Sequence[Path], Option("Folders of runs, or files of predictions.")],
    /,
    *,
    out: Path,
    data: _RunData = None,
    split: Split = "test",
    tta: Tta = None,
    seed: Seed = 0,
    figures: Figures = "png",
) -> int:
    """Average the probabilities of several models for the same images, and evaluate the mean.

    The folder of the ensemble can be evaluated, compared and submitted by its predictions.csv.

    Args:
        out: Folder for predictions.csv, metrics.json and figures.
    """
    mean = average_predictions([find_predictions(run, split, tta, data) for run in runs])
    found = evaluate_predictions(mean, seed=seed)
    write_evaluation(found, mean, out)
    write_figures(found, mean, out, figures)
    print_evaluation(found)
    console().print(f"Written to {out}: mean of {len(runs)} models", markup=False, soft_wrap=True)
    return 0


def submission(
    runs: Annotated[
        Sequence[Path], Option("Folder of a run, or file of predictions; two for ISIC 2017.")
    ],
    /,
    *,
    out: Path,
    groundtruth: Path | None = None,
    data: Annotated[
        Path | None,
        Option(
            "Folder with the official test images of 2018, by default HAM10000_DIR. For 2017, the "
            "folder of the data set, by default that of the training."
        ),
    ] = None,
    tta: Tta = None,
) -> int:
    """Write predictions in the format of the ISIC challenge of 2018 or 2017.

    Runs on HAM10000 are for the challenge of 2018, Task 3. With --groundtruth, the predictions are
    of the official test set and are scored as in the challenge. Otherwise they are of the run's own
    test split. For the challenge of 2017, Part 3, pass a run of each of its two tasks; the
    challenge's scores are printed.

    Args:
        out: CSV file to write.
        groundtruth: Ground truth of the official test set of 2018, from Dataverse (1,511 images) or
            from the challenge (1,512 images).
    """
    if len(runs) == 1:
        found = _submit(runs[0], out, groundtruth, data, tta)
    else:
        if groundtruth is not None:
            raise ArgumentError(
                "writing a submission: --groundtruth is for the challenge of 2018, which takes "
                f"one run, found {len(runs)}. Leave it out: the tables of ISIC 2017 have the test "
                "set."
            )
        both = [find_predictions(run, tta=tta, data=data if run.is_dir() else None) for run in runs]
        scores = challenge_scores(both)
        console().print(scores.map("{:.3f}".format).to_string(), markup=False)
        write_challenge(both, out)
        found = both[0]
        if len(found) != CHALLENGE_IMAGES:
            console().print(
                f"These are not the challenge's {CHALLENGE_IMAGES} test images, so its results "
                "can't be compared with these scores.",
                style="yellow",
            )
    images = "the test split" if groundtruth is None else "the official test set"
    console().print(
        f"Written to {out}: {len(found):,} images of {images}", markup=False, soft_wrap=True
    )
    return 0


def _submit(
    run: Path, out: Path, groundtruth: Path | None, data: Path | None, tta: int | None
) -> Predictions:
    """Write a submission to the challenge of 2018, and return the predictions."""
    if groundtruth is None:
        found = find_predictions(run, tta=tta)
    else:
        truth = read_groundtruth(groundtruth)
        if run.is_dir():
            found = open_run(run).predict_official(data_folder(data), truth, tta)
        else:
            found = read_predictions(run)
            check_images(found, truth[["image_id", "dx"]], str(groundtruth))
        score = evaluate_predictions(scored(found)).per_image.metrics["balanced_accuracy"]
        console().print(
            f"Balanced accuracy on the official test set: {score.value:.3f}, 95 % interval "
            f"{score.low:.3f} to {score.high:.3f}"
        )
    write_submission(found, out)
    return found


def localise(
    run: RunFolder,
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
    run: RunFolder,
    /,
    *,
    out: Path,
    image: Sequence[str] | None = None,
    worst: int | None = None,
    dx: Annotated[str | None, Option(name="class")] = None,
    split: Split = "test",
    data: _RunData = None,
    figures: Figures = "png",
) -> int:
    """Draw images with their attention, the lesion outline and class probabilities.

    Args:
        out: Folder for the figures, one for each image.
        image: Names of images in the data set, such as ISIC_0024306, in any split; or image files,
            folders and patterns, as for `predict`.
        worst: Number of images to draw, those with the lowest probability of the true class.
        dx: Restrict to images of this class.
    """
    if image is None and worst is None and dx is None:
        raise ArgumentError(
            "explaining: no images are selected. Pass --image NAME, --worst 20 or --class mel."
        )
    if image is not None and (worst is not None or dx is not None):
        raise ArgumentError(
            "explaining: --worst and --class select images of a split, and --image names images. "
            "Pass one or the other."
        )
    opened, screen = open_run(run), console()
    if image is not None:
        found = find_images(opened, image, data)
        check_apart(out, found.paths)
        cases = file_cases(
            opened, opened.predict_images(found.paths, found.metadata), masks=found.masks
        )
    else:
        predictions = find_predictions(opened.folder, split)
        names = choose(predictions, worst=worst, dx=dx)
        cases = make_cases(opened, predictions, names, split=split, data=data)
    drawn: dict[str, str | None] = {}
    for case in cases:
        write_case(case, out, figures)
        drawn[case.image_id] = case.split
    for note in split_notes({name: split for name, split in drawn.items() if split}):
        screen.print(note, markup=False)
    figure = "figure" if len(drawn) == 1 else "figures"
    screen.print(f"{len(drawn):,} {figure} in {out}", markup=False, soft_wrap=True)
    return 0


def report(
    folders: Annotated[Sequence[Path], Option("Folders of runs, or the folder of a study.")],
    /,
    *,
    out: Path,
    data: _RunData = None,
    each: int = 1,
    tables: _Tables = None,
) -> int:
    """Write the results of runs or a study as one self-contained HTML page.

    Args:
        out: HTML file to write.
        each: Number of correctly and of incorrectly classified images of each class in the gallery;
            0 for no images of the data set.
    """
    if each < 0:
        raise ArgumentError(f"reporting: --each must be 0 or more, found {each}.")
    page = write_report(folders, out, data=data, each=each, tables=tables or ())
    written = f"{page} and {page.stem}_tables" if tables else page
    console().print(f"Written to {written}", markup=False, soft_wrap=True)
    return 0
