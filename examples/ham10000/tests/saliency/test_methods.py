import pytest
import torch
from planted import planted
from softattn import SoftAttentionClassifier, wrap_backbone
from torch import nn

from ham10000.errors import ArgumentError
from ham10000.saliency import grad_cam_maps
from ham10000.saliency.methods import feature_size


def test_grad_cam_leaves_the_model_as_it_was(model: SoftAttentionClassifier) -> None:
    images, targets, _ = planted(4, seed=4)
    before = model(images)
    maps = grad_cam_maps(model, images, targets)
    assert maps.shape == (4, 32, 32)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert torch.equal(model(images), before)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert feature_size(model, images[0]) == (8, 8)


def test_grad_cam_works_on_a_frozen_backbone() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
    frozen = wrap_backbone(layers, 7, input_size=32).eval()
    frozen.requires_grad_(False)
    assert grad_cam_maps(frozen, torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).shape[0] == 2


def test_a_model_without_a_backbone_to_look_at_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"Linear contains no softattn\.SpatialBackbone"):
        grad_cam_maps(nn.Linear(1, 1), torch.zeros(1, 3, 8, 8), torch.tensor([0]))
