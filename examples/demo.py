"""Train a small network with Soft-Attention on synthetic lesions, and draw its attention.

    python examples/demo.py --out out/picture

The images show skin with a lesion of one or two colours, and the network is trained on this class
label alone, for about a minute. The script prints the accuracy and the fraction of the attention
that falls on the lesion, and calls `softattn explain` on a new image.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image

from softattn import SoftAttentionClassifier, wrap_backbone
from softattn.cli import main as softattn

MODEL, AT = "test_resnet", "layer2"  # timm's smallest ResNet; the feature map is 20 x 20
SIZE = 160
MEAN, STD = 0.45, 0.225  # the mean over channels of the model's own values


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images (N, 3, H, W) with their classes (N,) and lesion masks (N, H, W)."""

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
    """Train, with new images in every step."""
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
    """Print the accuracy, and the fraction of the attention that falls on the lesion."""
    images, kinds, masks = draw(64, generator)
    scores, maps = model.eval()((images - MEAN) / STD, return_maps=True)
    covered = F.interpolate(masks[:, None], maps.shape[2:], mode="area")
    inside = (maps.sum(1, keepdim=True) * covered).sum((1, 2, 3)) / maps.shape[1]
    right = (scores.argmax(1) == kinds).float().mean()
    print(f"64 new images: {right:.0%} classified correctly")
    print(f"lesions: {masks.mean():.1%} of the area, {inside.mean():.0%} of the attention")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for all files")
    parser.add_argument("--steps", type=int, default=120, help="training steps (default: 120)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    model = wrap_backbone(MODEL, num_classes=2, at=AT, input_size=SIZE)
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
