import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import make

from ham10000.data import CLASSES
from ham10000.errors import DataError, MissingDataError, PredictionError
from ham10000.evaluation import (
    Predictions,
    average_predictions,
    by_lesion,
    check_images,
    make_predictions,
    read_predictions,
    round_probabilities,
    write_predictions,
)
from ham10000.evaluation.predictions import COLUMNS

SMALL = {"mel": 4, "nv": 8}


@pytest.fixture
def predictions() -> Predictions:
    return make(SMALL)


def test_what_was_written_is_read_to_the_last_bit(tmp_path: Path) -> None:
    predictions = make(seed=3)
    write_predictions(predictions, tmp_path / "predictions.csv")
    again = read_predictions(tmp_path / "predictions.csv")
    assert (again.probabilities == predictions.probabilities).all()
    assert again.table[list(COLUMNS[:4])].equals(predictions.table[list(COLUMNS[:4])])
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7).filter(lambda row: sum(row) > 1e-3))
@settings(max_examples=50, deadline=None)
def test_any_row_of_a_softmax_survives_printing(row: list[float]) -> None:
    single = (np.array(row) / sum(row)).astype(np.float32)
    made = make_predictions([("I", "L", "nv", "val")], [single])
    text = made.table.to_csv(index=False)
    assert [float(value) for value in text.splitlines()[1].split(",")[4:]] == single.tolist()


def test_rounding_keeps_sums_and_the_ranks_of_small_probabilities() -> None:
    predictions = make(seed=1, skill=12.0)
    rounded = round_probabilities(predictions.probabilities)
    make_predictions(predictions.table, rounded)  # the sums are within the tolerance
    assert (rounded == round_probabilities(rounded)).all()
    np.testing.assert_allclose(rounded, predictions.probabilities, rtol=5.1e-5)
    smallest = predictions.probabilities[:, 3].argsort()[:20]
    assert (np.diff(rounded[smallest, 3]) > 0).all()


def test_columns_in_another_order_and_others_besides_do_no_harm(
    tmp_path: Path, predictions: Predictions
) -> None:
    shuffled = predictions.table[list(reversed(COLUMNS))].assign(note="x")
    shuffled.to_csv(tmp_path / "p.csv", index=False)
    again = read_predictions(tmp_path / "p.csv")
    assert tuple(again.table.columns) == COLUMNS
    assert (again.probabilities == predictions.probabilities).all()


def test_targets_are_places_in_the_classes_and_lesions_are_numbered() -> None:
    rows = [("a", "L9", "vasc", "test"), ("b", "L1", "akiec", "test"), ("c", "L9", "vasc", "test")]
    made = make_predictions(rows, np.eye(7)[[0, 1, 2]])
    assert made.targets.tolist() == [6, 0, 6]
    assert made.targets.dtype == np.int64
    assert made.lesions.tolist() == [1, 0, 1]
    assert len(made) == 3


def test_a_lesion_has_the_mean_of_its_images() -> None:
    rows = [("a", "L9", "nv", "test"), ("b", "L1", "mel", "test"), ("c", "L9", "nv", "test")]
    lesions = by_lesion(make_predictions(rows, np.eye(7)[[0, 1, 2]]))
    assert lesions.table["lesion_id"].tolist() == ["L1", "L9"]
    assert lesions.table["image_id"].tolist() == ["b", "a"]
    assert lesions.probabilities[1].tolist() == [0.5, 0, 0.5, 0, 0, 0, 0]


def change(column: str, value: object, row: int = 2) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def changed(table: pd.DataFrame) -> pd.DataFrame:
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return changed


