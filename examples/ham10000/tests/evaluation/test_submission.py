import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from isic_challenge_scoring import metrics
from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore
from making import make

from ham10000.data import CLASSES, open_folder, read_table
from ham10000.errors import DataError, MissingDataError
from ham10000.evaluation import (
    OfficialTest,
    Predictions,
    make_predictions,
    read_groundtruth,
    scored,
    submission_table,
    summarize,
    write_submission,
)
from ham10000.evaluation.submission import COLUMNS, UNSCORED

# Code of the official scorer.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CHALLENGE = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
DATAVERSE = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"


def challenge_truth(predictions: Predictions) -> pd.DataFrame:
    table = submission_table(predictions)
    dx = predictions.table.set_index("image_id")["dx"].loc[table["image"]].str.upper().to_numpy()
    for name in COLUMNS[1:]:
        table[name] = (dx == name).astype(float)
    return table


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The challenge's own scorer, on a submission and a truth."""
    # It calls a method that is renamed in pandas 3.
    monkeypatch.setattr(pd.DataFrame, "applymap", pd.DataFrame.map, raising=False)
    # It simplifies its curves with a package that does not work with NumPy 2.5.
    monkeypatch.setattr(metrics, "rdp", lambda points, **_: np.ones(len(points), dtype=bool))

    def score(predictions: Predictions, truth: pd.DataFrame) -> float:
        write_submission(predictions, tmp_path / "submission.csv")
        truth.to_csv(tmp_path / "truth.csv", index=False)
        scored = ClassificationScore.from_file(
            tmp_path / "truth.csv",
            tmp_path / "submission.csv",
            ClassificationMetric.BALANCED_ACCURACY,
        )
        return float(scored.overall)

    return score


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balanced_accuracy_is_the_official_scorers(seed: int, official) -> None:
    predictions = make(seed=seed)
    found = summarize(predictions.targets, predictions.probabilities)["balanced_accuracy"]
    assert official(predictions, challenge_truth(predictions)) == pytest.approx(found, abs=1e-12)


def test_the_unscored_image_is_left_out_as_the_scorer_leaves_it(official) -> None:
    predictions = make()
    table = predictions.table.copy()
    wrong = predictions.probabilities.argmax(axis=1) != predictions.targets
    table.loc[int(wrong.argmax()), "image_id"] = UNSCORED
    everything = Predictions(table)
    rest = scored(everything)
    assert len(rest) == len(everything) - 1 == 1511
    found = summarize(rest.targets, rest.probabilities)["balanced_accuracy"]
    assert official(everything, challenge_truth(everything)) == pytest.approx(found, abs=1e-12)
    assert found > summarize(everything.targets, everything.probabilities)["balanced_accuracy"]


def test_the_scorer_counts_a_tie_as_wrong_where_we_take_the_first(official) -> None:
    rows = [(f"I{n}", f"L{n}", name, "test") for n, name in enumerate(CLASSES)]
    probabilities = np.eye(7)
    probabilities[0, :2] = 0.5
    tied = make_predictions(rows, probabilities)
    assert summarize(tied.targets, tied.probabilities)["balanced_accuracy"] == 1
    assert official(tied, challenge_truth(tied)) == pytest.approx(6 / 7)


def test_the_form_is_the_challenges(tmp_path: Path) -> None:
    predictions = make({"mel": 3, "nv": 5})
    write_submission(predictions, tmp_path / "s.csv")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == CHALLENGE
    assert len(lines) == 9
    first = predictions.table.sort_values("image_id").iloc[0]
    expected = [first[name.lower()] for name in COLUMNS[1:]]
    assert [float(value) for value in lines[1].split(",")[1:]] == expected


def test_a_probability_just_above_one_is_cut(tmp_path: Path) -> None:
    above = make_predictions([("I", "L", "nv", "test")], [[0, 0, 0, 0, 0, 1.00001, 0]])
    write_submission(above, tmp_path / "s.csv")
    assert pd.read_csv(tmp_path / "s.csv")["NV"].item() == 1.0


