"""What is known and what is asked: rolling global cut-offs in time, and held-out users. Pure; nothing is ranked here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in [start, end), to be foretold from what was known before its start. UTC epoch milliseconds."""

    start_ms: int
    end_ms: int


def rolling_windows(times_ms: Sequence[int] | NDArray[np.int64], *, count: int, share: float) -> list[Window]:
    """The newest `count` windows, newest first, each holding about `share` of these times; fewer where they would be empty.

    Global cut-offs (protocol P1): everything before a window's start may be learned from, whoever did it, and nothing after.
    Equal times are never parted.
    """
    times = np.sort(np.asarray(times_ms, dtype=np.int64))
    windows: list[Window] = []
    end = int(times[-1]) + 1 if len(times) else 0
    for number in range(1, count + 1):
        place = len(times) - round(number * share * len(times))
        if not 0 < place < len(times):
            break
        start = int(times[place])
        if times[0] < start < end:
            windows.append(Window(start, end))
            end = start
    return windows


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A user of whom nothing was learned: what is shown of them, and what is to be foretold (fold-in)."""

    user: int
    shown: NDArray[np.int64]
    """Positions in the interactions that were handed in."""
    hidden: NDArray[np.int64]


def strong_generalisation(
    users: NDArray[np.int64], *, held_out: int, shown: float = 0.8, least: int = 2, seed: int = 7
) -> tuple[NDArray[np.int64], list[HeldOut]]:
    """Hold whole users out (protocol P2; Liang et al. 2018): the positions to learn from, and each held-out user's two parts.

    `users` names the user of each interaction. Of the `held_out` users, drawn at random among those with at least `least`
    interactions, `shown` of their interactions are shown, at random, and at least one is hidden.
    """
    rng = np.random.default_rng(seed)
    names, counts = np.unique(users, return_counts=True)
    eligible = names[counts >= least]
    chosen = np.sort(rng.choice(eligible, size=min(held_out, len(eligible)), replace=False))
    learned = np.flatnonzero(~np.isin(users, chosen))
    order = np.argsort(users, kind="stable")
    begins = np.searchsorted(users[order], chosen)
    ends = np.searchsorted(users[order], chosen, side="right")
    parts = []
    for user, begin, end in zip(chosen, begins, ends, strict=True):
        mixed = rng.permutation(order[begin:end])
        cut = min(max(1, int(shown * len(mixed))), len(mixed) - 1)
        parts.append(HeldOut(int(user), np.sort(mixed[:cut]), np.sort(mixed[cut:])))
    return learned, parts
