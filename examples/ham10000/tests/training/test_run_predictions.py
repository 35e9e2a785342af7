import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from making import make

from ham10000.data import open_folder, read_table
from ham10000.errors import ArgumentError, MissingDataError, PredictionError
from ham10000.evaluation import OfficialTest, read_predictions, write_predictions
from ham10000.training.run import find_predictions, open_run


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A run that a test may break."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_what_a_run_has_written_is_read(run: Path) -> None:
    written = read_predictions(run / "predictions.csv")
    assert find_predictions(run).table.equals(written.table)


def test_what_a_run_has_not_written_is_predicted(copy: Path, synthetic: Path) -> None:
    written = find_predictions(copy)
    (copy / "predictions.csv").unlink()
    again = find_predictions(copy, data=synthetic)
    assert again.table["image_id"].tolist() == written.table["image_id"].tolist()
    assert again.probabilities == pytest.approx(written.probabilities, abs=1e-6)
    validated = find_predictions(copy, "val")
    assert set(validated.table["split"]) == {"val"}
    assert not set(validated.table["image_id"]) & set(written.table["image_id"])


def test_views_are_averaged_by_the_model(run: Path) -> None:
    one, four = find_predictions(run), find_predictions(run, tta=4)
    assert one.table["image_id"].tolist() == four.table["image_id"].tolist()
    assert np.abs(one.probabilities - four.probabilities).max() > 1e-4


def test_predictions_of_a_run_must_be_of_its_split(copy: Path) -> None:
    path = copy / "predictions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(PredictionError, match=r"predictions\.csv: no row .*\(2 such.*split test"):
        find_predictions(copy)


def test_predictions_of_a_file_must_be_of_the_data_set(run: Path, synthetic: Path) -> None:
    assert len(find_predictions(run / "predictions.csv", data=synthetic)) > 10


def test_a_file_of_other_images_is_refused(tmp_path: Path, synthetic: Path) -> None:
    write_predictions(make({"mel": 3, "nv": 4}), tmp_path / "p.csv")
    with pytest.raises(PredictionError, match=r"p\.csv: a row for the image .* doesn't have"):
        find_predictions(tmp_path / "p.csv", data=synthetic)


def test_a_side_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_predictions(make({"mel": 3, "nv": 4}), tmp_path / "p.csv")
    with pytest.raises(PredictionError, match=r"no row has split 'val', only test\. Pass --sp"):
        find_predictions(tmp_path / "p.csv", "val")
    with pytest.raises(ArgumentError, match="no split 'tset'"):
        find_predictions(tmp_path / "p.csv", "tset")


def test_a_file_cannot_be_looked_at_again(tmp_path: Path) -> None:
    write_predictions(make({"mel": 3, "nv": 4}), tmp_path / "p.csv")
    with pytest.raises(ArgumentError, match="averaged over 4 views"):
        find_predictions(tmp_path / "p.csv", tta=4)


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="neither a run's folder nor a file"):
        find_predictions(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match=r"no recipe\.yaml"):
        find_predictions(tmp_path)


def test_a_run_predicts_the_official_test_set_as_it_does_its_own(
    run: Path, tmp_path: Path, synthetic: Path
) -> None:
    folder = tmp_path / "ISIC2018_Task3_Test_Images"
    folder.mkdir()
    for path in open_folder(synthetic).paths()[::28]:
        shutil.copy(path, folder)
    truth = read_table(synthetic / "HAM10000_metadata.csv").iloc[::28].reset_index(drop=True)
    found = open_run(run).predict_official(tmp_path, truth)
    assert found.table["image_id"].tolist() == truth["image_id"].tolist()
    assert found.table["dx"].tolist() == truth["dx"].tolist()
    assert set(found.table["split"]) == {"test"}
    splits = [
        find_predictions(run, name, data=synthetic).table for name in ("train", "val", "test")
    ]
    own = pd.concat(splits).set_index("image_id").loc[truth["image_id"]]
    expected = own[list(OfficialTest.classes)].to_numpy()
    assert found.probabilities == pytest.approx(expected, abs=1e-5)
