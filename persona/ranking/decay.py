"""How fast popularity fades, learned from day buckets: the half-life under which the figures foretell best. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from persona.projections.histories import EVENTS, WEIGHTS
from persona.ranking.days import Days
from persona.ranking.model import HALF_LIFE_DAYS, PRIOR_APPROVALS, PRIOR_REFUSALS, PRIOR_STRENGTH, REFUSALS
from persona.schemas import DayBucket, Event

HALF_LIVES = (HALF_LIFE_DAYS, 4.0, 14.0, 2.0, 30.0, 1.0, 60.0, 120.0, 365.0, 3650.0)
"""Those that are tried, in days, the nearest to the default first."""
AS_GOOD = 0.995
"""A half-life that reaches this share of the best one's worth is as good: the difference is noise."""
WINDOWS = 10
"""The history is cut into this many of equal events; the later half foretold, each from what came before it."""
ENOUGH_EVENTS = 200
"""With fewer events to foretell the half-life is not learned."""

Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def choose_half_life(buckets: Iterable[DayBucket]) -> float:
    """The half-life in days whose decayed engagement ranks best, window by window, what people converted on next.

    What is foretold are conversions, or all favourable events where nobody converted. A ranking's worth is the mean over those
    events of 1 / log2(rank + 1), the windows counting alike; of half-lives as good as the best, the nearest to the default wins.
    With fewer than 200 events to foretell, or fewer than ten days with any, it is `HALF_LIFE_DAYS`.
    """
    history = _History.of(buckets)
    ends = history.window_ends()
    if history.wanted.sum() < ENOUGH_EVENTS or len(ends) < WINDOWS:
        return HALF_LIFE_DAYS
    windows = list(zip(ends[WINDOWS // 2 - 1 :], ends[WINDOWS // 2 :], strict=False))
    worth = {days: sum(history.worth(days, begin, end) for begin, end in windows) for days in HALF_LIVES}
    return next(days for days, reached in worth.items() if reached >= AS_GOOD * max(worth.values()))


@dataclass(frozen=True, slots=True)
class _History:
    """Events per day and campaign; all tables of shape (days, campaigns)."""

    days: np.ndarray[tuple[int], np.dtype[np.int64]]
    """The days on which anything happened, in order."""
    favourable: Table
    refusals: Table
    wanted: Table

    @classmethod
    def of(cls, buckets: Iterable[DayBucket]) -> "_History":
        columns = Days.of(buckets)
        days, day = np.unique(columns.day, return_inverse=True)
        shape = (len(days), len(columns.campaigns))
        cell = day * shape[1] + columns.campaign

        def table(worth: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Table:
            return np.bincount(cell, columns.n * worth[columns.event], shape[0] * shape[1]).astype(np.float64).reshape(shape)

        favourable = table(np.where(REFUSALS, 0.0, WEIGHTS))
        conversions = table((np.arange(len(WEIGHTS)) == EVENTS[Event.CONVERSION]).astype(float))
        return cls(days, favourable, table(REFUSALS.astype(float)), conversions if conversions.any() else favourable)

    def window_ends(self) -> list[int]:
        """Where each window's days end, as indexes of days; fewer than `WINDOWS` where too few days have events."""
        passed = np.cumsum(self.wanted.sum(axis=1))
        if not len(passed) or not passed[-1]:
            return []
        ends = np.searchsorted(passed, passed[-1] * np.arange(1, WINDOWS + 1) / WINDOWS - 1e-9) + 1
        return [int(end) for end in np.unique(ends)]

    def worth(self, half_life_days: float, begin: int, end: int) -> float:
        """What the ranking fitted on the days before `begin` is worth for the events from there to `end`."""
        decay = 0.5 ** ((self.days[begin - 1] - self.days[:begin]) / half_life_days)
        strength = decay @ self.favourable[:begin]
        refused = decay @ self.refusals[:begin]
        approval = (strength + PRIOR_APPROVALS) / (strength + refused + PRIOR_APPROVALS + PRIOR_REFUSALS)
        ranked = np.argsort(-(strength + PRIOR_STRENGTH) * approval, kind="stable")
        events = self.wanted[begin:end].sum(axis=0)[ranked]
        return float(events @ (1 / np.log2(np.arange(2, len(events) + 2))) / events.sum())
