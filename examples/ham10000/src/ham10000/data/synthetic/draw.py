"""Drawing of synthetic images: skin, lesions, hairs, rulers and vignettes.

Everything that belongs to a lesion is fixed when it is made, in coordinates of its own, so that
several images of it show the same lesion, rotated, shifted and scaled.
"""

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

__all__ = [
    "KINDS",
    "Floats",
    "Kind",
    "Lesion",
    "View",
    "between",
    "draw_lesion",
    "hairs",
    "make_lesion",
    "noise",
    "ruler",
    "skin",
    "vignette",
]

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
        shape: Height and width.
        grain: Size of a feature in pixels.
        rng: Random generator.
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


@dataclass(frozen=True)
class Kind:
    """Appearance of a class of lesion. All amounts are between 0 and 1."""

    tint: tuple[float, float, float]
    """Factors by which the lesion changes red, green and blue of the skin."""
    core: tuple[float, float, float]
    """The same for its darker parts."""
    blotches: float
    """Amount of the core colour."""
    ragged: float
    """Deviation of the outline from an ellipse."""
    soft: float
    """Width of the border."""
    network: float = 0.0
    """Pigment network of dark meshes."""
    dark_dots: float = 0.0
    pale_dots: float = 0.0
    vessels: float = 0.0
    """Red branching lines."""
    scar: float = 0.0
    """A white centre."""
    lacunae: float = 0.0
    """Round red to purple lakes."""
    blue: float = 0.0
    """Blue-grey veil."""
    scale: float = 0.0
    """Whitish scaling."""


KINDS = {
    "akiec": Kind((0.88, 0.66, 0.64), (0.8, 0.52, 0.5), 0.4, 0.45, 0.35, scale=0.7, vessels=0.2),
    "bcc": Kind(
        (0.92, 0.74, 0.74), (0.66, 0.5, 0.55), 0.25, 0.35, 0.2, vessels=0.9, blue=0.3, pale_dots=0.2
    ),
    "bkl": Kind((0.74, 0.6, 0.5), (0.6, 0.45, 0.36), 0.4, 0.3, 0.06, pale_dots=0.8, dark_dots=0.45),
    "df": Kind((0.84, 0.68, 0.62), (0.76, 0.58, 0.5), 0.3, 0.15, 0.3, scar=0.8, network=0.35),
    "mel": Kind(
        (0.58, 0.44, 0.4), (0.3, 0.23, 0.25), 0.75, 0.75, 0.12, network=0.4, dark_dots=0.5, blue=0.6
    ),
    "nv": Kind((0.68, 0.52, 0.44), (0.54, 0.4, 0.33), 0.4, 0.2, 0.16, network=0.6, dark_dots=0.2),
    "vasc": Kind((0.82, 0.42, 0.48), (0.56, 0.24, 0.36), 0.45, 0.25, 0.08, lacunae=0.9),
}


def between(first: Kind, second: Kind, share: float) -> Kind:
    """Interpolate between two kinds, since real lesions are often ambiguous.

    Example:
        >>> from ham10000.data.synthetic.draw import KINDS, between
        >>> between(KINDS["nv"], KINDS["mel"], 0.5).ragged
        0.475
    """

    def blend(name: str) -> object:
        values = np.array([getattr(first, name), getattr(second, name)], dtype=np.float64)
        mixed = (1 - share) * values[0] + share * values[1]
        return tuple(mixed.tolist()) if mixed.ndim else float(mixed)

    return Kind(**{each.name: blend(each.name) for each in fields(Kind)})  # type: ignore[arg-type]


_TEXTURE = 192
# About one lesion in seven is halfway between two kinds, so that the classes overlap.
_AMBIGUOUS = 0.15
_CONFUSED_WITH = {
    "akiec": ("bkl", "bcc"),
    "bcc": ("akiec", "nv"),
    "bkl": ("mel", "nv", "akiec"),
    "df": ("nv", "bcc"),
    "mel": ("nv", "bkl"),
    "nv": ("mel", "bkl", "df"),
    "vasc": ("bcc", "nv"),
}


