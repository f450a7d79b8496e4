"""What learning the half-life promises: fast fashions get a short one, steady ones a long one, thin data the default."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from random import Random

import pytest

from persona import synthetic
from persona.ranking.decay import HALF_LIVES, choose_half_life
from persona.ranking.model import HALF_LIFE_DAYS
from persona.schemas import DayBucket

BEGIN = date(2025, 1, 1)


def history(turn_days: int, *, days: int = 200, a_day: int = 20, event: str = "conversion") -> list[DayBucket]:
    """Events of forty campaigns, some far more popular than others; which ones changes every `turn_days`."""
    rng = Random(1)
    rows = []
    for day in range(days):
        campaigns = list(range(40))
        Random(f"fashion {day // turn_days}").shuffle(campaigns)
        taken = Counter(rng.choices(campaigns, [0.85**rank for rank in range(40)], k=a_day))
        rows += [bucket(day, f"c_{campaign:02}", event, n) for campaign, n in sorted(taken.items())]
    return rows


def bucket(day: int, campaign: str, event: str, n: int = 1) -> DayBucket:
    at = BEGIN + timedelta(days=day)
    return DayBucket(day=at.isoformat(), campaign_id=campaign, channel="email", event=event, n=n, value=0.0)


def test_the_faster_the_fashions_the_shorter_the_half_life() -> None:
    assert choose_half_life(history(30)) < HALF_LIFE_DAYS
    assert HALF_LIFE_DAYS < choose_half_life(history(100, days=400, a_day=4)) < choose_half_life(history(1000, days=400, a_day=4))


def test_without_conversions_what_people_clicked_on_is_foretold() -> None:
    assert choose_half_life(history(30, event="click")) <= HALF_LIFE_DAYS


def test_impressions_do_not_hide_what_people_convert_on() -> None:
    shown = [bucket(day, f"c_{campaign:02}", "impression", 10) for day in range(200) for campaign in range(40)]
    assert choose_half_life(history(30) + shown) <= HALF_LIFE_DAYS


def test_too_little_to_learn_from_leaves_the_default() -> None:
    assert choose_half_life([]) == HALF_LIFE_DAYS
    assert choose_half_life(history(30, days=9, a_day=500)) == HALF_LIFE_DAYS
    assert choose_half_life(history(30, days=60, a_day=3)) == HALF_LIFE_DAYS
    assert choose_half_life([bucket(day, "c_1", "dismiss", 9) for day in range(100)]) == HALF_LIFE_DAYS


def test_days_long_ago_and_the_order_of_buckets_do_not_matter() -> None:
    rows = history(30)
    ancient = [replace(row, day=row.day.replace("2025", "1998")) for row in rows]
    assert choose_half_life(ancient) == choose_half_life(rows) == choose_half_life(rows[::-1])


@pytest.mark.parametrize("seed", [1, 2])
def test_generated_fashions_are_followed_closely(seed: int) -> None:
    world = synthetic.generate(messages=8000, seed=seed, end=datetime(2025, 6, 1, tzinfo=UTC), drift=True)
    counted = Counter((r["timestamp"][:10], r["campaign_id"], r["channel"], r["event"]) for r in world.records())
    chosen = choose_half_life(
        [DayBucket(day=d, campaign_id=c, channel=ch, event=e, n=n, value=0.0) for (d, c, ch, e), n in counted.items()]
    )
    assert chosen in HALF_LIVES
    assert chosen <= 7
