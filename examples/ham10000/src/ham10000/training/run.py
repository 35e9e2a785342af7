"""Use a training run: its model, its data and its predictions."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from ham10000.data import (
    CLASSES,
    HAM10000,
    SPLITS,
    check_files,
    data_folder,
    load_table,
    read_csv,
    read_manifest,
)
from ham10000.errors import ArgumentError, MissingDataError
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
from ham10000.training.run_dir import RunDir, check_same_recipe, check_same_split, find_run

__all__ = ["Run", "find_predictions", "open_run"]


class Run:
    """A training run, from `open_run`.

    Args:
        files: the folder of the run.
        data: folder of the data set; by default the one of training.

    Attributes:
        files: paths of the files of the run.
        folder: the folder of the run.
        recipe: the recipe of the run; its data.root is `data` if that is given.
    """

    def __init__(self, files: RunDir, data: Path | None = None) -> None:
        self.files = files
        self.folder = files.path
        recipe = load_recipe(files.recipe)
        if data is not None:
            recipe = replace(recipe, data=replace(recipe.data, root=data))
        self.recipe: Recipe = recipe

    @property
    def split_table(self) -> pd.DataFrame:
        """The split, with the columns image_id, lesion_id, dx and split."""
        return pd.read_csv(self.files.split, dtype=str, keep_default_na=False)

    @property
    def splits(self) -> list[str]:
        """Which of train, val and test the split has."""
        return splits_of(self.files)

    @property
    def weights_hash(self) -> str | None:
        """SHA-256 of the file that `load_model` reads; `None` if there is none."""
        path = best_file(self.files)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else None

    def load_model(self, device: torch.device | str = "cpu") -> nn.Module:
        """Return the model in eval mode with its best weights, averaged if the recipe says so.

        Raises:
            MissingDataError: the run has no weights yet.
            CheckpointError: its best weights are lost.
            RecipeError: the recipe was changed after training.
            SplitError: the split was changed after training.
        """
        recipe, content = self.recipe, read_best(self.files)
        doing = f"loading the model of {self.folder}"
        check_same_recipe(content["recipe"], recipe, doing)
        if recipe.model.frozen:
            model = build_model(recipe)
            load_head(model, content, self.files)
            return _placed(model, recipe, device)
        if self.files.split.exists():
            split = self.files.split.read_text(encoding="utf-8")
            check_same_split(content["split"], split, doing)
        bare = replace(recipe.model, pretrained=False, weights=None)  # replaced below
        model = build_model(replace(recipe, model=bare))
        model.load_state_dict(content["model"])
        return _placed(model, recipe, device)

    def dataset(self, split: str, masks: bool = False) -> HAM10000:
        """Return the images of a split: "train", "val" or "test".

        If the cache of the run is gone, it is created again. Masks that it lacks are read from the
        files of the data set.
        """
        data = self.recipe.data
        cache = prepare_data(self.files, self.recipe)
        manifest = read_manifest(cache)
        if masks and not (manifest and manifest["masks"]):
            return HAM10000(
                data_folder(data.root),
                split,
                split_file=self.files.split,
                metadata=METADATA_COLUMNS if data.metadata else (),
                masks=True,
                size=data.size,
            )
        return open_split(cache, self.files, split, metadata=data.metadata, masks=masks)

    def predict(
        self, split: str, tta: int | None = None, device: torch.device | str = "cpu"
    ) -> Predictions:
        """Predict the images of a split with the best weights.

        Args:
            split: "train", "val" or "test".
            tta: number of views of an image whose probabilities are averaged: 1, 2, 4 or 8; by
                default the recipe's.
            device: device of the model.
        """
        return predict(
            self.load_model(device),
            self.dataset(split),
            self.recipe,
            split=split,
            device=device,
            tta=self.recipe.training.tta if tta is None else tta,
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
            ArgumentError: there are no files, or one is a folder.
            MissingDataError: a file does not exist or cannot be read.
            DataError: a file is not an image, or is damaged.
        """
        paths = _listed(images, "preprocessing")
        return normalize(torch.stack(list(read_pixels(paths, self.recipe.data.size))), self.recipe)

    def predict_images(
        self,
        images: Path | str | Sequence[Path | str],
        tta: int | None = None,
        device: torch.device | str = "cpu",
    ) -> pd.DataFrame:
        """Predict image files, of any source, with the best weights.

        Args:
            images: JPEG or PNG files, or one file; see `preprocess`.
            tta: see `predict`.
            device: device of the model.

        Returns:
            The probability of each class with five significant digits. Columns are the classes in
            the order of `ham10000.data.CLASSES`, and the index has the files as given.

        Raises:
            ArgumentError: there are no files, one is a folder, or the model also needs metadata.
            MissingDataError: a file does not exist or cannot be read, or the run has no weights.
            DataError: a file is not an image, or is damaged.
            Ham10000Error: the model cannot be loaded; see `load_model`.
        """
        paths = _listed(images, "predicting")
        self.check_image_only("predicting images")
        rows = predict_files(
            self.load_model(device),
            paths,
            self.recipe,
            device=device,
            tta=self.recipe.training.tta if tta is None else tta,
        )
        names = pd.Index([str(path) for path in paths], name="file")
        return pd.DataFrame(round_probabilities(rows), index=names, columns=list(CLASSES))

    def check_image_only(self, doing: str) -> None:
        """Check that the model needs nothing but an image.

        Args:
            doing: what the message starts with.

        Raises:
            ArgumentError: the model also needs metadata.
        """
        if self.recipe.data.metadata:
            raise ArgumentError(
                f"{doing}: the model of {self.folder} also needs {', '.join(METADATA_COLUMNS)} of "
                "each image (data.metadata), which an image file does not have. Use a run that "
                "was trained with data.metadata=false."
            )

    def predict_official(
        self,
        root: Path,
        truth: pd.DataFrame,
        tta: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Predictions:
        """Predict the official test set of ISIC 2018, Task 3, with the best weights.

        Args:
            root: the folder with the images; see `OfficialTest`.
            truth: as `read_groundtruth` returns it.
            tta: see `predict`.
            device: device of the model.

        Raises:
            MissingDataError: an image is missing.
        """
        columns = METADATA_COLUMNS if self.recipe.data.metadata else ()
        data = OfficialTest(root, truth, self.recipe.data.size, columns)
        return predict(
            self.load_model(device),
            data,
            self.recipe,
            split="test",
            device=device,
            tta=self.recipe.training.tta if tta is None else tta,
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
        folder: the folder of the run.
        data: folder of the data set, if it has moved since training.

    Raises:
        MissingDataError: there is no run in the folder.
        RecipeError: its recipe cannot be read.
    """
    return Run(find_run(Path(folder)), data)


def find_predictions(
    source: Path, split: str = "test", tta: int | None = None, data: Path | None = None
) -> Predictions:
    """Return the predictions of a split: from a file, or else from the model of a run.

    Args:
        source: the folder of a run, or a file of predictions.
        split: "train", "val" or "test".
        tta: number of views whose probabilities are averaged; needs the folder of a run.
        data: folder of the data set, by default the one of training. If it is given, predictions
            from a file must be of its images.

    Raises:
        MissingDataError: `source` does not exist.
        PredictionError: the predictions are invalid, or not of the images of the run.
        ArgumentError: `split` is unknown, or `tta` was given with a file.
    """
    if split not in SPLITS:
        raise ArgumentError(f"predicting: there is no split {split!r}. Pass one of {SPLITS}.")
    if source.is_dir():
        written = source / "predictions.csv"
        if split != "test" or tta is not None or not written.is_file():
            return open_run(source, data=data).predict(split, tta)
        found = of_split(read_predictions(written), split)
        if (source / "split.csv").is_file():
            splits = read_csv(source / "split.csv", ("image_id", "lesion_id", "dx", "split"))
            expected = splits[splits["split"] == split]
            check_images(found, expected, f"the split {split} of {source / 'split.csv'}")
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
        table = load_table(data)
        known = table[table["image_id"].isin(found.table["image_id"])]
        check_images(found, known, f"the data set {data}")
    return found
