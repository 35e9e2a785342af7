import shutil
from pathlib import Path

import pandas as pd
import pytest

from ham10000.data import open_folder, read_table
from ham10000.errors import MissingDataError
from ham10000.evaluation.official import OfficialTest, predict_official
from ham10000.evaluation.sources import find_predictions


@pytest.fixture(params=["ISIC2018_Task3_Test_Images", "ISIC2018_Task3_Test_Input"])
def official(request: pytest.FixtureRequest, synthetic: Path, tmp_path: Path) -> Path:
    """A folder in the form that the official test set has, of ten synthetic images."""
    folder = tmp_path / request.param
    folder.mkdir()
    for path in open_folder(synthetic).paths()[::28]:
        shutil.copy(path, folder)
    return tmp_path


@pytest.fixture
def truth(synthetic: Path) -> pd.DataFrame:
    table = read_table(synthetic / "HAM10000_metadata.csv")
    return table.iloc[::28].reset_index(drop=True)


def test_images_are_those_of_the_truth(official: Path, truth: pd.DataFrame) -> None:
    data = OfficialTest(official, truth, size=24, metadata=("age", "sex"))
    assert len(data) == 10
    image, target, extras = data[3]
    assert image.shape == (3, 24, 24)
    assert data.classes[target] == truth["dx"][3]
    assert sorted(extras) == ["age", "age_known", "sex"]


def test_a_run_predicts_them_as_it_does_its_own(
    official: Path, truth: pd.DataFrame, run: Path, synthetic: Path
) -> None:
    found = predict_official(run, official, truth)
    assert found.table["image_id"].tolist() == truth["image_id"].tolist()
    assert found.table["dx"].tolist() == truth["dx"].tolist()
    assert set(found.table["split"]) == {"test"}
    splits = [
        find_predictions(run, name, data=synthetic).table for name in ("train", "val", "test")
    ]
    own = pd.concat(splits).set_index("image_id").loc[truth["image_id"]]
    expected = own[list(OfficialTest.classes)].to_numpy()
    assert found.probabilities == pytest.approx(expected, abs=1e-5)


def test_an_image_that_is_missing_is_named(official: Path, truth: pd.DataFrame) -> None:
    lost = truth["image_id"][2]
    next(official.rglob(f"{lost}.jpg")).unlink()
    with pytest.raises(MissingDataError, match=rf"{lost}\.jpg \(1 of 10.*--parts test"):
        OfficialTest(official, truth, size=24)
