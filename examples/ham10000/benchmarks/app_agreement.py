"""Agreement and speed of the page of `ham10000 app`, in Chromium, on real images.

    python examples/ham10000/benchmarks/app_agreement.py RUN [--images 200] [--weights fp32]

HAM10000_DIR names the data set. Each image is predicted twice in the page: from its JPEG, which the
browser decodes, and from a PNG of the pixels that Pillow decodes, which leaves out differences of
JPEG decoders. Both are compared with the run in PyTorch.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ham10000.data import CLASSES, data_folder, open_folder
from ham10000.reporting import write_app
from ham10000.training import open_run

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--weights", default="auto", choices=["auto", "fp32", "fp16", "int8"])
    parser.add_argument("--runtime", type=Path, help="archive of onnxruntime-web")
    parser.add_argument("--json", type=Path, help="also write the results")
    options = parser.parse_args()
    run, paths = open_run(options.run), open_folder(data_folder(None)).paths()
    chosen = [paths[k] for k in np.linspace(0, len(paths) - 1, options.images).astype(int)]
    expected = run.predict_images(chosen, tta=1).to_numpy()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "app.html"
        size = write_app(run, page, weights=options.weights, runtime=options.runtime).size
        pixels = []
        for path in chosen:
            pixels.append(Path(folder) / f"{path.stem}.png")
            with Image.open(path) as image:
                image.convert("RGB").save(pixels[-1])
        found = {"images": len(chosen), "megabytes": round(size / 1e6, 1), "cores": os.cpu_count()}
        found |= measure(page, chosen, pixels, expected)
    for name, value in found.items():
        print(f"{name:40} {value}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(
    page: Path, files: list[Path], pixels: list[Path], expected: "np.ndarray[Any, Any]"
) -> dict[str, object]:
    """Predict all images in the page and return differences and seconds."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        shown, started = browser.new_page(), time.perf_counter()
        shown.goto(page.as_uri())
        shown.get_by_text("Ready. Choose an image.").wait_for(timeout=120_000)
        loaded = time.perf_counter() - started
        started = time.perf_counter()
        first = predict(shown, files[0])
        one = time.perf_counter() - started
        started = time.perf_counter()
        jpeg = np.array([first, *(predict(shown, file) for file in files[1:])])
        each = (time.perf_counter() - started) / max(len(files) - 1, 1)
        png = np.array([predict(shown, file) for file in pixels])
        version = browser.version
        browser.close()
    return {
        "chromium": version,
        "largest difference, JPEG": f"{np.abs(jpeg - expected).max():.1e}",
        "largest difference, decoded pixels": f"{np.abs(png - expected).max():.1e}",
        "predicted classes that differ, JPEG": int((jpeg.argmax(1) != expected.argmax(1)).sum()),
        "seconds until ready": round(loaded, 2),
        "seconds of the first prediction": round(one, 2),
        "seconds of each further one": round(each, 2),
    }


def predict(shown: Page, file: Path) -> list[float]:
    """Return the probabilities of an image in the order of the classes."""
    shown.evaluate("document.querySelector('#probabilities tbody').replaceChildren()")
    shown.locator("input[type=file]").first.set_input_files(file)
    rows = shown.locator("#probabilities tbody tr")
    rows.first.wait_for(timeout=60_000)
    found = dict(
        rows.evaluate_all("all => all.map(it => [it.dataset.name, Number(it.dataset.probability)])")
    )
    return [found[name] for name in CLASSES]


if __name__ == "__main__":
    main()
