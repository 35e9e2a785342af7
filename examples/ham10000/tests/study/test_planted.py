"""Studies whose answer is known: images in which one cell of a grid tells the class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ham10000.cli import main
from ham10000.data import CLASSES, synthetic_table

CELLS, CELL = 4, 16
"""Number of cells in a row of an image, and width of a cell in pixels."""

COLOURS = np.array(
    [
        (230, 50, 50),
        (50, 200, 50),
        (50, 80, 230),
        (200, 200, 50),
        (200, 50, 200),
        (50, 200, 200),
        (128, 128, 128),
    ]
)
"""Colour of each class."""

PLACEBO = """
name: placebo
data: {{root: {folder}/data, size: 64, augment: none}}
model: {{backbone: 'timm:test_resnet', weights: {folder}/random.pth, frozen: true, at: layer2}}
attention: {{layer: placebo, gamma: uniform}}
optimizer: {{lr: 0.03}}
schedule: {{name: one_cycle}}
training: {{epochs: 10, monitor: epoch, mode: max}}
"""

ARMS = {
    "again": "base: placebo.yaml\nname: again\n",
    "attention": "base: placebo.yaml\nname: attention\nattention: {layer: soft}\n",
}


def write_images(folder: Path, *, corner: bool) -> None:
    """Write a data set of grids of randomly coloured cells, one of which tells the class.

    It is the upper left one, which attention recognizes by the zero padding of convolutions, or a
    cell at random, which nothing marks.
    """
    rng = np.random.default_rng(0)
    table = synthetic_table(images=280, seed=0)
    classes = table["lesion_id"].factorize()[0] % len(CLASSES)
    table["dx"] = np.array(CLASSES)[classes]
    images = folder / "HAM10000_images_part_1"
    images.mkdir(parents=True)
    for name, label in zip(table["image_id"], classes, strict=True):
        grid = rng.integers(len(CLASSES), size=(CELLS, CELLS))
        grid[(0, 0) if corner else tuple(rng.integers(CELLS, size=2))] = label
        pixels = COLOURS[grid].repeat(CELL, axis=0).repeat(CELL, axis=1)
        noise = rng.normal(0, 12, pixels.shape)
        image = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
        image.save(images / f"{name}.jpg", quality=95)
    table.to_csv(folder / "HAM10000_metadata.csv", index=False)


def study(folder: Path, *arms: str) -> dict[str, Any]:
    """Compare arms with the placebo from the command line, on features of a random network."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "random.pth")
    (folder / "placebo.yaml").write_text(PLACEBO.format(folder=folder))
    for name in arms:
        (folder / f"{name}.yaml").write_text(ARMS[name])
    recipes = [str(folder / f"{name}.yaml") for name in ("placebo", *arms)]
    options = ["--folds", "5", "--seeds", "0", "1", "--parallel", "1"]
    options += ["--out", str(folder / "study")]
    assert main(["study", *recipes, *options]) == 0
    result: dict[str, Any] = json.loads((folder / "study/study.json").read_text())
    return result


@pytest.mark.slow
def test_attention_is_better_and_a_renamed_control_is_not(tmp_path: Path) -> None:
    write_images(tmp_path / "data", corner=True)
    result = study(tmp_path, "again", "attention")
    found = {arm: result["comparisons"][arm]["auc_macro"] for arm in ARMS}
    assert found["attention"]["outcome"] == "better"
    assert found["attention"]["low"] > 0.1
    assert result["verdicts"]["attention"].endswith("attention is better.")
    assert found["again"]["outcome"] == "equivalent"
    assert (found["again"]["low"], found["again"]["high"]) == (0, 0)
    # All cells have the same weight in the mean, so it tells little about one of them.
    assert result["metrics"]["auc_macro"]["placebo"]["mean"] < 0.75


@pytest.mark.slow
def test_attention_is_not_better_where_nothing_marks_the_cell(tmp_path: Path) -> None:
    write_images(tmp_path / "data", corner=False)
    found = study(tmp_path, "attention")["comparisons"]["attention"]["auc_macro"]
    assert found["outcome"] != "better"
    assert found["high"] < 0.1
