"""A model as one self-contained HTML page that predicts in the browser, or as a local server."""

import base64
import gzip
import hashlib
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import pooch
import torch
from markupsafe import Markup
from matplotlib import colormaps
from softattn.plot import overlay

from ham10000.data import SYNTHETIC, Patience, fetch, read_image
from ham10000.errors import (
    ArgumentError,
    DataError,
    DownloadError,
    ExportError,
    Ham10000Error,
    MissingDataError,
    MissingPackageError,
)
from ham10000.recipe import MAP_LAYERS
from ham10000.reporting.export import TERMS, export_run
from ham10000.reporting.figures import reliability_figure
from ham10000.reporting.runs import (
    calibration_bins,
    describe_test,
    example_images,
    images_of_test,
    stored_predictions,
)
from ham10000.reporting.style import DARK, LIGHT, data_uri, embed
from ham10000.training import Run, find_images, normalize, read_pixels
from ham10000.utils import write_text

__all__ = ["AppSummary", "AppWeights", "build_server", "find_runtime", "serve_app", "write_app"]

AppWeights = Literal["auto", "fp32", "fp16", "int8"]
"""Format in which the weights are stored; auto: the most precise one that fits into the page."""

MAX_BYTES = 40_000_000
"""Largest size of the page."""

RUNTIME_VERSION = "1.30.0"
RUNTIME_URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{RUNTIME_VERSION}.tgz"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""onnxruntime-web from npm, the archive of the exact version, 33 MB."""

_RUNTIME_FILES = {
    "script": "package/dist/ort.wasm.min.js",
    "loader": "package/dist/ort-wasm-simd-threaded.mjs",
    "wasm": "package/dist/ort-wasm-simd-threaded.wasm",
}
_MARGIN = 200_000  # bytes for the page without model, runtime and examples
_CHECKED = 200  # test images on which stored weights are compared with those of the run
_FEW = 20  # with fewer test images in a bin, the page does not quote its accuracy
_SMALL = 1024  # tensors with fewer elements, such as biases, keep 32 bits
_POLICY = (
    "default-src 'none'; script-src '{script}' 'wasm-unsafe-eval' blob:; worker-src blob:; "
    "style-src '{style}'; img-src blob: data:; base-uri 'none'; form-action 'none'"
)
_WEIGHTS = {
    "fp32": "32 bits each",
    "fp16": "16 bits each, converted to 32 bits",
    "int8": "8 bits each, with a scale for each channel, converted to 32 bits",
}


@dataclass(frozen=True)
class AppSummary:
    """Size and accuracy of a page."""

    size: int
    """Size of the page in bytes."""
    weights: str
    """How the weights are stored, and what that changes, as text."""
    difference: float
    """Largest difference of a probability to the model of the run."""


