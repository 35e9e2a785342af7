import math

from ham10000.training.state import State


def test_what_is_no_number_is_never_better() -> None:
    state = State()
    assert [state.judge(value, "min") for value in (math.nan, 2.0, math.nan, 1.0)] == [
        False,
        True,
        False,
        True,
    ]
    assert state.best == 1.0
    state.wait(math.nan, "min", 0.0)
    assert state.without_progress == 1


def test_small_steps_are_the_best_but_no_progress() -> None:
    state = State()
    for value in (0.5, 0.54, 0.58, 0.62):  # the third one is 0.12 above the first
        assert state.judge(value, "max")
        state.wait(value, "max", 0.1)
    assert (state.mark, state.without_progress) == (0.62, 0)


def test_training_ends_after_the_last_epoch_or_enough_without_progress() -> None:
    state = State(epoch=4, without_progress=2)
    assert state.finished(epochs=4, patience=None)
    assert not state.finished(epochs=5, patience=3)
    assert state.finished(epochs=5, patience=2)
    assert not State().finished(epochs=5, patience=0)
