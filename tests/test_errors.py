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
