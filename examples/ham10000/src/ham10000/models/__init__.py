"""The networks of the recipes: a backbone, attention or none, a head, and metadata beside it."""

from ham10000.models.build import build_model
from ham10000.models.classifier import LesionClassifier
from ham10000.models.parameters import count_parameters, parameter_table

__all__ = ["LesionClassifier", "build_model", "count_parameters", "parameter_table"]
