"""The stores as they were at a time, computed from the truth in memory, so that the product's own channels can be judged. Pure.

What is read from where, and what is made of the answers, is decided elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from persona.evaluation.baselines import Asked, Told
from persona.evaluation.splits import Window
from persona.projections.conversations import SILENCE, profile_of
from persona.projections.engagements import EVENT_NAMES, engagement_of, expressed_intents, mentions_of
from persona.projections.histories import MS, NONE, Floats, Histories, Ints, Pairs, Record, ranges
from persona.ranking.channels import CHANNELS, NEIGHBOURS, Candidates, Sources
from persona.ranking.context import Context
from persona.ranking.days import Days
from persona.ranking.knowledge import CampaignWords, Knowledge, Related
from persona.ranking.model import NEGATIVE, RankingModel
from persona.ranking.relations import learn, rows_of
from persona.schemas import (
    Campaign,
    Engagement,
    Event,
    NeighbourVote,
    SimilarConversation,
    Vector,
    Vectors,
)

if TYPE_CHECKING:
    import pyarrow as pa

Nearest = Sequence[tuple[int, float]]
"""Places and cosines."""
ASKED_AT_ONCE = 128
"""Vectors whose neighbours are looked for together: what bounds the memory."""
RELEVANT = (Event.CLICK, Event.REPLY, Event.CONVERSION)
"""What shows that an offer was right; what a query is to foretell."""
MS_PER_DAY = 86_400_000
LN_2 = float(np.log(2))


class Log(Histories):
    """Everybody's histories, and what is known of texts and campaigns."""

    def __init__(
        self,
        records: "pa.Table",
        *,
        vectors: Mapping[str, Vector],
        inferred: Mapping[str, str],
        named: Mapping[str, Sequence[str]],
        openings: Mapping[str, tuple[str, Vector]],
        catalogue: Mapping[str, Campaign],
        campaign_vectors: Mapping[str, Vector],
    ) -> None:
        """Take in records as `Records.replayable` gives them.

        `vectors`, `inferred` (intents) and `named` (campaigns) are by text hash, `openings` by conversation (see `conversations_of`).
        A record whose text has no vector yet counts as one without words.
        """
        self.vectors, self.inferred, self.named, self.openings = vectors, inferred, named, openings
        self.catalogue, self.campaign_vectors = catalogue, campaign_vectors
        self.words = _words_in(records) if "message" in records.column_names else {}
        super().__init__(records, named)
        unknown = np.array([text not in vectors for text in self.texts.all] + [True])[self.text]
        self.text[unknown], self.characters[unknown] = NONE, 0

    @cached_property
    def text_vectors(self) -> Vectors:
        """The vectors by the numbers of the texts, shape (texts, dimension)."""
        dimension = len(next(iter(self.vectors.values()), ()))
        found = np.zeros((len(self.texts.all), dimension), np.float32)
        for number, text in enumerate(self.texts.all):
            if text in self.vectors:
                found[number] = self.vectors[text]
        return found

    @cached_property
    def number_of(self) -> Mapping[str, int]:
        """The places of all campaigns, of the catalogue and of the records, in the order of their ids."""
        return {campaign: number for number, campaign in enumerate(sorted({*self.catalogue, *self.campaigns.all}))}

    @cached_property
    def relevant(self) -> NDArray[np.bool_]:
        """Which rows show that an offer was right."""
        found: NDArray[np.bool_] = np.isin(self.event, [EVENT_NAMES.index(event) for event in RELEVANT]) & (self.campaign != NONE)
        return found

    @cached_property
    def began(self) -> Ints:
        """The rows with which someone first showed that an offer of a campaign was right: one for each (user, campaign)."""
        rows = np.flatnonzero(self.relevant)
        _, first = np.unique(self.user[rows] * len(self.campaigns.numbers) + self.campaign[rows], return_index=True)
        return rows[first]

    def day_buckets(self, before_ms: int) -> Days:
        """What the warehouse's day buckets held then."""
        rows = np.flatnonzero((self.at_ms < before_ms) & (self.campaign != NONE))
        sizes = (len(self.campaigns.all), max(len(self.channels.all), 1), len(EVENT_NAMES))
        keys = self.at_ms[rows] // MS_PER_DAY
        for column, size in zip((self.campaign, self.channel, self.event), sizes, strict=True):
            keys = keys * size + column[rows]
        found, counts = np.unique(keys, return_counts=True)
        found, event = np.divmod(found, sizes[2])
        found, channel = np.divmod(found, sizes[1])
        day, campaign = np.divmod(found, max(sizes[0], 1))
        return Days(self.campaigns.all, self.channels.all, day, campaign, channel, event, counts)

    def shares_of_engagements(self, window: Window) -> tuple[dict[str, float], int]:
        """Each campaign's share of what began in the window, greatest first, and how much that was.

        Someone who engages with a campaign a thousand times counts once: it is people that a campaign is to win.
        """
        began = self.campaign[self.began[(self.at_ms[self.began] >= window.start_ms) & (self.at_ms[self.began] < window.end_ms)]]
        numbers, counts = np.unique(began, return_counts=True)
        shares = {self.campaigns.all[number]: n / len(began) for number, n in zip(numbers, counts, strict=True)}
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))), len(began)

    def asked(self, query: "Query") -> Asked:
        """The query as a baseline sees it."""
        return Asked(
            at_ms=query.at_ms,
            history={
                self.campaigns.numbers[mention.campaign_id]: mention.last_at_ms
                for mention in query.context.mentioned.values()
                if mention.campaign_id in self.campaigns.numbers
            }
            | {
                self.campaigns.numbers[tie.campaign_id]: tie.last_at_ms
                for tie in query.context.history
                if tie.campaign_id in query.taken and tie.weight > 0
            },
            vector=query.context.vector,
            words=query.words,
        )

    def words_between(self, user: int, start_ms: int, end_ms: int) -> str:
        """What the user said from the one time to the other, both included; empty where words were not read."""
        rows = slice(self.begins[user], self.begins[user + 1])
        first, last = self.begins[user] + np.searchsorted(self.at_ms[rows], [start_ms, end_ms + 1])
        return " ".join(self.words.get(self.texts.all[text], "") for text in self.text[first:last] if text != NONE)


