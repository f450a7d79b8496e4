"""Reading ahead changes when things are read, never what comes out."""

import threading
from collections.abc import Iterator

import pytest

from persona.pipeline.reading import read_ahead


def test_everything_comes_in_order_and_the_next_is_read_while_one_is_worked_on() -> None:
    read = [threading.Event() for _ in range(5)]

    def items() -> Iterator[int]:
        for number, event in enumerate(read):
            event.set()
            yield number

    seen = []
    for number in read_ahead(items()):
        assert number == 4 or read[number + 1].wait(5)
        seen.append(number)
    assert seen == [0, 1, 2, 3, 4]
    assert list(read_ahead(iter([]))) == []


def test_what_fails_while_reading_is_told_to_who_works_after_all_that_was_read_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("torn")

    seen: list[int] = []
    with pytest.raises(ValueError, match="torn"):
        seen.extend(read_ahead(items()))
    assert seen == [1, 2]


def test_no_thread_outlives_who_stops_early() -> None:
    for number in read_ahead(iter(range(10))):
        if number == 3:
            break
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
