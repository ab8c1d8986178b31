import threading
from collections.abc import Iterator

import pytest

from data.prefetch import prefetched

PATIENCE_SECONDS = 10.0


def test_the_same_items_come_in_the_same_order() -> None:
    assert list(prefetched(iter(range(100)))) == list(range(100))
    assert list(prefetched(iter([]))) == []


def test_the_next_item_is_made_while_the_last_is_used_and_no_more_than_that() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    found = prefetched(items())

    assert next(found) == 0
    assert made[1].wait(PATIENCE_SECONDS)
    assert not made[2].is_set()


def test_a_failure_is_raised_when_it_is_that_items_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        message = "no such row"
        raise KeyError(message)

    found = prefetched(items())

    assert next(found) == 1
    with pytest.raises(KeyError, match="no such row"):
        next(found)


def test_whoever_needs_no_more_leaves_no_thread() -> None:
    before = threading.active_count()
    found = prefetched(iter(range(100)))
    next(found)

    found.close()  # type: ignore[attr-defined]

    assert threading.active_count() == before
