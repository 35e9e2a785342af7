"""Networks of the recipes: backbone, attention, head and optional metadata."""

from ham10000.models.classifier import LesionClassifier, count_parameters, parameter_table
from ham10000.models.factory import METADATA_COLUMNS, build_model
from ham10000.models.weights import LITE0, lite0_weights

__all__ = [
    "LITE0",
    "METADATA_COLUMNS",
    "LesionClassifier",
    "build_model",
    "count_parameters",
    "lite0_weights",
    "parameter_table",
]
