"""What is loaded to stay is kept out of the garbage collector's way. When that has happened is known to whoever loads it."""

import gc


def keep_what_there_is() -> None:
    """Have later collections leave out all that there is now: modules, the model, the campaigns.

    A full one would look through all of it, and nobody is answered for the quarter of a second that this takes. What is given up is
    still freed, but for cycles.
    """
    gc.collect()
    gc.freeze()
