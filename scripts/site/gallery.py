"""Make the gallery: the attention of a network on twelve synthetic images.

    python scripts/site/gallery.py

Trains a small network for less than a minute to classify seven kinds of drawn lesions at random
positions on drawn skin, and writes the figures and their HTML to build/gallery.
"""

import argparse
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from ham10000.data.synthetic.draw import KINDS, View, draw_lesion, hairs, make_lesion, skin
from PIL import Image
from torch import Tensor

from softattn import SoftAttentionClassifier, wrap_backbone
from softattn.plot import overlay, relative_to_uniform

OUT = Path(__file__).parents[2] / "build" / "gallery"
NAMES = {
    "akiec": "an actinic keratosis",
    "bcc": "a basal cell carcinoma",
    "bkl": "a benign keratosis",
    "df": "a dermatofibroma",
    "mel": "a melanoma",
    "nv": "a naevus",
    "vasc": "a vascular lesion",
}
MAPS, SEEN, SHOWN, TILE = 16, 160, 400, 256
"""Number of maps; width of an image for the network, on the page, and of a map overlay."""
IMAGES, TRAINED = 12, 448


class Drawn(NamedTuple):
    """A drawing of one lesion."""

    kind: str
    image: Tensor
    """(3, H, W), from 0 to 1."""
    mask: Tensor
    """(H, W), 1 on the lesion."""


def picture(kind: str, size: int, rng: np.random.Generator) -> Drawn:
    """Draw one lesion at a random position on skin, sometimes with hairs."""
    image = skin((size, size), rng)
    centre = (float(rng.uniform(0.28, 0.72)), float(rng.uniform(0.28, 0.72)))
    view = View(float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.75, 1.2)), centre)
    mask = draw_lesion(image, make_lesion(kind, rng), view)
    if rng.random() < 0.3:
        hairs(image, rng)
    pixels = np.clip(image + rng.normal(0, 0.012, image.shape), 0, 1).astype(np.float32)
    return Drawn(kind, torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(mask).float())


def pictures(count: int, size: int, seed: int) -> list[Drawn]:
    """Draw the same number of lesions of each kind."""
    rng = np.random.default_rng(seed)
    return [picture(list(KINDS)[number % len(KINDS)], size, rng) for number in range(count)]


def seen(drawn: list[Drawn]) -> Tensor:
    """Return the inputs of the network, (B, 3, H, W)."""
    images = torch.stack([each.image for each in drawn])
    return (F.interpolate(images, (SEEN, SEEN), mode="area") - 0.45) / 0.225


def train(steps: int) -> SoftAttentionClassifier:
    """Train a network on class labels only."""
    torch.manual_seed(0)
    drawn = pictures(TRAINED, SEEN, seed=0)
    images, kinds = seen(drawn), torch.tensor([list(KINDS).index(each.kind) for each in drawn])
    model = wrap_backbone("timm:test_resnet", len(KINDS), at="layer2", num_maps=MAPS)
    optimizer = torch.optim.AdamW(model.param_groups(lr=2e-3, weight_decay=0.01))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for step in range(steps):
        batch = torch.randint(TRAINED, (16,))
        turned = images[batch].rot90(step % 4, dims=(2, 3))
        loss = F.cross_entropy(model.train()(turned), kinds[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def look(model: SoftAttentionClassifier, drawn: list[Drawn]) -> tuple[Tensor, Tensor]:
    """Return the maps (B, K, h, w) and the fraction of each inside the lesion, (B, K)."""
    _, maps = model(seen(drawn), return_maps=True)
    masks = torch.stack([each.mask for each in drawn])[:, None]
    covered = F.interpolate(masks, maps.shape[2:], mode="area")
    return maps, (maps * covered).sum((2, 3))


def save(pixels: Tensor, name: str) -> None:
    """Write an image (H, W, 3) with values from 0 to 1."""
    image = Image.fromarray((pixels * 255).round().byte().numpy())
    image.save(OUT / f"{name}.webp", quality=85, method=6)


def figures(number: int, drawn: Drawn, maps: Tensor) -> None:
    """Write an image, the overlay of the summed map, and a sheet with overlays of all maps."""
    save(drawn.image.permute(1, 2, 0), f"{number}-image")
    save(overlay(drawn.image, relative_to_uniform(maps.sum(0))), f"{number}-sum")
    small = F.interpolate(drawn.image[None], (TILE, TILE), mode="area")[0]
    tiles = torch.stack([overlay(small, each) for each in maps])
    sheet = tiles.unflatten(0, (4, 4)).permute(0, 2, 1, 3, 4).reshape(4 * TILE, 4 * TILE, 3)
    save(sheet, f"{number}-maps")


def choice(number: int, drawn: Drawn, shares: Tensor) -> str:
    """Return the HTML button of an image with its caption."""
    name = f"Image {number + 1}: {NAMES[drawn.kind]}, drawn"
    area = f"{drawn.mask.mean():.0%}".replace("%", " %")
    percent = " ".join(str(round(100 * share)) for share in shares.tolist())
    return (
        f'<button type="button" data-number="{number}" data-shares="{percent}" '
        f'data-area="{area}" aria-pressed="false"><img src="{number}-image.webp" '
        f'width="{SHOWN}" height="{SHOWN}" loading="lazy" alt="{escape(name)}"></button>'
    )


def main() -> None:
    """Draw, train and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=250, help="of training; default: 250")
    steps = parser.parse_args().steps
    OUT.mkdir(parents=True, exist_ok=True)
    model = train(steps)
    drawn = pictures(IMAGES, SHOWN, seed=12)
    maps, shares = look(model, drawn)
    for number, each in enumerate(drawn):
        figures(number, each, maps[number])
    buttons = [choice(number, each, shares[number]) for number, each in enumerate(drawn)]
    (OUT / "gallery.txt").write_text("\n".join(buttons) + "\n")
    areas = torch.stack([each.mask for each in drawn]).mean()
    print(f"{shares.mean():.0%} of the attention on lesions that cover {areas:.0%} of the images")


if __name__ == "__main__":
    main()
