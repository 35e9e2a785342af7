import os
import signal

import pytest

from ham10000.training.signals import StopWish, listening


def test_a_signal_is_a_wish_and_a_second_interruption_is_one() -> None:
    before = signal.getsignal(signal.SIGTERM)
    wish = StopWish()
    with listening(wish):
        assert not wish
        os.kill(os.getpid(), signal.SIGTERM)
        assert wish
        assert wish.reason == "SIGTERM asked for it"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_time_is_a_wish() -> None:
    assert not StopWish(1.0)
    wish = StopWish(0.0)
    assert wish
    assert "max_minutes" in str(wish.reason)
