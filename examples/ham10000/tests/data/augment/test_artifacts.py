import pytest
import torch

from ham10000.data.augment.artifacts import draw_hairs, draw_rulers


@pytest.mark.parametrize("draw", [draw_hairs, draw_rulers])
def test_artefacts_darken_a_share_of_the_images(draw) -> None:
    images = torch.full((400, 3, 32, 32), 0.8)
    draw(images, 0, 0, torch.arange(400), 0.3)
    darkened = (images < 0.79).flatten(1)
    assert darkened.any(1).float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert darkened[darkened.any(1)].float().mean().item() < 0.35
    assert images.min() >= 0
