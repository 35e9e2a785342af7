from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softattn import ShapeError
from softattn.features.layout import (
    Layout,
    MapLayout,
    TokenGrid,
    declared_map,
    find_map,
    fit_grid,
    from_nchw,
    replace_map,
    same_aspect,
    strided_size,
    to_nchw,
)

sizes = st.integers(1, 4)


@given(st.sampled_from(Layout), sizes, sizes, sizes, sizes, st.integers(0, 3))
def test_there_and_back_is_the_same(layout, batch, channels, height, width, num_prefix):
    depth = (3,) if layout.num_dims == 3 else ()
    x = torch.randn(batch, channels, *depth, height, width)
    prefix = torch.randn(batch, num_prefix, channels)
    count = num_prefix if layout is Layout.NLC else 0
    there = from_nchw(x, layout)
    if layout is Layout.NLC:
        there = torch.cat([prefix, there], dim=1)
    assert torch.equal(to_nchw(there, layout, (height, width), count), x)


def test_positions_keep_their_place():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert from_nchw(x, Layout.NLC).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert from_nchw(x, Layout.NHWC)[0, 1, 2, 0] == 5


def test_no_layout_copies():
    x = torch.randn(2, 5 + 4 * 3, 8)
    assert to_nchw(x, Layout.NLC, (4, 3), 5).data_ptr() == x[:, 5:].data_ptr()


@pytest.mark.parametrize("grid", [(4, 4), None])
def test_tokens_that_fit_no_grid(grid):
    with pytest.raises(ShapeError, match=r"arranging tokens on a grid: expected \(B, 1 \+ .*found"):
        to_nchw(torch.zeros(2, 16, 8), Layout.NLC, grid, 1)


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC])
def test_maps_of_other_dimensions(layout):
    with pytest.raises(ShapeError, match=f"as {layout.value}: expected 4 dimensions, found"):
        to_nchw(torch.zeros(2, 16, 8), layout)


def test_tokens_of_another_number_than_the_layout_knows():
    layout = MapLayout(Layout.NLC, TokenGrid(4, 4), 1)
    with pytest.raises(ShapeError, match=r"found 15 tokens of an image of unknown size, expected"):
        layout.to_nchw(torch.zeros(2, 16, 8))
    with pytest.raises(ShapeError, match=r"expected \(B, 1 \+ 0 \* 0, C\), found \(2, 16, 8, 2\)"):
        layout.to_nchw(torch.zeros(2, 16, 8, 2))


@pytest.mark.parametrize(
    ("count", "image", "stride", "expected"),
    [
        (24, None, None, (4, 6)),
        (24, (64, 96), 16, (4, 6)),
        (24, (96, 64), 16, (6, 4)),
        (24, (224, 224), 16, (4, 6)),  # the model resizes its images
        (144, (144, 256), 16, (9, 16)),
        (144, (256, 144), None, (16, 9)),
    ],
)
def test_the_grid_of_tokens_follows_the_image(count, image, stride, expected):
    grid = TokenGrid(4, 6, stride)
    assert grid.size(count, image) == expected


def test_a_stride_that_rounds_up():
    assert TokenGrid(4, 6, 16, round_up=True).size(30, (70, 90)) == (5, 6)


@pytest.mark.parametrize(
    ("count", "image", "text"),
    [(36, None, "image of unknown size"), (35, (64, 64), "image of 64 x 64")],
)
def test_numbers_of_tokens_without_a_known_grid(count, image, text):
    with pytest.raises(ShapeError, match=f"found {count} tokens of an {text}, expected a grid of"):
        TokenGrid(6, 4, 16).size(count, image)


SQUARE = (224, 224)
sides = st.integers(32, 600)


@given(height=sides, width=sides, stride=st.integers(2, 16), ceil=st.booleans())
def test_the_grid_of_any_image_is_found(height, width, stride, ceil):
    rows, columns = strided_size((height, width), stride, ceil)
    found = fit_grid(rows * columns, (height, width))
    assert found is not None
    off = abs(found[0] * width - found[1] * height)
    assert found == (rows, columns) or off <= abs(rows * width - columns * height)
    assert same_aspect((rows, columns), (height, width))
    exact = TokenGrid(1, 1, stride, ceil)
    assert exact.size(rows * columns, (height, width)) == (rows, columns)


@given(side=st.integers(2, 60), image=sides)
def test_the_grid_of_a_square_is_square(side, image):
    assert fit_grid(side * side, (image, image)) == (side, side)
    assert fit_grid(side * side + 1, (image, image)) is None


@pytest.mark.parametrize("count", [-3, 0, 1])
def test_no_grid_of_less_than_two(count):
    assert fit_grid(count, SQUARE) is None


class Fields(NamedTuple):
    count: int
    x: torch.Tensor


@dataclass
class Output:
    x: torch.Tensor
    last_hidden_state: torch.Tensor | None = None


MAP, OTHER, VECTOR = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("output", "declared"),
    [
        (MAP, True),
        ((VECTOR, None, MAP, OTHER), False),
        ((OTHER.long(), MAP), False),
        (Fields(2, MAP), False),
        ({"scores": VECTOR, "out": MAP}, False),
        ({"pooled": OTHER, "last_hidden_state": MAP}, True),
        (OrderedDict(hidden_states=(OTHER,), feature_maps=(OTHER, MAP)), True),
        ({"feature_maps": [OTHER, MAP]}, True),
        ({"x_norm_regtokens": OTHER, "x_norm_patchtokens": MAP}, True),
        (Output(MAP), False),
        (Output(OTHER, MAP), True),
    ],
)
def test_the_map_in_an_output_is_found_and_replaced(output, declared):
    assert find_map(output) is MAP
    assert (declared_map(output) is MAP) == declared
    new = torch.ones(1, 2, 3, 3)
    replaced = replace_map(output, new)
    assert find_map(replaced) is new
    assert type(replaced) is (torch.Tensor if output is MAP else type(output))
    assert find_map(output) is MAP
    back = replace_map(replaced, MAP)
    assert output is MAP or back == output or repr(back) == repr(output)


@pytest.mark.parametrize("output", [None, 3, "map", [MAP], (VECTOR,), {"a": VECTOR}, (), Output])
def test_outputs_without_a_map(output):
    assert find_map(output) is None
    assert declared_map(output) is None
