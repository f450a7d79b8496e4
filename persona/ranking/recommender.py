"""The whole way from a question to an answer: context, channels, fusion, policy, explanation. A store that is down costs its channel."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

from persona.errors import NotFound, StoreUnavailable
from persona.language.mentions import NameFinder
from persona.ranking.asking import begin
from persona.ranking.channels import CHANNELS, NEIGHBOURS, NONE, Candidates, GraphSearch, Sources, VectorSearch
from persona.ranking.context import Context, Decision
from persona.ranking.diversity import Diversity, Placed, placed
from persona.ranking.explanation import evidence_of, reason_against, reason_for
from persona.ranking.fusion import Fused, Ranked, fuse
from persona.ranking.holdout import CONTROL, Holdout
from persona.ranking.knowledge import NO_RELATIONS, NO_WORDS, CampaignWords, Knowledge, Related
from persona.ranking.model import RankingModel, fit
from persona.ranking.policy import UNKNOWN_CHANNEL, Request, Rule, by_campaign, next_release, rule_against
from persona.ranking.tracing import Trail
from persona.schemas import (
    Answer,
    Campaign,
    Customer,
    Engagement,
    Event,
    ExpressedIntent,
    Mention,
    Recommendation,
    SimilarConversation,
    Ties,
    Vector,
    Why,
)
from persona.settings import Settings
from persona.stores.documents import Documents
from persona.stores.documents.embeddings import text_hash

T = TypeVar("T")
CountedIn = Callable[[Context, "Query", "Snapshot", "Degraded"], tuple[Context, "Snapshot"]]
"""The person's context with what came in; decay counts from then, if it is the newest of all."""
LONGEST_CAP = timedelta(days=365)
BEGINNING = datetime.min.replace(tzinfo=UTC)
NO_MODEL = fit([], facts=0, fingerprint="")
"""What ranks before the first generation is published: priors alone."""

NO_NAMES = NameFinder([])
NOTHING_KNOWN = Knowledge({}, NO_MODEL)


class ProfileStore(VectorSearch, Protocol):
    """What a context needs of the vector store."""

    def user_vector(self, user_id: str) -> Vector | None: ...


class HistoryStore(GraphSearch, Protocol):
    """What a context needs of the graph."""

    def ties_of(self, user_id: str) -> Ties: ...


class PolicyStore(Protocol):
    """What policy needs of the truth."""

    def policy_of(self, user_id: str, *, impressions_since: datetime) -> tuple[list[dict[str, Any]], Customer | None]: ...


class LiveSource(Protocol):
    """What came in and is not in every store yet."""

    def begin(self, user_id: str) -> CountedIn:
        """Begin to ask for what came in of this person; what is returned waits for it and counts it in."""


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
    unsubscribed: Mapping[str, Collection[tuple[str | None, str]]] = field(default_factory=dict)
    """Who unsubscribed, from which campaign (None: from more than one) and on which channel; it holds while the truth is silent too."""
    finder: NameFinder = NO_NAMES
    """Finds the campaigns that a text names."""
    relations: Related = NO_RELATIONS
    """Those of the generation."""
    words: CampaignWords = NO_WORDS
    """What the campaigns' texts say, by the model that made the vectors of people."""
    may_be_outdated: bool = False
    """Whether MongoDB did not say if there is a newer one."""

    knowledge: Knowledge = field(default=NOTHING_KNOWN, compare=False)
    """What the channels look at, made of the above; one that goes on with them is given."""

    def __post_init__(self) -> None:
        made_of = self.campaigns, self.model, self.relations, self.words
        if not self.knowledge.is_of(*made_of):
            object.__setattr__(self, "knowledge", Knowledge(*made_of))

    def campaign(self, campaign_id: str) -> Campaign:
        """The campaign with this id; raises `NotFound`."""
        if campaign_id not in self.campaigns:
            raise NotFound(f"no such campaign: {campaign_id}", hint="Campaigns come from catalogs and from drops.")
        return self.campaigns[campaign_id]


@dataclass(frozen=True, slots=True)
class Query:
    """What the caller wants."""

    k: int = 5
    channel: str | None = None
    exclude: Collection[str] = ()
    at: datetime | None = None
    """What was running, capped and consented then; None: now."""


def load_snapshot(documents: Documents, *, before: Snapshot | None = None) -> Snapshot:
    """The generation in force and the catalog as they are now; what costs time is taken from the one `before` where it is the same."""
    generation, version = documents.generations.in_force_id(), documents.catalog.version()
    if before is None or (before.generation, before.catalog_version) != (generation, version):
        before = _of_campaigns(documents, version, before)
    return replace(
        before,
        words=_words(documents, before),
        as_of=documents.records.newest_timestamp(),
        suppressed=documents.catalog.suppressed(),
        unsubscribed=documents.records.unsubscribed(),
        may_be_outdated=False,
    )


