"""Random transforms of a batch: one resampling for geometry, one matrix product for colours.

Rotation, shift, zoom and flips are one resampling, with edge pixels repeated. Colour jitter is one
3 x 4 matrix per sample. Four more operations change pixels.
"""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "COLOUR_COLUMNS",
    "GEOMETRY_COLUMNS",
    "OPERATION_COLUMNS",
    "apply_colours",
    "colour_matrices",
    "random_operation",
    "warp",
    "warp_bytes",
    "warp_matrices",
]

# Callers have threads or processes of their own, one per batch.
cv2.setNumThreads(0)

# OpenCV 4 interpolates between positions in steps of 1/32 pixel: errors of several grey levels.
_EXACT = int(cv2.__version__.partition(".")[0]) >= 5

GEOMETRY_COLUMNS = 7
"""Number of random numbers for `warp_matrices`: angle, 2 shifts, 2 zooms, 2 flips."""

COLOUR_COLUMNS = 4
"""Number of random numbers for `colour_matrices`: brightness, contrast, saturation, hue."""

OPERATION_COLUMNS = 3
"""Number of random numbers for `random_operation`: kind, strength, and whether it is applied."""

_LUMA = (0.299, 0.587, 0.114)


def warp_matrices(
    draws: Tensor,
    *,
    degrees: float,
    shift: float,
    zoom: float,
    flips: bool,
    quarters: bool = False,
    aspect: float = 1.0,
) -> Tensor:
    """Convert random numbers to matrices from output to input coordinates.

    Example:
        >>> import torch
        >>> from ham10000.data.augment.transforms import warp_matrices
        >>> halves = torch.full((1, 7), 0.5)  # the middle of every range
        >>> warp_matrices(halves, degrees=180, shift=0.1, zoom=0.1, flips=False)
        tensor([[[1., 0., 0.],
                 [-0., 1., 0.]]])

    Args:
        draws: (B, GEOMETRY_COLUMNS), uniform in [0, 1).
        degrees: Largest rotation in either direction.
        shift: Largest shift along each axis, as a share of the size.
        zoom: The factor along each axis is between 1 - zoom and 1 + zoom.
        flips: Whether to mirror left to right and top to bottom, each with probability 0.5.
        quarters: Whether to add a rotation by 0, 90, 180 or 270 degrees.
        aspect: Width divided by height of the images.

    Returns:
        (B, 2, 3), for coordinates from -1 to 1, x first.
    """
    signed = 2 * draws - 1
    angle = signed[:, 0] * math.radians(degrees)
    if quarters:
        # From further bits of the same number, which don't depend on those of the first rotation.
        angle = angle + (64 * draws[:, 0]).floor().remainder(4) * (math.pi / 2)
    zooms = 1 + zoom * signed[:, 3:5]
    if flips:
        zooms = zooms * torch.where(draws[:, 5:7] < 0.5, -1.0, 1.0)
    sine, cosine = angle.sin(), angle.cos()
    turn = torch.stack(
        [
            cosine * zooms[:, 0],
            sine * zooms[:, 1] / aspect,
            -sine * zooms[:, 0] * aspect,
            cosine * zooms[:, 1],
        ],
        dim=1,
    ).reshape(-1, 2, 2)
    # Coordinates span 2, so a shift is twice its share of the size.
    return torch.cat([turn, 2 * shift * signed[:, 1:3, None]], dim=2)


