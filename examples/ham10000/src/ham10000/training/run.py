"""`open_run`: what a training run left, to be looked at and used."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from ham10000.data import (
    HAM10000,
    SPLITS,
    data_folder,
    load_table,
    read_csv,
    read_manifest,
)
from ham10000.errors import ArgumentError, MissingDataError
from ham10000.evaluation import OfficialTest, Predictions, check_images, of_split, read_predictions
from ham10000.models import METADATA_COLUMNS, build_model
from ham10000.recipe import Recipe, load_recipe
from ham10000.training.consistency import (
    load_recipe_text,
    refuse_other_recipe,
    refuse_other_split,
)
from ham10000.training.folder import RunFolder, find_run
from ham10000.training.inputs import open_split, prepare_inputs, splits_of
from ham10000.training.predict import predict
from ham10000.training.saving import best_content, best_file

__all__ = ["Run", "find_predictions", "open_run"]


class Run:
    """A training run.

    Args:
        folder: where it is; see `open_run`.
        data: see `open_run`.

    Attributes:
        folder: the run's folder.
        recipe: what was trained; its data.root is `data` where that is given.
    """

    def __init__(self, folder: RunFolder, data: Path | None = None) -> None:
        self.files = folder
        self.folder = folder.path
        recipe = load_recipe(folder.recipe)
        if data is not None:
            recipe = replace(recipe, data=replace(recipe.data, root=data))
        self.recipe: Recipe = recipe

    @property
    def split_table(self) -> pd.DataFrame:
        """Which image trained, validated and tested: image_id, lesion_id, dx, split."""
        return pd.read_csv(self.files.split, dtype=str, keep_default_na=False)

    @property
    def splits(self) -> list[str]:
        """Which of train, val and test the split has."""
        return splits_of(self.files)

    @property
    def weights_hash(self) -> str | None:
        """The SHA-256 of the file that `load_model` reads; None where there is none."""
        path = best_file(self.files)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else None

    def load_model(self, device: torch.device | str = "cpu") -> nn.Module:
        """Return the model with its best weights, those of the average where there is one.

        Raises:
            MissingDataError: there are none yet.
            CheckpointError: they are damaged, and no checkpoint has them.
            RecipeError: the recipe was changed after training.
            SplitError: the split was.
        """
        recipe, content = self.recipe, best_content(self.files)
        doing = f"loading the model of {self.folder}"
        refuse_other_recipe(load_recipe_text(content["recipe"]), recipe, doing)
        if self.files.split.exists():
            split = self.files.split.read_text(encoding="utf-8")
            refuse_other_split(content["split"], split, doing)
        bare = replace(recipe.model, pretrained=False, weights=None)  # ours come instead
        model = build_model(bare, size=recipe.data.size, metadata=recipe.data.metadata)
        model.load_state_dict(content["model"])
        if recipe.training.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return model.to(device).eval()

    def dataset(self, split: str, masks: bool = False) -> HAM10000:
        """Return the images of a split: "train", "val" or "test".

        The cache of the run is made again where it is gone, and the files are read where masks are
        asked for and the cache has none.
        """
        data = self.recipe.data
        cache = prepare_inputs(self.files, self.recipe)
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
            tta: over how many views of an image the probabilities are averaged: 1, 2, 4 or 8; as
                many as the recipe says unless given.
            device: where.
        """
        return predict(
            self.load_model(device),
            self.dataset(split),
            self.recipe,
            split=split,
            device=device,
            tta=self.recipe.training.tta if tta is None else tta,
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
            device: where the model runs.

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


def open_run(folder: Path | str, *, data: Path | None = None) -> Run:
    """Open the folder that `ham10000 train --out` made.

    Args:
        folder: the run's.
        data: where the data set is now; where it was in training unless given.

    Raises:
        MissingDataError: there is no run.
        RecipeError: its recipe can't be read.
    """
    return Run(find_run(Path(folder)), data)


def find_predictions(
    source: Path, split: str = "test", tta: int | None = None, data: Path | None = None
) -> Predictions:
    """Return predictions of one split: read where they are written, made where not.

    Args:
        source: a run's folder, or a file of predictions.
        split: train, val or test.
        tta: over how many views of an image a run's model averages; as many as its recipe says
            unless given.
        data: the data set; what the run was trained on unless given. Predictions that are read
            must then be of its images.

    Raises:
        MissingDataError: there is neither.
        PredictionError: they can't be used, or are not of the run's images.
        ArgumentError: there are views to average, and no model.
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
                f"reading {source}: predictions that are made already can't be averaged over "
                f"{tta} views. Pass a run's folder."
            )
        found = of_split(read_predictions(source), split)
    else:
        raise MissingDataError(
            f"opening {source}: there is neither a run's folder nor a file of predictions. Train "
            f"a run with: ham10000 train RECIPE --out {source}"
        )
    if data is not None:
        table = load_table(data)
        known = table[table["image_id"].isin(found.table["image_id"])]
        check_images(found, known, f"the data set {data}")
    return found