@dataclass(frozen=True)
class Lesion:
    """Properties that are the same in all images of a lesion."""

    kind: Kind
    radius: float
    """As a share of the image's width."""
    flatness: float
    """Ratio of the short axis to the long one."""
    harmonics: NDArray[np.float64]
    """(K, 2), amplitude and phase of the waves of the outline."""
    textures: Floats
    """(4, n, n), smooth noise for blotches, veil, scaling and fine grain."""
    spots: NDArray[np.float64]
    """(N, 3), positions and radii of dots and lakes."""
    vessels: NDArray[np.float64]
    """(V, 6), start, bend and end of each."""
    pitch: float
    """Width of the meshes of the network."""


@dataclass(frozen=True)
class View:
    """Position of a lesion in one image."""

    angle: float
    """In radians."""
    scale: float
    centre: tuple[float, float]
    """Horizontal and vertical, as shares of the size."""


def make_lesion(dx: str, rng: np.random.Generator) -> Lesion:
    """Draw the properties of a lesion of a class."""
    kind = KINDS[dx]
    if rng.random() < _AMBIGUOUS:
        other = KINDS[str(rng.choice(_CONFUSED_WITH[dx]))]
        kind = between(kind, other, rng.uniform(0.35, 0.65))
    else:
        kind = between(kind, KINDS[str(rng.choice(_CONFUSED_WITH[dx]))], rng.uniform(0, 0.25))
    waves = np.arange(2, 9)
    amplitude = 0.35 * kind.ragged * rng.normal(0, 1, len(waves)) / waves**0.8
    grains = (40, 55, 14, 5)
    # Textures are mirrored at their edges, so they continue outside the lesion.
    textures = np.stack([noise((_TEXTURE, _TEXTURE), grain, rng) for grain in grains])
    place = rng.normal(0, 0.42, (40, 2))
    ends = rng.normal(0, 0.6, (10, 6))
    ends[:, 2:4] = (ends[:, 0:2] + ends[:, 4:6]) / 2 + rng.normal(0, 0.25, (10, 2))
    return Lesion(
        kind=kind,
        radius=float(rng.uniform(0.13, 0.3)),
        flatness=float(rng.uniform(0.65, 1)),
        harmonics=np.column_stack([amplitude, rng.uniform(0, 2 * np.pi, len(waves))]),
        textures=textures,
        spots=np.column_stack([place, rng.uniform(0.025, 0.06, 40)]),
        vessels=ends,
        pitch=float(rng.uniform(0.1, 0.17)),
    )


