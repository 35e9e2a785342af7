"""Networks of the recipes: backbone, attention, head and optional metadata."""

from ham10000.models.classifier import LesionClassifier, count_parameters, parameter_table
from ham10000.models.factory import (
    METADATA_COLUMNS,
    build_attention,
    build_model,
    start_uniform,
)
from ham10000.models.features import (
    FeatureMaps,
    check_features,
    extract_features,
    features_name,
    hash_weights,
    open_features,
)
from ham10000.models.weights import PACKAGED, packaged_weights

__all__ = [
    "METADATA_COLUMNS",
    "PACKAGED",
    "FeatureMaps",
    "LesionClassifier",
    "build_attention",
    "build_model",
    "check_features",
    "count_parameters",
    "extract_features",
    "features_name",
    "hash_weights",
    "open_features",
    "packaged_weights",
    "parameter_table",
    "start_uniform",
]
