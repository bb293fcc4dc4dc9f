"""Reading ahead keeps the order, reads no more than it may, and passes errors on."""

import threading
import time

import pytest

from modeling_anomalygpt.results import read_ahead


def test_results_come_in_order_whichever_is_read_first():
    def slow_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return number

    assert list(read_ahead(range(9), slow_first, ahead=4)) == list(range(9))


def test_the_next_is_read_while_the_last_one_is_used():
    begun = threading.Event()

    def read(number):
        if number == 1:
            begun.set()
        return number

    results = read_ahead(range(3), read, ahead=1)
    assert next(results) == 0
    assert begun.wait(5)


def test_no_more_than_ahead_are_taken():
    taken = []

    def numbers():
        for number in range(100):
            taken.append(number)
            yield number

    results = read_ahead(numbers(), lambda number: number, ahead=3)
    assert next(results) == 0
    assert len(taken) == 4


def test_an_error_is_raised_in_its_place():
    results = read_ahead([1, 0, 2], lambda number: 1 / number, ahead=2)
    assert next(results) == 1.0
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_reading_one_by_one_is_not_reading_ahead():
    with pytest.raises(ValueError, match=r"`ahead` must be at least 1, got 0\. Call `read` itself"):
        next(read_ahead([1], str, ahead=0))