BAD: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "NaN": (change("nv", math.nan), r"row 4 \(image ISIC_.*non-finite probability \(1 such rows\)"),
    "infinite": (change("nv", "inf"), "row 4 .*non-finite probability"),
    "text": (change("nv", "high"), "row 4 .*non-finite probability.*Predict again"),
    "not 1": (change("nv", 3.0), "row 4 .*sum to 3.*, not 1"),
    "negative": (change("nv", -0.5), "row 4 .*a negative probability"),
    "doubled": (
        lambda table: pd.concat([table, table.iloc[[1]]]),
        r"row 14 .*the image_id of an earlier row.*Keep one",
    ),
    "dx": (change("dx", "nvs"), "row 4 .*dx 'nvs', which is none of akiec.*Closest: nv"),
    "split": (change("split", "tset"), "row 4 .*split 'tset'.*Closest: test"),
    "no lesion": (change("lesion_id", ""), "row 4 .*no lesion_id"),
    "no image": (change("image_id", ""), "row 4 .*no image_id"),
    "two truths": (
        lambda table: table.assign(lesion_id="L"),
        "another dx than an earlier row of its lesion",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_row_is_named_with_its_file(
    tmp_path: Path, predictions: Predictions, name: str
) -> None:
    spoil, message = BAD[name]
    path = tmp_path / "p.csv"
    spoil(predictions.table.copy()).to_csv(path, index=False)
    with pytest.raises(PredictionError, match=message) as raised:
        read_predictions(path)
    assert str(raised.value).startswith(f"reading {path}: ")


def test_a_missing_column_is_named(tmp_path: Path, predictions: Predictions) -> None:
    path = tmp_path / "p.csv"
    predictions.table.rename(columns={"vasc": "VASC"}).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"row 1 lacks the column 'vasc'"):
        read_predictions(path)
    with pytest.raises(PredictionError, match=r"no column 'vasc'"):
        Predictions(predictions.table.drop(columns="vasc"))
    with pytest.raises(PredictionError, match="the table has no rows"):
        Predictions(predictions.table.iloc[:0])


def test_a_data_set_may_have_six_of_the_seven_classes(tmp_path: Path) -> None:
    six = CLASSES[:-1]
    found = make_predictions([("I", "L", "nv", "test")], [[1 / 6] * 6], classes=six)
    write_predictions(found, tmp_path / "p.csv")
    assert read_predictions(tmp_path / "p.csv").classes == six


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"p\.csv: there is no such file"):
        read_predictions(tmp_path / "p.csv")


def test_a_rounding_to_five_places_passes() -> None:
    rounded = [[0.14286] * 7]
    assert len(make_predictions([("I", "L", "nv", "test")], rounded)) == 1
    with pytest.raises(PredictionError, match=r"sum to 1\.001"):
        make_predictions([("I", "L", "nv", "test")], [[0.143] * 7])


def test_probabilities_must_match_the_rows() -> None:
    with pytest.raises(PredictionError, match=r"shape \(1, 6\) for 1 images. Expected \(1, 7\)"):
        make_predictions([("I", "L", "nv", "test")], [[0.0] * 6])


def test_images_must_be_the_expected_ones(predictions: Predictions) -> None:
    table = predictions.table[["image_id", "lesion_id", "dx"]]
    whose = "the split test"
    check_images(predictions, table.sample(frac=1, random_state=0), whose)
    check_images(predictions, table[["image_id", "dx"]], whose)
    more = pd.concat([table, table.iloc[[0]].assign(image_id="ISIC_9")])
    with pytest.raises(
        PredictionError, match=r"no row for the image ISIC_9 \(1 such.*12 images.*13"
    ):
        check_images(predictions, more, whose)
    with pytest.raises(PredictionError, match=r"the split test doesn't have.*Remove these"):
        check_images(predictions, table.iloc[1:], whose)
    other = table.assign(dx=["vasc", *table["dx"].iloc[1:]])
    with pytest.raises(PredictionError, match=r"row 2 has the dx .* but the split test has vasc"):
        check_images(predictions, other, whose)
    with pytest.raises(PredictionError, match=r"the lesion_id .* \(12 such rows\)"):
        check_images(predictions, table.assign(lesion_id="L"), whose)


def test_the_classes_are_the_columns() -> None:
    assert COLUMNS[4:] == CLASSES


