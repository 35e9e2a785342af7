"""Figures and pictures as parts of a page that needs no other file."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ham10000.reporting.theme import DARK, LIGHT, Theme

__all__ = ["Embedded", "embed", "embed_photo"]


@dataclass(frozen=True)
class Embedded:
    """A figure for white paper, and maybe another for a dark screen, as addresses `data:`."""

    light: str
    dark: str | None
    alt: str
    """What it shows, for those who don't see it."""


def embed(draw: Callable[[Theme], Figure], alt: str) -> Embedded:
    """Draw a figure in both themes, as SVG; the same figure gives the same bytes."""
    return Embedded(_svg(draw(LIGHT)), _svg(draw(DARK)), alt)


def embed_photo(figure: Figure, alt: str, dpi: int = 180) -> Embedded:
    """Embed a figure that is a photograph, as JPEG."""
    return Embedded(_address(_save(figure, "jpeg", dpi=dpi), "jpeg"), None, alt)


def _svg(figure: Figure) -> str:
    with matplotlib.rc_context({"svg.hashsalt": "ham10000"}):
        content = _save(figure, "svg", transparent=True, metadata={"Date": None})
    return _address(content, "svg+xml")


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, **options)
    return file.getvalue()


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
