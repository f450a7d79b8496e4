"""The stores as they were at a time, computed from the truth in memory, so that the product's own channels can be judged. Pure.

What is read from where, and what is made of the answers, is decided elsewhere.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from persona.evaluation.baselines import Asked, Told
from persona.evaluation.splits import Window
from persona.projections.conversations import SILENCE, conversations_of, profile_of
from persona.projections.engagements import EVENT_NAMES, engagement_of, expressed_intents, mentions_of
from persona.ranking.channels import CHANNELS, Candidates, Sources
from persona.ranking.context import Context
from persona.ranking.knowledge import CampaignWords, Knowledge, Related
from persona.ranking.model import NEGATIVE, RankingModel
from persona.ranking.relations import Row, learn, rows_of
from persona.schemas import (
    Campaign,
    Conversation,
    DayBucket,
    Engagement,
    Event,
    NeighbourVote,
    SimilarConversation,
    UserProfile,
    Vector,
    Vectors,
)

RELEVANT = (Event.CLICK, Event.REPLY, Event.CONVERSION)
"""What shows that an offer was right; what a query is to foretell."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
MS_PER_DAY = 86_400_000
NONE = -1
LN_2 = float(np.log(2))

Ints = NDArray[np.int64]
Record = Mapping[str, Any]


class Names:
    """Strings by number: as they came, until they are sorted."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, name: str | None) -> int:
        """Of this name, a new one if need be; -1 for none."""
        return NONE if name is None else self.numbers.setdefault(name, len(self.numbers))

    def sort(self) -> Ints:
        """Number them in their own order, whatever they came in; return the new number of each old one, and of none last."""
        names = sorted(self.numbers)
        moved = np.full(len(names) + 1, NONE, dtype=np.int64)
        moved[np.array([self.numbers[name] for name in names], dtype=np.int64)] = np.arange(len(names))
        self.numbers = {name: number for number, name in enumerate(names)}
        return moved

    @cached_property
    def all(self) -> list[str]:
        """By number, when no more come."""
        return list(self.numbers)


class Log:
    """Everybody's records in columns, by user, then time, then id, and what is known of texts and campaigns.

    A record is a row; numbers stand for names, -1 for none. Columns rather than records: a million of them are to fit.
    """

    def __init__(
        self,
        records: Iterable[Record],
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
        self.users, self.campaigns, self.channels, self._texts, self._conversations, self._intents = (Names() for _ in range(6))
        self.words: dict[str, str] = {}
        self._told: dict[int, tuple[int, UserProfile | None, list[Conversation]]] = {}
        ids: list[str] = []
        cells = array("q")
        for record in records:
            text = record.get("text_hash")
            if text is not None and "message" in record:
                self.words[text] = record["message"]
            ids.append(record["_id"])
            cells.extend(
                (
                    self.users.number(record["user_id"]),
                    (record["timestamp"] - EPOCH) // MS,
                    EVENT_NAMES.index(record["event"]),
                    self.campaigns.number(record.get("campaign_id")),
                    self.channels.number(record["channel"]),
                    self._texts.number(text if text in vectors else None),
                    self._conversations.number(record.get("conversation_id")),
                    self._intents.number(record.get("intent")),
                    record["characters"] if text in vectors else 0,
                )
            )
        columns = np.array(cells, dtype=np.int64).reshape(len(ids), 9)
        for names_of, column in ((self.users, 0), (self.campaigns, 3), (self.channels, 4)):
            columns[:, column] = names_of.sort()[columns[:, column]]
        names = np.array(ids, dtype=object)
        order = np.lexsort((np.argsort(np.argsort(names)), columns[:, 1], columns[:, 0]))
        self._ids = names[order]
        (
            self.user,
            self.at_ms,
            self.event,
            self.campaign,
            self.channel,
            self._text,
            self._conversation,
            self._intent,
            self._characters,
        ) = columns[order].T.copy()
        self.begins: Ints = np.searchsorted(self.user, np.arange(len(self.users.numbers) + 1))

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

    def records(self, rows: Iterable[int]) -> Iterator[dict[str, Any]]:
        """These rows as the truth has them (see `Records.histories`)."""
        places = np.fromiter(rows, dtype=np.int64)
        told = zip(*(column[places].tolist() for column in (self._ids, self.user, self.at_ms, self.event)), strict=True)
        optional = (
            ("campaign_id", self.campaigns, self.campaign),
            ("text_hash", self._texts, self._text),
            ("conversation_id", self._conversations, self._conversation),
            ("intent", self._intents, self._intent),
        )
        named = [(field, names.all, column[places].tolist()) for field, names, column in optional]
        characters = self._characters[places].tolist()
        for place, (key, user, at_ms, event) in enumerate(told):
            record: dict[str, Any] = {
                "_id": key,
                "user_id": self.users.all[user],
                "timestamp": EPOCH + at_ms * MS,
                "event": EVENT_NAMES[event],
            }
            for field, names, numbers in named:
                if numbers[place] != NONE:
                    record[field] = names[numbers[place]]
            if "text_hash" in record:
                record["characters"] = characters[place]
            yield record

    def day_buckets(self, before_ms: int) -> list[DayBucket]:
        """What the warehouse's day buckets held then."""
        rows = np.flatnonzero((self.at_ms < before_ms) & (self.campaign != NONE))
        sizes = (len(self.campaigns.numbers), len(self.channels.numbers), len(EVENT_NAMES))
        keys = self.at_ms[rows] // MS_PER_DAY
        for column, size in zip((self.campaign, self.channel, self.event), sizes, strict=True):
            keys = keys * size + column[rows]
        found, counts = np.unique(keys, return_counts=True)
        buckets = []
        for key, n in zip(found.tolist(), counts.tolist(), strict=True):
            key, event = divmod(key, sizes[2])
            key, channel = divmod(key, sizes[1])
            day, campaign = divmod(key, sizes[0])
            iso = (date(1970, 1, 1) + timedelta(days=day)).isoformat()
            buckets.append(DayBucket(iso, self.campaigns.all[campaign], self.channels.all[channel], EVENT_NAMES[event], n, 0.0))
        return buckets

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
        return " ".join(self.words.get(self._texts.all[text], "") for text in self._text[first:last] if text != NONE)

    def told_by(self, user: int, rows: int) -> tuple[UserProfile | None, list[Conversation]]:
        """The user's profile and conversations when the truth had so many of their rows; the latest are remembered."""
        before = self._told.get(user)
        if before is None or before[0] != rows:
            begin = self.begins[user]
            history = list(self.records(range(begin, begin + rows)))
            name = self.users.all[user]
            before = (
                rows,
                profile_of(name, history, self.vectors, self.openings),
                conversations_of(name, history, self.vectors, self.named, self.openings),
            )
            self._told[user] = before
        return before[1], before[2]


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
        known = log.at_ms < at_ms
        self._rows = np.bincount(log.user[known], minlength=len(log.users.numbers))
        self._speaking = np.unique(log.user[known & (log._text != NONE)]).tolist()
        self._ties: dict[str, list[Engagement]] = {}
        self._relations: dict[float, Related] = {}
        self._knowledge: Knowledge | None = None

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
        users, vectors = self._profiles
        nearest = _nearest(vectors, vector, limit, [self._places[exclude]] if exclude in self._places else [])
        return [(users[place], similarity) for place, similarity in nearest]

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]:
        """See `VectorStore.similar_conversations`."""
        conversations, vectors, of_user = self._conversations
        found = _nearest(vectors, vector, limit, of_user.get(exclude_user, []) if exclude_user is not None else [])
        return [
            SimilarConversation(similarity, conversations[place].ended_at_ms, conversations[place].outcomes)
            for place, similarity in found
        ]

    @cached_property
    def told(self) -> Told:
        """The conversations as baselines see them."""
        conversations, vectors, _ = self._conversations
        numbers = self._log.campaigns.numbers
        strengths = [
            (row, numbers[campaign], strength)
            for row, conversation in enumerate(conversations)
            for campaign, strength in conversation.outcomes.items()
            if strength > 0
        ]
        rows, columns, values = zip(*strengths, strict=True) if strengths else ((), (), ())
        outcomes = csr_array((values, (rows, columns)), shape=(len(conversations), len(numbers)), dtype=np.float64)
        words = [
            self._log.words_between(self._log.users.numbers[said.user_id], said.started_at_ms, said.ended_at_ms)
            for said in conversations
        ]
        return Told(vectors, words, outcomes)

    # -- the graph --------------------------------------------------------------------------------------------------------

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]:
        """See `Graph.campaigns_of`."""
        decay_per_ms = LN_2 / (half_life_days * MS_PER_DAY)
        scores: dict[str, float] = defaultdict(float)
        users: dict[str, int] = defaultdict(int)
        for user, similarity in neighbours.items():
            for tie in self._ties_of(user):
                if tie.weight > 0:
                    age_ms = max(now_ms - tie.last_at_ms, 0)
                    scores[tie.campaign_id] += similarity * tie.weight * float(np.exp(-decay_per_ms * age_ms))
                    users[tie.campaign_id] += 1
        best = sorted(scores, key=lambda campaign: (-scores[campaign], campaign))[:limit]
        return [NeighbourVote(campaign, scores[campaign], users[campaign]) for campaign in best]

    # -- what they hold ---------------------------------------------------------------------------------------------------

    def _ties_of(self, user: str) -> list[Engagement]:
        if user not in self._ties:
            number = self._log.users.numbers[user]
            begin = self._log.begins[number]
            rows = np.arange(begin, begin + self._rows[number])
            self._ties[user] = engagements_of(self._log.records(rows[self._log.campaign[rows] != NONE]))
        return self._ties[user]

    def _learned(self, half_life_days: float) -> Related:
        log = self._log
        known = log.at_ms < self.at_ms
        with_campaign = known & (log.campaign != NONE)
        end_of_newest_day = (int(log.at_ms[with_campaign].max(initial=-1)) // MS_PER_DAY + 1) * MS_PER_DAY
        campaigns = {log.campaigns.all[number] for number in np.unique(log.campaign[with_campaign])}
        for text in np.unique(log._text[known & (log._text != NONE)]):
            campaigns.update(log.named.get(log._texts.all[text], ()))
        people = self._rows_of_everybody(now=EPOCH + end_of_newest_day * MS, half_life_days=half_life_days)
        by_campaign = groupby(learn(people, campaigns).relations, key=attrgetter("campaign_id"))
        return Related(("", list(relations)) for _, relations in by_campaign)

    def _rows_of_everybody(self, *, now: datetime, half_life_days: float) -> Iterator[list[Row]]:
        """What relations are learned from, person by person in the order of their ids."""
        log = self._log
        for user in np.argsort(np.array(log.users.all, dtype=object), kind="stable"):
            history = list(log.records(range(log.begins[user], log.begins[user] + self._rows[user])))
            yield rows_of(history, log.named, now=now, half_life_days=half_life_days)

    @cached_property
    def _profiles(self) -> tuple[list[str], Vectors]:
        profiles = [profile for profile, _ in self._told if profile]
        return [profile.user_id for profile in profiles], _stacked([profile.vector for profile in profiles])

    @cached_property
    def _places(self) -> Mapping[str | None, int]:
        return {user: place for place, user in enumerate(self._profiles[0])}

    @cached_property
    def _conversations(self) -> tuple[list[Conversation], Vectors, Mapping[str, list[int]]]:
        conversations = [conversation for _, told in self._told for conversation in told]
        of_user: dict[str, list[int]] = defaultdict(list)
        for place, conversation in enumerate(conversations):
            of_user[conversation.user_id].append(place)
        return conversations, _stacked([conversation.vector for conversation in conversations]), of_user

    @cached_property
    def _words(self) -> CampaignWords:
        """The catalogue's words, which have no history."""
        return CampaignWords(self._log.campaign_vectors)

    @cached_property
    def _told(self) -> list[tuple[UserProfile | None, list[Conversation]]]:
        return [self._log.told_by(user, int(self._rows[user])) for user in self._speaking]


def _stacked(vectors: Sequence[Vector]) -> Vectors:
    return np.stack(vectors) if vectors else np.zeros((0, 0), dtype=np.float32)


def _nearest(vectors: Vectors, vector: Vector, limit: int, excluded: Sequence[int]) -> list[tuple[int, float]]:
    """Places of the nearest, with their cosines; all are of length one but for a campaign's padding."""
    if not len(vectors):
        return []
    similarities = vectors @ vector
    similarities[list(excluded)] = -np.inf
    count = min(limit, len(vectors) - len(excluded))
    best = np.argpartition(-similarities, count - 1)[:count] if 0 < count < len(vectors) else np.arange(len(vectors))
    ordered = best[np.argsort(-similarities[best], kind="stable")][:count]
    return [(int(place), float(similarities[place])) for place in ordered]
