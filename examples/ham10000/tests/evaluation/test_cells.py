import numpy as np
import pandas as pd
import pytest
from making import make

from ham10000.errors import ArgumentError, PredictionError
from ham10000.evaluation import (
    METRICS,
    Cells,
    Predictions,
    adjust_p_values,
    compare_cells,
    draw_lesions,
    make_predictions,
    summarize,
)
from ham10000.statistics import holm, shared_variance

SIZES = {"bkl": 20, "mel": 16, "nv": 60}


def perturbed(base: Predictions, seed: int, skill: float = 0.0) -> Predictions:
    """The same images, with probabilities of a model that was trained again."""
    rng = np.random.default_rng(seed)
    scores = np.log(base.probabilities + 1e-9) + 0.5 * rng.normal(size=(len(base), 7))
    scores[np.arange(len(base)), base.targets] += skill
    values = np.exp(scores)
    return make_predictions(base.table, values / values.sum(axis=1, keepdims=True))


def fold(number: int) -> Predictions:
    base = make(SIZES, seed=number, skill=1.5)
    names = {name: base.table[name] + f"_{number}" for name in ("image_id", "lesion_id")}
    return Predictions(base.table.assign(**names))


@pytest.fixture(scope="module")
def cells() -> tuple[Cells, Cells]:
    """Three folds with two seeds; the treatment is better."""
    keys = [(number, seed) for number in range(3) for seed in (0, 7)]
    control = {key: perturbed(fold(key[0]), 10 * key[0] + key[1]) for key in keys}
    treatment = {
        key: perturbed(fold(key[0]), 10 * key[0] + key[1] + 100, skill=1.0) for key in keys
    }
    return control, treatment


def test_each_cell_has_the_difference_of_its_own_metrics(cells: tuple[Cells, Cells]) -> None:
    control, treatment = cells
    found = compare_cells(control, {"sa": treatment}, resamples=40)["sa"]
    assert set(found) < set(METRICS)
    assert "recall/df" not in found, "a class without images is undefined"
    for name in ("auc_macro", "brier", "sensitivity_at_95_specificity/mel"):
        for row, number in enumerate(range(3)):
            for column, seed in enumerate((0, 7)):
                one, other = (
                    summarize(each[number, seed].targets, each[number, seed].probabilities)[name]
                    for each in cells
                )
                assert found[name].values[row][column] == pytest.approx(other - one, abs=1e-12)
    assert found["auc_macro"].low > 0
    assert found["brier"].high < 0


def test_lesions_are_resampled_within_folds_and_alike_for_all_models(
    cells: tuple[Cells, Cells],
) -> None:
    control, treatment = cells
    options = {"metrics": ["accuracy"], "resamples": 60, "seed": 5}
    found = compare_cells(control, {"sa": treatment}, **options)["sa"]
    drawn = np.zeros((2, 60))
    for number in range(3):
        first = control[number, 0]
        counts = draw_lesions(first.targets, first.lesions, 60, [5, number])
        for row, seed in enumerate((0, 7)):
            right = [
                each[number, seed].probabilities.argmax(axis=1) == first.targets for each in cells
            ]
            change = right[1].astype(float) - right[0]
            drawn[row] += change @ counts / counts.sum(axis=0) / 3
    lesions = [control[number, 0].table["lesion_id"].nunique() for number in range(3)]
    scale = np.mean([each / (each - 1) for each in lesions])
    expected = np.sqrt(scale * shared_variance(drawn))
    assert found["accuracy"].lesion_error == pytest.approx(expected, rel=1e-9)


def test_the_order_of_images_does_not_matter(cells: tuple[Cells, Cells]) -> None:
    control, treatment = cells
    shuffled = {
        key: Predictions(each.table.sample(frac=1, random_state=1))
        for key, each in treatment.items()
    }
    names = ["auc_macro", "accuracy"]
    arms = {"one": treatment, "other": shuffled}
    one, other = compare_cells(control, arms, metrics=names, resamples=20).values()
    for name in names:
        assert one[name].mean == pytest.approx(other[name].mean, abs=1e-12)
        assert one[name].lesion_error == pytest.approx(other[name].lesion_error)


