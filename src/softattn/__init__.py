"""Soft-Attention for image models: https://arxiv.org/abs/2105.03358."""

from softattn import functional, keras
from softattn.attention import SoftAttention, SoftAttentionBlock, SpatialAttention
from softattn.errors import (
    ArgumentError,
    ArgumentTypeError,
    MissingExtraError,
    ModelError,
    ShapeError,
    SoftAttnError,
    WeightsError,
)
from softattn.maps import capture_maps

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "MissingExtraError",
    "ModelError",
    "ShapeError",
    "SoftAttention",
    "SoftAttentionBlock",
    "SoftAttnError",
    "SpatialAttention",
    "WeightsError",
    "capture_maps",
    "functional",
    "keras",
]
