import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from softattn import ModelError
from softattn.features.inference import (
    LayoutHints,
    ObservedOutput,
    find_token_grid,
    follows_positions,
    infer_layout,
    infer_layout_strictly,
    is_reordered,
    reference_maps,
)
from softattn.features.layout import Layout, MapLayout, TokenGrid, strided_size

SQUARE = (224, 224)


def tokens(rows: int, columns: int, prefix: int, stride: int | None = None) -> MapLayout:
    return MapLayout(Layout.NLC, TokenGrid(rows, columns, stride), prefix)


@pytest.mark.parametrize(
    ("num_tokens", "size", "hint", "expected"),
    [
        (196, (224, 224), None, 16),
        (64 * 48, (1024, 768), 16, 16),
        (27 * 27, (384, 384), 14, 14),  # a patch of 14 doesn't divide 384
        (16, (224, 224), 64, -64),  # LeViT
        (16, (224, 224), None, 56),
        (9, (32, 32), None, 9),
        (1, (224, 224), None, None),  # a class token alone is not a map
        (197, (224, 224), None, None),
        (-1, (224, 224), None, None),
    ],
)
def test_grids_that_models_have(num_tokens, size, hint, expected):
    found = find_token_grid(num_tokens, size, hint)
    if expected is None:
        assert found is None
    else:
        rows, columns = strided_size(size, abs(expected), expected < 0)
        assert found == TokenGrid(rows, columns, abs(expected), expected < 0)


@given(st.integers(2, 16), st.integers(2, 16), st.sampled_from([4, 8, 14, 16, 32]))
def test_a_found_grid_has_as_many_tokens(rows, columns, stride):
    image = (rows * stride, columns * stride)
    assert find_token_grid(rows * columns, image, stride) == TokenGrid(rows, columns, stride)


@pytest.mark.parametrize(
    ("shape", "size", "channels_last", "expected"),
    [
        ((1, 512, 7, 7), (224, 224), False, Layout.NCHW),
        ((1, 7, 7, 512), (224, 224), False, Layout.NHWC),
        ((1, 8, 8, 8), (256, 256), False, Layout.NCHW),
        ((1, 8, 8, 8), (256, 256), True, Layout.NHWC),
        ((1, 512, 7, 14), (224, 448), True, Layout.NCHW),
        ((1, 7, 14, 512), (224, 448), False, Layout.NHWC),
        ((1, 64, 16, 4), (224, 224), False, Layout.NCHW),  # of no ratio: channels are first
        ((1, 512, 1, 1), (224, 224), False, None),
        ((1, 1, 1, 512), (224, 224), True, None),
        ((1, 512), (224, 224), False, None),
    ],
)
def test_layouts_are_inferred_from_shapes(shape, size, channels_last, expected):
    place = infer_layout(torch.zeros(shape), size, channels_last=channels_last)
    assert (place.layout if place is not None else None) == expected


@pytest.mark.parametrize("declared", [None, 2])
def test_prefix_tokens_are_counted_if_the_model_declares_none(declared):
    place = infer_layout(torch.zeros(1, 2 + 196, 8), (224, 224), num_prefix_tokens=declared)
    assert (place.layout, place.grid, place.num_prefix_tokens) == (
        Layout.NLC,
        TokenGrid(14, 14, 16),
        2,
    )


def test_a_declared_number_of_prefix_tokens_is_tried_first():
    def count(num_tokens, declared):
        place = infer_layout(torch.zeros(1, num_tokens, 8), (64, 64), num_prefix_tokens=declared)
        return place.num_prefix_tokens

    # Nine tokens are 3 x 3, or 2 x 2 behind five.
    assert (count(9, None), count(9, 5)) == (0, 5)
    assert count(16, 1) == 0