def draw_lesion(image: Floats, lesion: Lesion, view: View) -> NDArray[np.bool_]:
    """Draw a lesion on skin, in place.

    Args:
        image: (H, W, 3), in [0, 1].
        lesion: The lesion.
        view: Its position.

    Returns:
        The mask of the lesion, (H, W).
    """
    height, width = image.shape[:2]
    reach = lesion.radius * view.scale * width
    down, across = np.mgrid[:height, :width].astype(np.float32)
    down, across = down - view.centre[1] * height, across - view.centre[0] * width
    cosine, sine = np.cos(view.angle), np.sin(view.angle)
    u = (cosine * across + sine * down) / reach
    v = (cosine * down - sine * across) / (reach * lesion.flatness)
    distance = np.hypot(u, v)
    around = np.arctan2(v, u)
    waves = np.arange(2, 2 + len(lesion.harmonics))[:, None, None]
    amplitude, phase = lesion.harmonics.T[:, :, None, None]
    depth = distance / np.maximum(1 + (amplitude * np.cos(waves * around + phase)).sum(0), 0.3)
    alpha = 1 / (1 + np.exp(np.clip((depth - 1) / (0.03 + 0.25 * lesion.kind.soft), -30, 30)))
    rows, columns = np.flatnonzero((alpha > 0.01).any(1)), np.flatnonzero((alpha > 0.01).any(0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    _paint(image[part], lesion, u[part], v[part], depth[part], alpha[part])
    return np.asarray(depth < 1)


def _paint(
    image: Floats, lesion: Lesion, u: Floats, v: Floats, depth: Floats, alpha: Floats
) -> None:
    kind = lesion.kind
    blotch, veil, flake, grain = (_sample(texture, u, v) for texture in lesion.textures)
    core = _above(blotch, 0.8 - 1.6 * kind.blotches)
    factor = (1 - core)[..., None] * np.array(kind.tint) + core[..., None] * np.array(kind.core)
    factor = factor * (1 + 0.035 * grain)[..., None]
    if kind.network:
        meshes = np.sin(2 * np.pi * u / lesion.pitch + blotch) * np.sin(
            2 * np.pi * v / lesion.pitch + veil
        )
        factor *= 1 - (0.3 * kind.network * _above(meshes, 0.1))[..., None]
    colour = image * factor
    shown = round(30 * kind.dark_dots)
    _blend(colour, _spots(lesion.spots[:shown] * [1, 1, 0.6], u, v), (0.2, 0.13, 0.12), 0.75)
    shown = round(24 * kind.pale_dots)
    _blend(colour, _spots(lesion.spots[39 : 39 - shown : -1], u, v), (0.93, 0.86, 0.76), 0.55)
    shown = round(22 * kind.lacunae)
    _blend(colour, _spots(lesion.spots[:shown] * [1, 1, 2.6], u, v), (0.5, 0.08, 0.2), 0.75)
    shown = round(9 * kind.vessels)
    _blend(colour, _lines(lesion.vessels[:shown], u, v), (0.7, 0.14, 0.17), 0.75)
    _blend(colour, kind.blue * _above(veil, 0.5), (0.38, 0.42, 0.53), 0.7)
    _blend(colour, kind.scale * _above(flake, 0.6), (0.94, 0.88, 0.84), 0.6)
    _blend(colour, kind.scar * np.exp(-((depth / 0.42) ** 2)), (0.95, 0.86, 0.82), 0.8)
    image += alpha[..., None] * (colour - image)


def _blend(
    image: Floats, alpha: Floats, colour: tuple[float, float, float], strength: float
) -> None:
    # Colours are relative to the brightness of the skin.
    light = min(1.0, float(image.mean()) / 0.5)
    image += (strength * alpha)[..., None] * (np.array(colour) * light - image)


def _above(values: Floats, threshold: float) -> Floats:
    result: Floats = 1 / (1 + np.exp(-6 * (values - threshold)))
    return result


def _sample(texture: Floats, u: Floats, v: Floats) -> Floats:
    place = np.stack([v, u]) * (0.32 * _TEXTURE) + _TEXTURE / 2
    result: Floats = map_coordinates(texture, place, order=1, mode="mirror")
    return result


def _spots(spots: NDArray[np.float64], u: Floats, v: Floats) -> Floats:
    alpha = np.zeros_like(u)
    for across, down, radius in spots.astype(np.float32):
        square = ((u - across) ** 2 + (v - down) ** 2) / radius**2
        np.maximum(alpha, np.exp(-(square**2)), out=alpha)
    return alpha


def _lines(lines: NDArray[np.float64], u: Floats, v: Floats) -> Floats:
    alpha = np.zeros_like(u)
    for line in lines:
        start, bend, end = line.reshape(3, 2)
        for first, last in ((start, bend), (bend, end)):
            step = last - first
            along = ((u - first[0]) * step[0] + (v - first[1]) * step[1]) / (step @ step + 1e-6)
            along = np.clip(along, 0, 1)
            square = (u - first[0] - along * step[0]) ** 2 + (v - first[1] - along * step[1]) ** 2
            np.maximum(alpha, np.exp(-square / 0.016**2).astype(alpha.dtype), out=alpha)
    return alpha
