import base64
import hashlib
import io
import json
import re
import sys
import tarfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ham10000.cli import main
from ham10000.data import CLASS_NAMES, CLASSES, open_folder
from ham10000.errors import (
    ArgumentError,
    DataError,
    DownloadError,
    ExportError,
    MissingDataError,
    MissingPackageError,
)
from ham10000.reporting import app
from ham10000.reporting.app import build_server, find_runtime, serve_app, write_app
from ham10000.training import open_run


@pytest.fixture
def fake_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive like that of onnxruntime-web, with other contents."""
    path = tmp_path / "runtime.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in app._RUNTIME_FILES.values():
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"fake"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(app, "RUNTIME_SHA256", found)
    return path


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inside = False
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts.append((*self.tags[-1], data))


def test_the_page_has_everything_and_loads_nothing(
    app_run: Path,
    fake_runtime: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    out = tmp_path / "app.html"
    arguments = ["app", str(app_run), "--out", str(out), "--runtime", str(fake_runtime)]
    assert main([*arguments, "--examples", "8"]) == 0
    text = out.read_text()
    said = capsys.readouterr().out
    assert f"Written to {out}: {len(text.encode()) / 1e6:.1f} MB" in said
    weights = re.search(r"Weights: (32 bits each\. On .* in this page\.)", said)
    assert weights is not None
    assert weights[1] in text, "the page states the loss of accuracy too"
    assert "no probability differs by more than 0.00001" in weights[1]

    page = Tags(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in "".join(data for tag, _, data in page.texts if tag == "style")
    (policy,) = (a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert set(rules) == {
        *("default-src", "script-src", "worker-src", "style-src", "img-src"),
        *("base-uri", "form-action"),
    }
    assert "'unsafe-inline'" not in policy
    for kind in ("script", "style"):
        (code,) = (d for tag, a, d in page.texts if tag == kind and "type" not in a)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules[f"{kind}-src"]

    assert "Not a medical device." in text
    assert "Synthetic data." in text
    (config,) = (json.loads(d) for _, a, d in page.texts if a.get("id") == "config")
    assert config["classes"] == [CLASS_NAMES[name] for name in CLASSES]
    assert (config["size"], config["mean"]) == (40, [0.4, 0.5, 0.6])
    assert sum(each["count"] for each in config["bins"]) == sum(
        open_run(app_run).split_table["split"] == "test"
    )
    examples = [a["src"] for _, a in page.tags if (a.get("src") or "").startswith("data:image/jp")]
    assert len(examples) == 8


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_weights_with_fewer_bits_are_smaller_and_compute_nearly_the_same(
    app_run: Path, weights: str, tmp_path: Path
) -> None:
    run = open_run(app_run)
    app.export_run(run, "onnx", tmp_path / "exact")
    exact = (tmp_path / "exact" / "model.onnx").read_bytes()
    stored = app._with_weights(exact, weights)
    assert app._with_weights(exact, "fp32") == exact
    assert len(stored) < len(exact)
    difference, text = app._compare(run, stored, None)
    assert 0 < difference < {"fp16": 1e-3, "int8": 2e-2}[weights]
    assert "Accuracy: " in text


def test_without_the_data_set_random_pixels_are_compared(
    app_run: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    run = open_run(app_run)
    moved = replace(run.recipe.data, root=tmp_path / "gone")
    run.recipe = replace(run.recipe, data=moved)
    found = write_app(run, tmp_path / "app.html", runtime=fake_runtime, weights="fp16")
    assert "16 bits each, converted to 32 bits. On 8 images of random pixels" in found.weights
    assert "Accuracy" not in found.weights


def test_what_does_not_fit_is_refused(
    app_run: Path, fake_runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = open_run(app_run), tmp_path / "app.html"
    with pytest.raises(ArgumentError, match="--examples must be 0 or more, found -1"):
        write_app(run, out, examples=-1)
    monkeypatch.setattr(app, "MAX_BYTES", 100_000)
    with pytest.raises(ExportError, match=r"with int8 weights .* MB\. Use a run with a smaller"):
        write_app(run, out, runtime=fake_runtime)
    with pytest.raises(ExportError, match="Pass --weights int8, or use a run with a smaller"):
        write_app(run, out, runtime=fake_runtime, weights="fp32")
    run.recipe = replace(run.recipe, data=replace(run.recipe.data, metadata=True))
    with pytest.raises(ExportError, match="also needs metadata of each image"):
        write_app(run, out, runtime=fake_runtime)
    with pytest.raises(ExportError, match="also needs metadata of each image"):
        build_server(run)
    assert not out.exists()


def test_the_runtime_is_that_of_the_checksum(tmp_path: Path) -> None:
    assert app.RUNTIME_VERSION in app.RUNTIME_URL
    with pytest.raises(
        MissingDataError, match=r"none\.tgz is not a file\. Download https://registry"
    ):
        find_runtime(tmp_path / "none.tgz")
    other = tmp_path / "other.tgz"
    other.write_bytes(b"other")
    with pytest.raises(DataError, match=r"is not the archive of onnxruntime-web 1\..*Download "):
        find_runtime(other)


def test_offline_the_message_says_how_to_get_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.pooch, "os_cache", lambda name: tmp_path / name)
    monkeypatch.setattr(app, "RUNTIME_URL", "https://localhost:9/onnxruntime-web.tgz")
    message = r"is not in the cache .*ham10000, and cannot be downloaded \(the connection is refuse"
    with pytest.raises(DownloadError, match=message) as caught:
        find_runtime()
    assert str(caught.value).endswith("and pass the file with --runtime.")


def test_a_page_or_a_server(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ([], ["--serve", "--out", "app.html"]):
        assert main(["app", str(run), *options]) == 1
        assert "expected either --out with an HTML file or --serve" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingPackageError, match=r"Install Gradio with: pip install .*\[app\]"):
        build_server(open_run(run))


@pytest.fixture
def gradio() -> Any:
    return pytest.importorskip("gradio", reason="needs gradio, which test-lowest has")


def test_the_server_predicts_as_the_run(gradio: Any, app_run: Path, synthetic: Path) -> None:
    server, image = build_server(open_run(app_run)), open_folder(synthetic).paths()[0]
    found, drawn = server.fn(str(image))
    expected = open_run(app_run).predict_images(image).iloc[0]
    assert list(found) == [CLASS_NAMES[name] for name in CLASSES]
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-4)
    assert drawn.shape == (*np.array(Image.open(image)).shape[:2], 3)
    assert server.fn(None) == ({}, None)
    assert server.analytics_enabled is False


def test_a_port_in_use_is_an_error(
    gradio: Any, app_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(self: object, **options: object) -> None:
        assert options == {"server_name": "127.0.0.1", "server_port": 80, "share": False}
        raise OSError("Cannot find empty port in range: 80-80.")

    monkeypatch.setattr(gradio.Interface, "launch", launch)
    with pytest.raises(ArgumentError, match=r"empty port in range: 80-80\. Pass another --port\."):
        serve_app(open_run(app_run), 80)
