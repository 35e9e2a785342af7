import pytest
from hypothesis import given
from hypothesis import strategies as st

from softattn import ModelError
from softattn.features.layout import Layout
from softattn.features.reading import Hints, Output, Reading, fit_grid, read_map

SQUARE = (224, 224)
sizes = st.integers(32, 600)


@given(height=sizes, width=sizes, stride=st.integers(2, 16), ceil=st.booleans())
def test_the_grid_of_any_picture_is_found(height: int, width: int, stride: int, ceil: bool) -> None:
    rows, columns = height // stride, width // stride
    if ceil:
        rows, columns = -(-height // stride), -(-width // stride)
    found = fit_grid(rows * columns, (height, width))
    assert found is not None
    off = abs(found[0] * width - found[1] * height)
    assert found == (rows, columns) or off <= abs(rows * width - columns * height)


@given(side=st.integers(2, 60), picture=sizes)
def test_the_grid_of_a_square_is_square(side: int, picture: int) -> None:
    assert fit_grid(side * side, (picture, picture)) == (side, side)
    assert fit_grid(side * side + 1, (picture, picture)) is None


@pytest.mark.parametrize("count", [-3, 0, 1])
def test_no_grid_of_less_than_two(count: int) -> None:
    assert fit_grid(count, SQUARE) is None


@pytest.mark.parametrize(
    ("shape", "picture", "expected"),
    [
        ((2, 64, 7, 7), SQUARE, Reading(Layout.NCHW)),
        ((2, 7, 7, 64), SQUARE, Reading(Layout.NHWC)),
        ((2, 64, 8, 12), (256, 384), Reading(Layout.NCHW)),
        ((2, 8, 12, 64), (256, 384), Reading(Layout.NHWC)),
        ((2, 196, 64), SQUARE, Reading(Layout.NLC, (14, 14), 0)),
        ((2, 197, 64), SQUARE, Reading(Layout.NLC, (14, 14), 1)),
        ((2, 3072, 64), (1024, 768), Reading(Layout.NLC, (64, 48), 0)),
    ],
)
def test_shapes_tell_the_layout(
    shape: tuple[int, ...], picture: tuple[int, int], expected: Reading
) -> None:
    assert read_map(Output(shape, picture), Hints()) == expected


@pytest.mark.parametrize("inside", [196, 200])
def test_prefix_tokens_as_declared_or_none(inside: int) -> None:
    found = read_map(Output((2, inside, 64), SQUARE, num_prefix_tokens=4), Hints())
    assert found == Reading(Layout.NLC, (14, 14), inside - 196)


CUBE = (2, 64, 64, 64)


@pytest.mark.parametrize(
    ("halved", "layout"), [((2, 64, 32, 64), Layout.NCHW), ((2, 32, 64, 64), Layout.NHWC)]
)
def test_a_lower_picture_tells_what_proportions_leave_open(
    halved: tuple[int, ...], layout: Layout
) -> None:
    output = Output(CUBE, (256, 256), halve=lambda: halved)
    assert read_map(output, Hints()).layout is layout


def test_a_lower_picture_decides_against_the_proportions_of_strange_strides() -> None:
    output = Output((2, 64, 3, 50), (48, 200), halve=lambda: (2, 64, 1, 50))
    assert read_map(output, Hints()).layout is Layout.NCHW


def test_the_parameters_tell_the_channels_where_shapes_do_not() -> None:
    output = Output((2, 64, 3, 50), None, channels=frozenset({64}))
    assert read_map(output, Hints()).layout is Layout.NCHW


@pytest.mark.parametrize(
    ("output", "hints", "text"),
    [
        (Output((2, 10), SQUARE), Hints(), r"\(2, 10\) is no spatial map: expected \(B, C, H, W\)"),
        (Output((2, 3, 4, 5, 6), SQUARE), Hints(), "is no spatial map"),
        (Output((2, 9, 7), SQUARE), Hints(Layout.NCHW), "expected the layout NCHW that was given"),
        (Output((2, 64, 1, 1), SQUARE), Hints(), "it has 1 x 1 positions, and attention chooses"),
        (Output(CUBE, (256, 256)), Hints(), r"may be \(B, C, H, W\), \(B, H, W, C\), or no map"),
        (Output(CUBE, None), Hints(), "Pass layout='NCHW' or layout='NHWC'"),
        (Output((2, 198, 64), SQUARE), Hints(), r"no grid of a picture of 224 x 224 has 198 - 0"),
        (Output((2, 9, 64), SQUARE, num_prefix_tokens=5), Hints(), "is open: more than one grid"),
        (Output((2, 196, 64), None), Hints(), r"tokens of any grid. Pass grid=\(height, width\)"),
        (Output((2, 256, 49), SQUARE, frozenset({256})), Hints(), "its channels before its tokens"),
        (Output((2, 197, 64), SQUARE), Hints(grid=(14, 15)), "has 197 tokens, not 0 in front and"),
        (Output((2, 197, 64), SQUARE), Hints(None, (14, 14), 2), "not 2 in front and a grid of 14"),
    ],
)
def test_what_is_no_map_or_open_is_refused(output: Output, hints: Hints, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        read_map(output, hints)


@pytest.mark.parametrize(
    ("output", "hints", "expected"),
    [
        (Output(CUBE, None), Hints(Layout.NHWC), Reading(Layout.NHWC)),
        (Output((2, 198, 64), None), Hints(grid=(14, 14)), Reading(Layout.NLC, (14, 14), 2)),
        (Output((2, 9, 64), SQUARE), Hints(num_prefix_tokens=5), Reading(Layout.NLC, (2, 2), 5)),
        (Output((2, 12, 64), SQUARE), Hints(grid=(3, 4)), Reading(Layout.NLC, (3, 4), 0)),
    ],
)
def test_hints_decide(output: Output, hints: Hints, expected: Reading) -> None:
    assert read_map(output, hints) == expected
