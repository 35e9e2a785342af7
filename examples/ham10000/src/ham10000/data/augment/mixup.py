"""Mixup and CutMix: combine two samples of a batch and their targets."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ham10000.data.augment.rng import uniform
from ham10000.errors import ArgumentError

__all__ = ["cutmix", "mixup"]


def mixup(
    images: Tensor, targets: Tensor, positions: Tensor, *, num_classes: int, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Blend each sample with the next one of its batch.

    The partner is in the same rank's batch, so the result depends on the number of ranks. The share
    of the sample is uniform between 0.5 and 1 (a Beta distribution with alpha 1).

    Example:
        >>> import torch
        >>> from ham10000.data import mixup
        >>> images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> mixed, soft = mixup(images, targets, torch.arange(4), num_classes=7, seed=0, epoch=0)
        >>> mixed.shape, soft.shape, soft.sum(1).tolist()
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 7]), [1.0, 1.0, 1.0, 1.0])

    Args:
        images: (B, 3, H, W), floating point.
        targets: (B,), int64.
        positions: (B,), position of each sample in the epoch.
        num_classes: number of classes.
        seed: seed of the run.
        epoch: counted from 0.

    Returns:
        The images, and the targets as the share of each class, (B, num_classes).

    Raises:
        ArgumentError: the images are not floating point.

    Source: Zhang et al., mixup, arXiv:1710.09412.
    """
    _check(images)
    share = 0.5 + 0.5 * uniform(seed, epoch, positions, 1, stream=21)[:, 0].to(images.device)
    mixed = torch.lerp(images.roll(-1, 0), images, share[:, None, None, None].to(images.dtype))
    return mixed, _soften(targets, share, num_classes)


def cutmix(
    images: Tensor, targets: Tensor, positions: Tensor, *, num_classes: int, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Replace a random rectangle of each sample by that of the next sample of its batch.

    Arguments, result and errors are those of `mixup`. The rectangle covers at most half the image.

    Example:
        >>> import torch
        >>> from ham10000.data import cutmix
        >>> images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> mixed, soft = cutmix(images, targets, torch.arange(4), num_classes=7, seed=0, epoch=0)
        >>> soft.sum(1).tolist()
        [1.0, 1.0, 1.0, 1.0]

    Source: Yun et al., CutMix, arXiv:1905.04899.
    """
    _check(images)
    height, width = images.shape[2:]
    draws = uniform(seed, epoch, positions, 3, stream=22).to(images.device)
    part = (0.5 * draws[:, 0]).sqrt()
    inside = torch.ones(len(images), height, width, dtype=torch.bool, device=images.device)
    for axis, extent in ((1, height), (2, width)):
        length = (part * extent).round()
        start = (draws[:, axis] * (extent - length + 1)).floor()
        place = torch.arange(extent, device=images.device)
        within = (place >= start[:, None]) & (place < (start + length)[:, None])
        inside &= within[:, :, None] if axis == 1 else within[:, None, :]
    mixed = torch.where(inside[:, None], images.roll(-1, 0), images)
    # The share is counted, since the rectangle is rounded to pixels.
    share = 1 - inside.float().mean(dim=(1, 2))
    return mixed, _soften(targets, share, num_classes)


def _check(images: Tensor) -> None:
    if not images.is_floating_point():
        raise ArgumentError(
            f"mixing samples: expected floating point images, found {images.dtype}. "
            "Augment them first."
        )


def _soften(targets: Tensor, share: Tensor, num_classes: int) -> Tensor:
    hard = F.one_hot(targets, num_classes).float()
    return torch.lerp(hard.roll(-1, 0), hard, share[:, None].float())
