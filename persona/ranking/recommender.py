"""The whole way from a question to an answer: context, channels, fusion, policy, explanation. A store that is down costs its channel."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import numpy as np

from persona.errors import StoreUnavailable
from persona.language.mentions import NameFinder
from persona.ranking.channels import (
    CHANNELS,
    Candidate,
    GraphSearch,
    Sources,
    VectorSearch,
)
from persona.ranking.context import Context, Decision
from persona.ranking.explanation import reason_for
from persona.ranking.fusion import Fused, fuse
from persona.ranking.model import RankingModel, fit
from persona.ranking.policy import Request, rule_against
from persona.schemas import (
    Answer,
    Campaign,
    Customer,
    Engagement,
    Event,
    ExpressedIntent,
    Mention,
    Recommendation,
    Vector,
    Vectors,
)
from persona.stores.documents import Documents

T = TypeVar("T")
LONGEST_CAP = timedelta(days=365)
NO_MODEL = fit([], facts=0, fingerprint="")
"""What ranks before the first generation is published: priors alone."""

NO_NAMES = NameFinder([])


class ProfileStore(VectorSearch, Protocol):
    """What a context needs of the vector store."""

    def user_vector(self, user_id: str) -> Vector | None: ...


class HistoryStore(GraphSearch, Protocol):
    """What a context needs of the graph."""

    def history_of(self, user_id: str) -> list[Engagement]: ...
    def intents_of(self, user_id: str) -> list[ExpressedIntent]: ...
    def mentions_of(self, user_id: str) -> list[Mention]: ...


class DecisionStore(Protocol):
    """What policy needs of the records."""

    def decisions_of(self, user_id: str, *, impressions_since: datetime) -> list[dict[str, Any]]: ...


class CustomerStore(Protocol):
    """What policy needs of the catalog."""

    def customer(self, user_id: str) -> Customer | None: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything about campaigns that answers rest on, loaded as one and swapped as one."""

    generation: str | None
    model: RankingModel
    catalog_version: int
    campaigns: Mapping[str, Campaign]
    as_of: datetime | None
    """The time of the newest accepted record: what decay counts from."""
    suppressed: frozenset[str] = frozenset()
    """Who is to be left alone, also while the truth does not answer."""
    finder: NameFinder = NO_NAMES
    """Finds the campaigns that a text names."""


@dataclass(frozen=True, slots=True)
class Query:
    """What the caller wants."""

    k: int = 5
    channel: str | None = None
    exclude: Collection[str] = ()
    at: datetime | None = None
    """What was running, capped and consented then; None: now."""


def load_snapshot(documents: Documents, *, before: Snapshot | None = None) -> Snapshot:
    """The generation in force and the catalog as they are now; what costs time is taken from the one `before` if it is the same."""
    in_force = documents.generations.in_force()
    version = documents.catalog.version()
    campaigns = documents.catalog.campaigns()
    return Snapshot(
        generation=in_force[0] if in_force else None,
        model=RankingModel.model_validate(in_force[1]) if in_force else NO_MODEL,
        catalog_version=version,
        campaigns={campaign.campaign_id: campaign for campaign in campaigns},
        as_of=documents.records.newest_timestamp(),
        finder=before.finder if before and before.catalog_version == version else NameFinder(campaigns),
        suppressed=documents.catalog.suppressed(),
    )


