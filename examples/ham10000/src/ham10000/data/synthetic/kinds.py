"""What the seven kinds of synthetic lesions look like; crude, after what dermatoscopy looks for."""

from dataclasses import dataclass, fields

import numpy as np

__all__ = ["KINDS", "Kind", "between"]


@dataclass(frozen=True)
class Kind:
    """The looks of a kind of lesion; all amounts are between 0 and 1."""

    tint: tuple[float, float, float]
    """What the lesion does to the colour of the skin: a factor for red, green and blue."""
    core: tuple[float, float, float]
    """The same, for darker parts within."""
    blotches: float
    """How much of the core colour there is."""
    ragged: float
    """How far the outline is from an ellipse."""
    soft: float
    """How wide the border is."""
    network: float = 0.0
    """Pigment network: dark meshes."""
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
    """Return a lesion between two kinds, as real ones often are.

    Example:
        >>> from ham10000.data.synthetic.kinds import KINDS, between
        >>> between(KINDS["nv"], KINDS["mel"], 0.5).ragged
        0.475
    """

    def blend(name: str) -> object:
        values = np.array([getattr(first, name), getattr(second, name)], dtype=np.float64)
        mixed = (1 - share) * values[0] + share * values[1]
        return tuple(mixed.tolist()) if mixed.ndim else float(mixed)

    return Kind(**{each.name: blend(each.name) for each in fields(Kind)})  # type: ignore[arg-type]