@pytest.mark.parametrize("value", [[torch.zeros(1, 8, 4, 4)], None, {"x": 1}])
def test_other_values_have_no_layout(value):
    assert infer_layout(value, (64, 64)) is None


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((2, 64, 7, 7), SQUARE, MapLayout(Layout.NCHW)),
        ((2, 7, 7, 64), SQUARE, MapLayout(Layout.NHWC)),
        ((2, 64, 8, 12), (256, 384), MapLayout(Layout.NCHW)),
        ((2, 8, 12, 64), (256, 384), MapLayout(Layout.NHWC)),
        ((2, 196, 64), SQUARE, tokens(14, 14, 0, 16)),
        ((2, 197, 64), SQUARE, tokens(14, 14, 1, 16)),
        ((2, 3072, 64), (1024, 768), tokens(64, 48, 0, 16)),
    ],
)
def test_shapes_determine_the_layout(
    shape: tuple[int, ...], image: tuple[int, int], expected: MapLayout
) -> None:
    assert infer_layout_strictly(ObservedOutput(shape, image), LayoutHints()) == expected


@pytest.mark.parametrize("inside", [196, 200])
def test_prefix_tokens_as_declared_or_none(inside: int) -> None:
    found = infer_layout_strictly(
        ObservedOutput((2, inside, 64), SQUARE, num_prefix_tokens=4), LayoutHints()
    )
    assert found == tokens(14, 14, inside - 196, 16)


CUBE = (2, 64, 64, 64)


@pytest.mark.parametrize(
    ("halved", "layout"), [((2, 64, 32, 64), Layout.NCHW), ((2, 32, 64, 64), Layout.NHWC)]
)
def test_a_lower_image_resolves_ambiguous_aspect_ratios(
    halved: tuple[int, ...], layout: Layout
) -> None:
    output = ObservedOutput(CUBE, (256, 256), shape_of_half=lambda: halved)
    assert infer_layout_strictly(output, LayoutHints()).layout is layout


def test_a_lower_image_decides_if_no_aspect_ratio_fits() -> None:
    output = ObservedOutput((2, 64, 3, 50), (48, 200), shape_of_half=lambda: (2, 64, 1, 50))
    assert infer_layout_strictly(output, LayoutHints()).layout is Layout.NCHW


def test_parameters_determine_the_channels_if_shapes_do_not() -> None:
    output = ObservedOutput((2, 64, 3, 50), None, channels=frozenset({64}))
    assert infer_layout_strictly(output, LayoutHints()).layout is Layout.NCHW


@pytest.mark.parametrize(
    ("output", "hints", "text"),
    [
        (
            ObservedOutput((2, 10), SQUARE),
            LayoutHints(),
            r"\(2, 10\) is not a feature map: expected \(B, C, H, W\)",
        ),
        (ObservedOutput((2, 3, 4, 5, 6), SQUARE), LayoutHints(), "is not a feature map"),
        (
            ObservedOutput((2, 9, 7), SQUARE),
            LayoutHints(Layout.NCHW),
            "expected layout='NCHW', as given",
        ),
        (
            ObservedOutput((2, 64, 1, 1), SQUARE),
            LayoutHints(),
            "it has 1 x 1 positions, and attention needs two",
        ),
        (
            ObservedOutput(CUBE, (256, 256)),
            LayoutHints(),
            r"may be \(B, C, H, W\), \(B, H, W, C\), or not a feature map",
        ),
        (ObservedOutput(CUBE, None), LayoutHints(), "Pass layout='NCHW' or layout='NHWC'"),
        (
            ObservedOutput((2, 198, 64), SQUARE),
            LayoutHints(),
            r"no grid of an image of 224 x 224 can have 198 - 0",
        ),
        (
            ObservedOutput((2, 9, 64), SQUARE, num_prefix_tokens=5),
            LayoutHints(),
            "is ambiguous: several grids",
        ),
        (
            ObservedOutput((2, 196, 64), None),
            LayoutHints(),
            r"tokens of any grid. Pass grid=\(height, width\)",
        ),
        (
            ObservedOutput((2, 256, 49), SQUARE, frozenset({256})),
            LayoutHints(),
            "its channels before its tokens",
        ),
        (
            ObservedOutput((2, 197, 64), SQUARE),
            LayoutHints(grid=(14, 15)),
            "has 197 tokens, expected 0 prefix tokens and",
        ),
        (
            ObservedOutput((2, 197, 64), SQUARE),
            LayoutHints(None, (14, 14), 2),
            "expected 2 prefix tokens and a grid of 14",
        ),
        (
            ObservedOutput((2, 64, 14, 14), SQUARE),
            LayoutHints(grid=(14, 14)),
            "has no tokens, and grid and num_prefix_tokens apply to tokens only",
        ),
    ],
)
def test_outputs_without_a_unique_layout_are_refused(
    output: ObservedOutput, hints: LayoutHints, text: str
) -> None:
    with pytest.raises(ModelError, match=text):
        infer_layout_strictly(output, hints)


