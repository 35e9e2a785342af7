"""Attention that learns where to look, in a minute, from synthetic images alone.

    python examples/demo.py --out out/picture

Draws skin with one lesion somewhere, of one colour or of two; trains a small network with soft
attention to tell the two apart; says how much of the attention lies on the lesion, which nothing
in the training points at; and calls `softattn explain` on a new image.
"""

import argparse
import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image

from softattn import SoftAttention, SoftAttentionClassifier, wrap_backbone
from softattn.cli import main as softattn

MODEL, AT = "test_resnet", "layer2"  # timm's smallest ResNet, where its map is 20 x 20
SIZE = 160
MEAN, STD = 0.45, 0.225  # near enough to the model's own for all three colours


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images (N, 3, H, W), their kinds (N,), and the masks of their lesions (N, H, W)."""

    def random(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    def texture(cells: int) -> Tensor:
        noise = torch.randn(count, 1, cells, cells, generator=generator)
        return F.interpolate(noise, (SIZE, SIZE), mode="bicubic")[:, 0]

    axis = torch.linspace(-1, 1, SIZE)
    down, across = (random(2, 1, 1) * 1.1 - 0.55).unbind(1)
    down, across = axis[:, None] - down, axis - across
    angle, length = math.pi * random(1, 1), 1 + 0.5 * random(1, 1)
    along = (across * angle.cos() + down * angle.sin()) / length
    aside = (down * angle.cos() - across * angle.sin()) * length
    distance = (along.square() + aside.square()).sqrt() * (1 + 0.12 * texture(7))
    mask = torch.sigmoid((0.16 + 0.14 * random(1, 1) - distance) / 0.015)

    kinds = (random() < 0.5).long()
    spots = torch.sigmoid(6 * texture(14) - 2) * kinds[:, None, None]
    skin = torch.tensor([0.88, 0.68, 0.58]).view(3, 1, 1) + 0.06 * (random(3, 1, 1) - 0.5)
    skin = skin + 0.03 * texture(6)[:, None] + 0.015 * texture(SIZE // 2)[:, None]
    brown = torch.tensor([0.45, 0.26, 0.18]).view(3, 1, 1) + 0.1 * (random(3, 1, 1) - 0.5)
    lesion = brown * (1 - 0.55 * spots[:, None])
    return torch.lerp(skin, lesion, mask[:, None]).clamp(0, 1), kinds, mask


def train(model: SoftAttentionClassifier, steps: int, generator: torch.Generator) -> None:
    """Train on new images in every step."""
    optimizer = torch.optim.AdamW(model.param_groups(lr=2e-3, weight_decay=0.01))
    for step in range(1, steps + 1):
        images, kinds, _ = draw(16, generator)
        loss = F.cross_entropy(model.train()((images - MEAN) / STD), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:4} of {steps}: loss {loss.item():.3f}", flush=True)


@torch.inference_mode()
def evaluate(model: SoftAttentionClassifier, generator: torch.Generator) -> None:
    """Say how often the kind is right, and how much attention lies on the lesion."""
    images, kinds, masks = draw(64, generator)
    scores, maps = model.eval()((images - MEAN) / STD, return_maps=True)
    covered = F.interpolate(masks[:, None], maps.shape[2:], mode="area")
    inside = (maps.sum(1, keepdim=True) * covered).sum((1, 2, 3)) / maps.shape[1]
    right = (scores.argmax(1) == kinds).float().mean()
    print(f"on 64 new images: {right:.0%} right; lesions are {masks.mean():.1%} of the image")
    print(f"and have {inside.mean():.0%} of the attention")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--steps", type=int, default=120)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    # With gamma = positions / maps, uniform attention passes the features on as they are.
    attention = partial(SoftAttention, num_maps=16, gamma=20 * 20 / 16)
    model = wrap_backbone(MODEL, num_classes=2, at=AT, block=attention)
    train(model, options.steps, generator)
    evaluate(model, generator)

    weights, image = options.out / "model.pth", options.out / "lesion.png"
    torch.save(model.state_dict(), weights)
    save_image(draw(1, torch.Generator().manual_seed(7))[0], image)
    arguments = ["explain", str(image), "--model", MODEL, "--at", AT, "--weights", str(weights)]
    print("\n$ softattn", *arguments, "--out", options.out)
    raise SystemExit(softattn([*arguments, "--out", str(options.out)]))


if __name__ == "__main__":
    main()
