import pickle

import pytest

from softattn import errors


@pytest.mark.parametrize(
    ("error", "built_in"),
    [
        (errors.ArgumentError, ValueError),
        (errors.ArgumentTypeError, TypeError),
        (errors.MissingExtraError, ImportError),
        (errors.ModelError, ValueError),
        (errors.ShapeError, ValueError),
        (errors.WeightsError, ValueError),
    ],
)
def test_each_is_ours_and_the_built_in_one(error, built_in):
    assert issubclass(error, errors.SoftAttnError)
    assert issubclass(error, built_in)
    copied = pickle.loads(pickle.dumps(error("what happened")))
    assert (type(copied), str(copied)) == (error, "what happened")


def test_closest_names():
    assert errors.closest("layr4", ["layer3", "layer4", "fc"]) == "Closest: layer4, layer3."
    assert errors.closest("x", ["layer3", "fc"]) == "There are: layer3, fc."
    options = [f"block{i}" for i in range(12)]
    assert errors.closest("x", options).endswith("block8, block9, and 2 more.")
    assert errors.closest("x", options[:10]).endswith("block8, block9.")
    assert errors.closest("x", []) == "There are none."