def _of_campaigns(documents: Documents, version: int, before: Snapshot | None) -> Snapshot:
    in_force = documents.generations.in_force()
    model = RankingModel.model_validate(in_force[1]) if in_force else NO_MODEL
    campaigns = documents.catalog.campaigns()
    same_model = before is not None and before.model.fingerprint == model.fingerprint
    return Snapshot(
        generation=in_force[0] if in_force else None,
        model=model,
        catalog_version=version,
        campaigns={campaign.campaign_id: campaign for campaign in campaigns},
        as_of=None,
        finder=before.finder if before and before.catalog_version == version else NameFinder(campaigns),
        relations=before.relations if before and same_model else Related(documents.relations.of(model.fingerprint)),
        words=before.words if before and before.catalog_version == version else NO_WORDS,
    )


def _words(documents: Documents, snapshot: Snapshot) -> CampaignWords:
    """The vectors of the campaigns' texts; those that there are, as long as another model's are made, which people's do not fit yet."""
    in_use, known = documents.embeddings.collections_in_use(), snapshot.words
    if known.collections == in_use and not documents.embeddings.present(sorted(known.unread)):
        return known
    hash_of = {campaign.campaign_id: text_hash(campaign.text) for campaign in snapshot.campaigns.values() if campaign.text}
    vectors = documents.embeddings.get(set(hash_of.values()))
    # asked last: who makes others says so before anything is forgotten
    if in_use != documents.embeddings.collections_to_fill():
        return known if known.collections == in_use else NO_WORDS
    return CampaignWords(
        {campaign: vectors[key] for campaign, key in hash_of.items() if key in vectors},
        collections=in_use,
        unread=set(hash_of.values()) - vectors.keys(),
    )


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about offers to everyone."""

    repeat_conversions: bool = False
    diversity: Diversity = field(default_factory=Diversity)
    holdout: Holdout = field(default_factory=Holdout)

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """As set."""
        return cls(
            repeat_conversions=settings.repeat_conversions,
            diversity=Diversity(settings.category_limit, settings.diversity_lambda),
            holdout=Holdout(settings.holdout_percent, settings.holdout_salt),
        )


@dataclass(frozen=True, slots=True)
class Ranking:
    """What every channel together says about a person, before policy."""

    fused: Ranked
    context: Context
    request: Request
    held_out: bool
    diversity: Diversity
    snapshot: Snapshot
    as_of: datetime | None
    degraded: Sequence[str]

    def answer(self, k: int) -> Answer:
        """The best `k` offers."""
        return Answer(
            user_id=self.context.user_id,
            recommendations=list(islice(self.offers(), k)),
            generation=self.snapshot.generation,
            as_of=self.as_of,
            known_user=self.context.known,
            degraded=list(self.degraded),
            holdout=self.held_out,
        )

    def next_release(self) -> datetime | None:
        """When a frequency cap lets the next campaign go; None where none holds one back."""
        return next_release(self.snapshot.campaigns, self.context.decisions, self.request.at)

    def offers(self) -> Iterator[Recommendation]:
        """What may be offered, best first, each made when it is asked for."""
        for rank, item in enumerate(self._placed(), 1):
            yield _offer(item, rank, self.snapshot.campaigns)

    def offer_of(self, campaign_id: str) -> Recommendation | None:
        """The same, for one campaign alone; None where it is not offered."""
        if self.rule_against(campaign_id):  # asked of one campaign, not of all that stand above it
            return None
        places = enumerate(self._placed(), 1)
        return next(
            (_offer(item, rank, self.snapshot.campaigns) for rank, item in places if item.fused.campaign_id == campaign_id), None
        )

    def rule_against(self, campaign_id: str) -> Rule | None:
        """The first rule that keeps this campaign of the snapshot from this person."""
        return rule_against(self.snapshot.campaigns[campaign_id], self.context, self.request)

    def proposal(self, campaign_id: str) -> Fused | None:
        """What the channels say about one campaign, whether it may be offered or not."""
        return self.fused.of(campaign_id)

    def _placed(self) -> Iterator[Placed]:
        campaigns = self.snapshot.campaigns
        allowed = (self.fused[place] for place, campaign in enumerate(self.fused.campaigns) if not self.rule_against(campaign))
        return placed(allowed, campaigns, self.diversity)


@dataclass(frozen=True)
class Recommender:
    """Answers questions from the stores it is given; a verb that raises `StoreUnavailable` degrades the answer."""

    vectors: ProfileStore
    graph: HistoryStore
    truth: PolicyStore
    rules: Rules = field(default_factory=Rules)
    live: LiveSource | None = None

    def for_user(self, user_id: str, query: Query, snapshot: Snapshot) -> Answer:
        """What to offer this person; an unknown one gets what does well now.

        Raises `StoreUnavailable` when no channel is left.
        """
        return self.ranking_for(user_id, query, snapshot, Degraded()).answer(query.k)

    def why(self, user_id: str, campaign_id: str, query: Query, snapshot: Snapshot, trail: Trail) -> Why:
        """Why this person is offered this campaign, or the rule that keeps it out: by the same ranking as `for_user`.

        Raises `NotFound` for a campaign that the catalog does not know, `StoreUnavailable` when no channel is left.
        """
        snapshot.campaign(campaign_id)
        degraded = Degraded()
        ranking = self.ranking_for(user_id, query, snapshot, degraded)
        offer, proposal = ranking.offer_of(campaign_id), ranking.proposal(campaign_id)
        rule = None if offer else ranking.rule_against(campaign_id) or Rule.NOT_PROPOSED
        evidence = offer.evidence if offer else evidence_of(proposal) if proposal else []
        with_figures = [{**part, **_figures_behind(part, snapshot.model)} for part in evidence]
        nowhere: list[dict[str, Any]] = [{**part, "sources": []} for part in with_figures]
        unknown: list[dict[str, Any]] = []
        trail = trail.beside(ranking.context.came_in)
        traced = degraded.unless(lambda: trail.traced(user_id, campaign_id, with_figures), nowhere)
        history = degraded.unless(lambda: trail.history(user_id, campaign_id), unknown)
        return Why(
            user_id=user_id,
            campaign_id=campaign_id,
            offered=offer is not None,
            rank=offer.rank if offer else None,
            ranking_score=proposal.score if proposal else None,
            rule=rule.value if rule else None,
            reason=reason_against(rule) if rule else reason_for(evidence, snapshot.campaigns),
            evidence=traced,
            history=history,
            generation=snapshot.generation,
            as_of=ranking.as_of,
            known_user=ranking.context.known,
            degraded=sorted(degraded.stores),
            holdout=ranking.held_out,
        )

    def for_texts(
        self, texts: Sequence[str], vector: Vector | None, intents: Sequence[str], query: Query, snapshot: Snapshot
    ) -> Answer:
        """What to offer someone who says these texts now: the `vector` of them all in one (see `in_one`), and the intents found."""
        expressed = {
            intent: ExpressedIntent(user_id="", intent=intent, count=intents.count(intent), last_at_ms=0, last_message_id="")
            for intent in dict.fromkeys(intents)
        }
        named = Counter(campaign for text in texts for campaign in snapshot.finder.find(text))
        now_ms = _now_ms(query, snapshot)
        context = Context(
            user_id=None,
            vector=vector,
            intents=expressed,
            mentioned={campaign: Mention(campaign, count, now_ms, "") for campaign, count in named.items()},
        )
        return self._ranking(context, query, snapshot, Degraded()).answer(query.k)

    def ranking_for(self, user_id: str, query: Query, snapshot: Snapshot, degraded: "Degraded") -> Ranking:
        """Everything that could be said to this person; `degraded` collects the stores that did not answer.

        Raises `StoreUnavailable` when no channel is left.
        """
        at = query.at or datetime.now(UTC)
        # first, as it is taken out when every store has it: what is no longer here is there
        counted_in = self.live.begin(user_id) if self.live else None
        profiled = begin(self.vectors.user_vector, user_id)
        decided = begin(self.truth.policy_of, user_id, impressions_since=at - min(LONGEST_CAP, at - BEGINNING))
        tied = begin(self.graph.ties_of, user_id)
        vector = degraded.unless(profiled, None)
        ahead = None if vector is None or self.rules.holdout.has(user_id) else _Ahead(self.vectors, vector, user_id)
        history, expressed, mentioned = degraded.unless(tied, Ties([], [], []))
        silent: tuple[list[dict[str, Any]] | None, Customer | None] = (None, None)
        records, customer = degraded.unless(decided, silent)
        if records is None:
            decisions = [*_unsubscribes(snapshot.unsubscribed.get(user_id, ())), *_decisions_in(history)]
            customer = Customer(user_id=user_id, suppressed=user_id in snapshot.suppressed)
        else:
            decisions = _decisions(records)
        context = Context(
            user_id=user_id,
            vector=vector,
            intents={intent.intent: intent for intent in expressed},
            mentioned={mention.campaign_id: mention for mention in mentioned},
            history=history,
            customer=customer,
            decisions=by_campaign(decisions, until=query.at),
        )
        if counted_in is not None:
            context, snapshot = counted_in(context, query, snapshot, degraded)
        return self._ranking(context, query, snapshot, degraded, ahead if context.vector is vector else None)

    def _ranking(
        self, context: Context, query: Query, snapshot: Snapshot, degraded: "Degraded", ahead: "_Ahead | None" = None
    ) -> Ranking:
        if snapshot.may_be_outdated:
            degraded.stores.add("mongodb")
        held_out = context.user_id is not None and self.rules.holdout.has(context.user_id)
        channels = {CONTROL: CHANNELS[CONTROL]} if held_out else CHANNELS
        if ahead is None and context.vector is not None and not held_out:
            ahead = _Ahead(self.vectors, context.vector, context.user_id)
        sources = Sources(
            vectors=ahead or self.vectors,
            graph=self.graph,
            knowledge=snapshot.knowledge,
            now_ms=_now_ms(query, snapshot),
            channel=query.channel,
        )
        begun = {name: degraded.unless(partial(begin, channel, context, sources), _nothing) for name, channel in channels.items()}
        proposals = {name: degraded.unless(proposed, NONE) for name, proposed in begun.items()}
        if degraded.stores and not any(proposals.values()):
            raise StoreUnavailable(", ".join(sorted(degraded.stores)), "no channel is left to answer from")
        return Ranking(
            fused=fuse(proposals, {CONTROL: 1.0} if held_out else snapshot.model.weights, snapshot.knowledge.number_of),
            context=context,
            request=Request(
                at=query.at or datetime.now(UTC),
                channel=query.channel,
                exclude=frozenset(query.exclude),
                repeat_conversions=self.rules.repeat_conversions,
            ),
            held_out=held_out,
            diversity=Diversity() if held_out else self.rules.diversity,
            snapshot=snapshot,
            as_of=_as_of(query, snapshot),
            degraded=sorted(degraded.stores),
        )


class _Ahead:
    """The searches that the channels make for a vector, begun together: each channel waits for what is left of its own."""

    def __init__(self, vectors: VectorSearch, vector: Vector, user_id: str | None) -> None:
        self._users = begin(vectors.similar_users, vector, limit=NEIGHBOURS, exclude=user_id)
        self._conversations = begin(vectors.similar_conversations, vector, limit=NEIGHBOURS, exclude_user=user_id)

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]:
        return self._users()

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]:
        return self._conversations()


def _nothing() -> Candidates:
    return NONE


def _offer(item: Placed, rank: int, campaigns: Mapping[str, Campaign]) -> Recommendation:
    evidence = evidence_of(item.fused, moved_down=item.moved_down)
    return Recommendation(
        campaign_id=item.fused.campaign_id,
        ranking_score=item.fused.score,
        reason=reason_for(evidence, campaigns),
        rank=rank,
        evidence=evidence,
    )


def _figures_behind(part: Mapping[str, Any], model: RankingModel) -> dict[str, Any]:
    """What the engagement channel's figures are decayed by, and from when."""
    if part["channel"] != CONTROL:
        return {}
    return {"half_life_days": model.half_life_days, "newest_day": model.newest_day}


