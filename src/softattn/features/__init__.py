"""Feature maps: where a model computes them, and how to read them as (B, C, H, W)."""

from softattn.features.backbone import (
    FeatureMap,
    Source,
    SpatialBackbone,
    find_backbone,
    plan_backbone,
)
from softattn.features.dry_run import (
    DryRun,
    Inputs,
    argument_values,
    call_model,
    candidate_sizes,
    dry_run,
    image_size,
    random_images,
    tensors_in,
)
from softattn.features.inference import (
    ANOTHER_ORDER,
    Hints,
    ObservedOutput,
    infer_layout_strictly,
    is_reordered,
    own_maps,
)
from softattn.features.layout import Layout, MapLayout, TokenGrid, from_nchw

__all__ = [
    "ANOTHER_ORDER",
    "DryRun",
    "FeatureMap",
    "Hints",
    "Inputs",
    "Layout",
    "MapLayout",
    "ObservedOutput",
    "Source",
    "SpatialBackbone",
    "TokenGrid",
    "argument_values",
    "call_model",
    "candidate_sizes",
    "dry_run",
    "find_backbone",
    "from_nchw",
    "image_size",
    "infer_layout_strictly",
    "is_reordered",
    "own_maps",
    "plan_backbone",
    "random_images",
    "tensors_in",
]
