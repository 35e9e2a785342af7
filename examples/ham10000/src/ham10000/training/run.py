"""Use a training run: its model, its data and its predictions."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from ham10000.data import (
    CLASSES,
    HAM10000,
    SPLITS,
    check_files,
    check_same_split,
    data_folder,
    data_name,
    encode_metadata,
    find_dataset,
    image_files,
    load_table,
    metadata_features,
    open_cache,
    open_folder,
    read_split_table,
)
from ham10000.errors import ArgumentError, Ham10000Error, MissingDataError, closest
from ham10000.evaluation import (
    OfficialTest,
    Predictions,
    check_images,
    of_split,
    read_predictions,
    round_probabilities,
)
from ham10000.models import METADATA_COLUMNS, build_model
from ham10000.recipe import Recipe, load_recipe
from ham10000.training.checkpoint import best_file, read_best
from ham10000.training.data import open_split, prepare_data, splits_of
from ham10000.training.frozen import load_head
from ham10000.training.predict import normalize, predict, predict_files, read_pixels
from ham10000.training.run_dir import (
    RunDir,
    check_same_classes,
    check_same_recipe,
    dataset_of,
    find_run,
)
from ham10000.utils import read_text

__all__ = ["ImageFiles", "Run", "find_images", "find_predictions", "open_run"]


class Run:
    """A training run, from `open_run`.

    Args:
        files: The folder of the run.
        data: Folder of the data set; by default the one of training.

    Attributes:
        files: Paths of the files of the run.
        folder: The folder of the run.
        recipe: The recipe of the run; its data.root is `data` if that is given.
        info: Description of the data set.
    """

    def __init__(self, files: RunDir, data: Path | None = None) -> None:
        self.files = files
        self.folder = files.path
        recipe = load_recipe(files.recipe)
        if data is not None:
            recipe = replace(recipe, data=replace(recipe.data, root=data))
        self.recipe: Recipe = recipe
        self.info = find_dataset(recipe.data.set)

    @property
    def split_table(self) -> pd.DataFrame:
        """The split, with the columns image_id, lesion_id, dx and split."""
        return read_split_table(self.files.split)

    @property
    def splits(self) -> list[str]:
        """Which of train, val and test the split has."""
        return splits_of(self.files)

    @property
    def data_name(self) -> str:
        """Name of the data set, from `ham10000.data.data_name`."""
        return data_name(self.split_table["image_id"], self.info)

    @property
    def weights_hash(self) -> str | None:
        """SHA-256 of the file that `load_model` reads; `None` if there is none."""
        path = best_file(self.files)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else None

    def load_model(self, device: torch.device | str = "cpu") -> nn.Module:
        """Return the model in eval mode with its best weights, averaged if the recipe says so.

        Raises:
            MissingDataError: The run has no weights yet.
            CheckpointError: Its best weights are lost.
            RecipeError: The recipe or the classes were changed after training.
            SplitError: The split was changed after training.
        """
        recipe, content = self.recipe, read_best(self.files)
        doing = f"loading the model of {self.folder}"
        check_same_recipe(content["recipe"], recipe, doing)
        check_same_classes(content, self.info, doing)
        if recipe.model.frozen:
            model = build_model(recipe)
            load_head(model, content, self.files)
            return _placed(model, recipe, device)
        if self.files.split.exists():
            check_same_split(content["split"], read_text(self.files.split, doing), doing)
        bare = replace(recipe.model, pretrained=False, weights=None)  # replaced below
        model = build_model(replace(recipe, model=bare))
        model.load_state_dict(content["model"])
        return _placed(model, recipe, device)

    def dataset(self, split: str, masks: bool = False) -> HAM10000:
        """Return the images of a split: "train", "val" or "test".

        If the cache of the run is gone, it is created again. Masks that it lacks are read from the
        files of the data set.
        """
        cache, data = prepare_data(self.files, self.recipe), self.recipe.data
        if masks and open_cache(cache).masks is None:
            return HAM10000(
                data_folder(data.root),
                split,
                split_file=self.files.split,
                metadata=METADATA_COLUMNS if data.metadata else (),
                masks=True,
                size=data.size,
                info=self.info,
            )
        return open_split(cache, self.files, split, metadata=data.metadata, masks=masks)

    def predict(
        self, split: str, tta: int | None = None, device: torch.device | str = "cpu"
    ) -> Predictions:
        """Predict the images of a split with the best weights.

        Args:
            split: "train", "val" or "test".
            tta: Number of views of an image whose probabilities are averaged: 1, 2, 4 or 8; by
                default the recipe's.
            device: Device of the model.
        """
        return predict(
            self.load_model(device),
            self.dataset(split),
            self.recipe,
            split=split,
            device=device,
            tta=self.recipe.training.tta if tta is None else tta,
            crops=self.recipe.training.crops,
        )

    def preprocess(self, images: Path | str | Sequence[Path | str]) -> Tensor:
        """Read image files as the input of the model, processed as the images of the training.

        Images are rotated by their EXIF orientation, converted to RGB, resized to `data.size`
        without keeping the aspect ratio, and normalized with `model.mean` and `model.std`.

        Args:
            images: JPEG or PNG files, or one file.

        Returns:
            (N, 3, S, S), float32, in the order of the files.

        Raises:
            ArgumentError: There are no files, or one is a folder.
            MissingDataError: A file does not exist or cannot be read.
            DataError: A file is not an image, or is damaged.
        """
        paths = _listed(images, "preprocessing")
        return normalize(torch.stack(list(read_pixels(paths, self.recipe.data.size))), self.recipe)

    def predict_images(
        self,
        images: Path | str | Sequence[Path | str],
        metadata: pd.DataFrame | None = None,
        tta: int | None = None,
        device: torch.device | str = "cpu",
    ) -> pd.DataFrame:
        """Predict image files, from any source, with the best weights.

        Args:
            images: JPEG or PNG files, or one file; see `preprocess`.
            metadata: Age, sex and localization of each image, as `read_table` returns them, for a
                run with `data.metadata`.
            tta: See `predict`.
            device: Device of the model.

        Returns:
            The probability of each class with five significant digits. Columns are the classes of
            the data set, and the index has the files as given.

        Raises:
            ArgumentError: There are no files, one is a folder, or the model needs metadata, which
                is missing or has another number of rows.
            MissingDataError: A file does not exist or cannot be read, or the run has no weights.
            DataError: A file is not an image, or is damaged.
            Ham10000Error: The model cannot be loaded; see `load_model`.
        """
        paths = _listed(images, "predicting")
        features = None
        if self.recipe.data.metadata:
            known = 0 if metadata is None else len(metadata)
            if metadata is None or known != len(paths):
                raise ArgumentError(
                    f"predicting {len(paths)} images: the model of {self.folder} also needs "
                    f"{', '.join(METADATA_COLUMNS)} of each image, found them for {known}. An "
                    "image file does not have them. Train with data.metadata=false for a model "
                    "that needs the image only."
                )
            features = metadata_features(encode_metadata(metadata, METADATA_COLUMNS))
        rows = predict_files(
            self.load_model(device),
            paths,
            self.recipe,
            metadata=features,
            device=device,
            tta=self.recipe.training.tta if tta is None else tta,
            crops=self.recipe.training.crops,
        )
        names = pd.Index([str(path) for path in paths], name="file")
        return pd.DataFrame(round_probabilities(rows), index=names, columns=list(self.info.classes))

    def find_splits(self, images: Sequence[Path]) -> dict[Path, str]:
        """Return which image files are in the split, judging by their names, and where."""
        splits = self.split_table.set_index("image_id")["split"].to_dict()
        return {path: splits[path.stem] for path in images if path.stem in splits}

    def predict_official(
        self,
        root: Path,
        truth: pd.DataFrame,
        tta: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Predictions:
        """Predict the official test set of ISIC 2018, Task 3, with the best weights.

        Args:
            root: The folder with the images; see `OfficialTest`.
            truth: As `read_groundtruth` returns it.
            tta: See `predict`.
            device: Device of the model.

        Raises:
            ArgumentError: The run has other classes, or the same in another order.
            MissingDataError: An image is missing.
        """
        if self.info.classes != CLASSES:
            raise ArgumentError(
                f"predicting the official test set, of {', '.join(CLASSES)}: {self.folder} has "
                f"{', '.join(self.info.classes)}. Use a run that was trained on HAM10000."
            )
        columns = METADATA_COLUMNS if self.recipe.data.metadata else ()
        data = OfficialTest(root, truth, self.recipe.data.size, columns)
        return predict(
            self.load_model(device),
            data,
            self.recipe,
            split="test",
            device=device,
            tta=self.recipe.training.tta if tta is None else tta,
            crops=self.recipe.training.crops,
        )


def _listed(images: Path | str | Sequence[Path | str], doing: str) -> list[Path]:
    paths = [Path(images)] if isinstance(images, str | Path) else [Path(each) for each in images]
    if not paths:
        raise ArgumentError(f"{doing} images: there are no files. Pass at least one.")
    check_files(paths, doing)
    return paths


def _placed(model: nn.Module, recipe: Recipe, device: torch.device | str) -> nn.Module:
    if recipe.training.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device).eval()


def open_run(folder: Path | str, *, data: Path | None = None) -> Run:
    """Open the run in a folder of `ham10000 train --out`.

    Args:
        folder: The folder of the run.
        data: Folder of the data set, if it has moved since training.

    Raises:
        MissingDataError: There is no run in the folder.
        RecipeError: Its recipe cannot be read.
    """
    return Run(find_run(Path(folder)), data)


class ImageFiles(NamedTuple):
    """Image files with what the data set knows about them."""

    paths: list[Path]
    masks: dict[Path, Path]
    """File of the mask, for images of the data set."""
    metadata: pd.DataFrame | None
    """Rows of the table of the data set, if it has all images."""


def find_images(
    run: Run, images: Sequence[str], data: Path | None = None, doing: str = "explaining"
) -> ImageFiles:
    """Find image files, and images of the data set by name.

    Args:
        run: From `open_run`.
        images: Names such as ISIC_0024306, files, folders or patterns; see `image_files`.
        data: Folder of the data set. Defaults to the one in the recipe.
        doing: The beginning of the message, before the name.

    Raises:
        MissingDataError: There is neither a file nor an image of this name.
        ArgumentError: A folder or pattern has no images.
    """
    problem = ""
    try:
        folder = open_folder(
            data_folder(data if data is not None else run.recipe.data.root), run.info
        )
        own, masks, table = folder.images, folder.masks, folder.table.set_index("image_id")
    except Ham10000Error as error:  # files do not need the data set
        own, masks, table, problem = {}, {}, pd.DataFrame(), f" ({str(error).rstrip('.')})"
    named = [str(own[name]) if name in own and not Path(name).exists() else name for name in images]
    paths = image_files(named)
    for path in paths:
        if not path.exists():
            raise MissingDataError(
                f"{doing} {path}: there is no such file, and no such image in the data set of "
                f"the run{problem}. {closest(str(path), own)}"
            )
    known = [path for path in paths if path.stem in own and own[path.stem].samefile(path)]
    return ImageFiles(
        paths,
        {path: masks[path.stem] for path in known if path.stem in masks},
        table.loc[[path.stem for path in paths]] if known == paths else None,
    )


def find_predictions(
    source: Path, split: str = "test", tta: int | None = None, data: Path | None = None
) -> Predictions:
    """Return the predictions of a split: from a file, or else from the model of a run.

    Args:
        source: The folder of a run, or a file of predictions.
        split: "train", "val" or "test".
        tta: Number of views whose probabilities are averaged; needs the folder of a run.
        data: Folder of the data set, by default the one of training. If it is given, predictions
            from a file must be of its images.

    Raises:
        MissingDataError: `source` does not exist.
        PredictionError: The predictions are invalid, or not of the images of the run.
        ArgumentError: `split` is unknown, or `tta` was given with a file.
    """
    if split not in SPLITS:
        raise ArgumentError(f"predicting: there is no split {split!r}. Pass one of {SPLITS}.")
    if source.is_dir():
        written = source / "predictions.csv"
        if split != "test" or tta is not None or not written.is_file():
            return open_run(source, data=data).predict(split, tta)
        classes = dataset_of(source).classes if RunDir(source).recipe.is_file() else ()
        found = of_split(read_predictions(written, classes), split)
        if (path := RunDir(source).split).is_file():
            splits = read_split_table(path)
            expected = splits[splits["split"] == split]
            check_images(found, expected, f"the split {split} of {path}")
    elif source.exists():
        if tta is not None and tta != 1:
            raise ArgumentError(
                f"reading {source}: a file of predictions cannot be averaged over {tta} views. "
                "Pass the folder of a run."
            )
        found = of_split(read_predictions(source), split)
    else:
        raise MissingDataError(
            f"opening {source}: there is neither a folder of a run nor a file of predictions. "
            f"Train a run with: ham10000 train RECIPE --out {source}"
        )
    if data is not None:
        table = load_table(data, dataset_of(source, found.classes))
        known = table[table["image_id"].isin(found.table["image_id"])]
        check_images(found, known, f"the data set {data}")
    return found
