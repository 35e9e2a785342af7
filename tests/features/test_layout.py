import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softattn import ShapeError
from softattn.features.layout import Layout, TokenGrid, find_grid, from_nchw, to_nchw
from softattn.features.places import find_place

sizes = st.integers(1, 4)


@given(st.sampled_from(Layout), sizes, sizes, sizes, sizes, st.integers(0, 3))
def test_there_and_back_is_the_same(layout, batch, channels, height, width, num_prefix):
    x = torch.randn(batch, channels, height, width)
    prefix = torch.randn(batch, num_prefix, channels)
    count = num_prefix if layout is Layout.NLC else 0
    there = from_nchw(x, layout, prefix)
    assert torch.equal(to_nchw(there, layout, (height, width), count), x)


def test_positions_keep_their_place():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert from_nchw(x, Layout.NLC).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert from_nchw(x, Layout.NHWC)[0, 1, 2, 0] == 5


def test_prefix_tokens_stay_in_front():
    prefix = torch.full((1, 2, 1), -1.0)
    tokens = from_nchw(torch.ones(1, 1, 1, 2), Layout.NLC, prefix)
    assert tokens.flatten().tolist() == [-1, -1, 1, 1]


def test_no_layout_copies():
    x = torch.randn(2, 5 + 4 * 3, 8)
    assert to_nchw(x, Layout.NLC, (4, 3), 5).data_ptr() == x[:, 5:].data_ptr()


@pytest.mark.parametrize("grid", [(4, 4), None])
def test_tokens_that_fit_no_grid(grid):
    with pytest.raises(ShapeError, match=r"putting tokens on a grid: expected \(B, 1 \+ .*found"):
        to_nchw(torch.zeros(2, 16, 8), Layout.NLC, grid, 1)


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC])
def test_maps_of_other_dimensions(layout):
    with pytest.raises(ShapeError, match=f"as {layout.value}: expected 4 dimensions, found"):
        to_nchw(torch.zeros(2, 16, 8), layout)


@pytest.mark.parametrize(
    ("num_tokens", "size", "hint", "expected"),
    [
        (196, (224, 224), None, TokenGrid(16)),
        (64 * 48, (1024, 768), 16, TokenGrid(16)),
        (27 * 27, (384, 384), 14, TokenGrid(14)),  # a patch of 14 doesn't divide 384
        (16, (224, 224), 64, TokenGrid(64, round_up=True)),  # LeViT
        (16, (224, 224), None, TokenGrid(56)),
        (9, (32, 32), None, TokenGrid(9)),
        (1, (224, 224), None, None),  # a class token is no map
        (197, (224, 224), None, None),
        (-1, (224, 224), None, None),
    ],
)
def test_grids_that_models_have(num_tokens, size, hint, expected):
    assert find_grid(num_tokens, *size, hint) == expected


@given(st.integers(2, 16), st.integers(2, 16), st.sampled_from([4, 8, 14, 16, 32]))
def test_a_found_grid_has_as_many_tokens(rows, columns, stride):
    height, width = rows * stride, columns * stride
    grid = find_grid(rows * columns, height, width, stride)
    assert grid == TokenGrid(stride)
    assert grid.size(height, width) == (rows, columns)
    assert grid.size(height + stride - 1, width) == (rows, columns)
    assert TokenGrid(stride, round_up=True).size(height + 1, width) == (rows + 1, columns)


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
def test_layouts_are_told_by_shape(shape, size, channels_last, expected):
    place = find_place(torch.zeros(shape), *size, channels_last=channels_last)
    assert (place.layout if place is not None else None) == expected


@pytest.mark.parametrize("declared", [None, 2])
def test_prefix_tokens_are_counted_where_the_model_is_silent(declared):
    place = find_place(torch.zeros(1, 2 + 196, 8), 224, 224, num_prefix_tokens=declared)
    assert (place.layout, place.grid, place.num_prefix_tokens) == (Layout.NLC, TokenGrid(16), 2)


def test_a_declared_number_of_prefix_tokens_is_tried_first():
    def count(num_tokens, declared):
        place = find_place(torch.zeros(1, num_tokens, 8), 64, 64, num_prefix_tokens=declared)
        return place.num_prefix_tokens

    # Nine tokens are 3 x 3, or 2 x 2 behind five.
    assert (count(9, None), count(9, 5)) == (0, 5)
    assert count(16, 1) == 0


@pytest.mark.parametrize("value", [[torch.zeros(1, 8, 4, 4)], None, {"x": 1}])
def test_only_one_tensor_has_a_place(value):
    assert find_place(value, 64, 64) is None
