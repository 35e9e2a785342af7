import threading

import pytest
import torch

from ham10000.utils import in_order, on_threads


def test_results_come_in_order_from_several_threads() -> None:
    both = threading.Barrier(2, timeout=10)

    def job(number: int) -> int:
        both.wait()  # one thread alone would wait in vain
        return number * number

    assert list(on_threads(job, range(40), workers=2, ahead=4)) == [n * n for n in range(40)]


def test_at_most_the_requested_number_is_prepared_ahead() -> None:
    begun: list[int] = []
    results = on_threads(begun.append, range(100), workers=2, ahead=5)
    next(results)
    results.close()
    assert len(begun) <= 5


def test_a_thread_computes_on_one_core_and_the_caller_on_as_many_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = list(in_order(lambda _: torch.get_num_threads(), range(8), "counting", workers=3))
        assert found == [1] * 8
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_error_of_a_job_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(on_threads(lambda number: 1 // number, [1, 0, 1], workers=2, ahead=2))