def _words_in(records: "pa.Table") -> dict[str, str]:
    """Each text that was said, by its hash."""
    hashes, words = records.select(["text_hash", "message"]).drop_null().columns
    return dict(zip(hashes.to_pylist(), words.to_pylist(), strict=True))


@dataclass(frozen=True, slots=True)
class Query:
    """Someone as they were when an offer could be made to them, and what turned out to be right."""

    user_id: str
    at_ms: int
    context: Context
    words: str
    """What the user said in the same sitting before; empty where words were not read."""
    relevant: frozenset[str]
    """Campaigns engaged with in the same sitting; what was taken is not among them."""
    taken: frozenset[str]
    """Campaigns engaged with or refused before."""
    warm: bool
    """Whether the user had done anything before the window."""


def queries_in(log: Log, window: Window, *, limit: int, seed: int = 7) -> list[Query]:
    """About `limit` queries of the window at most, of users drawn at random: all of theirs, in the order of users and time.

    A user's records of the window fall into sittings, parted by half an hour of silence; a query is asked just before a sitting's
    first record that names a campaign, with all that the user did before. A sitting without anything relevant and new asks nothing.
    """
    inside = (log.at_ms >= window.start_ms) & (log.at_ms < window.end_ms)
    users = np.random.default_rng(seed).permutation(np.unique(log.user[inside & log.relevant]))
    asked: dict[int, list[Query]] = {}
    for user in users.tolist():
        if sum(map(len, asked.values())) >= limit:
            break
        asked[user] = list(_queries_of(log, user, window))
    return [query for user in sorted(asked) for query in asked[user]]


