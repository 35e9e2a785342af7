import shutil
from pathlib import Path

import pytest

from ham10000.data import data_folder, open_folder
from ham10000.errors import DataError, MissingDataError

FIRST, SECOND = "HAM10000_images_part_1", "HAM10000_images_part_2"


def test_finds_every_file_in_the_order_of_the_table(synthetic: Path) -> None:
    folder = open_folder(synthetic)
    assert [path.stem for path in folder.paths()] == folder.table["image_id"].tolist()
    ids = [path.name.removesuffix("_segmentation.png") for path in folder.mask_paths()]
    assert ids == folder.table["image_id"].tolist()


def test_the_mirror_has_the_folders_twice_in_two_spellings(editable: Path) -> None:
    shutil.copytree(editable / FIRST, editable / FIRST.lower())
    folder = open_folder(editable)
    assert len(folder.images) == 280
    assert len(folder.repeats) == 140


@pytest.mark.parametrize("name", ["ham10000_images_part_1", "ISIC2018_Task3_Training_Input"])
def test_other_spellings_do(editable: Path, name: str) -> None:
    (editable / FIRST).rename(editable / "x")
    (editable / "x").rename(editable / name)
    assert len(open_folder(editable).images) == 280


def test_a_folder_in_a_folder_does(editable: Path) -> None:
    (editable / "y").mkdir()
    (editable / FIRST).rename(editable / "y" / FIRST)
    assert len(open_folder(editable).images) == 280


def test_what_macos_leaves_is_no_image(editable: Path) -> None:
    (editable / FIRST / "._ISIC_1.jpg").touch()
    assert len(open_folder(editable).images) == 280


def test_a_missing_image_is_named_with_its_row(editable: Path) -> None:
    folder = open_folder(editable)
    name = folder.table["image_id"].iloc[3]
    folder.images[name].unlink()
    with pytest.raises(MissingDataError, match=rf"no image {name}\.jpg, which row 5"):
        open_folder(editable).paths()


def test_a_missing_mask_is_named(editable: Path) -> None:
    folder = open_folder(editable)
    folder.mask_paths()[0].unlink()
    with pytest.raises(MissingDataError, match=r"_segmentation\.png \(1 are missing\)"):
        open_folder(editable).mask_paths()


def test_a_table_alone_is_no_data_set(editable: Path) -> None:
    for name in (FIRST, SECOND):
        shutil.rmtree(editable / name)
    with pytest.raises(DataError, match="no image in it"):
        open_folder(editable)


def test_no_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="HAM10000_DIR"):
        data_folder(None)
    (tmp_path / "file").touch()
    with pytest.raises(MissingDataError, match="is a file, not a folder"):
        data_folder(tmp_path / "file")