def test_both_forms_of_the_truth_say_the_same(tmp_path: Path) -> None:
    predictions = make()
    challenge_truth(predictions).to_csv(tmp_path / "challenge.csv", index=False)
    table = predictions.table[["lesion_id", "image_id", "dx"]]
    extra = {"dx_type": "histo", "age": 40.0, "sex": "male", "localization": "", "dataset": "x"}
    table.assign(**extra).to_csv(tmp_path / "dataverse.csv", index=False)
    table.assign(**extra).to_csv(tmp_path / "dataverse.tab", index=False, sep="\t")
    dataverse = read_groundtruth(tmp_path / "dataverse.csv")
    assert dataverse["lesion_id"].tolist() == predictions.table["lesion_id"].tolist()
    assert dataverse["age"].tolist() == [40.0] * len(table)
    assert read_groundtruth(tmp_path / "dataverse.tab").equals(dataverse)
    challenge = read_groundtruth(tmp_path / "challenge.csv")
    assert (challenge["lesion_id"] == challenge["image_id"]).all()
    assert set(challenge.columns) < set(dataverse.columns)
    known = dataverse.set_index("image_id")["dx"]
    assert known.loc[challenge["image_id"]].tolist() == challenge["dx"].tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"row 1 has the columns a, b\. Expected those of the Dataverse"),
        ("image,MEL,NV\nI,1,0\n", "lacks the column 'BCC'"),
        (f"{CHALLENGE}\nI,1,1,0,0,0,0,0\n", r"row 2 \(image I\) does not have 1.0"),
        (f"{CHALLENGE}\nI,1,x,0,0,0,0,0\n", r"row 2 \(image I\) does not have 1.0"),
        (f"{DATAVERSE}\nL,I,nvs,,,,,\n", "row 2 has dx 'nvs'.*Closest: nv"),
        (f"{DATAVERSE}\nL,I,nv,,,,,\nL,I,nv,,,,,\n", "rows 2, 3 have the same image_id 'I'"),
        (f"{CHALLENGE}\nI,1,0,0,0,0,0,0\nI.jpg,1,0,0,0,0,0,0\n", "row 3 has the image I again"),
        ("image_id,dx\nI,nv\n", "lacks the column 'lesion_id'"),
    ],
)
def test_refuses_what_is_no_truth(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        read_groundtruth(tmp_path / "t.csv")
    assert str(tmp_path / "t.csv") in str(raised.value)


def test_a_truth_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"t\.csv"):
        read_groundtruth(tmp_path / "t.csv")


@pytest.fixture(params=["ISIC2018_Task3_Test_Images", "ISIC2018_Task3_Test_Input"])
def image_folder(request: pytest.FixtureRequest, synthetic: Path, tmp_path: Path) -> Path:
    """A folder in the form that the official test set has, of ten synthetic images."""
    folder = tmp_path / request.param
    folder.mkdir()
    for path in open_folder(synthetic).paths()[::28]:
        shutil.copy(path, folder)
    return tmp_path


@pytest.fixture
def ten_images(synthetic: Path) -> pd.DataFrame:
    table = read_table(synthetic / "HAM10000_metadata.csv")
    return table.iloc[::28].reset_index(drop=True)


def test_images_are_those_of_the_truth(image_folder: Path, ten_images: pd.DataFrame) -> None:
    data = OfficialTest(image_folder, ten_images, size=24, metadata=("age", "sex"))
    assert len(data) == 10
    image, target, extras = data[3]
    assert image.shape == (3, 24, 24)
    assert data.classes[target] == ten_images["dx"][3]
    assert sorted(extras) == ["age", "age_known", "sex"]


def test_an_image_that_is_missing_is_named(image_folder: Path, ten_images: pd.DataFrame) -> None:
    lost = ten_images["image_id"][2]
    next(image_folder.rglob(f"{lost}.jpg")).unlink()
    with pytest.raises(MissingDataError, match=rf"{lost}\.jpg \(1 of 10.*--parts test"):
        OfficialTest(image_folder, ten_images, size=24)