def warp(images: Tensor, matrices: Tensor, *, nearest: bool = False) -> Tensor:
    """Resample images, repeating edge pixels outside (Keras's fill mode `nearest`).

    Example:
        >>> import torch
        >>> from ham10000.data.augment.transforms import warp
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> warp(image, torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]))
        tensor([[[[2., 1.],
                  [4., 3.]]]])

    Args:
        images: (B, C, H, W), floating point.
        matrices: (B, 2, 3), from `warp_matrices`.
        nearest: Take the nearest pixel instead of interpolating, for masks.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[2:]
    across, down = (_middles(count, images.device) for count in (width, height))
    grid = images.new_empty((len(images), 2, height, width), dtype=torch.float32)
    # Each coordinate is the sum of a part that varies along rows and one that varies along columns,
    # and all x are stored before all y: ten times as fast as the matrix product of affine_grid.
    for axis in range(2):
        row = matrices[:, axis, 0, None] * across
        column = matrices[:, axis, 1, None] * down + matrices[:, axis, 2, None]
        torch.add(row[:, None, :], column[:, :, None], out=grid[:, axis])
    # Clamped coordinates need no padding, without which grid_sample is faster.
    grid.clamp_(-1, 1)
    mode = "nearest" if nearest else "bilinear"
    grid = grid.permute(0, 2, 3, 1).to(images.dtype)
    return F.grid_sample(images, grid, mode, "zeros", align_corners=True)


def _middles(count: int, device: torch.device) -> Tensor:
    # The coordinates of pixels along an axis, from -1 to 1; a single pixel is in the middle.
    return torch.linspace(-1, 1, count, device=device) if count > 1 else torch.zeros(1).to(device)


def warp_bytes(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample uint8 RGB images on a CPU: like `warp`, rounded to grey levels, in half the time.

    With OpenCV 4, the result is that of `warp`, in the time of `warp`.

    Example:
        >>> import torch
        >>> from ham10000.data.augment.transforms import warp_bytes
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8).expand(1, 3, 2, 2)
        >>> warp_bytes(image, torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]))[0, 0]
        tensor([[2, 1],
                [4, 3]], dtype=torch.uint8)

    Args:
        images: (B, 3, H, W), uint8, on the CPU.
        matrices: (B, 2, 3), from `warp_matrices`.

    Returns:
        (B, 3, H, W), uint8.
    """
    if not _EXACT:
        return warp(images.float(), matrices).round_().byte()
    height, width = images.shape[2:]
    result = torch.empty(images.shape, dtype=torch.uint8)
    spare = np.empty((height, width), dtype=np.uint8)
    moves = _in_pixels(matrices, height, width)
    pads = _beyond(moves, height, width)
    for image, move, pad, out in zip(images.numpy(), moves, pads, result.numpy(), strict=True):
        # With four bytes per pixel and an explicit border, OpenCV is twice as fast as with three
        # bytes and a computed border. The copies cost little.
        pixels = cv2.merge([*image, image[0]])
        pixels = cv2.copyMakeBorder(pixels, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        pixels = cv2.warpAffine(
            pixels,
            move + np.array([[0, 0, pad], [0, 0, pad]]),
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.split(pixels, [*out, spare])
    return result


def _in_pixels(matrices: Tensor, height: int, width: int) -> NDArray[np.float64]:
    # Convert matrices for coordinates from -1 to 1 to matrices for pixel indices.
    half = np.array([width - 1, height - 1]) / 2
    moves: NDArray[np.float64] = matrices.double().numpy().copy()
    moves[:, :, :2] *= half[:, None] / np.maximum(half, 0.5)
    moves[:, :, 2] = (moves[:, :, 2] + 1) * half - moves[:, :, :2] @ half
    return moves


def _beyond(moves: NDArray[np.float64], height: int, width: int) -> list[int]:
    # How far each image is sampled outside, in pixels, but at most its size.
    corners = [[x, y, 1] for x in (0, width - 1) for y in (0, height - 1)]
    places = moves @ np.array(corners).T
    ends = np.array([width - 1, height - 1])[:, None]
    outside = np.maximum(-places, places - ends).max(axis=(1, 2))
    return [int(pad) for pad in np.ceil(outside).clip(0, max(height, width)) + 1]


def colour_matrices(
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
        >>> from ham10000.data.augment.transforms import colour_matrices
        >>> halves, means = torch.full((1, 4), 0.5), torch.full((1, 3), 0.6)
        >>> strength = dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
        >>> colour_matrices(halves, means, **strength).round(decimals=3).abs()
        tensor([[[1., 0., 0., 0.],
                 [0., 1., 0., 0.],
                 [0., 0., 1., 0.]]])

    Args:
        draws: (B, COLOUR_COLUMNS), uniform in [0, 1).
        means: (B, 3), mean colour of each image in [0, 1], which contrast keeps.
        brightness: The factor is between 1 - brightness and 1 + brightness.
        contrast: Likewise.
        saturation: Likewise.
        hue: The rotation is at most this share of a full turn in either direction.

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


def apply_colours(images: Tensor, matrices: Tensor, out: Tensor) -> None:
    """Apply a colour matrix to each image.

    Args:
        images: (B, 3, H, W).
        matrices: (B, 3, 4).
        out: Memory for the result, (B, 3, H, W), contiguous.
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