def write_app(
    run: Run,
    out: Path,
    *,
    weights: AppWeights = "auto",
    runtime: Path | None = None,
    data: Path | None = None,
    examples: int = 0,
) -> AppSummary:
    """Write the model of a run as one HTML page, which predicts images in the browser.

    The page contains the model, ONNX Runtime Web and everything else that it needs. Its
    Content-Security-Policy forbids all requests. Weights are stored with fewer bits if they would
    not fit otherwise, and are computed with in float32.

    Args:
        run: From `open_run`.
        out: HTML file to write.
        weights: Format of the stored weights.
        runtime: Archive of onnxruntime-web (`RUNTIME_URL`). By default, it is downloaded once
            into the user's cache.
        data: Folder of the data set, for the comparison on test images. Defaults to that of the
            training. Without a data set, models are compared on random pixels.
        examples: Number of test images to embed. The licence of the data applies to the page then.

    Raises:
        ArgumentError: `examples` is negative.
        DownloadError: The runtime is not in the cache and cannot be downloaded.
        ExportError: The model cannot be exported, or is too large for a page.
        Ham10000Error: The runtime, the model or an example cannot be read, a package for the export
            is not installed, or the page cannot be written.
    """
    doing = f"writing the app {out}"
    if examples < 0:
        raise ArgumentError(f"{doing}: --examples must be 0 or more, found {examples}.")
    parts = _read_runtime(find_runtime(runtime, doing))
    own = [_template(name).encode() for name in ("preprocess.js", "app_worker.js")]
    parts["worker"] = b"\n".join([parts.pop("script"), *own])
    with tempfile.TemporaryDirectory() as folder:
        export_run(run, "onnx", Path(folder) / "model")
        exact = (Path(folder) / "model" / "model.onnx").read_bytes()
    blocks, embedded = {k: _packed(v) for k, v in parts.items()}, _embedded(run, data, examples)
    around = sum(map(len, blocks.values())) + sum(len(each["image"]) for each in embedded)
    for each in ("fp32", "fp16", "int8") if weights == "auto" else (weights,):
        model = _with_weights(exact, each)
        blocks["model"] = _packed(model)
        if (size := around + len(blocks["model"]) + _MARGIN) <= MAX_BYTES:
            break
    else:
        advice = "Use" if each == "int8" else "Pass --weights int8, or use"
        raise ExportError(
            f"{doing}: with {each} weights the page has {size / 1e6:.0f} MB, more than "
            f"{MAX_BYTES / 1e6:.0f} MB. {advice} a run with a smaller backbone."
        )
    difference, text = _compare(run, model, data)
    page = _render(run, blocks, text := f"{_WEIGHTS[each]}. {text}", embedded)
    write_text(out, page)
    return AppSummary(len(page.encode()), text, difference)


