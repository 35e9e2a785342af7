"""Wrapped models: models by name, attention on their last feature map, and a new head."""

from softattn.models.classifier import ClassifierHead, SoftAttentionClassifier
from softattn.models.wrap import pack_block, unpack_block, wrap_backbone
from softattn.models.zoo import NamedModel, is_model_type, load_model

__all__ = [
    "ClassifierHead",
    "NamedModel",
    "SoftAttentionClassifier",
    "is_model_type",
    "load_model",
    "pack_block",
    "unpack_block",
    "wrap_backbone",
]
