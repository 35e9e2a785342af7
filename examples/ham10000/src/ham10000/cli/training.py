"""Commands for recipes, features, training, and applying a trained run."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from ham10000.cli.options import Figures, Option, RunFolder, Tta, recipe_overrides
from ham10000.data import SYNTHETIC, DatasetInfo, image_files
from ham10000.errors import ArgumentError
from ham10000.evaluation import metric_name
from ham10000.models import summarize_recipes, summary_table
from ham10000.recipe import dump_recipe, load_recipe, shipped_recipes
from ham10000.reporting import (
    AppWeights,
    ExportFormat,
    check_apart,
    console,
    export_run,
    file_cases,
    list_runs,
    print_run,
    serve_app,
    split_notes,
    write_app,
    write_case,
)
from ham10000.study import PRIMARY
from ham10000.training import (
    INTERRUPTED,
    LAUNCHED,
    LAUNCHER_LOCK,
    TRAINER_LOCK,
    RunDir,
    claim_run,
    find_run,
    launch,
    lock_run,
    open_run,
    prepare_features,
    replace_run,
)
from ham10000.training import train as train_run
from ham10000.utils import write_text

_MAX_RESTARTS = 3  # with --elastic
_PROCESSES_GROUP = Option(group="processes")
_RECIPE_GROUP = Option(group="recipe")


def recipes(recipes: Sequence[str] = (), /, **overrides: Any) -> int:
    """List the recipes that come with ham10000, or compare the models of some recipes.

    Wherever a recipe is expected, its name or the path of a YAML file is accepted.

    The comparison shows the parameters of each model, what the head receives from backbone and
    attention, and the scale of these features before training, relative to the first recipe. It is
    measured on images of data.root or, without it, on random ones. Every field of the recipes can
    be overridden: section.field=value, or --section.field VALUE.

    Args:
        recipes: Names of recipes, or YAML files. Without any, the recipes are listed.
    """
    screen = console()
    if recipes:
        changes = recipe_overrides(overrides)
        loaded = [load_recipe(recipe, changes) for recipe in recipes]
        screen.print(summary_table(summarize_recipes(loaded), loaded[0].name))
        return 0
    table = Table("recipe", "description", "size", box=None, pad_edge=False)
    for name, path in shipped_recipes().items():
        about = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        table.add_row(name, escape(about), str(load_recipe(path).data.size))
    screen.print(table)
    screen.print("\nAll fields of a recipe: ham10000 train RECIPE --print-config")
    return 0


def features(recipe: str, /, *, out: Path, **overrides: Any) -> int:
    """Compute the feature maps of all images with the backbone of a recipe.

    Recipes with a frozen backbone are trained on these maps and compute them if they are missing.
    Use this command to compute them in advance. Every field of the recipe can be overridden:
    section.field=value, or --section.field VALUE.

    Args:
        recipe: Name of a recipe (see `ham10000 recipes`), or a YAML file.
        out: Folder of the features, for data.features.
    """
    loaded = load_recipe(recipe, recipe_overrides(overrides))
    loaded = replace(loaded, data=replace(loaded.data, features=out))
    found = prepare_features(RunDir(out), loaded)
    shape = " x ".join(map(str, found.maps.shape))
    console().print(f"Features of {loaded.model.backbone}: {out}, {shape} float16", markup=False)
    return 0


def train(
    recipe: str | None = None,
    /,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    replace_other: Annotated[bool, Option(name="replace")] = False,
    processes: Annotated[int, _PROCESSES_GROUP] = 1,
    elastic: Annotated[bool, _PROCESSES_GROUP] = False,
    max_minutes: Annotated[float | None, _RECIPE_GROUP] = None,
    profile: Annotated[int | None, _RECIPE_GROUP] = None,
    print_config: Annotated[bool, _RECIPE_GROUP] = False,
    **overrides: Any,
) -> int:
    """Train a recipe, or resume a run.

    Every field of the recipe can be overridden: section.field=value, or --section.field VALUE.

    Args:
        recipe: Name of a recipe (see `ham10000 recipes`), or a YAML file.
        out: Folder of the run. If it contains checkpoints of this recipe, training resumes.
        resume: Folder of a run to resume, instead of RECIPE and --out.
        replace_other: Replace a run in --out that is of another recipe or of other images. Files
            that are not of a run are kept.
        processes: Number of training processes on this machine.
        elastic: If a process dies, restart all of them from the last checkpoint.
        max_minutes: Same as --training.max_minutes: save a checkpoint and stop after this time.
        profile: Same as --logging.profile: number of steps to trace.
        print_config: Print the recipe with all fields and exit.
    """
    changes = recipe_overrides(overrides)
    if max_minutes is not None:
        changes.append(f"training.max_minutes={max_minutes}")
    if profile is not None:
        changes.append(f"logging.profile={profile}")
    if print_config:
        if recipe is None:
            raise ArgumentError("printing a recipe: its name or file is missing.")
        print(dump_recipe(load_recipe(recipe, changes)), end="")
        return 0
    if processes < 1:
        raise ArgumentError(f"training: --processes must be at least 1, found {processes}.")
    if replace_other and (resume is not None or "RANK" in os.environ):
        raise ArgumentError(
            "training: --replace is for a recipe and --out, without torchrun. Omit it, or start "
            "several processes with --processes."
        )
    if resume is not None and recipe is None and out is None:
        folder, loaded = resume, load_recipe(find_run(resume).recipe, changes)
    elif resume is None and recipe is not None and out is not None:
        folder, loaded = out, load_recipe(recipe, changes)
    else:
        raise ArgumentError(
            "training: expected a recipe and --out, or --resume alone. "
            "Example: ham10000 train lite0_sa --out runs/lite0_sa"
        )
    if loaded.model.frozen and (processes > 1 or elastic):
        raise ArgumentError(
            f"training {loaded.name}: the head on a frozen backbone is trained in this process. "
            "Leave out --processes and --elastic."
        )
    if replace_other and replace_run(folder, loaded):
        console().print(f"Replacing the run in {folder}", markup=False)
    if "RANK" not in os.environ and (processes > 1 or elastic):
        with lock_run(folder, LAUNCHER_LOCK):
            with lock_run(folder, TRAINER_LOCK):  # fails if a killed launcher left processes
                run, _ = claim_run(folder, loaded)
            status = launch(run, processes, _MAX_RESTARTS if elastic else 0)
    else:
        status = train_run(loaded, folder)
    if os.environ.get("RANK", "0") == "0" and LAUNCHED not in os.environ:
        print_run(find_run(folder))
    # torchrun would count any other status as a failure.
    return 0 if status == INTERRUPTED and LAUNCHED in os.environ else status


def runs(
    folder: Annotated[Path, Option("Folder with runs, also in subfolders.")],
    /,
    *,
    metric: str = PRIMARY,
) -> int:
    """List the runs in a folder, with state, data and a metric of the test set.

    The metric has a 95 % confidence interval if the run was evaluated: ham10000 evaluate RUN.

    Args:
        metric: Name of the metric in metrics.json, such as balanced_accuracy or recall/mel.
    """
    found = list_runs(folder, metric)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for title in ("run", "recipe", "state"):
        table.add_column(title, overflow="fold")
    table.add_column("epoch", justify="right", no_wrap=True)
    table.add_column("data", max_width=10)
    table.add_column(metric_name(metric), overflow="fold", max_width=20)
    for run in found:
        shown = "" if run.value is None else f"{run.value:.3f}"
        if run.interval is not None:
            shown += f" [{run.interval[0]:.3f}, {run.interval[1]:.3f}]"
        epoch = f"{run.epoch}/{run.epochs}" if run.epochs else ""
        table.add_row(*map(escape, (run.name, run.recipe, run.state, epoch, run.data, shown)))
    console().print(table)
    return 0


def predict(
    run: RunFolder,
    images: Annotated[
        Sequence[str], Option("Image files, folders of images, or patterns such as 'photos/*.jpg'.")
    ],
    /,
    *,
    csv: Path | None = None,
    out: Path | None = None,
    tta: Tta = None,
    figures: Figures = "png",
) -> int:
    """Classify image files from any source.

    Files are JPEG or PNG, in any colours and of any size. The model was made for dermatoscopic
    images of a single lesion: it assigns one of its classes to anything else too.

    Args:
        csv: CSV file to write, with the probabilities of all classes.
        out: Folder for a figure of each image, with the attention of the model if it has any.
    """
    opened, paths = open_run(run), image_files(images)
    if out is not None:
        check_apart(out, paths)
    predicted = opened.predict_images(paths, tta=tta)
    splits = {str(path): split for path, split in opened.find_splits(paths).items()}
    screen = console()
    screen.print(_prediction_table(predicted, opened.info), "")
    for note in split_notes(splits):
        screen.print(note, markup=False)
    if opened.data_name == SYNTHETIC:
        screen.print("The run was trained on synthetic images, which do not resemble real skin.")
    screen.print("For research only: this is not a medical device and gives no diagnosis.")
    if csv is not None:
        table = predicted.reset_index()
        table.insert(1, "prediction", predicted.idxmax(axis=1).to_numpy())
        table.insert(2, "split", [splits.get(name, "") for name in table["file"]])
        write_text(csv, table.to_csv(index=False, lineterminator="\n"))
        screen.print(f"Written to {csv}", markup=False, soft_wrap=True)
    if out is not None:
        for case in file_cases(opened, predicted):
            write_case(case, out, figures)
        figure = "figure" if len(paths) == 1 else "figures"
        screen.print(f"{len(paths):,} {figure} in {out}", markup=False, soft_wrap=True)
    return 0


def _prediction_table(predicted: pd.DataFrame, info: DatasetInfo) -> Table:
    classes = info.classes
    paths = [Path(name) for name in predicted.index]
    folders = {path.parent for path in paths}
    ranked = predicted.to_numpy().argsort(axis=1, kind="stable")[:, ::-1]
    shown = sorted({classes[place] for place in ranked[:, :2].flat})
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title=escape(str(folders.copy().pop()))
        if len(folders) == 1 and Path() not in folders
        else None,
        title_justify="left",
        caption="; ".join(f"{name}: {info.class_names[name]}" for name in shown),
        caption_justify="left",
    )
    table.add_column("file", overflow="fold")
    table.add_column("class", no_wrap=True)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("second class", no_wrap=True)
    for path, values, (first, second) in zip(
        paths, predicted.to_numpy(), ranked[:, :2], strict=True
    ):
        name = path.name if len(folders) == 1 else str(path)
        other = f"{classes[second]} ({values[second]:.3f})"
        table.add_row(escape(name), classes[first], f"{values[first]:.3f}", other)
    return table


def export(run: RunFolder, /, *, to: ExportFormat, out: Path) -> int:
    """Export the model of a run with a model card, and check that its outputs are unchanged.

    The folder has the model, its classes and preprocessing in config.json, and in README.md the
    metrics that `ham10000 evaluate` has stored with the run.

    Args:
        to: hub: a folder for softattn.hub and the Hugging Face hub; onnx: model.onnx;
            torch-export: model.pt2.
        out: Folder to create.
    """
    export_run(open_run(run), to, out)
    console().print(
        f"Written to {out}: {', '.join(sorted(p.name for p in out.iterdir()))}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def app(
    run: RunFolder,
    /,
    *,
    out: Path | None = None,
    weights: AppWeights = "auto",
    examples: int = 0,
    runtime: Path | None = None,
    data: Annotated[
        Path | None, Option("Folder of the data set. Defaults to the data set of the training.")
    ] = None,
    serve: bool = False,
    port: int = 7860,
) -> int:
    """Write a run as one HTML page that predicts images in the browser, or serve it with Gradio.

    The page contains the model and everything else, and sends and loads nothing. It has at most
    40 MB.

    Args:
        out: HTML file to write.
        weights: fp32, fp16 or int8: bits of the stored weights; auto: the most that fit. The loss
            of accuracy is measured on test images and printed.
        examples: Number of test images to embed. The licence of the data applies to the page then.
        runtime: Archive of onnxruntime-web from npm, in the version that the error message names,
            if this machine cannot download it.
        serve: Instead of a page, serve the model on this machine with Gradio.
        port: TCP port of --serve.
    """
    if serve == (out is not None):
        raise ArgumentError(
            "making an app: expected either --out with an HTML file or --serve. "
            "Example: ham10000 app runs/lite0_sa --out app.html"
        )
    opened, screen = open_run(run), console()
    if out is None:
        serve_app(opened, port)
        return 0
    found = write_app(opened, out, weights=weights, runtime=runtime, data=data, examples=examples)
    screen.print(f"Weights: {found.weights}", markup=False)
    screen.print(f"Written to {out}: {found.size / 1e6:.1f} MB", markup=False, soft_wrap=True)
    return 0
