"""Rotation, shift, zoom and flips of a batch in one resampling, with edge pixels repeated."""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["COLUMNS", "matrices", "warp", "warp_bytes"]

# Callers have threads or processes of their own, one per batch.
cv2.setNumThreads(0)

COLUMNS = 7
"""Number of random numbers per sample: angle, 2 shifts, 2 zooms, 2 flips."""


def matrices(
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
        >>> from ham10000.data.augment.geometry import matrices
        >>> halves = torch.full((1, 7), 0.5)  # the middle of every range
        >>> matrices(halves, degrees=180, shift=0.1, zoom=0.1, flips=False)
        tensor([[[1., 0., 0.],
                 [-0., 1., 0.]]])

    Args:
        draws: (B, COLUMNS), uniform in [0, 1).
        degrees: largest rotation in either direction.
        shift: largest shift along each axis, as a share of the size.
        zoom: the factor along each axis is between 1 - zoom and 1 + zoom.
        flips: whether to mirror left to right and top to bottom, each with probability 0.5.
        quarters: whether to add a rotation by 0, 90, 180 or 270 degrees.
        aspect: width divided by height of the images.

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
        >>> from ham10000.data.augment.geometry import warp
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> warp(image, torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]))
        tensor([[[[2., 1.],
                  [4., 3.]]]])

    Args:
        images: (B, C, H, W), floating point.
        matrices: (B, 2, 3), from `matrices`.
        nearest: take the nearest pixel instead of interpolating, for masks.

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

    Example:
        >>> import torch
        >>> from ham10000.data.augment.geometry import warp_bytes
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8).expand(1, 3, 2, 2)
        >>> warp_bytes(image, torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]))[0, 0]
        tensor([[2, 1],
                [4, 3]], dtype=torch.uint8)

    Args:
        images: (B, 3, H, W), uint8, on the CPU.
        matrices: (B, 2, 3), from `matrices`.

    Returns:
        (B, 3, H, W), uint8.
    """
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
