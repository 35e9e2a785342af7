"""Soft-Attention (https://arxiv.org/abs/2105.03358) for image models.

Names are imported at their first use, so that the command line can show its version and help
without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softattn import functional, keras
    from softattn import hub as hub
    from softattn import plot as plot
    from softattn.attention import (
        SoftAttention,
        SoftAttention1d,
        SoftAttention3d,
        SoftAttentionBlock,
    )
    from softattn.capture import SpatialAttention, capture_maps
    from softattn.errors import (
        ArgumentError,
        ArgumentTypeError,
        MissingExtraError,
        ModelError,
        ShapeError,
        SoftAttnError,
        WeightsError,
    )
    from softattn.features import SpatialBackbone, find_backbone
    from softattn.insertion import insert_attention, remove_attention
    from softattn.models import SoftAttentionClassifier, wrap_backbone

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "MissingExtraError",
    "ModelError",
    "ShapeError",
    "SoftAttention",
    "SoftAttention1d",
    "SoftAttention3d",
    "SoftAttentionBlock",
    "SoftAttentionClassifier",
    "SoftAttnError",
    "SpatialAttention",
    "SpatialBackbone",
    "WeightsError",
    "capture_maps",
    "find_backbone",
    "functional",
    "insert_attention",
    "keras",
    "remove_attention",
    "wrap_backbone",
]

_NAMES = {
    "attention": ("SoftAttention", "SoftAttention1d", "SoftAttention3d", "SoftAttentionBlock"),
    "capture": ("SpatialAttention", "capture_maps"),
    "errors": (
        "ArgumentError",
        "ArgumentTypeError",
        "MissingExtraError",
        "ModelError",
        "ShapeError",
        "SoftAttnError",
        "WeightsError",
    ),
    "features": ("SpatialBackbone", "find_backbone"),
    "insertion": ("insert_attention", "remove_attention"),
    "models": ("SoftAttentionClassifier", "wrap_backbone"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
_SUBMODULES = (*_NAMES, "functional", "hub", "keras", "plot")

# Type checkers would accept any name if they saw this function.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name or a submodule."""
        if name in _SUBMODULES:
            return import_module(f"softattn.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module 'softattn' has no attribute {name!r}", name=name)
        value = getattr(import_module(f"softattn.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names, the submodules, and what is imported already."""
    return sorted({*globals(), *__all__, *_SUBMODULES})
