"""Asking several stores at once: a question is begun here and its answer waited for there. How a store answers is its own."""

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def begin(verb: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
    """Begin to ask; what is returned waits for the answer, and raises what asking raises.

    Verbs that can be asked in the background have a `begin` of their own; any other is asked when its answer is wanted.
    """
    begun: Callable[[], R] = getattr(verb, "begin", partial(partial, verb))(*args, **kwargs)
    return begun
