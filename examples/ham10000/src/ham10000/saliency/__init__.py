"""Saliency maps of a trained model, their overlap with lesion masks, and their faithfulness."""

from ham10000.saliency.evaluate import (
    LOCALIZATION_CSV,
    LOCALIZATION_JSON,
    METHODS,
    evaluate_saliency,
    image_network,
    image_reader,
    write_saliency,
)
from ham10000.saliency.methods import attention_maps, grad_cam_maps
from ham10000.saliency.scores import CURVES, SCORES, curve_area, localization_scores

__all__ = [
    "CURVES",
    "LOCALIZATION_CSV",
    "LOCALIZATION_JSON",
    "METHODS",
    "SCORES",
    "attention_maps",
    "curve_area",
    "evaluate_saliency",
    "grad_cam_maps",
    "image_network",
    "image_reader",
    "localization_scores",
    "write_saliency",
]
