"""Draw the figures of the guides into docs/images by running the code of the guides.

python docs/figures/from_guides.py
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from cycler import cycler
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from torch import Tensor

from softattn.plot import overlay, relative_to_uniform

DOCS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(DOCS.parent / "scripts"))

from guide_blocks import blocks, run_python  # noqa: E402

# Files that the code of a page writes, and their names in docs/images.
PICTURES = {
    "start": {"lesion.png": "start.png"},
    "insert": {"gamma.png": "insert-gamma.png"},
    "maps": {"training.gif": "maps-training.gif"},
}
# Colours of figures on dark pages, whose names end with -dark: the background is that of the pages.
INK, SURFACE = "#e2e0e8", "#211d2b"
DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), SURFACE),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "legend.labelcolor"), INK),
    "axes.prop_cycle": cycler(color=["#fdc18f", "#b9a5f0", "#7fb9e0", "#8fd19e"]),
}


def run(page: str, suffix: str = "") -> dict[str, Any]:
    """Run the code of a page in an empty folder, copy its figures, and return its variables."""
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            path = DOCS / "guides" / f"{page}.md"
            for block in blocks(path):
                if block.language == "python":
                    run_python(path, block, names)
            for written, kept in PICTURES[page].items():
                name, kind = kept.split(".")
                if kind == "png" or not suffix:
                    keep(Path(written), DOCS / "images" / f"{name}{suffix}.{kind}")
        finally:
            os.chdir(before)
    return names


def keep(picture: Path, target: Path) -> None:
    """Copy a figure with fewer colours, so that it is small enough to be committed."""
    if picture.suffix == ".png":
        image = Image.open(picture).convert("RGB")
        image.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    else:
        shown = ImageSequence.Iterator(Image.open(picture))
        frames = [frame.convert("RGB").quantize(64) for frame in shown]
        options = {"save_all": True, "append_images": frames[1:], "loop": 0, "optimize": True}
        frames[0].save(target, duration=200, **options)


def steps_of_the_equation(model: Any, image: Tensor, suffix: str = "") -> None:
    """Draw the result of each step of the equation in the model trained by the page `start`."""
    attention = model.attention
    with torch.inference_mode():
        t = model.backbone(4 * image[None] - 2)
        logits = F.conv2d(t, attention.weight, padding=1)[0]
        maps = attention(t, return_maps=True)[1][0]
    strongest = t[0].amax((1, 2)).topk(3).indices
    summed = relative_to_uniform(maps.sum(0))
    row(f"t{suffix}", [image.permute(1, 2, 0), *t[0][strongest]])
    row(f"logits{suffix}", list(logits[:4]))
    row(f"maps{suffix}", list(maps[:4]))
    row(f"sum{suffix}", [summed, overlay(image, summed)])


def row(name: str, pictures: list[Tensor]) -> None:
    """Draw pictures in a row."""
    figure = Figure(figsize=(1.6 * len(pictures), 1.6), layout="constrained")
    cells = figure.subplots(1, len(pictures), squeeze=False)[0]
    for cell, picture in zip(cells, pictures, strict=True):
        cell.imshow(picture.clamp(0, 1) if picture.ndim == 3 else picture, cmap="magma")
        cell.axis("off")
    path = DOCS / "images" / f"equation-{name}.png"
    figure.savefig(path, dpi=100)
    keep(path, path)


def main() -> None:
    """Draw all figures."""
    for suffix, colours in (("", {}), ("-dark", DARK)):
        with matplotlib.rc_context(colours):
            # The animation of the page `maps` has no background.
            pages = [page for page in PICTURES if not suffix or page != "maps"]
            names = {page: run(page, suffix) for page in pages}
            start = names["start"]
            steps_of_the_equation(start["model"], start["images"][0], suffix)


if __name__ == "__main__":
    main()