def find_runtime(path: Path | None = None, doing: str = "finding onnxruntime-web") -> Path:
    """Return the archive of onnxruntime-web, and download it into the user's cache if it is new.

    Args:
        path: An archive that was downloaded before, instead of that in the cache.
        doing: What messages start with.

    Raises:
        MissingDataError: There is no file at `path`.
        DataError: The file at `path` is another one.
        DownloadError: The archive is not in the cache and cannot be downloaded.
    """
    if path is not None:
        if not path.is_file():
            raise MissingDataError(f"{doing}: {path} is not a file. Download {RUNTIME_URL}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != RUNTIME_SHA256:
            raise DataError(
                f"{doing}: {path} is not the archive of onnxruntime-web {RUNTIME_VERSION}: its "
                f"SHA-256 is {found}, expected {RUNTIME_SHA256}. Download {RUNTIME_URL}"
            )
        return path
    cached = Path(pooch.os_cache("ham10000")) / f"onnxruntime-web-{RUNTIME_VERSION}.tgz"
    sums, patience = f"sha256:{RUNTIME_SHA256}", Patience(attempts=2, pause=1)
    try:
        return fetch(RUNTIME_URL, cached, sums=sums, patience=patience)
    except DownloadError as error:
        reason = str(error).partition(f"{RUNTIME_URL}: ")[2].rstrip(".")
        raise DownloadError(
            f"{doing}: onnxruntime-web {RUNTIME_VERSION} is not in the cache {cached.parent}, and "
            f"cannot be downloaded ({reason}). Download {RUNTIME_URL} on another machine, and pass "
            "the file with --runtime."
        ) from error


def _read_runtime(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        files = {part: archive.extractfile(name) for part, name in _RUNTIME_FILES.items()}
        return {part: file.read() for part, file in files.items() if file is not None}


def _with_weights(content: bytes, weights: str) -> bytes:
    """Store large weights with fewer bits, and convert them to float32 when the model is loaded.

    ONNX Runtime evaluates the conversions once, as constants.
    """
    if weights == "fp32":
        return content
    import onnx
    from onnx import numpy_helper
    from onnx.helper import make_node

    model = onnx.load_from_string(content)
    graph, nodes = model.graph, []
    for tensor in list(graph.initializer):
        values, name = numpy_helper.to_array(tensor), tensor.name
        largest = float(np.abs(values).max(initial=0))
        if values.dtype != np.float32 or values.ndim < 2 or values.size < _SMALL or largest > 65504:
            continue
        graph.initializer.remove(tensor)
        if weights == "fp16":
            stored, cast = values.astype(np.float16), name
        else:  # one scale for each output channel
            axes = tuple(range(1, values.ndim))
            scale = np.maximum(np.abs(values).max(axes, keepdims=True), 1e-12) / 127
            stored, cast = np.round(values / scale).astype(np.int8), f"{name}:cast"
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}:scale"))
        graph.initializer.append(numpy_helper.from_array(stored, f"{name}:stored"))
        nodes.append(make_node("Cast", [f"{name}:stored"], [cast], to=onnx.TensorProto.FLOAT))
        if cast != name:
            nodes.append(make_node("Mul", [cast, f"{name}:scale"], [name]))
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    result: bytes = model.SerializeToString()
    return result


def _compare(run: Run, model: bytes, data: Path | None) -> tuple[float, str]:
    """Return the largest difference to the probabilities of the run, and a text about it."""
    import onnxruntime

    known, size = images_of_test(run), run.recipe.data.size
    targets = [run.info.classes.index(dx) for dx in known.values()][:_CHECKED]
    try:
        paths = find_images(run, list(known)[:_CHECKED], data, "checking the app with").paths
        pixels = torch.stack(list(read_pixels(paths, size)))
        what = f"{len(pixels)} test images"
    except Ham10000Error:
        if data is not None:
            raise
        targets, generator = [], torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (8, 3, size, size), generator=generator).byte()
        what = "8 images of random pixels, since the data set of the training is not there"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    network, rows = run.load_model(), []
    with torch.inference_mode():
        for start in range(0, len(pixels), 16):
            batch = normalize(pixels[start : start + 16], run.recipe)
            ours = session.run(["probabilities"], {"images": batch.numpy()})[0]
            rows.append(np.stack([network(batch).softmax(1).numpy(), ours]))
    exact, stored = np.concatenate(rows, axis=1)
    difference = float(np.abs(stored - exact).max())
    changed = int((stored.argmax(1) != exact.argmax(1)).sum())
    text = (
        f"On {what}, no probability differs by more than {np.ceil(difference * 1e5) / 1e5:.5f} "
        f"from that of PyTorch, and the predicted class of {changed or 'none'} changes."
    )
    if targets:
        before, after = (100 * (each.argmax(1) == targets).mean() for each in (exact, stored))
        text += f" Accuracy: {before:.1f} % with PyTorch, {after:.1f} % in this page."
    return difference, text


def _embedded(run: Run, data: Path | None, count: int) -> list[dict[str, str]]:
    chosen = example_images(run, count)
    found = []
    for path in find_images(run, list(chosen), data, "making the app with").paths if chosen else []:
        kind = "png" if path.suffix.lower() == ".png" else "jpeg"
        name = run.info.class_names[chosen[path.stem]]
        found.append({"image": data_uri(path.read_bytes(), kind), "name": name})
    return found


