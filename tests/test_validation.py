import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from softattn import ArgumentError, ArgumentTypeError, MissingExtraError
from softattn._validation import (
    closest,
    describe,
    finite_number,
    fraction,
    listed,
    missing_extra,
    odd_sizes,
    whole_number,
)


@pytest.mark.parametrize("value", [2, torch.tensor(2), torch.tensor([2])[0]])
def test_whole_numbers(value):
    number = whole_number("testing", "n", value)
    assert (number, type(number)) == (2, int)
    assert whole_number("testing", "n", 0, least=0) == 0


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (whole_number, 0, ArgumentError, "n must be a whole number of at least 1, found 0."),
        (whole_number, True, ArgumentTypeError, "at least 1, found True (bool)."),
        (whole_number, torch.zeros(2), ArgumentTypeError, "found tensor([0., 0.]) (Tensor)."),
        (whole_number, 2.0, ArgumentTypeError, "at least 1, found 2.0 (float)."),
        (finite_number, "1", ArgumentTypeError, "n must be a finite number, found '1' (str)."),
        (finite_number, np.bool_(True), ArgumentTypeError, "found np.True_ (bool)."),
        (finite_number, torch.tensor(0.5), ArgumentTypeError, "found tensor(0.5000) (Tensor)."),
        (finite_number, True, ArgumentTypeError, "n must be a finite number, found True (bool)."),
        (finite_number, float("nan"), ArgumentError, "n must be a finite number, found nan."),
        (finite_number, float("inf"), ArgumentError, "n must be a finite number, found inf."),
        (finite_number, 10**400, ArgumentError, "00."),
        (fraction, 1.5, ArgumentError, "n must be between 0 and 1, found 1.5."),
        (fraction, -0.1, ArgumentError, "n must be between 0 and 1, found -0.1."),
    ],
)
def test_invalid_values(check, value, error, message):
    with pytest.raises(error, match=r"^testing: n must be") as raised:
        check("testing", "n", value)
    assert str(raised.value).endswith(message)


def test_fractions_and_sizes():
    assert [fraction("testing", "n", value) for value in (0, 0.5, 1)] == [0.0, 0.5, 1.0]
    for value in (np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        number = finite_number("testing", "n", value)
        assert (number, type(number)) == (0.5, float)
    for value, count, sizes in [(3, 2, (3, 3)), ([3, 3], 2, (3, 3)), ((1, 5), 2, (1, 5)),
                                (3, 1, (3,)), ((5,), 1, (5,)), ((1, 3, 5), 3, (1, 3, 5))]:  # fmt: skip
        assert odd_sizes("testing", "n", value, count) == sizes


@pytest.mark.parametrize(
    ("value", "count", "message"),
    [
        ((1, 2, 3), 2, "be one number or (height, width), found (1, 2, 3)."),
        ((1, 3), 3, "be one number or (depth, height, width), found (1, 3)."),
        ((1, 3), 1, "be one number, found (1, 3)."),
        (4, 2, "found 4. Nearest: 3 or 5."),
        ((4,), 1, "found (4,). Nearest: (3,) or (5,)."),
        ((3, 2), 2, "found (3, 2). Nearest: (3, 1) or (3, 3)."),
        ((1, 3, 6), 3, "found (1, 3, 6). Nearest: (1, 3, 5) or (1, 3, 7)."),
    ],
)
def test_invalid_sizes(value, count, message):
    with pytest.raises(ArgumentError, match=r"^testing: n must be") as raised:
        odd_sizes("testing", "n", value, count)
    assert str(raised.value).endswith(message)


def test_missing_extra():
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'softattn[plot]'")):
        raise missing_extra("drawing", "matplotlib", "plot")


def test_closest_names():
    assert closest("layr4", ["layer3", "layer4", "fc"]) == "Closest: layer4, layer3."
    assert closest("x", ["layer3", "fc"]) == "There are: layer3, fc."
    options = [f"block{i}" for i in range(12)]
    assert closest("x", options).endswith("block8, block9, and 2 more.")
    assert closest("x", options[:10]).endswith("block8, block9.")
    assert closest("x", []) == "There are none."


def test_lists_of_names():
    assert listed([]) == "nothing"
    assert listed("abc") == "a, b, c"
    assert listed("abc", most=1) == "a, and 2 more"


def test_descriptions():
    assert describe(torch.zeros(2, 3)) == "a tensor (2, 3)"
    assert describe((torch.zeros(2), None)) == "a tuple of 2: a tensor (2,), a NoneType"
    assert describe({"out": 1, "aux": 2}) == "a dict with out, aux"
    assert describe([1, 1.0]) == "a list of 2: an int, a float"
