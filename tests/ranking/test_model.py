"""What is fitted from day buckets, by hand computation; and when a fitted model goes into service."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.ranking.channels import CHANNELS
from persona.ranking.generation import Verdict, decide, generation_id
from persona.ranking.model import HALF_LIFE_DAYS, PRIOR_WEIGHTS, UNSEEN, RankingModel, fit
from persona.schemas import DayBucket, Event


def bucket(campaign: str, event: str, n: int = 1, *, day: str = "2026-01-15", channel: str = "email") -> DayBucket:
    return DayBucket(day=day, campaign_id=campaign, channel=channel, event=event, n=n, value=0.0)


def fitted(*buckets: DayBucket, fingerprint: str = "f") -> RankingModel:
    return fit(buckets, facts=sum(row.n for row in buckets), fingerprint=fingerprint)


def test_engagement_halves_with_every_half_life() -> None:
    assert HALF_LIFE_DAYS == 7
    model = fitted(
        bucket("new", "conversion", 4),
        bucket("week_old", "conversion", 4, day="2026-01-08"),
        bucket("both", "click", 2),
        bucket("both", "conversion", 4, day="2026-01-01"),
    )
    assert model.newest_day == "2026-01-15"
    assert model.strength_of("new") == pytest.approx(4.0)
    assert model.strength_of("week_old") == pytest.approx(2.0)
    assert model.strength_of("both") == pytest.approx(2 * 0.5 + 4 * 0.25)
    assert model.strength_of("unheard_of") == 0


def test_a_learned_half_life_takes_the_place_of_the_default() -> None:
    buckets = [bucket("new", "conversion", 4), bucket("week_old", "conversion", 4, day="2026-01-08")]
    model = fit(buckets, facts=8, fingerprint="f", half_life_days=3.5)
    assert model.half_life_days == 3.5
    assert model.strength_of("week_old") == pytest.approx(1.0)


@pytest.mark.parametrize(("fitted_days", "taste_days"), [(7.0, 30.0), (7.5, 30.0), (30.0, 120.0)])
def test_tastes_last_four_times_as_long_as_popularity_and_a_month_at_least(fitted_days: float, taste_days: float) -> None:
    model = fit([bucket("c", "click", 1)], facts=1, fingerprint="f", half_life_days=fitted_days)
    assert model.taste_half_life_days == taste_days


def test_a_model_is_as_of_the_end_of_its_newest_day() -> None:
    assert fitted(bucket("c", "click", 1, day="2026-02-28")).as_of == datetime(2026, 3, 1, tzinfo=UTC)
    assert fitted().as_of == datetime(1970, 1, 1, tzinfo=UTC)


def test_the_prior_weights_are_shares_of_one() -> None:
    assert sum(PRIOR_WEIGHTS.values()) == pytest.approx(1)
    assert set(CHANNELS) <= set(PRIOR_WEIGHTS)
    assert fitted().tuned_on == 0


def test_age_counts_from_the_newest_day_so_an_old_history_ranks_like_todays() -> None:
    now = fitted(bucket("a", "click", 3), bucket("b", "click", 5, day="2026-01-05"))
    then = fitted(bucket("a", "click", 3, day="1998-01-15"), bucket("b", "click", 5, day="1998-01-05"))
    assert then.figures == now.figures


def test_conversions_are_counted_whatever_their_age() -> None:
    model = fitted(bucket("a", "conversion", 3, day="2024-01-01"), bucket("a", "conversion", 2), bucket("a", "click", 9))
    assert model.overall["a"].conversions == 5


def test_approval_is_the_posterior_of_two_favourable_answers_in_three() -> None:
    model = fitted(bucket("a", "conversion", 6), bucket("a", "dismiss", 3), bucket("a", "unsubscribe"))
    assert model.overall["a"].approval == pytest.approx((6 + 2) / (6 + 4 + 3))
    assert model.overall["a"].engagement == pytest.approx((6 + 0.05) * 8 / 13)


def test_refusals_lower_a_campaign_and_decay_too() -> None:
    model = fitted(
        bucket("liked", "click", 4),
        bucket("refused", "click", 4),
        bucket("refused", "dismiss", 3),
        bucket("once_refused", "click", 4),
        bucket("once_refused", "dismiss", 3, day="2025-12-01"),
        bucket("hated", "dismiss", 9),
    )
    ranked = sorted(model.overall, key=lambda campaign: -model.overall[campaign].engagement)
    assert ranked == ["liked", "once_refused", "refused", "hated"]
    assert model.overall["hated"].engagement < UNSEEN.engagement < model.overall["refused"].engagement


def test_figures_are_kept_by_channel_and_over_all() -> None:
    model = fitted(
        bucket("a", "conversion", 2), bucket("a", "conversion", 3, channel="push"), bucket("b", "click", channel="sms")
    )
    assert model.figures_on("email")["a"].strength == pytest.approx(2)
    assert model.figures_on("push")["a"].conversions == 3
    assert set(model.figures_on("sms")) == {"b"}
    assert model.figures_on(None)["a"].strength == pytest.approx(5)
    assert model.figures_on("fax") == model.figures_on(None) == model.overall


def test_without_anything_to_fit_there_are_the_priors() -> None:
    model = fitted()
    assert (model.newest_day, model.figures, model.figures_on("email"), model.weights) == (None, {}, {}, PRIOR_WEIGHTS)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([*Event]), st.integers(1, 10**6), st.integers(1, 28)), max_size=20)
)
def test_approval_lies_between_0_and_1_and_the_order_of_buckets_does_not_matter(
    rows: list[tuple[str, Event, int, int]],
) -> None:
    buckets = [bucket(campaign, event, n, day=f"2026-02-{day:02}") for campaign, event, n, day in rows]
    model = fitted(*buckets)
    assert all(0 < figures.approval < 1 and figures.strength >= 0 for figures in model.overall.values())
    backwards = fitted(*reversed(buckets))
    assert set(backwards.overall) == set(model.overall)
    for campaign, figures in model.overall.items():
        assert backwards.overall[campaign].engagement == pytest.approx(figures.engagement)


def test_a_model_comes_back_from_the_store_as_it_went_in() -> None:
    model = fitted(bucket("a", "conversion", 2), bucket("b", "dismiss"))
    assert RankingModel.model_validate(model.model_dump()) == model


def verdict(model: RankingModel, in_force: str | None, *, publish: bool) -> Verdict:
    return Verdict(fingerprint=model.fingerprint, in_force=in_force, publish=publish, reason=f"the evaluation says {publish}")


def test_what_rests_on_other_data_is_published_as_the_evaluation_says() -> None:
    first, same, newer = fitted(), fitted(), fitted(bucket("a", "click"), fingerprint="g")
    assert decide(first, None, verdict(first, None, publish=True)).publish
    assert not decide(same, ("g_1", first), verdict(same, "g_1", publish=True)).publish
    for said in (True, False):
        decided = decide(newer, ("g_1", first), verdict(newer, "g_1", publish=said))
        assert (decided.publish, decided.reason) == (said, f"the evaluation says {said}")


def test_what_was_not_compared_with_what_serves_is_not_published() -> None:
    serving, candidate = fitted(), fitted(bucket("a", "click"), fingerprint="g")
    for said in (None, verdict(serving, "g_1", publish=True), verdict(candidate, "g_0", publish=True)):
        decided = decide(candidate, ("g_1", serving), said)
        assert not decided.publish and "ranking_evaluation" in decided.reason


def test_what_was_rolled_back_is_not_published_again_by_itself() -> None:
    first, second, third = (fitted(bucket("a", "click", n), fingerprint=str(n)) for n in (1, 2, 3))
    refused = decide(second, ("g_1", first), verdict(second, "g_1", publish=True), withdrawn={"2"})
    assert not refused.publish and "rolled back" in refused.reason
    assert decide(third, ("g_1", first), verdict(third, "g_1", publish=True), withdrawn={"2"}).publish


def test_a_generations_id_is_its_time() -> None:
    assert generation_id(datetime(2026, 1, 2, 3, 4, 5, 6789, tzinfo=UTC)) == "g_20260102T030405006Z"
