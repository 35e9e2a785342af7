import numpy as np
import pytest
import torch
from torch import Tensor

from ham10000.errors import ArgumentError
from ham10000.saliency import CURVES, SCORES, curve_area, localization_scores
from ham10000.saliency.scores import (
    blurred,
    faithfulness_curves,
    map_statistics,
    rank_positions,
    upsample,
)


def plain(map_: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    """The three scores of one map without ties, position by position."""
    pairs = sorted(zip(map_.ravel().tolist(), mask.ravel().tolist(), strict=True), reverse=True)
    area = int(mask.sum())
    common = sum(inside for _, inside in pairs[:area])
    inside = sum(value for value, here in pairs if here)
    return float(pairs[0][1]), inside / map_.sum(), common / (2 * area - common)


def test_scores_equal_plain_loops() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((20, 9, 12))
    masks = rng.random((20, 9, 12)) < rng.uniform(0.1, 0.9, (20, 1, 1))
    found = localization_scores(torch.from_numpy(maps), torch.from_numpy(masks))
    expected = np.array([plain(*pair) for pair in zip(maps, masks, strict=True)])
    for column, score in enumerate(SCORES):
        np.testing.assert_allclose(found[score], expected[:, column], rtol=1e-12)


def test_a_map_that_is_its_mask_gets_one_and_its_opposite_zero() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 2:5, 2:6] = True
    assert {value.item() for value in localization_scores(masks.double(), masks).values()} == {1.0}
    assert {value.item() for value in localization_scores((~masks).double(), masks).values()} == {
        0.0
    }


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_ties_count_as_if_broken_at_random(value: float) -> None:
    masks = torch.zeros(1, 10, 10, dtype=torch.bool)
    masks[0, :4, :5] = True  # a fifth
    found = localization_scores(torch.full((1, 10, 10), value), masks)
    assert found["pointing_game"].item() == pytest.approx(0.2)
    assert found["energy_inside"].item() == pytest.approx(0.2)
    assert found["iou"].item() == pytest.approx(4 / 36)


def test_scale_and_sharpness_of_a_map_dont_move_pointing_and_iou() -> None:
    maps = torch.rand(5, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = torch.rand(5, 7, 7, generator=torch.Generator().manual_seed(1)) > 0.6
    one, other = localization_scores(maps, masks), localization_scores(100 * maps**4, masks)
    for score in ("pointing_game", "iou"):
        np.testing.assert_allclose(one[score], other[score])


def test_maps_are_enlarged_as_overlays_show_them() -> None:
    small = torch.tensor([[[0.0, 1.0]]])
    np.testing.assert_allclose(upsample(small, (1, 4))[0, 0], [0, 0.25, 0.75, 1])


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.ones(2, 4, 4), torch.ones(3, 4, 4), r"found \(2, 4, 4\) and \(3, 4, 4\)"),
        (torch.ones(2, 1, 4, 4), torch.ones(2, 4, 4), r"expected maps \(N, h, w\)"),
        (
            torch.full((1, 4, 4), torch.nan),
            torch.ones(1, 4, 4),
            "map 0 has a negative or non",
        ),
        (-torch.ones(1, 4, 4), torch.ones(1, 4, 4), "map 0 has a negative or non"),
        (
            torch.ones(2, 4, 4),
            torch.eye(4).repeat(2, 1, 1) * torch.tensor([1, 0])[:, None, None],
            "mask 1 is empty",
        ),
    ],
)
def test_what_cant_be_measured_is_refused(maps: Tensor, masks: Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        localization_scores(maps, masks)


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


def test_statistics_of_maps_equal_plain_loops() -> None:
    maps = np.random.default_rng(0).random((5, 3, 4, 2))
    maps[0, 1] = 0.7
    found = map_statistics(torch.from_numpy(maps))
    flat = (maps / maps.sum((2, 3), keepdims=True)).reshape(5, 3, 8)
    average = flat.mean((0, 1))
    for image, rows in enumerate(flat):
        entropies = [-sum(p * np.log(p) for p in row) / np.log(8) for row in rows]
        assert found["entropy"][image] == pytest.approx(np.mean(entropies))
        # singular values from the eigenvalues of the Gram matrix
        values = np.sqrt(np.linalg.eigvalsh(rows @ rows.T))
        shares = values / values.sum()
        assert found["effective_maps"][image] == pytest.approx(np.exp(-shares @ np.log(shares)))
        distance = sum(abs(rows.mean(0) - average)) / 2
        assert found["deviation"][image] == pytest.approx(distance)
    assert found["constant_maps"].tolist() == [pytest.approx(1 / 3), 0, 0, 0, 0]


@pytest.mark.parametrize("value", [0.0, 0.25])
@pytest.mark.parametrize("positions", [1, 4])
def test_statistics_of_uniform_maps(value: float, positions: int) -> None:
    found = map_statistics(torch.full((2, 16, positions, 1), value))
    expected = {"entropy": 1.0, "effective_maps": 1.0, "constant_maps": 1.0, "deviation": 0.0}
    if positions == 1:
        expected["entropy"] = 0.0  # there is no choice
    for name, each in expected.items():
        np.testing.assert_allclose(found[name], each, atol=1e-6)
