"""What is loaded to stay is kept out of the garbage collector's way. When that has happened is known to whoever loads it."""

import gc

ALLOCATIONS = 20_000
"""Objects made since the last collection that start one. An answer makes thousands, which are given up by themselves: looking through
them as often as Python does by itself takes a tenth of an answer's time."""
YOUNG, MIDDLE = 20, 50
"""Collections of the youngest objects that start one of those that outlived one, and of these that start a full one."""


def keep_what_there_is() -> None:
    """Have later collections leave out all that there is now: modules, the model, the campaigns.

    A full one would look through all of it, and nobody is answered for the quarter of a second that this takes. What is given up is
    still freed, but for cycles.
    """
    gc.collect()
    gc.freeze()


def collect_seldom() -> None:
    """Look for cycles less often than Python does by itself."""
    gc.set_threshold(ALLOCATIONS, YOUNG, MIDDLE)
