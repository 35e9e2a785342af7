"""Colour augmentation: jitter as one 3 x 4 matrix per sample, and four more operations."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["COLUMNS", "OPERATION_COLUMNS", "apply", "jitter", "random_operation"]

COLUMNS = 4
"""Number of random numbers for `jitter`: brightness, contrast, saturation, hue."""

OPERATION_COLUMNS = 3
"""Number of random numbers for `random_operation`: kind, strength, and whether it is applied."""

_LUMA = (0.299, 0.587, 0.114)


def jitter(
    draws: Tensor,
    means: Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Tensor:
    """Convert random numbers to colour matrices.

    All four changes are linear in the colour, so together with a normalization they are one product
    per pixel. Hue rotates colours about the grey axis, which keeps the sum of red, green and blue.

    Example:
        >>> import torch
        >>> from ham10000.data.augment.colour import jitter
        >>> halves, means = torch.full((1, 4), 0.5), torch.full((1, 3), 0.6)
        >>> strength = dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
        >>> jitter(halves, means, **strength).round(decimals=3).abs()
        tensor([[[1., 0., 0., 0.],
                 [0., 1., 0., 0.],
                 [0., 0., 1., 0.]]])

    Args:
        draws: (B, COLUMNS), uniform in [0, 1).
        means: (B, 3), mean colour of each image in [0, 1], which contrast keeps.
        brightness: the factor is between 1 - brightness and 1 + brightness.
        contrast: likewise.
        saturation: likewise.
        hue: the rotation is at most this share of a full turn in either direction.

    Returns:
        (B, 3, 4), on colours in [0, 1].
    """
    signed = 2 * draws - 1
    bright = 1 + brightness * signed[:, 0, None, None]
    sharp = 1 + contrast * signed[:, 1, None, None]
    vivid = 1 + saturation * signed[:, 2, None, None]
    turn = _turn_about_grey(signed[:, 3] * hue * 2 * math.pi)
    identity = torch.eye(3, device=draws.device)
    luma = torch.tensor(_LUMA, device=draws.device)
    saturated = vivid * identity + (1 - vivid) * luma.expand(3, 3)
    linear = bright * sharp * (turn @ saturated)
    grey = (means * luma).sum(1)[:, None, None] * bright
    return torch.cat([linear, ((1 - sharp) * grey).expand(-1, 3, 1)], dim=2)


def apply(images: Tensor, matrices: Tensor, out: Tensor) -> None:
    """Apply a colour matrix to each image.

    Args:
        images: (B, 3, H, W).
        matrices: (B, 3, 4).
        out: memory for the result, (B, 3, H, W), contiguous.
    """
    flat = out.view(len(out), 3, -1)
    torch.bmm(matrices[:, :, :3], images.flatten(2), out=flat)
    flat += matrices[:, :, 3:]


def random_operation(images: Tensor, draws: Tensor) -> None:
    """Apply gamma, blur, sharpen or posterize to half of the samples.

    Source: Cubuk et al., RandAugment, arXiv:1909.13719, without the operations that geometry and
    colour include, and those that would change the lesion (inversion, solarization).

    Args:
        images: (B, 3, H, W), in [0, 1], changed in place.
        draws: (B, OPERATION_COLUMNS), uniform in [0, 1).
    """
    job = torch.where(draws[:, 2] < 0.5, (draws[:, 0] * 4).long(), -1)
    strength = draws[:, 1, None, None, None]
    for number, function in enumerate((_gamma, _blur, _sharpen, _posterize)):
        rows = (job == number).nonzero()[:, 0]
        if len(rows):
            images[rows] = function(images[rows], strength[rows]).clamp_(0, 1)


def _gamma(images: Tensor, strength: Tensor) -> Tensor:
    return images.clamp_min(1e-4) ** (0.7 + 0.7 * strength)


def _blur(images: Tensor, strength: Tensor) -> Tensor:
    smooth = images
    for axis, edges in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded = F.pad(smooth, edges, mode="replicate")
        taps = [padded.narrow(axis, place, images.shape[axis]) for place in range(5)]
        # The binomial kernel 1, 4, 6, 4, 1; depthwise convolution takes ten times as long on a CPU
        smooth = (taps[0] + taps[4] + 4 * (taps[1] + taps[3]) + 6 * taps[2]) / 16
    return torch.lerp(images, smooth, strength.expand_as(images))


def _sharpen(images: Tensor, strength: Tensor) -> Tensor:
    return 2 * images - _blur(images, strength)


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    levels = 15 + (48 * strength).round()
    return (images * levels).round() / levels


def _turn_about_grey(angle: Tensor) -> Tensor:
    # Rodrigues' formula for the axis (1, 1, 1) / sqrt(3).
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None] / math.sqrt(3)
    across = torch.tensor(
        [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle.device
    )
    identity = torch.eye(3, device=angle.device)
    return cosine * identity + sine * across + (1 - cosine) / 3
