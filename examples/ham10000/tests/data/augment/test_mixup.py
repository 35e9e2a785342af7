import pytest
import torch

from ham10000.data import (
    cutmix,
    mixup,
)
from ham10000.errors import ArgumentError


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixed_targets_say_what_is_in_the_image(mix) -> None:
    targets = torch.arange(7)
    images = targets.float().reshape(7, 1, 1, 1).expand(7, 3, 24, 24).contiguous()
    mixed, soft = mix(images, targets, torch.arange(7), num_classes=7, seed=1, epoch=0)
    # Each image is as bright as its class's number, so its mean is the mean of its target.
    assert torch.allclose(mixed.mean((1, 2, 3)), soft @ targets.float(), atol=1e-4)
    assert torch.allclose(soft.sum(1), torch.ones(7))
    assert (soft.argmax(1) == targets).all()
    assert len(set(soft.amax(1).tolist())) > 3
    with pytest.raises(ArgumentError, match="Augment them first"):
        mix(images.byte(), targets, torch.arange(7), num_classes=7, seed=1, epoch=0)
