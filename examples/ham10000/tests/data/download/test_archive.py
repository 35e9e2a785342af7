import random
import resource
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from ham10000.data.download.archive import extract
from ham10000.errors import ArchiveError, ArgumentError, WriteError


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