def _render(run: Run, blocks: dict[str, str], weights: str, examples: list[dict[str, str]]) -> str:
    recipe, predictions = run.recipe, stored_predictions(run)
    has_attention = recipe.attention.layer in MAP_LAYERS
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {DARK.variables} }} }}"
    style = f":root {{ {LIGHT.variables} }}\n{dark}\n{_template('app.css')}"
    script, figure = _template("app.js"), None
    if predictions is not None:
        targets, scores = predictions.targets, predictions.probabilities
        figure = embed(
            lambda theme: reliability_figure(targets, scores, theme=theme),
            "Accuracy by predicted probability, with the number of images.",
        )
    palette = colormaps["magma"](np.linspace(0, 1, 256))[:, :3] * 255
    config = {
        "classes": list(run.info.class_names.values()),
        "names": run.info.classes,
        "size": recipe.data.size,
        "mean": recipe.model.mean,
        "std": recipe.model.std,
        "bins": [] if predictions is None else calibration_bins(predictions),
        "few": _FEW,
        "colours": palette.round().astype(int).tolist(),
    }
    num_train = (run.split_table["split"] == "train").sum()
    facts = {
        "Network": f"{recipe.model.backbone}, attention: {recipe.attention.layer}",
        "Training": f"{num_train:,} images of {run.data_name}, seed {recipe.seed}",
        "Input": f"the whole image, resized to {recipe.data.size} x {recipe.data.size} pixels",
        "Weights": weights,
        "Computed by": f"ONNX Runtime Web {RUNTIME_VERSION}, on one core of this device",
        "Written by": f"ham10000 {version('ham10000')}, softattn {version('softattn')}",
    }
    loader = jinja2.PackageLoader("ham10000.reporting", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("app.html.j2").render(
        title=f"{recipe.name}: a classifier of skin lesions",
        policy=_POLICY.format(script=_hash(script), style=_hash(style)),
        css=Markup(style),  # nosec: a file of this package
        script=Markup(script),  # nosec: likewise
        config=config,
        synthetic=run.data_name == SYNTHETIC,
        attention=has_attention,
        meaning=describe_test(run, predictions),
        figure=figure,
        facts=facts,
        examples=examples,
        terms=TERMS.get(run.data_name, run.info.licence),
        runtime=RUNTIME_VERSION,
        licence=_template("onnxruntime_licence.txt"),
        blocks=blocks,
    )


def _template(name: str) -> str:
    return (files("ham10000.reporting") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def build_server(run: Run, doing: str = "serving a model") -> Any:
    """Return the model of a run as a `gradio.Interface`.

    Raises:
        ExportError: The model needs metadata.
        MissingPackageError: Gradio is not installed.
        Ham10000Error: The model cannot be loaded.
    """
    if run.recipe.data.metadata:
        raise ExportError(
            f"{doing}: the model also needs metadata of each image (data.metadata), which an image "
            "does not have. Use a run that was trained with data.metadata=false."
        )
    try:
        import gradio
    except ImportError as error:
        raise MissingPackageError(
            f"{doing}: the package {error.name} is not installed. Install Gradio with: "
            "pip install -e 'examples/ham10000[app]'"
        ) from error
    has_attention, model = run.recipe.attention.layer in MAP_LAYERS, run.load_model()
    names = run.info.class_names.values()

    @torch.inference_mode()
    def predict(path: str | None) -> Any:
        if path is None:  # the image was removed
            return ({}, None) if has_attention else {}
        inputs = run.preprocess(path)
        scores, *maps = model(inputs, return_maps=True) if has_attention else [model(inputs)]
        found = dict(zip(names, scores.softmax(1)[0].tolist(), strict=True))
        return (found, overlay(read_image(Path(path)), maps[0][0]).numpy()) if maps else found

    outputs = [gradio.Label(label="Probability of each class", num_top_classes=len(names))]
    return gradio.Interface(
        predict,
        # With image_mode None, the function gets the file as it is.
        gradio.Image(type="filepath", image_mode=None, label="Image of one lesion"),
        outputs + ([gradio.Image(label="Attention", format="png")] if has_attention else []),
        title=f"{run.recipe.name}: a classifier of skin lesions",
        description="**Not a medical device.** For research and teaching only.",
        article="\n\n".join(describe_test(run, stored_predictions(run))),
        flagging_mode="never",
        analytics_enabled=False,
    )


def serve_app(run: Run, port: int) -> None:
    """Serve the model of a run with Gradio, on this machine only, until Ctrl-C.

    Raises:
        ArgumentError: The port is in use.
        Ham10000Error: As raised by `build_server`.
    """
    doing = f"serving {run.folder}"
    server = build_server(run, doing)
    try:
        server.launch(server_name="127.0.0.1", server_port=port, share=False)
    except OSError as error:
        raise ArgumentError(f"{doing}: {error} Pass another --port.") from error
