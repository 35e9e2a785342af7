import errno
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
    refused(archive, "leads outside")
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


def test_an_entry_that_lies_about_its_size_is_refused(archive: Path) -> None:
    write(archive, ("a.jpg", bytes(5000)), packed=True)
    raw = bytearray(archive.read_bytes())
    size = (5000).to_bytes(4, "little")
    place = raw.index(size, raw.index(b"PK\x01\x02"))
    raw[place : place + 4] = (100).to_bytes(4, "little")
    archive.write_bytes(raw)
    refused(archive, "not a whole zip|cut short")


def test_no_two_entries_have_one_name(archive: Path) -> None:
    write(archive, ("x/a.jpg", b"1"), ("y/A.jpg", b"2"))
    refused(archive, "have one name")


@pytest.mark.parametrize("cut", [10, 60, 150])
def test_a_cut_archive_is_refused(archive: Path, cut: int) -> None:
    write(archive, ("a.jpg", b"0123456789" * 10))
    archive.write_bytes(archive.read_bytes()[:-cut])
    refused(archive, "not a whole zip archive")


def test_a_damaged_entry_is_refused(archive: Path) -> None:
    write(archive, ("a.jpg", b"0123456789" * 10))
    archive.write_bytes(archive.read_bytes().replace(b"0123456789", b"012345678X", 1))
    refused(archive, "not a whole zip archive")


def test_an_empty_archive_is_refused(archive: Path) -> None:
    write(archive)
    refused(archive, "it holds no file")


def test_a_full_disk_leaves_nothing(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(archive, ("a.jpg", b"a"))
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(WriteError, match="no space left"):
        extract(archive, archive.parent / "out")
    assert [path.name for path in archive.parent.iterdir()] == ["a.zip"]


def test_what_is_there_is_left_alone(archive: Path) -> None:
    write(archive, ("a.jpg", b"a"))
    with pytest.raises(ArgumentError, match="exists already"):
        extract(archive, archive.parent)
