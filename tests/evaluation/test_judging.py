"""From a log to a verdict, in memory: what is tuned on, what is judged, and what keeps a model from being published."""

import random
from collections.abc import Sequence

import pytest

from persona.evaluation.candidate import evaluate
from persona.evaluation.gate import Limits
from persona.evaluation.judging import (
    CANDIDATE,
    IN_FORCE,
    NEWEST,
    PRIOR,
    THEN,
    Tuned,
    TuningQuery,
    ask,
    judge,
    tuned,
    tuning_queries,
)
from persona.evaluation.replay import Log
from persona.evaluation.report import Report, markdown, picture
from persona.ranking.channels import CHANNELS
from persona.ranking.decay import choose_half_life
from persona.ranking.model import HALF_LIFE_DAYS, PRIOR_WEIGHTS, RankingModel, fit
from tests.evaluation.logs import EVENTS, LAST, did, fashions, log_of, ms, talk

LIMITS = Limits(queries=40)
POISON = [did(f"bot_{n}", LAST * (1 + 0.08 * n / 300), "conversion", "c_19") for n in range(300)]


def candidate_of(log: Log, fingerprint: str = "new") -> RankingModel:
    return fit(log.day_buckets(ms(LAST * 9)), facts=1, fingerprint=fingerprint)


def alone(channel: str) -> dict[str, float]:
    return {name: float(name == channel) for name in CHANNELS}


def untuned(queries: Sequence[TuningQuery]) -> Tuned:
    return Tuned(dict(PRIOR_WEIGHTS), 0, 0.0)


@pytest.fixture(scope="module")
def log() -> Log:
    return log_of(talk())


@pytest.fixture(scope="module")
def first(log: Log) -> tuple[RankingModel, Report]:
    return evaluate(log, candidate_of(log, "old"), None, LIMITS, untuned)


def gains(report: Report, against: str, window: str) -> list[float]:
    """Mean advantages by NDCG; there are too few campaigns for a recall of twenty to tell rankings apart."""
    asked = [found for found in report.differences if (found.against, found.window) == (against, window)]
    return [found.mean for found in asked if found.metric.startswith("ndcg")]


def test_the_first_generation_is_published_from_priors_and_remembers_its_window(first: tuple[RankingModel, Report]) -> None:
    model, report = first
    assert report.verdict.publish and "the first generation" in report.verdict.reason and "priors" in report.verdict.reason
    assert model.weights == PRIOR_WEIGHTS and model.tuned_on == report.tuned_on == 0
    assert [window.name for window in report.windows] == [NEWEST]
    assert {found.against for found in report.differences} == {PRIOR, "decayed popularity"}
    assert report.windows[0].contenders[0].name == CANDIDATE and report.windows[0].queries >= LIMITS.queries
    assert model.judged_on and model.judged_on.start_ms == report.windows[0].start_ms
    assert sum(model.judged_on.engaged.values()) == pytest.approx(1, abs=1e-3)


def test_what_words_say_beats_popularity(first: tuple[RankingModel, Report]) -> None:
    _, report = first
    found = {found.metric: found for found in report.differences if found.against == "decayed popularity"}
    assert found["ndcg@5"].mean > 0.05 and found["ndcg@100"].low > 0


def test_the_next_is_judged_on_both_windows_and_published(log: Log, first: tuple[RankingModel, Report]) -> None:
    more = log_of(talk(EVENTS + 500))
    model, report = evaluate(more, candidate_of(more), ("g_1", first[0]), LIMITS, untuned)
    assert [window.name for window in report.windows] == [NEWEST, THEN]
    then = report.windows[1]
    assert first[0].judged_on and (then.start_ms, then.end_ms) == (first[0].judged_on.start_ms, first[0].judged_on.end_ms)
    assert {found.against for found in report.differences} == {IN_FORCE, "decayed popularity"}
    assert report.verdict.publish and report.verdict.in_force == "g_1", report.verdict.reason
    assert model.judged_on and model.judged_on.end_ms > first[0].judged_on.end_ms


def test_weights_that_lose_are_refused_for_that(log: Log, first: tuple[RankingModel, Report]) -> None:
    bad = alone("engagement")
    model, report = evaluate(
        log, candidate_of(log), ("g_1", first[0]), LIMITS, tuner=lambda queries: Tuned(bad, len(queries), 0.1)
    )
    assert not report.verdict.publish and "loses more than" in report.verdict.reason and "in force" in report.verdict.reason
    assert report.weights == model.weights == bad and report.tuned_on >= LIMITS.queries
    assert max(gains(report, IN_FORCE, NEWEST)) < 0