@pytest.mark.parametrize(
    ("output", "hints", "expected"),
    [
        (ObservedOutput(CUBE, None), LayoutHints(Layout.NHWC), MapLayout(Layout.NHWC)),
        (ObservedOutput((2, 198, 64), None), LayoutHints(grid=(14, 14)), tokens(14, 14, 2)),
        (
            ObservedOutput((2, 9, 64), SQUARE),
            LayoutHints(num_prefix_tokens=5),
            tokens(2, 2, 5, 112),
        ),
        (ObservedOutput((2, 12, 64), SQUARE), LayoutHints(grid=(3, 4)), tokens(3, 4, 0)),
    ],
)
def test_hints_decide(output: ObservedOutput, hints: LayoutHints, expected: MapLayout) -> None:
    assert infer_layout_strictly(output, hints) == expected


def test_maps_of_the_named_stages_in_any_order():
    timm = pytest.importorskip("timm", reason="needs softattn[timm]")
    model = timm.create_model("test_vit", img_size=64).eval()
    x = torch.randn(2, 3, 64, 64)
    maps = reference_maps(model, (x,), ["blocks.2", "norm", "blocks.0"])
    with torch.no_grad():
        wanted = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    assert set(maps) == {"blocks.0", "blocks.2"}
    assert torch.equal(maps["blocks.0"], wanted[0])
    assert torch.equal(maps["blocks.2"], wanted[1])


def test_a_failing_forward_intermediates_is_ignored():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.feature_info = [{"module": "0"}]

        def forward_intermediates(self, *args, **kwargs):
            raise ValueError

    assert reference_maps(Fails(), (torch.zeros(1),), ["0"]) == {}
    assert reference_maps(nn.Identity(), (torch.zeros(1),), ["0"]) == {}


def test_reordered_maps_have_the_same_values_at_other_positions():
    own = torch.randn(1, 2, 4, 4)
    assert is_reordered(own.flip(2), own)
    assert not is_reordered(own.clone(), own)
    assert not is_reordered(own + 1, own)
    assert not is_reordered(own.flip(2)[:, :, :2], own)
    assert not is_reordered(own.flip(2).to("meta"), own)


@pytest.mark.parametrize("size", [(8, 8), (2, 2), (3, 7), (1, 5)])
def test_a_map_follows_the_positions_of_its_image(size):
    image = torch.randn(1, 3, 56, 70)

    def read(x):
        maps = F.adaptive_avg_pool2d(x.square(), size)
        return maps + maps.mean((2, 3), keepdim=True)

    assert follows_positions(read, image, size)
    shuffled = torch.arange(size[0] * size[1]).flip(0)
    assert not follows_positions(
        lambda x: read(x).flatten(2)[:, :, shuffled].unflatten(2, size), image, size
    )


def test_a_map_that_changes_at_random_is_not_arranged():
    image = torch.randn(1, 3, 32, 32)
    assert not follows_positions(lambda x: torch.randn(len(x), 2, 4, 4), image, (4, 4))


@pytest.mark.parametrize("kind", ["alike", "never", "meta"])
def test_maps_whose_order_cannot_be_tested(kind):
    image = torch.randn(1, 3, 32, 32, device="meta" if kind == "meta" else "cpu")

    def read(x):
        factor = 0.0 if kind == "never" else 1.0
        return factor * x.sum((1, 2, 3)).reshape(-1, 1, 1, 1).expand(-1, 2, 4, 4)

    assert follows_positions(read, image, (4, 4))
