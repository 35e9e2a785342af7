import numpy as np
import torch
from torch import Tensor

from ham10000.saliency import CURVES, curve_area
from ham10000.saliency.faithfulness import blurred, faithfulness_curves, rank_positions


def test_positions_are_taken_from_the_largest_on() -> None:
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    order = rank_positions(maps, (4, 5), np.random.default_rng(0))
    for map_, ranks in zip(maps, order, strict=True):
        taken = map_.flatten()[ranks.flatten().argsort()]
        assert (taken.diff() < 0).all()


def test_ties_are_broken_at_random_and_by_the_seed() -> None:
    flat = torch.ones(2, 8, 8)
    one, again, other = (rank_positions(flat, (8, 8), np.random.default_rng(n)) for n in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert one[0].flatten().sort().values.tolist() == list(range(64))


def corner(images: Tensor) -> Tensor:
    """Model whose output depends on the upper left quarter only."""
    value = images[:, 0, :4, :4].mean(dim=(1, 2))
    return torch.stack([10 * value, torch.zeros_like(value)], dim=1)


def test_a_map_of_what_counts_beats_its_opposite() -> None:
    images = torch.zeros(1, 3, 8, 8)
    images[:, :, :4, :4] = 1.0
    where = torch.zeros(1, 8, 8)
    where[:, :4, :4] = 1.0
    classes, rng = torch.tensor([0]), np.random.default_rng(0)
    good = faithfulness_curves(corner, images, classes, rank_positions(where, (8, 8), rng), steps=8)
    bad = faithfulness_curves(
        corner, images, classes, rank_positions(1 - where, (8, 8), rng), steps=8
    )
    assert good["deletion"].shape == (1, 9)
    assert curve_area(good["deletion"]) < curve_area(bad["deletion"]) - 0.05
    assert curve_area(good["insertion"]) > curve_area(bad["insertion"])
    whole = torch.softmax(corner(images).double(), 1)[0, 0].item()
    np.testing.assert_allclose(good["deletion"][0, 0], whole)
    np.testing.assert_allclose(good["insertion"][0, -1], whole)
    # After a quarter of the positions, everything relevant has the mean colour.
    mean = torch.softmax(corner(torch.full_like(images, 0.25)).double(), 1)[0, 0].item()
    np.testing.assert_allclose(good["deletion"][0, 2:], mean, rtol=1e-6)


def test_a_batch_has_the_results_of_its_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 8, 8, generator=generator)
    order = rank_positions(
        torch.rand(3, 8, 8, generator=generator), (8, 8), np.random.default_rng(0)
    )
    classes = torch.tensor([0, 1, 0])
    whole = faithfulness_curves(corner, images, classes, order, steps=4)
    for row in range(3):
        one = faithfulness_curves(corner, images[[row]], classes[[row]], order[[row]], steps=4)
        for curve in CURVES:
            np.testing.assert_allclose(whole[curve][row], one[curve][0], rtol=1e-6)


def test_the_area_is_that_of_trapezoids() -> None:
    curves = np.random.default_rng(0).random((4, 21))
    np.testing.assert_allclose(curve_area(curves), np.trapezoid(curves, dx=0.05, axis=1))


def test_a_blur_keeps_the_mean_colour_alone() -> None:
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    blur = blurred(board.float().repeat(1, 3, 1, 1))
    assert (blur - 0.5).abs().max() < 0.02
