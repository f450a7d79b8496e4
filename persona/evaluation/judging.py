"""From a log of everything to a judgement on a candidate: windows, queries, tuning, contenders, differences. Pure; stores are elsewhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from persona.evaluation import gate, metrics
from persona.evaluation.baselines import CONTENDERS, DECAYED, Baseline, Past, ranked
from persona.evaluation.gate import Difference, Limits, Shares
from persona.evaluation.intervals import bootstrap
from persona.evaluation.replay import Log, Query, Replay, queries_in
from persona.evaluation.report import Figures, Judged, Report
from persona.evaluation.splits import Window, rolling_windows
from persona.projections.histories import NONE
from persona.ranking.channels import Candidates
from persona.ranking.days import Days
from persona.ranking.decay import choose_half_life
from persona.ranking.fusion import fuse
from persona.ranking.model import PRIOR_WEIGHTS, Judgement, RankingModel, fit
from persona.ranking.tuning import Tuned, TuningQuery

NEWEST, BEFORE, THEN = "the newest window", "the window before", "the window of the generation in force"
CANDIDATE, IN_FORCE, PRIOR = "candidate", "in force", "prior weights"
EARLIER = 2
"""Windows before the newest that weights and settings are chosen on."""
SHARE = 0.1
"""Of everything relevant, in one window."""
QUERIES = 1_000
"""Drawn at random in a window to judge on."""
TUNING_QUERIES = 300
"""Drawn at random in each earlier window."""
CHOSEN_BY = "ndcg@100"
"""The metric with the least noise."""
ENGAGEMENTS = 50
"""Of fewer, a campaign's share may jump by chance."""
STRENGTH = 20.0
"""Of less, in events, too."""
KEPT = 50
"""Campaigns with the greatest shares that are remembered of a window."""
GATE_BASELINES: Mapping[str, Sequence[Baseline]] = {DECAYED: CONTENDERS[DECAYED]}
"""What a candidate may not lose to, besides the generation in force."""
NO_EVIDENCE: Mapping[str, object] = MappingProxyType({})

Floats = NDArray[np.float64]


Tuner = Callable[[Sequence[TuningQuery]], Tuned]
"""Weights from queries of earlier windows."""


@dataclass(frozen=True)
class Asking:
    """A window with its queries, and the stores as they were at its start."""

    name: str
    window: Window
    queries: Sequence[Query]
    log: Log

    @cached_property
    def replay(self) -> Replay:
        """What the product's channels ask; about these queries in no time."""
        replay = Replay(self.log, self.window.start_ms)
        replay.foresee(self.queries)
        return replay

    @cached_property
    def past(self) -> Past:
        """What baselines may learn from."""
        log = self.log
        rows = np.flatnonzero(log.relevant & (log.at_ms < self.window.start_ms))
        return Past(
            campaigns=len(log.campaigns.all),
            user=log.user[rows],
            campaign=log.campaign[rows],
            at_ms=log.at_ms[rows],
            now_ms=self.window.start_ms,
            told=lambda: self.replay.told,
        )

    def by_channels(self, recipes: Mapping[str, RankingModel]) -> dict[str, list[list[str]]]:
        """Each recipe's rankings, query by query: its weights and half-life, its figures fitted on what was known by then."""
        rankings: dict[str, list[list[str]]] = {name: [] for name in recipes}
        for model in {recipe.half_life_days: self.fitted(recipe) for recipe in recipes.values()}.values():
            for query in self.queries:
                proposals = self.replay.proposals(query, model)
                for name, recipe in recipes.items():
                    if recipe.half_life_days == model.half_life_days:
                        ranked = fuse(proposals, recipe.weights, self.log.number_of)
                        rankings[name].append(ranked.campaigns[: metrics.DEPTH + len(query.taken)])
        return rankings

    def by_baseline(self, baseline: Baseline) -> list[list[str]]:
        """A baseline's rankings, query by query."""
        score, names, popularity = baseline.fit(self.past), self.log.campaigns.all, self.past.popularity
        return [
            [names[number] for number in ranked(score(self.log.asked(query)), popularity, metrics.DEPTH + len(query.taken))]
            for query in self.queries
        ]

    def fitted(self, recipe: RankingModel) -> RankingModel:
        """The figures that this recipe would have given at the window's start; its weights are not in them."""
        return fit(self._buckets, facts=0, fingerprint=recipe.fingerprint, half_life_days=recipe.half_life_days)

    def as_of_then(self, recipe: RankingModel) -> RankingModel:
        """The recipe with the half-life that would have been chosen at the window's start: its own may know what came after."""
        return recipe.model_copy(update={"half_life_days": self._half_life_days})

    @cached_property
    def _half_life_days(self) -> float:
        return choose_half_life(self._buckets)

    @cached_property
    def _buckets(self) -> Days:
        return self.log.day_buckets(self.window.start_ms)