def _as_of(query: Query, snapshot: Snapshot) -> datetime | None:
    """When it is, as far as decay is concerned."""
    return query.at or snapshot.as_of


def _now_ms(query: Query, snapshot: Snapshot) -> int:
    as_of = _as_of(query, snapshot)
    return round(as_of.timestamp() * 1000) if as_of else 0


def _unsubscribes(known: Collection[tuple[str | None, str]]) -> Iterator[Decision]:
    """Of unknown time: they hold at any that is asked about."""
    return (Decision(Event.UNSUBSCRIBE, campaign_id, channel, BEGINNING) for campaign_id, channel in known)


def _decisions(records: Iterable[Mapping[str, Any]]) -> list[Decision]:
    return [Decision(found["event"], found.get("campaign_id"), found["channel"], found["timestamp"]) for found in records]


def _decisions_in(history: Sequence[Engagement]) -> Iterator[Decision]:
    """The decisions that the graph's folded history shows: what policy falls back on when the truth does not answer.

    All are taken to have been as late as the newest event between the two, so that a cap rather holds too long than not long enough.
    """
    return (
        Decision(event, engagement.campaign_id, UNKNOWN_CHANNEL, datetime.fromtimestamp(engagement.last_at_ms / 1000, UTC))
        for engagement in history
        for event in (Event.CONVERSION, Event.DISMISS, Event.UNSUBSCRIBE, Event.IMPRESSION)
        for _ in range(engagement.counts.get(event, 0))
    )


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
