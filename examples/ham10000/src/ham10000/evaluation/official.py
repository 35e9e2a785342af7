"""The challenge's official test set: its images, beside its truth, for a run to predict."""

import re
from pathlib import Path

import pandas as pd

from ham10000.data import HAM10000, find_files
from ham10000.errors import MissingDataError, some
from ham10000.evaluation.predictions import Predictions

__all__ = ["OfficialTest", "predict_official"]

_IMAGES = re.compile(r"isic2018_task3_test_(images|input)", re.IGNORECASE)


class OfficialTest(HAM10000):
    """The images of ISIC 2018, Task 3's test set, with items as those of `HAM10000`.

    Args:
        root: a folder that holds ISIC2018_Task3_Test_Images (the Dataverse's name) or
            ISIC2018_Task3_Test_Input (the challenge's), as `download --parts test` makes it.
        truth: as `read_groundtruth` gives it.
        size: images become size x size pixels.
        metadata: columns that an item brings.

    Raises:
        MissingDataError: an image is not there.
    """

    def __init__(
        self, root: Path, truth: pd.DataFrame, size: int, metadata: tuple[str, ...] = ()
    ) -> None:
        self._truth = truth
        super().__init__(root, size=size, metadata=metadata)

    def _open(self) -> None:
        images, _ = find_files(self.root, _IMAGES, (".jpg", ".jpeg"))
        missing = [name for name in self._truth["image_id"] if name not in images]
        if missing:
            raise MissingDataError(
                f"opening {self.root}: there is no official test image {missing[0]}.jpg "
                f"({len(missing)} of {len(self._truth)} are missing: {some(missing)}). "
                f"Get them with: ham10000 download --parts test --out {self.root}"
            )
        self._paths = [images[name] for name in self._truth["image_id"]]
        self._mask_paths = []
        self.table = self._truth


def predict_official(
    folder: Path, root: Path, truth: pd.DataFrame, tta: int | None = None
) -> Predictions:
    """Let a run's best weights predict the official test set.

    Args:
        folder: the run's.
        root: where the images are; see `OfficialTest`.
        truth: as `read_groundtruth` gives it.
        tta: over how many views of an image the probabilities are averaged; as many as the recipe
            says unless given.

    Raises:
        MissingDataError: the run or an image is not there.
    """
    from ham10000.models.build import METADATA_COLUMNS
    from ham10000.training.predict import predict
    from ham10000.training.run import open_run

    run = open_run(folder)
    columns = METADATA_COLUMNS if run.recipe.data.metadata else ()
    data = OfficialTest(root, truth, run.recipe.data.size, columns)
    views = run.recipe.training.tta if tta is None else tta
    return predict(run.load_model(), data, run.recipe, split="test", tta=views)