@dataclass(frozen=True)
class Questions:
    """All that is asked of a log."""

    log: Log
    newest: Asking
    earlier: Sequence[Asking]
    """Newest first."""

    def enough(self, limits: Limits) -> bool:
        """Whether there are queries enough to tune and to judge on."""
        return min(len(self.newest.queries), sum(len(asking.queries) for asking in self.earlier)) >= limits.queries


def ask(log: Log) -> Questions:
    """The newest windows of the log, each with about a tenth of all that people began to engage with, and their queries."""
    windows = rolling_windows(log.at_ms[log.began], count=1 + EARLIER, share=SHARE) or [Window(0, 0)]
    newest, *earlier = (
        Asking(name, window, queries_in(log, window, limit=QUERIES if name == NEWEST else TUNING_QUERIES), log)
        for name, window in zip((NEWEST, *[BEFORE] * EARLIER), windows, strict=False)
    )
    return Questions(log, newest, earlier)


def prepare(askings: Sequence[Asking], recipe: RankingModel) -> None:
    """Compute what channels ask in these windows, two at a time: it is arithmetic, which threads can do side by side."""
    with ThreadPoolExecutor(2, thread_name_prefix="replay") as threads:
        list(threads.map(lambda asking: asking.replay.related(asking.as_of_then(recipe).taste_half_life_days), askings))


# -- tuning -----------------------------------------------------------------------------------------------------------------


def tuned(
    questions: Questions, candidate: RankingModel, in_force: RankingModel | None, tune: Tuner, limits: Limits
) -> RankingModel:
    """The candidate with the weights that do best on earlier windows; with those in force where there are too few queries."""
    if not questions.enough(limits):
        kept = in_force or candidate
        return candidate.model_copy(update={"weights": kept.weights, "tuned_on": kept.tuned_on})
    prepare(questions.earlier, candidate)
    found = tune([query for asking in questions.earlier for query in tuning_queries(asking, candidate)])
    return candidate.model_copy(update={"weights": dict(found.weights), "tuned_on": found.queries})


def tuning_queries(asking: Asking, recipe: RankingModel) -> Iterator[TuningQuery]:
    """What the channels proposed in this window, with the half-life of then; without evidence, of which there is a lot."""
    model = asking.fitted(asking.as_of_then(recipe))
    for query in asking.queries:
        proposals = {
            channel: Candidates(found.campaigns, found.scores, lambda place: NO_EVIDENCE)
            for channel, found in asking.replay.proposals(query, model).items()
        }
        yield TuningQuery(proposals, query.relevant, query.taken)


def best_setting(settings: Sequence[Baseline], askings: Sequence[Asking]) -> Baseline:
    """The setting with the highest mean of NDCG@100 in these windows; the first of equals."""
    if len(settings) == 1:
        return settings[0]

    def mean(setting: Baseline) -> float:
        return fmean(
            score for asking in askings for score in _scores(asking.by_baseline(setting), asking.queries)[CHOSEN_BY].tolist()
        )

    return max(settings, key=mean)


# -- judging ----------------------------------------------------------------------------------------------------------------


def judge(
    questions: Questions,
    candidate: RankingModel,
    in_force: tuple[str, RankingModel] | None,
    limits: Limits,
    baselines: Mapping[str, Sequence[Baseline]] = GATE_BASELINES,
) -> tuple[RankingModel, Report]:
    """The candidate with the window that it was judged on, and the report: in the newest window, and in that of the one in force.

    It is compared with the generation in force (before there is one, with the prior's weights), each by its recipe, weights and
    half-life, fitted on what was known at the window's start; and with `baselines`, with settings chosen on earlier windows. The
    candidate's half-life is the one that would have been chosen at the window's start; the generation in force keeps its own.
    """
    log, newest = questions.log, questions.newest
    rival = (IN_FORCE, in_force[1]) if in_force else (PRIOR, candidate.model_copy(update={"weights": PRIOR_WEIGHTS}))
    windows: list[Judged] = []
    differences: list[Difference] = []
    notes: list[str] = []
    if questions.enough(limits):
        settings = {name: best_setting(grid, questions.earlier) for name, grid in baselines.items()}
        askings = [newest, *_window_then(log, newest, in_force)]
        prepare(askings, candidate)
        for asking in askings:
            recipes = {CANDIDATE: asking.as_of_then(candidate), rival[0]: rival[1] if in_force else asking.as_of_then(rival[1])}
            rankings = asking.by_channels(recipes)
            rankings |= {name: asking.by_baseline(setting) for name, setting in settings.items()}
            chosen = {name: f"half life days {recipe.half_life_days:g}" for name, recipe in recipes.items()}
            chosen |= {name: _in_words(setting) for name, setting in settings.items()}
            window, found = _compared(asking, rankings, chosen)
            windows.append(window)
            differences += [difference for difference in found if difference.against in (rival[0], DECAYED)]
        if len(newest.queries) >= QUERIES:
            notes.append(f"Of each window about {QUERIES:,} queries were drawn, of users at random; {TUNING_QUERIES} to tune on.")
    else:
        earlier = sum(len(asking.queries) for asking in questions.earlier)
        notes.append(
            f"{len(newest.queries)} queries in the newest window, {earlier} before it: fewer than the {limits.queries} that tuning and "
            f"judging need. The weights are {'those in force' if in_force else 'the prior'}."
        )
    start_ms, end_ms = newest.window.start_ms, newest.window.end_ms
    judged_on = Judgement(start_ms=start_ms, end_ms=end_ms, engaged=_engaged(log, newest.window))
    rises = gate.jumps(_shares(log, candidate, judged_on, in_force[1] if in_force else None), limits)
    candidate = candidate.model_copy(update={"judged_on": judged_on})
    verdict = gate.judge(candidate.fingerprint, in_force[0] if in_force else None, differences, rises, limits)
    report = Report(
        fingerprint=candidate.fingerprint,
        limits=limits,
        in_force=verdict.in_force,
        engagements=int((log.campaign != NONE).sum()),
        campaigns=len(log.catalogue),
        weights=candidate.weights,
        half_life_days=candidate.half_life_days,
        tuned_on=candidate.tuned_on,
        windows=windows,
        differences=differences,
        verdict=verdict,
        notes=notes,
    )
    return candidate, report


