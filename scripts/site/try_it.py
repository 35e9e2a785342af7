"""Make the app of the site: a network for drawn lesions, as the page of `ham10000 app`.

    python scripts/site/try_it.py

Draws a data set, trains for less than a minute, and writes build/try/app.html. Without network
access and without ONNX Runtime Web in the cache, the site is built without the app.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from ham10000.data import synthesize
from ham10000.errors import DownloadError
from ham10000.recipe import load_recipe
from ham10000.reporting import find_runtime, write_app
from ham10000.training import open_run, train

OUT = Path(__file__).parents[2] / "build" / "try"
IMAGES, WIDTH = 600, 100
RECIPE = (
    "name=drawn_lesions",
    "data.size=64",
    "data.epoch_samples=1024",
    "data.balance=class",
    "data.workers=0",
    "model.backbone=timm:test_resnet",
    "model.at=layer2",
    "training.epochs=3",
    "logging.tensorboard=false",
    "logging.attention_images=0",
)


def main() -> None:
    """Draw, train and write the page."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    try:
        runtime = find_runtime()
    except DownloadError as error:
        print(f"The site is built without the app: {error}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        synthesize(data, images=IMAGES, seed=0, width=WIDTH)
        stopped = train(load_recipe("smoke_sa", [*RECIPE, f"data.root={data}"]), run)
        if stopped:
            sys.exit(stopped)
        found = write_app(open_run(run), OUT / "app.html", runtime=runtime, examples=7)
    print(f"App: {found.size / 1e6:.1f} MB. Weights: {found.weights}")
    (OUT / "try.txt").write_text("The app was made.\n")


if __name__ == "__main__":
    main()