def test_an_ensemble_is_the_mean_of_each_image_in_any_order() -> None:
    members = [make(SMALL, seed=0), make(SMALL, seed=0, skill=5.0), make(SMALL, seed=0, skill=0.5)]
    shuffled = [members[0]]
    for number, member in enumerate(members[1:]):
        table = member.table.sample(frac=1, random_state=number)
        shuffled.append(Predictions(table))
    mean = average_predictions(shuffled)
    assert mean.table["image_id"].tolist() == members[0].table["image_id"].tolist()
    by_image = [m.table.set_index("image_id") for m in members]
    for image, row in mean.table.set_index("image_id").iterrows():
        for name in CLASSES:
            expected = math.fsum(float(each.loc[image, name]) for each in by_image) / 3
            assert row[name] == pytest.approx(expected, rel=1e-12)


def test_an_ensemble_of_other_images_is_refused() -> None:
    one, other = make(SMALL), make({"mel": 4, "nv": 9})
    with pytest.raises(PredictionError, match="which the first model"):
        average_predictions([one, other])
    with pytest.raises(PredictionError, match="at least two models, found 1"):
        average_predictions([one])


OWN = [("a", "L1", "nv", "test"), ("b", "L2", "scar", "test")]


def test_classes_are_the_columns_after_those_of_the_image(tmp_path: Path) -> None:
    made = make_predictions(OWN, [[0.75, 0.25], [0.5, 0.5]], classes=["scar", "nv"])
    assert made.classes == ("scar", "nv")
    assert made.targets.tolist() == [1, 0]
    write_predictions(made, tmp_path / "p.csv")
    again = read_predictions(tmp_path / "p.csv")
    assert again.classes == ("scar", "nv")
    assert (again.probabilities == made.probabilities).all()
    assert average_predictions([made, again]).classes == by_lesion(made).classes == ("scar", "nv")
    with pytest.raises(DataError, match="row 1 lacks the column 'mel'"):
        read_predictions(tmp_path / "p.csv", ["nv", "mel"])
    with pytest.raises(PredictionError, match="dx 'scar', which is none of nv, mel"):
        make_predictions(OWN, np.eye(2), classes=["nv", "mel"])


def test_a_table_with_all_classes_of_a_known_data_set_is_of_it(predictions: Predictions) -> None:
    assert predictions.classes == CLASSES
    made = make_predictions([("a", "L", "mel", "test")], [[0.25, 0.75]], classes=["other", "mel"])
    shuffled = made.table[["mel", "other", *made.table.columns[:4]]].assign(note="x")
    assert Predictions(shuffled).classes == ("other", "mel")


def test_classes_besides_those_of_a_known_data_set_count(tmp_path: Path) -> None:
    classes = ["mel", "nv", "other"]
    rows = [("a", "L1", "mel", "test"), ("b", "L2", "nv", "test")]
    made = make_predictions(rows, [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], classes=classes)
    write_predictions(made, tmp_path / "p.csv")
    assert read_predictions(tmp_path / "p.csv").classes == tuple(classes)
    six = make_predictions(rows, np.eye(6)[[4, 5]], classes=["a", "b", "bcc", "df", "mel", "nv"])
    write_predictions(six, tmp_path / "p.csv")
    assert read_predictions(tmp_path / "p.csv").classes == six.classes


def test_models_of_other_classes_are_not_averaged() -> None:
    rows = [("a", "L1", "mel", "test"), ("b", "L2", "nv", "test")]
    one = make_predictions(rows, np.eye(2), classes=["mel", "nv"])
    other = make_predictions(rows, np.eye(2)[::-1], classes=["nv", "mel"])
    with pytest.raises(PredictionError, match="has the classes nv, mel, and the first model"):
        average_predictions([one, other])


def test_a_single_class_is_refused() -> None:
    with pytest.raises(PredictionError, match="a column for each of two or more classes, found nv"):
        make_predictions([("a", "L", "nv", "test")], [[1.0]], classes=["nv"])
