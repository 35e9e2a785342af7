"""A wish to stop, from a signal or a clock, that a step can be finished before."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["INTERRUPTED", "StopWish", "listening"]

INTERRUPTED = 75
"""The exit status of a run that saved and stopped early; sysexits.h calls it a temporary failure,
to be tried again later."""


class StopWish:
    """Whether this process was asked to stop, and why."""

    def __init__(self, max_minutes: float | None = None) -> None:
        self.reason: str | None = None
        self._until = None if max_minutes is None else time.monotonic() + 60 * max_minutes

    def __bool__(self) -> bool:
        if self.reason is None and self._until is not None and time.monotonic() >= self._until:
            self.reason = "the time of max_minutes is over"
        return self.reason is not None


@contextmanager
def listening(wish: StopWish) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a wish; a second SIGINT ends the process at once.

    Signals only reach a main thread; in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if wish.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.reason = f"{signal.Signals(number).name} asked for it"

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
