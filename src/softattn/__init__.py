"""Soft-Attention (https://arxiv.org/abs/2105.03358) for image models."""

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