def _queries_of(log: Log, user: int, window: Window) -> Iterator[Query]:
    begin, end = log.begins[user], log.begins[user + 1]
    first, last = begin + np.searchsorted(log.at_ms[begin:end], [window.start_ms, window.end_ms])
    pauses = np.flatnonzero(np.diff(log.at_ms[first:last]) >= SILENCE // MS) + 1
    for sitting in np.split(np.arange(first, last), pauses):
        naming = sitting[log.campaign[sitting] != NONE]
        if not len(naming):
            continue
        at_ms = int(log.at_ms[naming[0]])
        until = begin + int(np.searchsorted(log.at_ms[begin:end], at_ms))
        taken = _taken(log, begin, until)
        relevant = {log.campaigns.all[log.campaign[row]] for row in sitting[log.relevant[sitting]]} - taken
        if relevant:
            context = _context(log, user, begin, until)
            words = log.words_between(user, int(log.at_ms[sitting[0]]), at_ms - 1)
            yield Query(
                log.users.all[user], at_ms, context, words, frozenset(relevant), frozenset(taken), warm=bool(first > begin)
            )


def _taken(log: Log, begin: int, end: int) -> set[str]:
    refused = np.isin(log.event[begin:end], [EVENT_NAMES.index(event) for event in NEGATIVE]) & (log.campaign[begin:end] != NONE)
    taken = log.campaign[begin:end][refused | log.relevant[begin:end]]
    return {log.campaigns.all[number] for number in np.unique(taken)}


def _context(log: Log, user: int, begin: int, end: int) -> Context:
    history = list(log.records(range(begin, end)))
    name = log.users.all[user]
    profile = profile_of(name, history, log.vectors, log.openings)
    return Context(
        user_id=name,
        vector=profile.vector if profile else None,
        intents={intent.intent: intent for intent in expressed_intents(history, log.inferred)},
        mentioned={mention.campaign_id: mention for mention in mentions_of([name], history, log.named)[name]},
        history=sorted(engagements_of(history), key=lambda engaged: (-engaged.last_at_ms, engaged.campaign_id)),
    )


def engagements_of(history: Iterable[Record]) -> list[Engagement]:
    """One user's ties, folded from their records as `Records.folded_pairs` folds everybody's; the events' worth is left out."""
    pairs: dict[str, dict[str, Any]] = {}
    for record in history:
        if "campaign_id" not in record:
            continue
        at, event = record["timestamp"], Event(record["event"])
        pair = pairs.setdefault(
            record["campaign_id"],
            {
                "_id": {"user_id": record["user_id"], "campaign_id": record["campaign_id"]},
                **dict.fromkeys(EVENT_NAMES, 0),
                "value": 0.0,
                "first_at": at,
                "last_negative_at": None,
                "last_positive_at": None,
            },
        )
        pair[event.value] += 1
        pair["last"] = {"at": at, "message_id": record["_id"]}
        pair["last_negative_at" if event in NEGATIVE else "last_positive_at"] = at
    return [engagement_of(pair) for pair in pairs.values()]


class Replay:
    """The vector store and the graph as they were at a time: what a channel asks of either, it may ask here."""

    def __init__(self, log: Log, at_ms: int) -> None:
        self._log = log
        self.at_ms = at_ms
        self._talks = log.talks_before(at_ms)
        self._ties = log.ties_before(at_ms, self._talks)
        self._foreseen: dict[tuple[str, bytes], tuple[Nearest, Nearest]] = {}
        self._relations: dict[float, Related] = {}
        self._knowledge: Knowledge | None = None

    def foresee(self, queries: Sequence[Query]) -> None:
        """Look for the neighbours of all these together, which takes as long as for a few of them; the vectors are let go."""
        asked = [(query.user_id, query.context.vector) for query in queries if query.context.vector is not None]
        if asked:
            vectors = np.stack([vector for _, vector in asked])
            people = nearest_of(self._profiles, vectors, [self._place_of(user) for user, _ in asked], limit=NEIGHBOURS)
            talks = nearest_of(self._talk_vectors, vectors, [self._talks_of(user) for user, _ in asked], limit=NEIGHBOURS)
            for (user, vector), *found in zip(asked, people, talks, strict=True):
                self._foreseen[user, vector.tobytes()] = (found[0], found[1])
            del self._profiles, self._talk_vectors

    def proposals(self, query: Query, model: RankingModel) -> dict[str, Candidates]:
        """What each of the product's channels proposes to the user of the query."""
        knowledge = self._knowledge_by(model)
        sources = Sources(vectors=self, graph=self, knowledge=knowledge, now_ms=query.at_ms, channel=None)
        return {name: channel(query.context, sources) for name, channel in CHANNELS.items()}

    def _knowledge_by(self, model: RankingModel) -> Knowledge:
        """What was known of campaigns, made once for all who ask by this model."""
        if self._knowledge is None or self._knowledge.model is not model:
            relations = self.related(model.taste_half_life_days)
            self._knowledge = Knowledge(self._log.catalogue, model, relations, self._words)
        return self._knowledge

    def related(self, half_life_days: float) -> Related:
        """What would have been learned then, with this half-life of tastes."""
        if half_life_days not in self._relations:
            self._relations[half_life_days] = self._learned(half_life_days)
        return self._relations[half_life_days]

    # -- the vector store -------------------------------------------------------------------------------------------------

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]:
        """See `VectorStore.similar_users`."""
        foreseen = self._foreseen.get((exclude or "", vector.tobytes())) if limit == NEIGHBOURS else None
        found = foreseen[0] if foreseen else nearest_of(self._profiles, vector[None], [self._place_of(exclude)], limit=limit)[0]
        return [(self._log.users.all[self._speakers[place]], similarity) for place, similarity in found]

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]:
        """See `VectorStore.similar_conversations`."""
        foreseen = self._foreseen.get((exclude_user or "", vector.tobytes())) if limit == NEIGHBOURS else None
        found = (
            foreseen[1]
            if foreseen
            else nearest_of(self._talk_vectors, vector[None], [self._talks_of(exclude_user)], limit=limit)[0]
        )
        talks = np.array([talk for talk, _ in found], np.int64)
        similarities = [similarity for _, similarity in found]
        return list(map(SimilarConversation, similarities, self._outcomes_of(talks)))

    @property
    def told(self) -> Told:
        """The conversations as baselines see them."""
        talks, (talk, campaign, strength) = self._talks, self._outcomes
        liked = strength > 0
        shape = (len(talks.user), len(self._log.campaigns.all))
        words = zip(talks.user.tolist(), talks.started_ms.tolist(), talks.ended_ms.tolist(), strict=True)
        return Told(
            self._talk_vectors,
            [self._log.words_between(user, started, ended) for user, started, ended in words],
            csr_array((strength[liked], (talk[liked], campaign[liked])), shape=shape),
        )

    # -- the graph --------------------------------------------------------------------------------------------------------

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]:
        """See `Graph.campaigns_of`."""
        pairs, begins = self._pairs
        users = np.array([self._log.users.numbers[user] for user in neighbours], np.int64)
        counts = begins[users + 1] - begins[users]
        theirs = ranges(begins[users], counts)
        age_ms = np.maximum(now_ms - pairs.last_at_ms[theirs], 0)
        decay_per_ms = LN_2 / (half_life_days * MS_PER_DAY)
        pulls = np.repeat(list(neighbours.values()), counts) * pairs.weight[theirs] * np.exp(-decay_per_ms * age_ms)
        positive = pairs.weight[theirs] > 0
        campaigns = pairs.campaign[theirs][positive]
        scores, voters = np.bincount(campaigns, pulls[positive]), np.bincount(campaigns)
        found = np.flatnonzero(voters)
        best = found[np.argsort(-scores[found], kind="stable")][:limit]
        names = self._log.campaigns.all
        voted = zip(best.tolist(), scores[best].tolist(), voters[best].tolist(), strict=True)
        return [NeighbourVote(names[campaign], score, users) for campaign, score, users in voted]

    # -- what they hold ---------------------------------------------------------------------------------------------------

    def _learned(self, half_life_days: float) -> Related:
        newest_ms = int(self._ties.at_ms[self._ties.event != NONE].max(initial=-1))
        end_of_newest_day_ms = (newest_ms // MS_PER_DAY + 1) * MS_PER_DAY
        rows = rows_of(self._ties, self._log.campaigns.all, now_ms=end_of_newest_day_ms, half_life_days=half_life_days)
        by_campaign = groupby(learn(rows).relations, key=attrgetter("campaign_id"))
        return Related(("", list(relations)) for _, relations in by_campaign)

    @cached_property
    def _pairs(self) -> tuple[Pairs, Ints]:
        """What was done, and where each user's begins."""
        pairs = self._ties.pairs(len(self._log.campaigns.all))
        return pairs, np.searchsorted(pairs.user, np.arange(len(self._log.users.all) + 1))

    @cached_property
    def _talk_vectors(self) -> Vectors:
        return self._log.talk_vectors(self._talks, self._log.text_vectors, self._log.openings)

    @cached_property
    def _speakers(self) -> Ints:
        return np.unique(self._talks.user)

    @cached_property
    def _profiles(self) -> Vectors:
        """Of the speakers."""
        return self._log.profiles(self._talks, self._talk_vectors, self._log.text_vectors)

    def _place_of(self, user: str | None) -> range:
        """Where the user is among the speakers."""
        number = self._log.users.numbers.get(user or "", NONE)
        return range(*np.searchsorted(self._speakers, [number, number + 1]).tolist())

    def _talks_of(self, user: str | None) -> range:
        number = self._log.users.numbers.get(user or "", NONE)
        return range(*np.searchsorted(self._talks.user, [number, number + 1]).tolist())

    @cached_property
    def _outcomes(self) -> tuple[Ints, Ints, Floats]:
        return self._ties.outcomes()

    def _outcomes_of(self, talks: Ints) -> Iterator[dict[str, float]]:
        """What each of these led to."""
        of_talks, campaigns, strengths = self._outcomes
        begins, ends = np.searchsorted(of_talks, [talks, talks + 1])
        theirs = ranges(begins, ends - begins)
        names = map(self._log.campaigns.all.__getitem__, campaigns[theirs].tolist())
        led_to = zip(names, strengths[theirs].tolist(), strict=True)
        return (dict(islice(led_to, count)) for count in (ends - begins).tolist())

    @cached_property
    def _words(self) -> CampaignWords:
        """The catalogue's words, which have no history."""
        return CampaignWords(self._log.campaign_vectors)


def nearest_of(vectors: Vectors, asked: Vectors, excluded: Sequence[range], *, limit: int) -> list[Nearest]:
    """The nearest of each `asked`, shape (asked, dimension), but for those `excluded`, as places and cosines, nearest first."""
    found: list[Nearest] = []
    for begin in range(0, len(asked) if len(vectors) else 0, ASKED_AT_ONCE):
        similarities = asked[begin : begin + ASKED_AT_ONCE] @ vectors.T
        for row, without in zip(similarities, excluded[begin:], strict=False):
            row[without.start : without.stop] = -np.inf
            count = min(limit, len(vectors) - len(without))
            best = np.argpartition(-row, count - 1)[:count] if 0 < count < len(row) else np.arange(len(row))
            ordered = best[np.lexsort((best, -row[best]))][:count]
            found.append(list(zip(ordered.tolist(), row[ordered].tolist(), strict=True)))
    return found or [[] for _ in asked]
