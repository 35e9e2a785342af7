import errno
import hashlib
import random
from pathlib import Path

import pytest
from bad_server import Site, serve

from ham10000.data.download.http import Patience, fetch
from ham10000.errors import DownloadError, WriteError

BODY = random.Random(0).randbytes(300_000)
SUM = f"md5:{hashlib.md5(BODY).hexdigest()}"
QUICK = Patience(connect=1, read=1, slow=0.3, least=1000, attempts=3, pause=0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_once(tmp_path: Path) -> None:
    with serve(Site({"a.zip": BODY})) as site:
        path = fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
        assert path.read_bytes() == BODY
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
        assert len(site.requests) == 1
    assert names(tmp_path) == ["a.zip"]


def test_a_cut_connection_is_resumed(tmp_path: Path) -> None:
    with serve(Site({"a.zip": BODY}, cut_at=100_000, cuts=2)) as site:
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
        assert site.requests == ["", "bytes=100000-", "bytes=200000-"]
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("tag", [b"\xff\xfe", b"a\r\nb", b""])
def test_a_damaged_note_of_a_broken_download_is_ignored(tmp_path: Path, tag: bytes) -> None:
    (tmp_path / "a.zip.part").write_bytes(BODY[:1000])
    (tmp_path / "a.zip.part.etag").write_bytes(tag)
    with serve(Site({"a.zip": BODY})) as site:
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
        assert site.requests == [""]
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_a_server_that_cannot_resume_starts_afresh(tmp_path: Path) -> None:
    with serve(Site({"a.zip": BODY}, cut_at=100_000, cuts=1, ranges=False)) as site:
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_starts_afresh(tmp_path: Path) -> None:
    with serve(Site({"a.zip": bytes(200_000)}, cut_at=100_000, cuts=9)) as site:
        with pytest.raises(DownloadError):
            fetch(f"{site.url}/a.zip", tmp_path / "a.zip", patience=Patience(attempts=1))
        site.files, site.cuts = {"a.zip": BODY}, 0
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_what_arrived_is_kept_for_the_next_run(tmp_path: Path) -> None:
    with serve(Site({"a.zip": BODY}, cut_at=100_000, cuts=1)) as site:
        with pytest.raises(DownloadError, match=r"the connection was cut.*100,000 bytes are kept"):
            fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=Patience(attempts=1))
        assert "a.zip" not in names(tmp_path)
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
        assert site.requests[-1] == "bytes=100000-"
    assert names(tmp_path) == ["a.zip"]


def test_other_bytes_than_were_published_are_not_kept(tmp_path: Path) -> None:
    with (
        serve(Site({"a.zip": b"x" + BODY[1:]})) as site,
        pytest.raises(DownloadError, match="the file is not the published one") as raised,
    ):
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
    assert "a.zip" in str(raised.value)
    assert names(tmp_path) == []


def test_a_file_that_is_not_there_is_not_asked_for_again(tmp_path: Path) -> None:
    with (
        serve(Site()) as site,
        pytest.raises(DownloadError, match=r"answered 404.*another --source"),
    ):
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", patience=QUICK)
    assert len(site.requests) == 1
    assert names(tmp_path) == []


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    with serve(Site({"a.zip": BODY}, status=503, failures=2)) as site:
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", sums=SUM, patience=QUICK)
    with (
        serve(Site({"a.zip": BODY}, status=503, failures=9)) as site,
        pytest.raises(DownloadError, match="answered 503, after 3 attempts"),
    ):
        fetch(f"{site.url}/b.zip", tmp_path / "b.zip", patience=QUICK)


def test_a_silent_server_is_given_up_on(tmp_path: Path) -> None:
    patience = Patience(connect=1, read=0.1, attempts=2, pause=0.01)
    with (
        serve(Site({"a.zip": BODY}, silent=0.6)) as site,
        pytest.raises(DownloadError, match="didn't answer in time, after 2 attempts"),
    ):
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", patience=patience)


def test_a_server_that_drips_is_given_up_on(tmp_path: Path) -> None:
    patience = Patience(read=5, slow=0.2, least=1000, attempts=2, pause=0.01)
    with (
        serve(Site({"a.zip": BODY}, drip=0.02)) as site,
        pytest.raises(DownloadError, match=r"only \d+ bytes a second"),
    ):
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", patience=patience)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (
        serve(Site({"a.zip": BODY})) as site,
        pytest.raises(DownloadError, match="more than 1,000 bytes"),
    ):
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", most=1000, patience=QUICK)
    assert not (tmp_path / "a.zip").exists()


def test_no_server_is_said(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="refused"):
        fetch("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", patience=QUICK)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ham10000.data.download.http.shutil.move", full)
    with (
        serve(Site({"a.zip": BODY})) as site,
        pytest.raises(WriteError, match=r"a\.zip: no space left"),
    ):
        fetch(f"{site.url}/a.zip", tmp_path / "a.zip", patience=QUICK)
    assert not (tmp_path / "a.zip").exists()
