import math

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from ham10000.data.augment import transforms
from ham10000.data.augment.transforms import (
    apply_colours,
    colour_matrices,
    warp,
    warp_bytes,
    warp_matrices,
)


def test_the_warp_is_that_of_scipy_with_the_edge_repeated() -> None:
    image = torch.rand(1, 1, 31, 31, dtype=torch.float64)
    angle, shift = 0.7, (0.2, -0.3)
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[[cosine, sine, shift[0]], [-sine, cosine, shift[1]]]])
    result = warp(image, matrix)[0, 0].numpy()
    # SciPy's axes are down and across; ours across and down, from -1 to 1.
    turn = np.array([[cosine, -sine], [sine, cosine]])
    centre = np.array([15.0, 15.0])
    offset = centre - turn @ centre + 15 * np.array(shift[::-1])
    expected = affine_transform(image[0, 0].numpy(), turn, offset, order=1, mode="nearest")
    assert np.abs(result - expected).max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(40, 40), (31, 52), (9, 7), (1, 6), (6, 1)])
@pytest.mark.parametrize("shift", [0.1, 5.0])
@pytest.mark.parametrize("exact", [transforms._EXACT, False])  # False: OpenCV 4
def test_bytes_are_warped_as_numbers_are(
    height: int, width: int, shift: float, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "_EXACT", exact)
    images = torch.randint(0, 256, (40, 3, height, width), dtype=torch.uint8)
    draws = torch.rand(40, 7)
    moves = warp_matrices(
        draws, degrees=180, shift=shift, zoom=0.3, flips=True, aspect=width / height
    )
    found = warp_bytes(images, moves)
    assert found.dtype == torch.uint8
    assert (found.double() - warp(images.double(), moves)).abs().max() < 1
    assert torch.equal(warp_bytes(images[3:4], moves[3:4])[0], found[3])


def test_rotations_keep_shapes_in_images_that_are_not_square() -> None:
    image = torch.zeros(1, 1, 60, 120)
    image[:, :, 25:35, 55:65] = 1  # a square of 10 pixels
    draws = torch.full((1, 7), 0.5)
    draws[:, 0] = 0.75  # a quarter turn of at most half a turn
    turned = warp(
        image, warp_matrices(draws, degrees=180, shift=0, zoom=0, flips=False, aspect=119 / 59)
    )
    assert turned.sum().item() == pytest.approx(100, rel=0.1)
    rows = torch.nonzero(turned[0, 0] > 0.5)
    assert (rows.amax(0) - rows.amin(0) + 1).tolist() == pytest.approx([10, 10], abs=1)


def test_parameters_stay_within_their_bounds() -> None:
    draws = torch.rand(2000, 7)
    found = warp_matrices(draws, degrees=0, shift=0.1, zoom=0.1, flips=True)
    assert found[:, [0, 1], [0, 1]].abs().min() >= 0.9 - 1e-6
    assert found[:, [0, 1], [0, 1]].abs().max() <= 1.1 + 1e-6
    assert found[:, :, 2].abs().max() <= 0.2 + 1e-6
    assert (found[:, 0, 0] < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_contrast_keeps_the_mean_and_hue_keeps_the_greys() -> None:
    image = torch.rand(1, 3, 16, 16)
    grey = torch.full((1, 3, 2, 2), 0.4)
    means = image.mean((2, 3))
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    draws = torch.ones(1, 4)
    strong = colour_matrices(draws, means, **{**still, "contrast": 0.5})
    out = torch.empty_like(image)
    apply_colours(image, strong, out)
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert (out.mean((2, 3)) @ luma).item() == pytest.approx((means @ luma).item(), abs=1e-5)
    assert out.std() == pytest.approx(1.5 * image.std().item(), rel=0.01)
    out = torch.empty_like(grey)
    apply_colours(
        grey,
        colour_matrices(draws, grey.mean((2, 3)), **{**still, "hue": 0.3, "saturation": 0.9}),
        out,
    )
    assert torch.allclose(out, grey, atol=1e-6)
