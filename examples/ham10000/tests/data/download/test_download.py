import io
import subprocess
import sys
import zipfile
from pathlib import Path

import kagglehub
import pytest
from bad_server import Site, serve

from ham10000.data import SOURCES, download_dataset, open_folder
from ham10000.data import download as module
from ham10000.data.download.http import Patience
from ham10000.errors import ArgumentError, DownloadError

QUICK = Patience(connect=1, read=1, attempts=2, pause=0.01)


def packed(paths: list[Path], folder: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for path in paths:
            opened.write(path, f"{folder}/{path.name}")
    return file.getvalue()


@pytest.fixture
def site(synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Invented files in the form that the Dataverse serves; checksums are not compared."""
    files = {"HAM10000_metadata.csv": (synthetic / "HAM10000_metadata.csv").read_bytes()}
    for folder in sorted(path for path in synthetic.iterdir() if path.is_dir()):
        files[f"{folder.name}.zip"] = packed(sorted(folder.iterdir()), folder.name)
    without = tuple(type(file)(**{**vars(file), "sums": None}) for file in SOURCES["dataverse"])
    monkeypatch.setitem(module.SOURCES, "dataverse", without)
    return Site(files)


def test_a_downloaded_data_set_is_complete(site: Site, tmp_path: Path) -> None:
    said: list[str] = []
    parts = ("images", "metadata", "masks")
    with serve(site):
        download_dataset(tmp_path, parts=parts, mirror=site.url, patience=QUICK, say=said.append)
        folder = open_folder(tmp_path)
        assert len(folder.paths()) == len(folder.mask_paths()) == 280
        asked = len(site.requests)
        download_dataset(tmp_path, parts=parts, mirror=site.url, patience=QUICK, say=said.append)
        assert len(site.requests) == asked
    assert any("is there already" in text for text in said)


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as raised:
        download_dataset(tmp_path, mirror="http://127.0.0.1:9", patience=QUICK)
    message = str(raised.value)
    assert "the connection is refused" in message
    assert f"save {SOURCES['dataverse'][0].url}" in message
    assert f"as {tmp_path}/archives/HAM10000_images_part_1.zip" in message
    assert f"unpack it into {tmp_path}/HAM10000_images_part_1" in message
    with pytest.raises(DownloadError, match=r"By hand: save .* as .*HAM10000_metadata\.csv"):
        download_dataset(tmp_path, parts=["metadata"], mirror="http://127.0.0.1:9", patience=QUICK)


def test_an_archive_that_was_put_there_by_hand_is_used(site: Site, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    for name, body in site.files.items():
        place = tmp_path / "archives" if name.endswith(".zip") else tmp_path
        (place / name).write_bytes(body)
    download_dataset(tmp_path, mirror="http://127.0.0.1:9", patience=QUICK)
    assert len(open_folder(tmp_path).images) == 280


def test_the_published_sums_are_checked(synthetic: Path, tmp_path: Path) -> None:
    files = {"HAM10000_metadata.csv": (synthetic / "HAM10000_metadata.csv").read_bytes()}
    with serve(Site(files)) as site, pytest.raises(DownloadError, match="not the published one"):
        download_dataset(tmp_path, parts=["metadata"], mirror=site.url, patience=QUICK)
    assert not (tmp_path / "HAM10000_metadata.csv").exists()


def test_the_command_prints_the_licence_and_no_traceback(tmp_path: Path) -> None:
    arguments = ["download", "--out", str(tmp_path), "--parts", "metadata"]
    with serve(Site()) as site:
        done = subprocess.run(
            [sys.executable, "-m", "ham10000", *arguments, "--mirror", site.url],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "CC BY-NC 4.0" in done.stdout
    assert done.stderr.startswith("ham10000: error: downloading HAM10000_metadata.csv")
    assert "Traceback" not in done.stderr
    assert "404" in done.stderr


def test_parts_that_a_source_lacks_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="Closest: kaggle"):
        download_dataset(tmp_path, "kagle")
    with pytest.raises(ArgumentError, match="Closest: masks"):
        download_dataset(tmp_path, parts=["mask"])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="isic doesn't have masks"):
        download_dataset(tmp_path, "isic", ["masks"])
    with pytest.raises(ArgumentError, match="Kaggle doesn't have masks, test"):
        download_dataset(tmp_path, "kaggle", ["masks", "test"])


def test_the_mirror_on_kaggle_goes_through_its_own_library(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def fake(handle: str, output_dir: str) -> str:
        asked.append((handle, output_dir))
        return output_dir

    monkeypatch.setattr(kagglehub, "dataset_download", fake)
    download_dataset(tmp_path, "kaggle")
    assert asked == [("kmader/skin-cancer-mnist-ham10000", str(tmp_path))]

    def broken(handle: str, output_dir: str) -> str:
        raise RuntimeError("Max retries exceeded\nwith much more")

    monkeypatch.setattr(kagglehub, "dataset_download", broken)
    with pytest.raises(DownloadError, match="Max retries exceeded By hand: download it") as raised:
        download_dataset(tmp_path, "kaggle")
    assert "much more" not in str(raised.value)
