import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ham10000.data import Finding, VerificationReport, find_dataset, open_folder, verify_dataset
from ham10000.errors import DataError, MissingDataError

FIRST = "HAM10000_images_part_1"
IDS = ["image_id", "other_image_id"]


def found(report: VerificationReport, check: str) -> Finding:
    return next(finding for finding in report.findings if finding.check == check)


def first_image(root: Path) -> Path:
    return open_folder(root).paths()[0]


def test_a_good_data_set_is_usable(synthetic: Path) -> None:
    report = verify_dataset(synthetic)
    assert report.usable
    assert report.num_images == 280
    assert report.num_lesions == open_folder(synthetic).table["lesion_id"].nunique()
    assert {finding.check for finding in report.findings if finding.level != "ok"} <= {
        "counts",
        "classes",
        "detected duplicates",
    }
    assert json.loads(json.dumps(report.as_dict()))["usable"] is True


def test_another_data_set_is_compared_with_its_own_counts(isic2017: Path) -> None:
    report = verify_dataset(isic2017, info=find_dataset("isic2017-melanoma"))
    assert report.usable
    assert list(report.class_counts) == ["other", "mel"]
    assert "ISIC 2017 (melanoma) has 2,750. Is this a subset?" in found(report, "counts").message
    assert "ISIC-2017_Test_v2_Part3_GroundTruth.csv" in found(report, "layout").message
    assert found(report, "masks").level == "ok"
    assert found(report, "metadata").level == "warning"


def test_a_missing_image_makes_it_unusable(editable: Path) -> None:
    path = first_image(editable)
    path.unlink()
    report = verify_dataset(editable)
    assert not report.usable
    assert found(report, "files").items == [path.stem]
    assert "row 2" in found(report, "files").message


@pytest.mark.parametrize(
    "raw",
    [b"", b"no image at all", None],
    ids=["empty", "not a JPEG", "cut"],
)
def test_an_image_that_does_not_decode_is_named(editable: Path, raw: bytes | None) -> None:
    path = first_image(editable)
    path.write_bytes(path.read_bytes()[:-300] if raw is None else raw)
    report = verify_dataset(editable)
    assert not report.usable
    assert str(path) in found(report, "decoding").message


def test_an_image_in_no_row_is_a_warning(editable: Path) -> None:
    shutil.copy(first_image(editable), editable / FIRST / "ISIC_1.jpg")
    finding = found(verify_dataset(editable), "files")
    assert (finding.level, finding.items) == ("warning", ["ISIC_1"])


def test_second_copies_are_a_warning_and_an_error_if_they_differ(editable: Path) -> None:
    shutil.copytree(editable / FIRST, editable / FIRST.lower())
    assert found(verify_dataset(editable), "layout").level == "warning"
    name = sorted(path.name for path in (editable / FIRST).iterdir())[0]
    (editable / FIRST.lower() / name).write_bytes(b"other")
    finding = found(verify_dataset(editable), "layout")
    assert (finding.level, finding.items) == ("error", [name.removesuffix(".jpg")])


def test_lesions_of_several_diagnoses_are_named(editable: Path) -> None:
    table = open_folder(editable).table
    lesion = table["lesion_id"][table["lesion_id"].duplicated()].iloc[0]
    path = editable / "HAM10000_metadata.csv"
    dx = table[table["lesion_id"] == lesion]["dx"].iloc[0]
    other = "mel" if dx != "mel" else "nv"
    lines = path.read_text().splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith(lesion))
    lines[row] = lines[row].replace(f",{dx},", f",{other},")
    path.write_text("\n".join(lines))
    finding = found(verify_dataset(editable), "diagnoses")
    assert (finding.level, finding.items) == ("warning", [lesion])


def test_identical_files_are_named(editable: Path) -> None:
    folder = open_folder(editable)
    ids = folder.table.drop_duplicates("lesion_id")["image_id"].tolist()
    folder.images[ids[20]].write_bytes(folder.images[ids[0]].read_bytes())
    finding = found(verify_dataset(editable), "exact duplicates")
    assert finding.level == "warning"
    assert "have different lesion ids" in finding.message
    assert len(finding.items) == 1


def test_masks_may_be_absent_but_not_wrong(editable: Path) -> None:
    folder = open_folder(editable)
    path = folder.mask_paths()[0]
    path.unlink()
    assert found(verify_dataset(editable), "masks").level == "warning"
    Image.new("L", (10, 50)).save(path)
    finding = found(verify_dataset(editable), "masks")
    assert finding.level == "error"
    assert str(path) in finding.message
    shutil.rmtree(path.parent)
    assert found(verify_dataset(editable), "masks").level == "ok"


def test_a_class_without_images_makes_it_unusable(editable: Path) -> None:
    path = editable / "HAM10000_metadata.csv"
    path.write_text(path.read_text().replace(",df,", ",nv,"))
    assert found(verify_dataset(editable), "classes").items == ["df"]


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError):
        verify_dataset(tmp_path)
    (tmp_path / "HAM10000_metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="lacks the column"):
        verify_dataset(tmp_path)


@pytest.mark.slow
def test_the_real_data_set_is_as_published(real: Path) -> None:
    report = verify_dataset(real)
    assert report.usable
    assert (report.num_images, report.num_lesions) == (10_015, 7_470)
    assert found(report, "counts").level == found(report, "classes").level == "ok"
    assert found(report, "diagnoses").level == "ok"
    assert len(report.known) == 18
    known = {frozenset(ids) for ids in report.known[IDS].to_numpy()}
    detected = {frozenset(ids) for ids in report.pairs[IDS].to_numpy()}
    assert len(known & detected) >= 14
    assert "18 published pairs" in found(report, "known duplicates").message


def test_metadata_that_are_not_understood_are_reported_with_counts(editable: Path) -> None:
    path = editable / "HAM10000_metadata.csv"
    text = path.read_text()
    assert found(verify_dataset(editable), "metadata").level == "ok"
    count = text.count(",back\n")
    path.write_text(text.replace(",back\n", ",Rücken\n"))
    finding = found(verify_dataset(editable), "metadata")
    assert (finding.level, finding.items) == (
        "warning",
        [f"localization: 'Rücken' in {count} rows"],
    )
    path.write_text(text.replace("female", "femme").replace(",male,", ",homme,"))
    report = verify_dataset(editable)
    finding = found(report, "metadata")
    assert (finding.level, report.usable) == ("error", False)
    assert "no value of sex is understood" in finding.message
    path.write_text(text.replace("female", "").replace(",male,", ",,"))
    finding = found(verify_dataset(editable), "metadata")
    assert (finding.level, finding.items) == ("warning", ["sex"])
