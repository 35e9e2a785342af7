import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from softattn import ArgumentError, ArgumentTypeError, MissingExtraError
from softattn._validation import (
    check_finite,
    check_fraction,
    check_int,
    check_odd_sizes,
    closest,
    describe,
    listed,
    missing_extra,
)


@pytest.mark.parametrize("value", [2, torch.tensor(2), torch.tensor([2])[0]])
def test_whole_numbers(value):
    number = check_int("testing", "n", value)
    assert (number, type(number)) == (2, int)
    assert check_int("testing", "n", 0, minimum=0) == 0


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (check_int, 0, ArgumentError, "n must be a whole number of at least 1, found 0."),
        (check_int, True, ArgumentTypeError, "at least 1, found True (bool)."),
        (check_int, torch.zeros(2), ArgumentTypeError, "found tensor([0., 0.]) (Tensor)."),
        (check_int, 2.0, ArgumentTypeError, "at least 1, found 2.0 (float)."),
        (check_finite, "1", ArgumentTypeError, "n must be a finite number, found '1' (str)."),
        (check_finite, np.bool_(True), ArgumentTypeError, "found np.True_ (bool)."),
        (check_finite, torch.tensor(0.5), ArgumentTypeError, "found tensor(0.5000) (Tensor)."),
        (check_finite, True, ArgumentTypeError, "n must be a finite number, found True (bool)."),
        (check_finite, float("nan"), ArgumentError, "n must be a finite number, found nan."),
        (check_finite, float("inf"), ArgumentError, "n must be a finite number, found inf."),
        (check_finite, 10**400, ArgumentError, "00."),
        (check_fraction, 1.5, ArgumentError, "n must be between 0 and 1, found 1.5."),
        (check_fraction, -0.1, ArgumentError, "n must be between 0 and 1, found -0.1."),
    ],
)
def test_invalid_values(check, value, error, message):
    with pytest.raises(error, match=r"^testing: n must be") as raised:
        check("testing", "n", value)
    assert str(raised.value).endswith(message)


def test_fractions_and_sizes():
    assert [check_fraction("testing", "n", value) for value in (0, 0.5, 1)] == [0.0, 0.5, 1.0]
    for value in (np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        number = check_finite("testing", "n", value)
        assert (number, type(number)) == (0.5, float)
    for value, count, sizes in [(3, 2, (3, 3)), ([3, 3], 2, (3, 3)), ((1, 5), 2, (1, 5)),
                                (3, 1, (3,)), ((5,), 1, (5,)), ((1, 3, 5), 3, (1, 3, 5))]:  # fmt: skip
        assert check_odd_sizes("testing", "n", value, count) == sizes


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
        check_odd_sizes("testing", "n", value, count)
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
    assert listed("abc", max_items=1) == "a, and 2 more"


def test_descriptions():
    assert describe(torch.zeros(2, 3)) == "a tensor (2, 3)"
    assert describe((torch.zeros(2), None)) == "a tuple of 2: a tensor (2,), a NoneType"
    assert describe({"out": 1, "aux": 2}) == "a dict with out, aux"
    assert describe([1, 1.0]) == "a list of 2: an int, a float"
