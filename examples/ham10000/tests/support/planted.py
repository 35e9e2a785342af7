"""Images with a lesion-like mask in one corner, and a model that learns to find it."""

from functools import partial

import torch
from softattn import SoftAttention, SoftAttentionClassifier, wrap_backbone
from torch import Tensor, nn

HUES = torch.rand(7, 3, generator=torch.Generator().manual_seed(99)) * 4 - 2


def planted(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images with four coloured corners. The class is the colour of the striped corner."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 7, (count, 4), generator=generator)
    corner = torch.randint(0, 4, (count,), generator=generator)
    striped = nn.functional.one_hot(corner, 4).reshape(count, 1, 2, 2)
    stripes = (torch.arange(32) // 2 % 2 * 2 - 1).float()
    quarters = HUES[colours].permute(0, 2, 1).reshape(count, 3, 2, 2)
    large = quarters.repeat_interleave(16, 2).repeat_interleave(16, 3)
    masks = striped.repeat_interleave(16, 2).repeat_interleave(16, 3)
    noise = 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
    images = large + masks * stripes + noise
    return images, colours.gather(1, corner[:, None])[:, 0], masks[:, 0].bool()


def train_on_planted() -> SoftAttentionClassifier:
    """Trained for seconds on the planted case."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()]
    layers += [nn.Conv2d(24, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
    attention = partial(SoftAttention, num_maps=4, gamma=None)
    built = wrap_backbone(nn.Sequential(*layers), 7, block=attention, input_size=32)
    images, targets, _ = planted(2000, seed=1)
    optimizer = torch.optim.Adam(built.parameters(), 3e-3)
    for _ in range(6):
        for part in torch.randperm(2000).split(50):
            loss = nn.functional.cross_entropy(built(images[part]), targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return built.eval()
