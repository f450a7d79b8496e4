"""Long lists in parts that one call to a store can take. Nothing that knows a store."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """`items` in order, in lists of `size`, the last one shorter."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def batches(items: Iterable[T], size_of: Callable[[T], int], *, count: int, size: int) -> Iterator[list[T]]:
    """`items` in order, in lists that end at `count` items or with the one that makes them larger than `size`."""
    batch: list[T] = []
    gathered = 0
    for item in items:
        batch.append(item)
        gathered += size_of(item)
        if len(batch) == count or gathered > size:
            yield batch
            batch, gathered = [], 0
    if batch:
        yield batch
