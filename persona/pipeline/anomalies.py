"""What is unusual about a run, against history or a limit. Pure: numbers in, findings out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from persona.schemas import Vector

MIN_HISTORY = 5
MAX_DEVIATIONS = 4.0
MIN_SPREAD = 0.2
"""Of log volume: below a fifth up or down nobody wants to hear of it, however regular the history was."""
MAX_REJECT_SHARE = 0.1
MAX_WITHOUT_INTENT = 0.9
MAX_DRIFT = 0.35
MAX_WAIT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Finding:
    """A figure of a run beside the limit it should keep."""

    value: float
    threshold: float

    @property
    def usual(self) -> bool:
        """Whether the figure keeps its limit."""
        return self.value <= self.threshold


def volume(records: int, history: Sequence[int]) -> Finding:
    """How many standard deviations the log of this run's records lies off the log of earlier runs'; 0 with fewer than five."""
    if len(history) < MIN_HISTORY or not records:
        return Finding(0.0, MAX_DEVIATIONS)
    logs = np.log1p(np.asarray(history, dtype=float))
    spread = max(float(logs.std()), MIN_SPREAD)
    return Finding(abs(math.log1p(records) - float(logs.mean())) / spread, MAX_DEVIATIONS)


def reject_share(counts: Mapping[str, int]) -> Finding:
    """The share of this run's records that went to quarantine."""
    return Finding(counts["quarantined"] / counts["read"] if counts["read"] else 0.0, MAX_REJECT_SHARE)


def share_without_intent(texts: int, labelled: int) -> Finding:
    """The share of this run's distinct texts in which no intent was found."""
    return Finding(1 - labelled / texts if texts else 0.0, MAX_WITHOUT_INTENT)


def centroid_drift(centroid: Vector | None, history: Sequence[Vector]) -> Finding:
    """Cosine distance, in [0, 2], between the mean vector of this run's texts and that of earlier runs'; 0 with fewer than five."""
    if centroid is None or len(history) < MIN_HISTORY:
        return Finding(0.0, MAX_DRIFT)
    usual = np.mean(np.stack(history), axis=0)
    norms = float(np.linalg.norm(usual) * np.linalg.norm(centroid))
    return Finding(1 - float(usual @ centroid) / norms if norms else 0.0, MAX_DRIFT)


def oldest_wait(claimed_at: datetime | None, now: datetime) -> Finding:
    """How many seconds the oldest drop has waited to be applied everywhere."""
    return Finding((now - claimed_at).total_seconds() if claimed_at else 0.0, MAX_WAIT.total_seconds())
