"""Bad input through the command: one line that names the file and the row or the fix."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_files import bomb, edit, leftovers

from ham10000.cli import main
from ham10000.data import find_dataset, open_folder, paper_split, prepare, write_split

TABLE = "HAM10000_metadata.csv"


def first_image(root: Path) -> Path:
    return open_folder(root).paths()[0]


def rows(root: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = root / TABLE
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "image missing": (lambda root: first_image(root).unlink(), "which row 2 of"),
    "image cut": (
        lambda root: os.truncate(first_image(root), first_image(root).stat().st_size - 90),
        "is cut short or damaged",
    ),
    "not a JPEG": (lambda root: first_image(root).write_bytes(b"GIF89a" * 9), "it is not a JPEG"),
    "zero bytes": (lambda root: first_image(root).write_bytes(b""), "the file is empty"),
    "bomb": (lambda root: first_image(root).write_bytes(bomb(65_000, 65_000)), "more than"),
    "unknown dx": (lambda root: edit(root / TABLE, ",akiec,", ",akie,"), "Closest: akiec."),
    "missing column": (lambda root: edit(root / TABLE, "image_id", "image"), "lacks the column"),
    "repeated id": (lambda root: rows(root, lambda lines: [*lines, lines[1]]), "rows 2, 282 have"),
    "no rows": (lambda root: rows(root, lambda lines: lines[:1]), "a header and no rows"),
    "encoding": (
        lambda root: (root / TABLE).write_bytes((root / TABLE).read_text().encode("utf-16")),
        "row 1 is not UTF-8",
    ),
}


ISIC2017 = find_dataset("isic2017-melanoma")
TEST_TABLE = "ISIC-2017_Test_v2_Part3_GroundTruth.csv"


def last_image(root: Path) -> Path:
    return open_folder(root, ISIC2017).paths()[-1]


BAD_ISIC2017: dict[str, tuple[Callable[[Path], object], str]] = {
    "image missing": (lambda root: last_image(root).unlink(), f"of {TEST_TABLE} names"),
    "image cut": (
        lambda root: os.truncate(last_image(root), last_image(root).stat().st_size - 90),
        "is cut short or damaged",
    ),
    "not a JPEG": (lambda root: last_image(root).write_bytes(b"GIF89a" * 9), "it is not a JPEG"),
    "zero bytes": (lambda root: last_image(root).write_bytes(b""), "the file is empty"),
    "bomb": (lambda root: last_image(root).write_bytes(bomb(65_000, 65_000)), "more than"),
    "two diagnoses": (
        lambda root: edit(root / TEST_TABLE, ",1.0,0.0", ",1.0,1.0"),
        "doesn't have at most one diagnosis",
    ),
    "missing column": (lambda root: edit(root / TEST_TABLE, "melanoma", "mel"), "lacks the column"),
    "table missing": (lambda root: (root / TEST_TABLE).unlink(), f"and no {TEST_TABLE}"),
    "encoding": (
        lambda root: (root / TEST_TABLE).write_bytes(
            (root / TEST_TABLE).read_text().encode("utf-16")
        ),
        "row 1 is not UTF-8",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_data_is_one_line(
    editable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    check_refused(editable, tmp_path, capsys, BAD[name], "ham10000")


@pytest.mark.parametrize("name", list(BAD_ISIC2017))
def test_bad_data_of_another_data_set_is_one_line(
    isic2017: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    editable = Path(shutil.copytree(isic2017, tmp_path / "editable"))
    check_refused(editable, tmp_path, capsys, BAD_ISIC2017[name], ISIC2017.name)


def check_refused(
    editable: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bad: tuple[Callable[[Path], object], str],
    dataset: str,
) -> None:
    spoil, message = bad
    spoil(editable)
    out = tmp_path / "cache"
    options = ["--data", str(editable), "--set", dataset, "--size", "16", "--out", str(out)]
    assert main(["prepare", *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ham10000: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert str(editable) in captured.err
    assert not out.exists() or [path.name for path in out.iterdir()] == [".lock"]
    assert leftovers(tmp_path) == []


def test_a_split_with_a_lesion_in_two_splits_is_one_line(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = paper_split(open_folder(synthetic).table, seed=0)
    double = split.index[split["lesion_id"].duplicated()][0]
    split.loc[double, "split"] = "test"
    write_split(split, tmp_path / "split.csv")
    data, path = str(synthetic), str(tmp_path / "split.csv")
    assert main(["augment-offline", "--data", data, "--split", path, "--dry-run"]) == 1
    error = capsys.readouterr().err
    assert f"reading {path}: lesion " in error
    assert f"row {double + 2}" in error
    assert error.count("\n") == 1


def test_an_existing_folder_is_left_unchanged(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    for command in (["synthesize", "--images", "20"], ["prepare", "--size", "16"]):
        data = ["--data", str(synthetic)] if command[0] == "prepare" else []
        assert main([*command, *data, "--out", str(tmp_path)]) == 1
        assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_cache_that_was_cut_is_made_again(synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    prepare(synthetic, out, 16)
    array = next(out.glob("images-*.npy"))
    os.truncate(array, 1000)
    assert main(["prepare", "--data", str(synthetic), "--size", "16", "--out", str(out)]) == 0
    assert next(out.glob("images-*.npy")).stat().st_size > 280 * 3 * 16 * 16