def _window_then(log: Log, newest: Asking, in_force: tuple[str, RankingModel] | None) -> list[Asking]:
    judged_on = in_force[1].judged_on if in_force else None
    if judged_on is None:
        return []
    window = Window(judged_on.start_ms, judged_on.end_ms)
    queries = queries_in(log, window, limit=QUERIES) if window != newest.window else []
    return [Asking(THEN, window, queries, log)] if queries else []


def _compared(
    asking: Asking, rankings: Mapping[str, list[list[str]]], settings: Mapping[str, str]
) -> tuple[Judged, list[Difference]]:
    queries = asking.queries
    warm = np.array([query.warm for query in queries])
    users = [query.user_id for query in queries]
    scores = {name: _scores(of_one, queries) for name, of_one in rankings.items()}
    catalogue = asking.log.catalogue.keys() | set(asking.log.campaigns.all)
    contenders = [
        Figures(
            name=name,
            setting=settings.get(name, ""),
            metrics=_means(scores[name], warm | ~warm),
            warm=_means(scores[name], warm),
            cold=_means(scores[name], ~warm),
            coverage=metrics.coverage(left := _left(of_one, queries), catalogue),
            gini=metrics.gini(left, catalogue),
        )
        for name, of_one in rankings.items()
    ]
    differences = [
        Difference(asking.name, name, metric, *bootstrap(scores[CANDIDATE][metric] - scores[name][metric], users))
        for name in rankings
        if name != CANDIDATE
        for metric in metrics.METRICS
    ]
    start, end = asking.window.start_ms, asking.window.end_ms
    judged = Judged(
        name=asking.name, start_ms=start, end_ms=end, queries=len(queries), users=len(set(users)), warm=int(warm.sum()),
        contenders=contenders,
    )  # fmt: skip
    return judged, differences


def _shares(log: Log, candidate: RankingModel, newest: Judgement, in_force: RankingModel | None) -> Iterator[Shares]:
    """What is compared: the figures that are to serve with those that do, and the newest window with what was before it.

    What the generation in force was judged on is remembered as it was then, so that backdated records are seen too.
    """
    if in_force and in_force.strength >= STRENGTH:
        yield Shares("all that people do lately", in_force.shares(), candidate.shares())
    then = in_force.judged_on.engaged if in_force and in_force.judged_on else {}
    yield Shares("what people began to engage with", then or _engaged(log, Window(0, newest.start_ms)), newest.engaged)


def _engaged(log: Log, window: Window) -> dict[str, float]:
    shares, number = log.shares_of_engagements(window)
    strongest = list(shares.items())[:KEPT] if number >= ENGAGEMENTS else []
    return {campaign: round(share, 6) for campaign, share in strongest}


def _in_words(setting: Baseline) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in vars(setting).items() if number is not None)


def _left(rankings: Sequence[Sequence[str]], queries: Sequence[Query]) -> list[list[str]]:
    pairs = zip(rankings, queries, strict=True)
    return [metrics.struck_out(ranking, query.relevant, query.taken)[0] for ranking, query in pairs]


def _scores(rankings: Sequence[Sequence[str]], queries: Sequence[Query]) -> dict[str, Floats]:
    left = _left(rankings, queries)
    return {
        name: np.array([metric(ranking, query.relevant) for ranking, query in zip(left, queries, strict=True)])
        for name, metric in metrics.METRICS.items()
    }


def _means(scores: Mapping[str, Floats], those: NDArray[np.bool_]) -> dict[str, float]:
    return {metric: round(float(values[those].mean()), 6) for metric, values in scores.items()} if those.any() else {}
