"""Long lists in parts that one call to a store can take. Nothing that knows a store."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """`items` in order, in lists of `size`, the last one shorter."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))
