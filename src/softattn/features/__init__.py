"""Feature maps: where a model computes them, and how to read them as (B, C, H, W)."""

from softattn.features.backbone import FeatureMap, Source, SpatialBackbone
from softattn.features.calls import (
    Calls,
    Inputs,
    copy_sharing_parameters,
    default_inputs,
    record_calls,
)
from softattn.features.dry_run import dry_run
from softattn.features.finding import BackbonePlan, find_backbone, plan_backbone
from softattn.features.layout import Layout, TokenGrid, find_grid, from_nchw, to_nchw
from softattn.features.reading import Hints, Output, Reading, fit_grid, read_map
from softattn.features.token_order import ANOTHER_ORDER, is_reordered, own_maps

__all__ = [
    "ANOTHER_ORDER",
    "BackbonePlan",
    "Calls",
    "FeatureMap",
    "Hints",
    "Inputs",
    "Layout",
    "Output",
    "Reading",
    "Source",
    "SpatialBackbone",
    "TokenGrid",
    "copy_sharing_parameters",
    "default_inputs",
    "dry_run",
    "find_backbone",
    "find_grid",
    "fit_grid",
    "from_nchw",
    "is_reordered",
    "own_maps",
    "plan_backbone",
    "read_map",
    "record_calls",
    "to_nchw",
]
