import pytest
import torch

from ham10000.data.augment.colour import apply, jitter


def test_contrast_keeps_the_mean_and_hue_keeps_the_greys() -> None:
    image = torch.rand(1, 3, 16, 16)
    grey = torch.full((1, 3, 2, 2), 0.4)
    means = image.mean((2, 3))
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    draws = torch.ones(1, 4)
    strong = jitter(draws, means, **{**still, "contrast": 0.5})
    out = torch.empty_like(image)
    apply(image, strong, out)
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert (out.mean((2, 3)) @ luma).item() == pytest.approx((means @ luma).item(), abs=1e-5)
    assert out.std() == pytest.approx(1.5 * image.std().item(), rel=0.01)
    out = torch.empty_like(grey)
    apply(grey, jitter(draws, grey.mean((2, 3)), **{**still, "hue": 0.3, "saturation": 0.9}), out)
    assert torch.allclose(out, grey, atol=1e-6)
