"""Day buckets in columns: what figures and the half-life are computed from, hundreds of thousands at once. Pure; nothing is fitted here."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from persona.projections.engagements import EVENT_NAMES
from persona.projections.histories import EVENTS
from persona.schemas import DayBucket

EPOCH = date(1970, 1, 1)

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Days(Iterable[DayBucket]):
    """Columns of one length, a bucket an entry; campaigns and channels are numbers of names in their order."""

    campaigns: Sequence[str]
    channels: Sequence[str]
    day: Ints
    """Counted from 1970-01-01."""
    campaign: Ints
    channel: Ints
    event: Ints
    """By its place in `EVENT_NAMES`."""
    n: Ints

    @classmethod
    def of(cls, buckets: Iterable[DayBucket]) -> "Days":
        """The same buckets; their values are left out."""
        if isinstance(buckets, Days):
            return buckets
        rows = list(buckets)
        campaigns = {name: number for number, name in enumerate(sorted({row.campaign_id for row in rows}))}
        channels = {name: number for number, name in enumerate(sorted({row.channel for row in rows}))}
        days = {day: (date.fromisoformat(day) - EPOCH).days for day in {row.day for row in rows}}
        columns = np.array(
            [(days[row.day], campaigns[row.campaign_id], channels[row.channel], EVENTS[row.event], row.n) for row in rows],
            np.int64,
        ).reshape(len(rows), 5)
        return cls(list(campaigns), list(channels), *columns.T)

    def __iter__(self) -> Iterator[DayBucket]:
        """One by one."""
        columns = (column.tolist() for column in (self.day, self.campaign, self.channel, self.event, self.n))
        for day, campaign, channel, event, n in zip(*columns, strict=True):
            iso = (EPOCH + timedelta(days=day)).isoformat()
            yield DayBucket(iso, self.campaigns[campaign], self.channels[channel], EVENT_NAMES[event], n, 0.0)
