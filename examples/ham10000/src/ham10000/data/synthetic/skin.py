"""Synthetic skin, with hairs, rulers and vignettes."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

__all__ = ["Floats", "hairs", "noise", "ruler", "skin", "vignette"]

Floats: TypeAlias = NDArray[np.float32]

# Very light to dark brown, as red, green and blue.
_TONES = np.array(
    [
        [0.93, 0.77, 0.72],
        [0.87, 0.67, 0.6],
        [0.8, 0.58, 0.49],
        [0.66, 0.46, 0.37],
        [0.5, 0.34, 0.27],
    ]
)
# Mostly light, since HAM10000 is from Austria and Australia.
_TONE_SHARES = [0.36, 0.3, 0.18, 0.1, 0.06]


def noise(shape: tuple[int, int], grain: float, rng: np.random.Generator) -> Floats:
    """Return smooth noise with mean 0 and standard deviation 1.

    Args:
        shape: height and width.
        grain: size of a feature in pixels.
        rng: random generator.
    """
    coarse = [max(4, round(extent / max(1.0, grain)) + 3) for extent in shape]
    small = rng.standard_normal(coarse).astype(np.float32)
    factors = [extent / (size - 2) for extent, size in zip(shape, coarse, strict=True)]
    large = zoom(small, factors, order=1 if grain < 2 else 2)[: shape[0], : shape[1]]
    result: Floats = ((large - large.mean()) / (large.std() + 1e-6)).astype(np.float32)
    return result


def skin(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return skin of a random tone under random light.

    Returns:
        (height, width, 3), in [0, 1].
    """
    tone = _TONES[rng.choice(len(_TONES), p=_TONE_SHARES)] * rng.normal(1, 0.035, 3)
    unit = shape[1] / 100
    shade = 0.022 * noise(shape, 30 * unit, rng) + 0.014 * noise(shape, 5 * unit, rng)
    # Creases run in two directions.
    creases = np.zeros(shape, dtype=np.float32)
    for _ in range(2):
        lines = gaussian_filter(rng.standard_normal(shape).astype(np.float32), (0.4, 1.6 * unit))
        creases += lines if rng.random() < 0.5 else lines[::-1]
    creases /= creases.std() + 1e-6
    redness = 0.016 * noise(shape, 14 * unit, rng)
    image = tone * (1 + shade + 0.008 * creases)[..., None]
    image[..., 1:] *= (1 - redness)[..., None]
    down, across = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    slope = rng.normal(0, 0.03, 2)
    light = rng.normal(1, 0.05) * (1 + slope[0] * down + slope[1] * across)
    result: Floats = (image * light[..., None]).astype(np.float32)
    return result


def hairs(image: Floats, rng: np.random.Generator) -> None:
    """Draw hairs over an image, in place."""
    height, width = image.shape[:2]
    alpha = np.zeros((height, width), dtype=np.float32)
    along = np.linspace(0, 1, 3 * width)[:, None]
    for _ in range(int(rng.integers(2, 14))):
        start, end = rng.random(2) * 1.2 - 0.1, rng.random(2) * 1.2 - 0.1
        middle = (start + end) / 2 + rng.normal(0, 0.12, 2)
        points = start * (1 - along) ** 2 + 2 * middle * along * (1 - along) + end * along**2
        rows = (points[:, 0] * height).astype(int)
        columns = (points[:, 1] * width).astype(int)
        thick = max(1, round(rng.uniform(0.6, 1.6) * width / 300))
        for step in range(thick):
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns + step < width)
            place = rows[inside], columns[inside] + step
            alpha[place] = np.maximum(alpha[place], rng.uniform(0.5, 0.95))
    alpha = gaussian_filter(alpha, width / 1200)
    colour = np.array([0.12, 0.08, 0.06]) * rng.uniform(0.5, 2.5)
    image += alpha[..., None] * (colour - image)


def ruler(image: Floats, rng: np.random.Generator) -> None:
    """Draw the scale of a ruler along an edge, in place."""
    view = np.rot90(image, int(rng.integers(4)))
    height, width = view.shape[:2]
    pitch, top = rng.uniform(0.025, 0.05) * width, int(rng.uniform(0.02, 0.1) * height)
    for number in range(int(width / pitch) + 1):
        column = int(number * pitch)
        length = int((0.1 if number % 5 == 0 else 0.05) * height)
        view[top : top + length, column : column + max(1, width // 300)] *= 0.35


def vignette(image: Floats, rng: np.random.Generator) -> None:
    """Darken the image outside the round field of a dermatoscope, in place."""
    height, width = image.shape[:2]
    down, across = np.mgrid[:height, :width]
    centre = np.array([height, width]) / 2 + rng.normal(0, 0.02, 2) * width
    radius = rng.uniform(0.47, 0.6) * width
    distance = np.hypot(down - centre[0], across - centre[1])
    image *= np.clip((radius - distance) / (0.03 * width) + 0.5, 0.03, 1)[..., None].astype(
        np.float32
    )
