import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from ham10000.data import (
    CLASSES,
    HAM10000,
    convert_challenge,
    data_folder,
    find_dataset,
    find_table,
    link_sample,
    load_table,
    open_folder,
    paper_val_split,
    prepare,
    read_table,
    verify_dataset,
)
from ham10000.data.tables import GROUPINGS, TRUTH
from ham10000.errors import DataError, MissingDataError, WriteError

ONE_HOT = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nI1,0.0,1.0,0.0,0.0,0.0,0.0,0.0\nI2,1,0,0,0,0,0,0\n"
LESIONS = """image,lesion_id,diagnosis_confirm_type
I2,L2,histopathology
I1,L1,single image expert consensus
"""
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
    with pytest.raises(DataError, match="no images in it"):
        open_folder(editable)


def test_no_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="HAM10000_DIR"):
        data_folder(None)
    (tmp_path / "file").touch()
    with pytest.raises(MissingDataError, match="is a file, not a folder"):
        data_folder(tmp_path / "file")


@pytest.mark.parametrize("ending", [".csv", ".tab", ".tsv", ".txt", ""])
def test_finds_the_table_under_its_names(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"HAM10000_metadata{ending}"
    path.touch()
    assert find_table(tmp_path) == path


def test_says_how_to_get_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="download --parts metadata"):
        find_table(tmp_path)


def move_all(root: Path, place: Callable[[str, str], Path]) -> None:
    """Move each image to the path that is computed from its name and class."""
    table = load_table(root)
    for path, dx in zip(open_folder(root).paths(), table["dx"], strict=True):
        target = place(path.name, dx)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for name in (FIRST, SECOND):
        (root / name).rmdir()


@pytest.mark.parametrize(
    "folder",
    [
        "images",
        "Images",
        "HAM10000_images",
        "ham10000-images",
        "img",
        "train",
        "jpg",
        "x/images",
        "",
    ],
)
def test_all_images_may_be_in_one_folder_or_in_the_root(editable: Path, folder: str) -> None:
    expected = HAM10000(editable, size=16)[7]
    (editable / "figure.png").write_bytes(b"not of the data set")
    move_all(editable, lambda name, _: editable / folder / name)
    found = open_folder(editable)
    assert len(found.paths()) == len(found.images) == 280
    assert len(found.mask_paths()) == 280
    image, target = HAM10000(editable, size=16)[7]
    assert target == expected[1]
    assert (image == expected[0]).all()
    report = verify_dataset(editable)
    assert report.usable


@pytest.mark.parametrize("folder", ["", "images", "by_class"])
def test_images_may_be_in_a_folder_for_each_class(editable: Path, folder: str) -> None:
    move_all(editable, lambda name, dx: editable / folder / dx / name)
    assert {path.parent.name for path in open_folder(editable).paths()} == set(CLASSES)


def test_augmented_copies_in_class_folders_are_not_taken_for_the_images(editable: Path) -> None:
    move_all(editable, lambda name, _: editable / name)
    for path in open_folder(editable).paths()[:5]:
        copy = editable / "augmented" / "nv" / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    found = open_folder(editable)
    assert {path.parent for path in found.paths()} == {editable}
    assert not found.repeats


def test_images_may_be_png(editable: Path, tmp_path: Path) -> None:
    data = HAM10000(editable, size=16)
    expected = [data[row][0] for row in range(280)]
    for path in open_folder(editable).paths():
        with Image.open(path) as image:
            image.save(path.with_suffix(".png"))
        path.unlink()
    data = HAM10000(editable, size=16)
    assert all((data[row][0] == expected[row]).all() for row in range(280))
    assert verify_dataset(editable).usable
    cache = prepare(editable, tmp_path / "cache", 16).cache
    assert (cache.images[3] == data[3][0].numpy()).all()


def use_challenge_tables(root: Path, truth: Path, groupings: Path) -> pd.DataFrame:
    """Replace the table by the challenge's two tables of the same images."""
    table = load_table(root)
    (root / "HAM10000_metadata.csv").unlink()
    for path in (truth, groupings):
        path.parent.mkdir(exist_ok=True)
    one_hot = pd.get_dummies(table["dx"]).astype(float)
    one_hot.columns = one_hot.columns.str.upper()
    one_hot.insert(0, "image", table["image_id"])
    one_hot.to_csv(truth, index=False)
    lesions = table.rename(columns={"image_id": "image", "dx_type": "diagnosis_confirm_type"})
    columns = ["image", "lesion_id", "diagnosis_confirm_type"]
    lesions.sample(frac=1, random_state=0)[columns].to_csv(groupings, index=False)
    return table


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_the_ground_truth_of_the_challenge_will_do(
    editable: Path, unpacked: bool, together: bool
) -> None:
    place = editable / Path(TRUTH).stem if unpacked else editable
    groupings = place if together else editable
    expected = use_challenge_tables(editable, place / TRUTH, groupings / GROUPINGS)
    found = open_folder(editable)
    columns = ["lesion_id", "image_id", "dx", "dx_type"]
    pd.testing.assert_frame_equal(found.table[columns], expected[columns])
    assert found.table["age"].isna().all()
    assert set(found.table["sex"]) == {"unknown"}
    assert paper_val_split(load_table(editable), seed=0)["split"].nunique() == 3
    assert verify_dataset(editable).usable


