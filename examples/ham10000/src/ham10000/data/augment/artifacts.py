"""Artifacts of dermoscopy drawn on a batch: hairs and ruler marks."""

import math

import torch
from torch import Tensor

from ham10000.data.augment.rng import uniform

__all__ = ["draw_hairs", "draw_rulers"]

MAX_HAIRS = 6
_HAIR_COLUMNS = 8


def draw_hairs(images: Tensor, seed: int, epoch: int, positions: Tensor, share: float) -> None:
    """Draw a few dark curved hairs over a share of the images.

    Args:
        images: (B, 3, H, W), in [0, 1], changed in place.
        seed: seed of the run.
        epoch: counted from 0.
        positions: (B,), position of each sample in the epoch.
        share: share of the images that get hairs.
    """
    height, width = images.shape[2:]
    draws = uniform(seed, epoch, positions, 2 + MAX_HAIRS * _HAIR_COLUMNS, stream=11)
    chosen = (draws[:, 0] < share).nonzero()[:, 0]
    if len(chosen) == 0:
        return
    draws = draws[chosen]
    count = 1 + (draws[:, 1] * MAX_HAIRS).long()
    hairs = draws[:, 2:].reshape(-1, MAX_HAIRS, _HAIR_COLUMNS).to(images.device)
    shown = (torch.arange(MAX_HAIRS) < count[:, None]).to(images.device)
    # A hair is a parabola through three points, sampled densely enough to leave no gap.
    along = torch.linspace(0, 1, 2 * max(height, width), device=images.device)
    start, middle, end = hairs[..., 0:2], hairs[..., 2:4] * 0.6 + 0.2, hairs[..., 4:6]
    points = (
        start[..., None] * (1 - along) ** 2
        + middle[..., None] * (2 * along * (1 - along))
        + end[..., None] * along**2
    )
    column = (points[:, :, 0] * (width - 1)).round().long()
    row = (points[:, :, 1] * (height - 1)).round().long()
    dark = (0.5 + 0.4 * hairs[..., 6]) * shown
    thick = (hairs[..., 7] * max(1.0, width / 150)).round().long()
    alpha = images.new_zeros(len(chosen), height * width)
    for step in range(1 + int(thick.max())):
        place = (row * width + (column + step).clamp(max=width - 1)).flatten(1)
        value = (dark * (thick >= step))[..., None].expand_as(row).flatten(1)
        alpha.scatter_reduce_(1, place, value.to(alpha.dtype), "amax")
    images[chosen.to(images.device)] *= 1 - alpha.reshape(-1, 1, height, width)


def draw_rulers(images: Tensor, seed: int, epoch: int, positions: Tensor, share: float) -> None:
    """Draw the scale of a ruler along an edge of a share of the images.

    The arguments are those of `draw_hairs`.
    """
    height, width = images.shape[2:]
    draws = uniform(seed, epoch, positions, 6, stream=12)
    chosen = (draws[:, 0] < share).nonzero()[:, 0]
    if len(chosen) == 0:
        return
    side, pitch, offset, inset, dark = (
        draws[chosen, 1:].to(images.device)[:, :, None, None].unbind(1)
    )
    across = torch.arange(width, device=images.device)[None, None, :]
    down = torch.arange(height, device=images.device)[None, :, None]
    number = (side * 4).long()
    upright = number % 2 == 1
    along = torch.where(upright, down, across)
    depth = torch.where(upright, across, down)
    extent = torch.where(upright, width, height)
    depth = torch.where(number >= 2, extent - 1 - depth, depth)
    depth = depth - (inset * 0.15 * extent).floor()
    spacing = (0.03 + 0.04 * pitch) * width
    place = (along + offset * spacing) / spacing
    tick = place.round()
    on_line = ((place - tick).abs() * spacing) <= max(0.5, width / 400)
    long = torch.where(tick % 5 == 0, 0.08, 0.04) * extent
    inked = on_line & (depth >= 0) & (depth < long.clamp_min(math.ceil(height / 50)))
    images[chosen.to(images.device)] *= 1 - (inked * (0.4 + 0.5 * dark))[:, None].to(images.dtype)
