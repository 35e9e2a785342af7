from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ham10000.study.published_maps import (
    MAPS_FILE,
    maps_problems,
    maps_quotations,
    mean_over_lesions,
)

SPLIT = pd.DataFrame(
    {
        "image_id": ["i0", "i1", "i2", "i3"],
        "lesion_id": ["a", "a", "b", "c"],
        "dx": ["nv", "nv", "mel", "nv"],
        "split": ["test", "test", "test", "train"],
        "fold": "0",
    }
)


def write_maps(folder: Path, **changes: object) -> None:
    images = SPLIT[SPLIT["split"] == "test"][["image_id", "lesion_id", "dx"]]
    scores = {"pointing_game": [1.0, 0.0, 1.0], "energy_inside": [0.5, 0.25, 0.75], "iou": 0.5}
    curves = {"deletion": [0.2, np.nan, 0.4], "insertion": [0.6, np.nan, 0.8]}
    statistics = {"entropy": 0.9, "effective_maps": 2.0, "constant_maps": 0.25, "deviation": 0.1}
    common = {"recipe": "soft", "fold": 0, "gamma_before": 1.0, "gamma_after": 1.5}
    attention = images.assign(method="attention", **common, **scores, **curves, **statistics)
    other = images.assign(method="random", **common, **scores, **curves)
    table = pd.concat([attention, other]).assign(**changes)
    table.to_csv(folder / MAPS_FILE, index=False)


def test_the_standard_error_is_that_of_resampled_lesions() -> None:
    rng = np.random.default_rng(0)
    lesions = np.repeat(np.arange(300), rng.integers(1, 5, 300))
    values = rng.normal(size=300)[lesions] + rng.normal(size=len(lesions))
    mean, error = mean_over_lesions(values, lesions)
    assert mean == pytest.approx(values.mean())
    by_lesion = [values[lesions == lesion] for lesion in range(300)]
    drawn = [
        np.concatenate([by_lesion[lesion] for lesion in rng.integers(0, 300, 300)]).mean()
        for _ in range(2000)
    ]
    assert error == pytest.approx(np.std(drawn), rel=0.08)
    independent = values.std(ddof=1) / np.sqrt(len(values))
    assert error > 1.2 * independent


def test_tables_have_means_over_images(tmp_path: Path) -> None:
    write_maps(tmp_path)
    tables = maps_quotations(tmp_path)
    attention, random = tables["localisation"].splitlines()[2:]
    assert attention.startswith("| soft | attention | 0.67 (")
    assert "| 0.50 (0.50 to 0.50) |" in attention
    assert "| 0.30 (" in attention  # deletion, of the two images that were chosen
    assert random.startswith("| soft | random map |")
    (row,) = tables["maps"].splitlines()[2:]
    assert row.startswith("| soft | 0.900 (")
    assert row.endswith("| 1.000 | 1.500 |")


def test_maps_that_do_not_depend_on_the_model_are_shown_once(tmp_path: Path) -> None:
    write_maps(tmp_path)
    table = pd.read_csv(tmp_path / MAPS_FILE)
    pd.concat([table, table.assign(recipe="other")]).to_csv(tmp_path / MAPS_FILE, index=False)
    rows = maps_quotations(tmp_path)["localisation"].splitlines()[2:]
    shown = [row.split(" | ")[:2] for row in rows]
    assert shown == [["| soft", "attention"], ["| soft", "random map"], ["| other", "attention"]]


def test_a_layer_without_gamma_has_none(tmp_path: Path) -> None:
    write_maps(tmp_path, gamma_before=np.nan, gamma_after=np.nan)
    assert maps_quotations(tmp_path)["maps"].endswith("| none | none |")


def test_a_study_without_the_file_has_no_tables(tmp_path: Path) -> None:
    assert maps_quotations(tmp_path) == {}
    assert not list(maps_problems(tmp_path, SPLIT))


def test_scores_must_be_possible_and_of_test_images(tmp_path: Path) -> None:
    write_maps(tmp_path)
    assert not list(maps_problems(tmp_path, SPLIT))
    write_maps(tmp_path, iou=1.5)
    assert list(maps_problems(tmp_path, SPLIT)) == [
        "maps.csv.bz2: iou is not always between 0 and 1"
    ]
    write_maps(tmp_path, fold=1)
    (problem,) = maps_problems(tmp_path, SPLIT)
    assert "not in the test set of their fold" in problem