def test_the_ground_truth_alone_does_not_say_which_images_are_of_one_lesion(editable: Path) -> None:
    use_challenge_tables(editable, editable / TRUTH, editable / GROUPINGS)
    (editable / GROUPINGS).unlink()
    with pytest.raises(
        MissingDataError, match=rf"there is no {GROUPINGS} next to it.*--source isic"
    ):
        open_folder(editable)


def test_the_tables_of_the_challenge_become_ours(tmp_path: Path) -> None:
    truth, groups, out = (tmp_path / name for name in ("truth.csv", "groups.csv", "out.csv"))
    truth.write_text(ONE_HOT)
    groups.write_text(LESIONS)
    convert_challenge(truth, groups, out)
    table = read_table(out)
    assert table["dx"].tolist() == ["nv", "mel"]
    assert table["lesion_id"].tolist() == ["L1", "L2"]
    assert table["dx_type"].tolist() == ["consensus", "histo"]
    assert table["age"].isna().all()
    truth.write_text(ONE_HOT.replace("I2,1,0", "I2,1,1"))
    with pytest.raises(DataError, match=r"row 3 \(image I2\) doesn't have exactly one diagnosis"):
        convert_challenge(truth, groups, out)
    truth.write_text(ONE_HOT)
    groups.write_text(LESIONS.replace("I2,", "I3,"))
    with pytest.raises(DataError, match="no row for the image I2"):
        convert_challenge(truth, groups, out)
    groups.write_text(LESIONS + "I1,L3,histopathology\n")
    with pytest.raises(DataError, match="row 4 repeats the image I1"):
        convert_challenge(truth, groups, out)


def test_superpixels_of_isic_2017_are_no_images(isic2017: Path) -> None:
    info = find_dataset("isic2017-melanoma")
    folder = open_folder(isic2017, info)
    assert len(list(isic2017.rglob("*_superpixels.png"))) == 72
    assert len(folder.images) == len(folder.paths()) == len(folder.mask_paths()) == 72
    assert {path.parent.name for path in folder.paths()} == set(info.image_folders)
    assert {path.parent.name for path in folder.mask_paths()} == set(info.mask_folders)
    assert not folder.repeats


def test_a_missing_image_of_isic_2017_is_named_with_its_table(
    isic2017: Path, tmp_path: Path
) -> None:
    root, info = (
        Path(shutil.copytree(isic2017, tmp_path / "set")),
        find_dataset("isic2017-melanoma"),
    )
    name = open_folder(root, info).table["image_id"].iloc[-1]
    next(root.rglob(f"{name}.jpg")).unlink()
    with pytest.raises(MissingDataError, match=rf"{name}\.jpg, which row \d+ of ISIC-2017_Test_v2"):
        open_folder(root, info).paths()
    for path in root.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(
        DataError,
        match=r"no images in it.*ISIC-2017_Training_Data.*download --set",
    ):
        open_folder(root, info)


def test_a_sample_has_whole_lesions_and_links_to_the_files(synthetic: Path, tmp_path: Path) -> None:
    whole = open_folder(synthetic)
    number = link_sample(synthetic, tmp_path / "sample", 40, seed=1)
    sample = open_folder(tmp_path / "sample")
    assert len(sample.table) == number
    assert 40 <= number < 40 + whole.table["lesion_id"].value_counts().max()
    lesions = whole.table[whole.table["lesion_id"].isin(sample.table["lesion_id"])]
    assert sample.table["image_id"].tolist() == lesions["image_id"].tolist()
    for found, expected in ((sample.images, whole.images), (sample.masks, whole.masks)):
        assert sorted(found) == sorted(sample.table["image_id"])
        assert all(path.samefile(expected[name]) for name, path in found.items())
    assert link_sample(synthetic, tmp_path / "again", 40, seed=1) == number
    pd.testing.assert_frame_equal(open_folder(tmp_path / "again").table, sample.table)
    link_sample(synthetic, tmp_path / "other", 40, seed=2)
    assert open_folder(tmp_path / "other").table["image_id"].tolist() != list(sample.images)


def test_a_sample_of_more_images_than_there_are_is_the_whole_data_set(
    synthetic: Path, tmp_path: Path
) -> None:
    images = len(open_folder(synthetic).images)
    assert link_sample(synthetic, tmp_path / "sample", 10 * images, seed=0) == images


def test_a_sample_that_cannot_be_linked_leaves_nothing(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(WriteError, match=r"sample: operation not permitted"):
        link_sample(synthetic, tmp_path / "sample", 40, seed=0)
    assert list(tmp_path.iterdir()) == []