def test_the_resamples_do_not_depend_on_the_order_of_images(cells: tuple[Cells, Cells]) -> None:
    shuffled = [
        {key: Predictions(each.table.sample(frac=1, random_state=2)) for key, each in one.items()}
        for one in cells
    ]
    names = ["auc_macro", "accuracy"]
    for name in names:
        found, again = (
            compare_cells(control, {"arm": arm}, metrics=names, resamples=20)["arm"][name]
            for control, arm in (cells, shuffled)
        )
        assert again.lesion_error == pytest.approx(found.lesion_error, rel=1e-9)
        assert (again.low, again.high) == pytest.approx((found.low, found.high), rel=1e-9)


def test_equal_recipes_have_no_difference(cells: tuple[Cells, Cells]) -> None:
    control, _ = cells
    arms = {"same": control}
    found = compare_cells(control, arms, metrics=["auc_macro"], resamples=20)["same"]["auc_macro"]
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_interval_is_unknown_if_nothing_varies_but_the_predictions() -> None:
    def perfect(skill: float) -> Cells:
        cells = {}
        for key in [(0, 0), (0, 1)]:
            base = fold(0)
            sure = (1 - skill) / 7 + skill * np.eye(7)[base.targets]
            cells[key] = make_predictions(base.table, sure)
        return cells

    arms = {"surer": perfect(0.9), "same": perfect(0.5)}
    found = compare_cells(perfect(0.5), arms, metrics=["auc_macro"], resamples=20)
    surer, same = found["surer"]["auc_macro"], found["same"]["auc_macro"]
    assert (surer.mean, surer.low, surer.high) == (0, -1, 1)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_arms_do_not_affect_one_another(cells: tuple[Cells, Cells]) -> None:
    control, treatment = cells
    worse = {key: perturbed(one, 5) for key, one in control.items()}
    together = compare_cells(control, {"sa": treatment, "se": worse}, resamples=20)
    for arm, each in (("sa", treatment), ("se", worse)):
        assert compare_cells(control, {arm: each}, resamples=20)[arm] == together[arm]


def test_incomplete_or_overlapping_cells_are_refused(cells: tuple[Cells, Cells]) -> None:
    control, treatment = cells
    part = {key: each for key, each in treatment.items() if key != (1, 7)}
    with pytest.raises(ArgumentError, match=r"\(1, 7\) \(fold, seed\) are in only one"):
        compare_cells(control, {"sa": part})
    with pytest.raises(ArgumentError, match=r"\(1, 7\) \(fold, seed\) are missing"):
        compare_cells(part, {"sa": part})
    with pytest.raises(ArgumentError, match="all cells"):
        compare_cells({}, {"sa": {}})
    same = {(number, seed): control[0, seed] for number in range(2) for seed in (0, 7)}
    with pytest.raises(ArgumentError, match="fold 1 tests on lesions of an earlier fold"):
        compare_cells(same, {"sa": same})
    less = {**treatment, (2, 7): Predictions(treatment[2, 7].table.iloc[1:])}
    with pytest.raises(PredictionError, match="sa, fold 2, seed 7: no row for the image"):
        compare_cells(control, {"sa": less})


def test_equal_metrics_count_once() -> None:
    p_values = {
        (recipe, metric): p
        for recipe, p in (("se", 0.01), ("eca", 0.03))
        for metric in ("accuracy", "recall_weighted", "balanced_accuracy", "recall_macro")
    }
    found = adjust_p_values(p_values)
    distinct = {key: p for key, p in p_values.items() if not key[1].startswith("recall")}
    assert {key: found[key] for key in distinct} == holm(distinct)
    assert found["se", "recall_macro"] == found["se", "balanced_accuracy"] == 0.04


def test_metrics_that_are_said_to_be_equal_are(cells: tuple[Cells, Cells]) -> None:
    frame = pd.Series(summarize(cells[0][0, 0].targets, cells[0][0, 0].probabilities))
    assert frame["recall_macro"] == pytest.approx(frame["balanced_accuracy"], abs=1e-15)
    assert frame["recall_weighted"] == pytest.approx(frame["accuracy"], abs=1e-15)