@dataclass(frozen=True)
class Recommender:
    """Answers questions from the stores it is given; a verb that raises `StoreUnavailable` degrades the answer."""

    vectors: ProfileStore
    graph: HistoryStore
    records: DecisionStore
    customers: CustomerStore
    repeat_conversions: bool = False

    def for_user(self, user_id: str, query: Query, snapshot: Snapshot) -> Answer:
        """What to offer this person; an unknown one gets what does well now.

        Raises `StoreUnavailable` when no channel is left.
        """
        degraded = Degraded()
        in_snapshot: Customer | None = Customer(user_id=user_id, suppressed=user_id in snapshot.suppressed)
        customer: Customer | None = degraded.unless(lambda: self.customers.customer(user_id), in_snapshot)
        history: list[Engagement] = degraded.unless(lambda: self.graph.history_of(user_id), [])
        expressed: list[ExpressedIntent] = degraded.unless(lambda: self.graph.intents_of(user_id), [])
        mentioned: list[Mention] = degraded.unless(lambda: self.graph.mentions_of(user_id), [])
        context = Context(
            user_id=user_id,
            vector=degraded.unless(lambda: self.vectors.user_vector(user_id), None),
            intents={intent.intent: intent for intent in expressed},
            mentioned={mention.campaign_id: mention for mention in mentioned},
            history=history,
            customer=customer,
            decisions=degraded.unless(lambda: self._decisions(user_id, query), _decisions_in(history)),
        )
        return self._answer(context, query, snapshot, degraded)

    def for_texts(
        self, texts: Sequence[str], vectors: Vectors, intents: Sequence[str], query: Query, snapshot: Snapshot
    ) -> Answer:
        """What to offer someone who says these n texts now: `vectors` of shape (n, dimension), and the intents found in the texts."""
        mean = np.mean(vectors, axis=0) if len(vectors) else np.zeros(0)
        norm = float(np.linalg.norm(mean))
        expressed = {
            intent: ExpressedIntent(user_id="", intent=intent, count=intents.count(intent), last_at_ms=0, last_message_id="")
            for intent in dict.fromkeys(intents)
        }
        named = Counter(campaign for text in texts for campaign in snapshot.finder.find(text))
        now_ms = _now_ms(query, snapshot)
        context = Context(
            user_id=None,
            vector=(mean / norm).astype(np.float32) if norm else None,
            intents=expressed,
            mentioned={campaign: Mention(campaign, count, now_ms, "") for campaign, count in named.items()},
        )
        return self._answer(context, query, snapshot, Degraded())

    def _decisions(self, user_id: str, query: Query) -> list[Decision]:
        since = (query.at or datetime.now(UTC)) - LONGEST_CAP
        return [
            Decision(
                event=record["event"], campaign_id=record.get("campaign_id"), channel=record["channel"], at=record["timestamp"]
            )
            for record in self.records.decisions_of(user_id, impressions_since=since)
        ]

    def _answer(self, context: Context, query: Query, snapshot: Snapshot, degraded: "Degraded") -> Answer:
        sources = Sources(
            vectors=self.vectors,
            graph=self.graph,
            campaigns=snapshot.campaigns,
            model=snapshot.model,
            now_ms=_now_ms(query, snapshot),
            channel=query.channel,
        )
        proposals: dict[str, Sequence[Candidate]] = {
            name: degraded.unless(lambda channel=channel: channel(context, sources), [])  # type: ignore[misc]
            for name, channel in CHANNELS.items()
        }
        if degraded.stores and not any(proposals.values()):
            raise StoreUnavailable(", ".join(sorted(degraded.stores)), "no channel is left to answer from")
        return Answer(
            user_id=context.user_id,
            recommendations=self._offers(fuse(proposals, snapshot.model.weights), context, query, snapshot),
            generation=snapshot.generation,
            as_of=_as_of(query, snapshot),
            known_user=context.known,
            degraded=sorted(degraded.stores),
        )

    def _offers(self, ranked: Sequence[Fused], context: Context, query: Query, snapshot: Snapshot) -> list[Recommendation]:
        request = Request(
            at=query.at or datetime.now(UTC),
            channel=query.channel,
            exclude=frozenset(query.exclude),
            repeat_conversions=self.repeat_conversions,
        )
        offers: list[Recommendation] = []
        for item in ranked:
            campaign = snapshot.campaigns.get(item.campaign_id)
            if campaign is None or rule_against(campaign, context, request) is not None:
                continue
            evidence = item.evidence
            offers.append(
                Recommendation(
                    campaign_id=item.campaign_id,
                    ranking_score=item.score,
                    reason=reason_for(evidence),
                    rank=len(offers) + 1,
                    evidence=evidence,
                )
            )
            if len(offers) == query.k:
                break
        return offers


def _as_of(query: Query, snapshot: Snapshot) -> datetime | None:
    """When it is, as far as decay is concerned."""
    return query.at or snapshot.as_of


def _now_ms(query: Query, snapshot: Snapshot) -> int:
    as_of = _as_of(query, snapshot)
    return round(as_of.timestamp() * 1000) if as_of else 0


def _decisions_in(history: Sequence[Engagement]) -> list[Decision]:
    """The lasting decisions that the graph's folded history shows: what policy falls back on when the truth does not answer."""
    return [
        Decision(event, engagement.campaign_id, "unknown", datetime.fromtimestamp(engagement.last_at_ms / 1000, UTC))
        for engagement in history
        for event in (Event.CONVERSION, Event.DISMISS, Event.UNSUBSCRIBE)
        if engagement.counts.get(event)
    ]


class Degraded:
    """Collects the stores that did not answer while an answer was made from the others."""

    def __init__(self) -> None:
        self.stores: set[str] = set()

    def unless(self, ask: Callable[[], T], otherwise: T) -> T:
        """What the store says, or `otherwise` when it is unavailable."""
        try:
            return ask()
        except StoreUnavailable as error:
            self.stores.add(error.store)
            return otherwise
