import dataclasses
import io
import random
import resource
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import kagglehub
import pytest
from bad_server import Site, serve

from ham10000.data import DATASETS, SOURCES, download_dataset, find_dataset, open_folder
from ham10000.data import download as module
from ham10000.data.download.download import extract
from ham10000.data.download.http import Patience
from ham10000.errors import ArchiveError, ArgumentError, DownloadError, WriteError

QUICK = Patience(connect=1, read=1, attempts=2, pause=0.01)


def packed(paths: list[Path], folder: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for path in paths:
            opened.write(path, f"{folder}/{path.name}")
    return file.getvalue()


def without_sums(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(dataclasses.replace(file, sums=None) for file in SOURCES[source])
    monkeypatch.setitem(module.SOURCES, source, files)


@pytest.fixture
def site(synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Invented files in the form that the Dataverse serves; checksums are not compared."""
    files = {"HAM10000_metadata.csv": (synthetic / "HAM10000_metadata.csv").read_bytes()}
    for folder in sorted(path for path in synthetic.iterdir() if path.is_dir()):
        files[f"{folder.name}.zip"] = packed(sorted(folder.iterdir()), folder.name)
    without_sums("dataverse", monkeypatch)
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


def test_isic_2017_is_downloaded_without_its_superpixels(
    isic2017: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in isic2017.glob("*.csv")}
    for folder in sorted(path for path in isic2017.iterdir() if path.is_dir()):
        files[f"{folder.name}.zip"] = packed(sorted(folder.iterdir()), folder.name)
    assert files.keys() == {file.name for file in SOURCES["isic2017"]}
    without_sums("isic2017", monkeypatch)
    info, parts = find_dataset("isic2017-keratosis"), ("images", "metadata", "masks")
    with serve(Site(files)) as site:
        download_dataset(tmp_path, None, parts, info=info, mirror=site.url, patience=QUICK)
    folder = open_folder(tmp_path, info)
    assert len(folder.paths()) == len(folder.mask_paths()) == 72
    assert not list(tmp_path.rglob("*_superpixels.png"))
    assert len(list(isic2017.rglob("*_superpixels.png"))) == 72


def test_every_source_is_that_of_a_data_set() -> None:
    named = {source for info in DATASETS.values() for source in info.sources}
    assert named == {*SOURCES, "kaggle"}
    for file in SOURCES["isic2017"]:
        assert file.sums is not None
        assert len(file.sums) == len("md5:") + 32
        assert file.url.endswith(f"/2017/{file.name}")


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


@pytest.mark.slow
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
    with pytest.raises(ArgumentError, match=r"ISIC 2017 .* has no source 'kaggle'"):
        download_dataset(tmp_path, "kaggle", info=find_dataset("isic2017-melanoma"))
    with pytest.raises(ArgumentError, match=r"no source 'isic'\. Leave --source out"):
        download_dataset(tmp_path, "isic", info=find_dataset("isic2017-melanoma"))
    with pytest.raises(ArgumentError, match=r"isic2017 doesn't have test. Leave it out"):
        download_dataset(tmp_path, parts=["test"], info=find_dataset("isic2017-melanoma"))
    with pytest.raises(ArgumentError, match=r"no source of ISIC 2019 .* from https://challenge"):
        download_dataset(tmp_path, info=find_dataset("isic2019"))
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


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "a.zip"


def write(path: Path, *entries: tuple[str, bytes], packed: bool = False) -> None:
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as opened:
        for name, body in entries:
            opened.writestr(name, body)


def refused(archive: Path, message: str, **options: int) -> None:
    with pytest.raises(ArchiveError, match=message) as raised:
        extract(archive, archive.parent / "out", **options)
    assert str(archive) in str(raised.value)
    assert sorted(path.name for path in archive.parent.iterdir()) == [archive.name]


def test_files_come_out_flat_and_without_what_macos_adds(archive: Path) -> None:
    write(
        archive,
        ("folder/", b""),
        ("folder/a.jpg", b"a"),
        ("b.jpg", b"b"),
        ("__MACOSX/folder/._a.jpg", b"x"),
        ("folder/.DS_Store", b"x"),
    )
    out = archive.parent / "out"
    assert extract(archive, out) == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "a.jpg": b"a",
        "b.jpg": b"b",
    }


@pytest.mark.parametrize(
    "name", ["../a.jpg", "x/../../a.jpg", "/etc/a.jpg", "..\\a.jpg", "C:\\a.jpg", "C:a.jpg"]
)
def test_no_entry_leads_outside(archive: Path, name: str) -> None:
    write(archive, ("good.jpg", b"good"), (name, b"bad"))
    refused(archive, "has a path outside the archive")
    assert not (archive.parent.parent / "a.jpg").exists()


def test_no_entry_is_a_link(archive: Path) -> None:
    entry = zipfile.ZipInfo("a.jpg")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(entry, "/etc/passwd")
    refused(archive, "'a.jpg' is a link")


def test_no_entry_is_a_bomb(archive: Path) -> None:
    write(archive, ("a.jpg", bytes(20_000_000)), packed=True)
    refused(archive, "'a.jpg' unpacks .* to 20,000,000 bytes")


def test_no_archive_is_a_bomb_of_small_files(archive: Path) -> None:
    write(archive, *((f"{number}.jpg", bytes(1000)) for number in range(20)), packed=True)
    refused(archive, "unpacks to more than 10,000 bytes", most=10_000)


def test_an_entry_with_a_wrong_size_is_refused(archive: Path) -> None:
    write(archive, ("a.jpg", bytes(5000)), packed=True)
    raw = bytearray(archive.read_bytes())
    size = (5000).to_bytes(4, "little")
    place = raw.index(size, raw.index(b"PK\x01\x02"))
    raw[place : place + 4] = (100).to_bytes(4, "little")
    archive.write_bytes(raw)
    refused(archive, "can't be read as a zip|cut short")


def test_no_two_entries_have_one_name(archive: Path) -> None:
    write(archive, ("x/a.jpg", b"1"), ("y/A.jpg", b"2"))
    refused(archive, "have the same name")


@pytest.mark.parametrize("cut", [10, 60, 150])
def test_a_cut_archive_is_refused(archive: Path, cut: int) -> None:
    write(archive, ("a.jpg", b"0123456789" * 10))
    archive.write_bytes(archive.read_bytes()[:-cut])
    refused(archive, "can't be read as a zip archive")


def test_a_damaged_entry_is_refused(archive: Path) -> None:
    write(archive, ("a.jpg", b"0123456789" * 10))
    archive.write_bytes(archive.read_bytes().replace(b"0123456789", b"012345678X", 1))
    refused(archive, "can't be read as a zip archive")


def test_an_empty_archive_is_refused(archive: Path) -> None:
    write(archive)
    refused(archive, "it contains no files")


@pytest.mark.parametrize("name", ["", ".", "a" * 300 + ".jpg", "x/" + "ä" * 150])
def test_an_entry_without_a_valid_name_is_refused(archive: Path, name: str) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("good.jpg", b"good")
        entry = zipfile.ZipInfo("a")
        entry.filename = name  # which the constructor would change
        opened.writestr(entry, b"bad")
    refused(archive, "has no valid name")


def test_a_name_that_is_not_utf_8_is_refused(archive: Path) -> None:
    write(archive, ("ä.jpg", b"a"))
    archive.write_bytes(archive.read_bytes().replace("ä".encode(), b"\xc3\x28"))
    refused(archive, "can't be read as a zip archive")


KINDS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("kind", KINDS, ids=["stored", "deflated", "bzip2", "lzma"])
def test_damage_never_ends_in_a_foreign_error(archive: Path, kind: int) -> None:
    draw = random.Random(kind)
    content = {f"{number}.jpg": draw.randbytes(300) + bytes(300) for number in range(3)}
    with zipfile.ZipFile(archive, "w", kind) as opened:
        for name, body in content.items():
            opened.writestr(name, body)
    whole = archive.read_bytes()
    out = archive.parent / "out"
    noticed = 0
    for _ in range(250):
        raw = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        if draw.random() < 0.2:
            del raw[draw.randrange(len(raw)) :]
        archive.write_bytes(raw)
        try:
            extract(archive, out)
        except ArchiveError:
            noticed += 1
            assert not out.exists()
        else:
            assert {path.read_bytes() for path in out.iterdir()} <= set(content.values())
            shutil.rmtree(out)
    assert noticed > 150


def test_an_archive_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="No such file"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_a_full_disk_leaves_nothing(archive: Path) -> None:
    """A limit on the size of files, which the system enforces as it does a full disk."""
    write(archive, ("a.jpg", bytes(5000)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(WriteError, match="Free some"):
            extract(archive, archive.parent / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in archive.parent.iterdir()] == ["a.zip"]


def test_what_is_there_is_left_alone(archive: Path) -> None:
    write(archive, ("a.jpg", b"a"))
    with pytest.raises(ArgumentError, match="exists already"):
        extract(archive, archive.parent)
