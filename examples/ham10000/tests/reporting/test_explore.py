import shutil
from pathlib import Path

import pytest

from ham10000.data import CLASSES, open_folder
from ham10000.errors import DataError
from ham10000.reporting.explore import explore_dataset, measure


def test_the_page_shows_everything_and_needs_nothing(synthetic: Path, tmp_path: Path) -> None:
    page = explore_dataset(synthetic, tmp_path / "out").read_text()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explore.html"]
    for title in ("Classes", "Images per lesion", "Age", "Sex", "Site", "Lesion size", *CLASSES):
        assert f"<h3>{title}</h3>" in page
    assert page.count('src="data:image/') == page.count("<img") == 8 + 7
    assert "http" not in page.replace("https://creativecommons.org/licenses/by-nc/4.0/", "")
    assert "CC BY-NC 4.0" in page


def test_without_masks_there_is_no_lesion_size(editable: Path, tmp_path: Path) -> None:
    shutil.rmtree(editable / "HAM10000_segmentations_lesion_tschandl")
    page = explore_dataset(editable, tmp_path / "out").read_text()
    assert "Lesion size" not in page
    assert "<h3>Mean colour</h3>" in page


def test_the_seed_decides_what_is_shown(synthetic: Path, tmp_path: Path) -> None:
    pages = [
        explore_dataset(synthetic, tmp_path / str(number), seed=seed).read_bytes()
        for number, seed in enumerate((0, 0, 1))
    ]
    assert pages[0] == pages[1] != pages[2]


def test_measures_are_of_the_pixels(synthetic: Path) -> None:
    folder = open_folder(synthetic)
    measured = measure(folder, folder.table["image_id"].tolist()[:2])
    assert list(measured.thumbs) == folder.table["image_id"].tolist()[:2]
    assert measured.table["area"].between(0.01, 0.95).all()
    assert measured.table[["red", "green", "blue"]].to_numpy().min() > 0
    assert (measured.table["red"] > measured.table["blue"]).mean() > 0.9  # skin


def test_a_damaged_image_is_named_and_no_page_written(editable: Path, tmp_path: Path) -> None:
    path = open_folder(editable).paths()[5]
    path.write_bytes(b"")
    with pytest.raises(DataError, match=path.name):
        explore_dataset(editable, tmp_path / "out")
    assert not (tmp_path / "out").exists()
