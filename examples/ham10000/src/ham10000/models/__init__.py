"""Networks of the recipes: backbone, attention, head and optional metadata."""

from ham10000.models.classifier import (
    SUMMARY_CAPTION,
    SUMMARY_COLUMNS,
    LesionClassifier,
    ModelSummary,
    parameter_table,
    summarize_model,
    summary_rows,
    summary_table,
)
from ham10000.models.factory import (
    METADATA_COLUMNS,
    build_attention,
    build_model,
    start_uniform,
    summarize_recipes,
)
from ham10000.models.features import (
    FeatureMaps,
    check_features,
    extract_features,
    features_name,
    hash_weights,
    open_features,
)
from ham10000.models.fusion import LateFusion
from ham10000.models.weights import PACKAGED, packaged_weights

__all__ = [
    "METADATA_COLUMNS",
    "PACKAGED",
    "SUMMARY_CAPTION",
    "SUMMARY_COLUMNS",
    "FeatureMaps",
    "LateFusion",
    "LesionClassifier",
    "ModelSummary",
    "build_attention",
    "build_model",
    "check_features",
    "extract_features",
    "features_name",
    "hash_weights",
    "open_features",
    "packaged_weights",
    "parameter_table",
    "start_uniform",
    "summarize_model",
    "summarize_recipes",
    "summary_rows",
    "summary_table",
]