def test_where_nothing_serves_what_loses_gives_way_to_the_prior(log: Log) -> None:
    bad = alone("engagement")
    model, report = evaluate(log, candidate_of(log), None, LIMITS, tuner=lambda queries: Tuned(bad, len(queries), 0.1))
    assert report.verdict.publish and "the first generation, from priors; what was tuned loses" in report.verdict.reason
    assert model.weights == report.weights == PRIOR_WEIGHTS and model.tuned_on == 0
    assert {(found.mean, found.low, found.high) for found in report.differences if found.against == PRIOR} == {(0, 0, 0)}


def test_a_poisoned_drop_holds_the_model_though_it_wins_on_the_newest_window(first: tuple[RankingModel, Report]) -> None:
    poisoned = log_of(talk(EVENTS + EVENTS // 12) + POISON)
    learned = alone("engagement")  # what any tuning would learn of it
    in_force = first[0].model_copy(update={"weights": alone("similar_conversations")})
    _, report = evaluate(
        poisoned, candidate_of(poisoned), ("g_1", in_force), LIMITS, tuner=lambda queries: Tuned(learned, 99, 0.1)
    )
    assert min(gains(report, IN_FORCE, NEWEST)) > 0.05
    assert not report.verdict.publish
    assert "c_19" in report.verdict.reason and "for a person" in report.verdict.reason
    unlimited = Limits(queries=LIMITS.queries, jump=1.0, margin=LIMITS.margin)
    _, report = evaluate(
        poisoned, candidate_of(poisoned), ("g_1", in_force), unlimited, tuner=lambda queries: Tuned(learned, 99, 0.1)
    )
    assert not report.verdict.publish and THEN in report.verdict.reason  # and the window before the poison would have told


def test_backdated_poison_is_seen_because_the_window_is_remembered_as_it_was(first: tuple[RankingModel, Report]) -> None:
    backdated = [did(f"bot_{n}", LAST * n / 900, "conversion", "c_19") for n in range(900)]
    poisoned = log_of(talk() + backdated)
    _, report = evaluate(poisoned, candidate_of(poisoned), ("g_1", first[0]), LIMITS)
    assert not report.verdict.publish and "c_19" in report.verdict.reason


OTHERS = [f"bot_{n}" for n in range(600)]
BRIEF = 0.08 * LAST
POISONS = {
    "clicks": [did(user, LAST + BRIEF * n / 600, "click", "c_19") for n, user in enumerate(OTHERS)],
    "opens": [did(user, LAST + BRIEF * n / 600 + i, "open", "c_19") for n, user in enumerate(OTHERS) for i in range(5)],
    "one person": [did("bot", LAST + n, "conversion", "c_19") for n in range(900)],
    "in one moment": [did(user, LAST + 1, "conversion", "c_19") for user in OTHERS],
    "known people, over and over": [
        did(f"u_{n % 120}", LAST + n * 50, "conversion", "c_19") for n in range(120 * 4)
    ],
}  # fmt: skip


@pytest.mark.parametrize("limits", [LIMITS, Limits()], ids=["judged", "too little to judge"])
@pytest.mark.parametrize("how", POISONS)
def test_no_other_poison_is_published_either(first: tuple[RankingModel, Report], how: str, limits: Limits) -> None:
    poisoned = log_of(talk() + POISONS[how])
    fitted = fit(poisoned.day_buckets(ms(LAST * 9)), facts=1, fingerprint="poisoned")
    _, report = evaluate(poisoned, fitted, ("g_1", first[0]), limits, untuned)
    assert not report.verdict.publish and report.verdict.held and "c_19" in report.verdict.reason


def test_poison_is_held_where_nothing_serves_yet() -> None:
    poisoned = log_of(talk(EVENTS + EVENTS // 12) + POISON)
    _, report = evaluate(poisoned, candidate_of(poisoned), None, LIMITS, untuned)
    assert not report.verdict.publish and "c_19" in report.verdict.reason and "for a person" in report.verdict.reason


def test_what_a_person_published_is_what_the_next_is_compared_with(first: tuple[RankingModel, Report]) -> None:
    poisoned = log_of(talk(EVENTS + EVENTS // 12) + POISON)
    released, report = evaluate(poisoned, candidate_of(poisoned), ("g_1", first[0]), LIMITS, untuned)
    assert not report.verdict.publish
    later = log_of(talk(EVENTS + EVENTS // 12 + 20) + POISON)
    _, report = evaluate(later, candidate_of(later), ("g_2", released), LIMITS, untuned)
    assert report.verdict.publish, report.verdict.reason


def test_weights_in_force_are_kept_where_too_little_is_left_to_tune_on(log: Log, first: tuple[RankingModel, Report]) -> None:
    tuned_before = first[0].model_copy(update={"weights": alone("related"), "tuned_on": 400})
    model, report = evaluate(log, candidate_of(log), ("g_1", tuned_before), Limits(queries=10_000), untuned)
    assert report.verdict.publish and (model.weights, model.tuned_on) == (alone("related"), 400)
    assert "those in force" in report.notes[0]


def test_the_order_in_which_records_are_read_changes_nothing(first: tuple[RankingModel, Report]) -> None:
    shuffled = talk()
    random.Random(3).shuffle(shuffled)
    log = log_of(shuffled)
    assert evaluate(log, candidate_of(log, "old"), None, LIMITS, untuned) == first


def test_too_little_is_not_judged_and_says_so() -> None:
    small = log_of(talk(150))
    model, report = evaluate(small, candidate_of(small), None, Limits(), tuner=lambda queries: pytest.fail("too few to tune on"))
    assert report.verdict.publish and report.windows == [] and report.differences == []
    assert "prior" in report.notes[0] and model.half_life_days == HALF_LIFE_DAYS
    _, report = evaluate(log_of([]), candidate_of(log_of([])), None, Limits())
    assert report.verdict.publish and report.engagements == 0


def test_nothing_is_tuned_on_what_is_judged(log: Log) -> None:
    questions = ask(log)
    start = questions.newest.window.start_ms
    assert questions.earlier and all(asking.window.end_ms <= start for asking in questions.earlier)
    assert all(query.at_ms < start for asking in questions.earlier for query in asking.queries)


def test_the_half_life_that_is_judged_knows_nothing_of_the_window() -> None:
    """What serves later is fitted on everything; in a window that would be to have seen what is asked."""
    log = log_of(fashions())
    questions = ask(log)
    then = [choose_half_life(log.day_buckets(asking.window.start_ms)) for asking in (questions.newest, *questions.earlier)]
    assert len(set(then)) == 3 and HALF_LIFE_DAYS not in then  # so that each window can tell
    of_all, another = (candidate_of(log).model_copy(update={"half_life_days": days}) for days in (365.0, 7.0))
    asked = [
        [{name: list(found) for name, found in query.proposals.items()} for query in tuning_queries(questions.earlier[0], each)]
        for each in (of_all, another)
    ]
    assert asked[0] == asked[1]
    model, report = judge(questions, of_all, ("g_1", of_all), LIMITS)
    assert model.half_life_days == report.half_life_days == 365  # which is what serves
    own, in_force = report.windows[0].contenders[:2]
    assert (own.setting, in_force.setting) == (f"half life days {then[0]:g}", "half life days 365")  # this one was there before
    assert own.metrics != in_force.metrics


def test_the_same_log_gives_the_same_report(log: Log, first: tuple[RankingModel, Report]) -> None:
    again = evaluate(log_of(talk()), candidate_of(log, "old"), None, LIMITS, untuned)
    assert again[1] == first[1] and again[0] == first[0]


def test_a_recipe_is_not_better_than_itself(log: Log, first: tuple[RankingModel, Report]) -> None:
    questions = ask(log)
    model = tuned(questions, candidate_of(log), None, lambda queries: Tuned(PRIOR_WEIGHTS, 0, 0.0), LIMITS)
    _, report = judge(questions, model, ("g_1", model), LIMITS)
    assert {(found.mean, found.low, found.high) for found in report.differences if found.against == IN_FORCE} == {(0, 0, 0)}


def test_people_can_read_it_and_programs_too(first: tuple[RankingModel, Report]) -> None:
    _, report = first
    words = markdown(report)
    assert report.verdict.reason in words and "| decayed popularity |" in words and "u_" not in words
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert len(picture(report).axes) == 1
