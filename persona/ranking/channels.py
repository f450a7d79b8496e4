"""Channels: each goes from a person's context to candidates with evidence. Retrieval asks one store or two; nothing is decided here.

Evidence speaks of others as counts only, never by id or word.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from operator import itemgetter
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from persona.ranking.asking import begin
from persona.ranking.context import Context
from persona.ranking.knowledge import Knowledge
from persona.ranking.relations import NOT_THEIRS
from persona.schemas import NeighbourVote, SimilarConversation, Vector

NEIGHBOURS = 100
CANDIDATES = 300
SHARPNESS = 4
"""Similarities are raised to this power, so that near neighbours outweigh many far ones."""
MENTION_WEIGHT = 0.5
"""A campaign that was named once is half as strong a tie as one that was converted on."""
LONGEST_HISTORY = 50
"""Campaigns of a history that relations are asked for, those that weigh most: a longer one costs time and adds next to nothing."""
MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A campaign that one channel proposes."""

    campaign_id: str
    score: float
    """Positive; comparable within the channel only."""
    evidence: Mapping[str, Any]


class Candidates(Sequence[Candidate]):
    """What a channel proposes, each campaign once, in columns: thousands are ranked, and the evidence of a few is shown."""

    __slots__ = ("campaigns", "evidence_of", "scores")

    def __init__(
        self, campaigns: Sequence[str], scores: NDArray[np.float64], evidence_of: Callable[[int], Mapping[str, Any]]
    ) -> None:
        """`scores` has shape (campaigns,); `evidence_of` makes the evidence of the candidate at a place."""
        self.campaigns = campaigns
        self.scores = scores
        self.evidence_of = evidence_of

    @classmethod
    def positive(
        cls,
        campaigns: Sequence[str],
        scores: Sequence[float] | NDArray[np.float64],
        evidence_of: Callable[[int], Mapping[str, Any]],
    ) -> "Candidates":
        """Those whose score is above zero."""
        column = np.asarray(scores, np.float64)
        if (column > 0).all():
            return cls(campaigns, column, evidence_of)
        kept = np.flatnonzero(column > 0).tolist()
        return cls([campaigns[place] for place in kept], column[kept], lambda place: evidence_of(kept[place]))

    def __len__(self) -> int:
        """How many campaigns are proposed."""
        return len(self.campaigns)

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> list[Candidate]: ...
    def __getitem__(self, place: int | slice) -> Candidate | list[Candidate]:
        """The candidate at a place, or those of a slice."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return Candidate(self.campaigns[place], float(self.scores[place]), self.evidence_of(place))


NONE = Candidates((), np.zeros(0), lambda place: {})


class VectorSearch(Protocol):
    """What the channels ask of the vector store."""

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]: ...
    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]: ...


class GraphSearch(Protocol):
    """What the channels ask of the graph."""

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything a channel may look at besides the person."""

    vectors: VectorSearch
    graph: GraphSearch
    knowledge: Knowledge
    now_ms: int
    channel: str | None


Channel = Callable[[Context, Sources], Candidates]


class SimilarUsers:
    """What people with similar conversations engaged with: similarity x engagement x recency, discounted by popularity."""

    def __call__(self, context: Context, sources: Sources) -> Candidates:
        """What is proposed."""
        return self.begin(context, sources)()

    def begin(self, context: Context, sources: Sources) -> Callable[[], Candidates]:
        """Find these people, and begin to ask the graph about them: it takes longer than all other channels."""
        if context.vector is None:
            return lambda: NONE
        found = sources.vectors.similar_users(context.vector, limit=NEIGHBOURS, exclude=context.user_id)
        neighbours = {user: _sharpened(similarity) for user, similarity in found if similarity > 0}
        if not neighbours:
            return lambda: NONE
        half_life = sources.knowledge.model.taste_half_life_days
        votes = begin(sources.graph.campaigns_of, neighbours, now_ms=sources.now_ms, half_life_days=half_life, limit=CANDIDATES)
        return lambda: self._weighed(votes(), sources.knowledge)

    @staticmethod
    def _weighed(votes: Sequence[NeighbourVote], knowledge: Knowledge) -> Candidates:
        campaigns = [vote.campaign_id for vote in votes]
        scores = np.array([vote.score for vote in votes]) / np.sqrt(1 + knowledge.strengths(campaigns))
        return Candidates.positive(campaigns, scores, lambda place: {"users": votes[place].users})


similar_users = SimilarUsers()


def similar_conversations(context: Context, sources: Sources) -> Candidates:
    """What the most similar conversations named or led to."""
    if context.vector is None:
        return NONE
    scores: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    nearest = sources.vectors.similar_conversations(context.vector, limit=NEIGHBOURS, exclude_user=context.user_id)
    for conversation in nearest:
        nearness = _sharpened(conversation.similarity)
        for campaign, strength in conversation.outcomes.items():
            scores[campaign] += nearness * strength
            counts[campaign] += strength > 0
    campaigns = list(scores)
    return Candidates.positive(campaigns, list(scores.values()), lambda place: {"conversations": counts[campaigns[place]]})


def weighted_history(context: Context, *, now_ms: int, half_life_days: float) -> dict[str, float]:
    """Campaign id to how strongly the person is tied to it now, in (0, 1], by what they did or named.

    What was only shown to them, or what they refused, is no tie.
    """

    def decayed(weight: float, at_ms: int) -> float:
        age_days = max(now_ms - at_ms, 0) / MS_PER_DAY
        return weight * float(0.5 ** (age_days / half_life_days))

    history = {
        mention.campaign_id: decayed(min(mention.count * MENTION_WEIGHT, 1.0), mention.last_at_ms)
        for mention in context.mentioned.values()
    }
    for engagement in context.history:
        campaign, weight = engagement.campaign_id, decayed(engagement.weight, engagement.last_at_ms)
        if engagement.weight <= 0:
            history.pop(campaign, None)
        elif not engagement.counts.keys() <= NOT_THEIRS:
            history[campaign] = max(weight, history.get(campaign, 0.0))
    return history


def related(context: Context, sources: Sources) -> Candidates:
    """What goes together with what the person engaged with."""
    history = weighted_history(context, now_ms=sources.now_ms, half_life_days=sources.knowledge.model.taste_half_life_days)
    if not history:
        return NONE
    strongest = dict(nlargest(LONGEST_HISTORY, history.items(), key=itemgetter(1, 0)))
    votes = sources.knowledge.relations.related_campaigns(strongest, limit=CANDIDATES)

    def evidence(place: int) -> dict[str, Any]:
        vote = votes[place]
        why = {"because": vote.because, "support": vote.support, "weight": vote.weight, "run_id": vote.run_id}
        return {**why, **_named(vote.because, context)}

    return Candidates.positive([vote.campaign_id for vote in votes], [vote.score for vote in votes], evidence)


def mentions(context: Context, sources: Sources) -> Candidates:
    """Campaigns that the person's messages name, by how often and how lately."""
    half_life_ms = sources.knowledge.model.half_life_days * MS_PER_DAY
    named = list(context.mentioned.values())
    scores = [each.count * 0.5 ** (max(sources.now_ms - each.last_at_ms, 0) / half_life_ms) for each in named]

    def evidence(place: int) -> dict[str, Any]:
        return {"messages": named[place].count, **_named(named[place].campaign_id, context)}

    return Candidates([each.campaign_id for each in named], np.array(scores, np.float64), evidence)


def intents(context: Context, sources: Sources) -> Candidates:
    """Campaigns that address what the person said they want, by how often they said it."""
    knowledge = sources.knowledge
    counts = {name: expressed.count for name, expressed in context.intents.items()}
    found = dict.fromkeys(campaign for intent in counts for campaign in knowledge.addressing.get(intent, ()))
    # of those that were expressed as often, the one that the campaign names first
    best = {
        campaign: max(filter(counts.__contains__, knowledge.campaigns[campaign].intents), key=counts.__getitem__)
        for campaign in found
    }
    campaigns, total = list(best), sum(counts.values())

    def evidence(place: int) -> dict[str, Any]:
        expressed = context.intents[best[campaigns[place]]]
        message = {"message_id": expressed.last_message_id} if expressed.last_message_id else {}
        return {"intent": expressed.intent, "messages": expressed.count, **message}

    return Candidates(campaigns, np.array([counts[intent] / total for intent in best.values()], np.float64), evidence)


def content(context: Context, sources: Sources) -> Candidates:
    """Campaigns whose own words are like the person's: what a new campaign lives on."""
    if context.vector is None:
        return NONE
    found = sources.knowledge.words.similar_campaigns(context.vector, limit=CANDIDATES)
    campaigns, similarities = [campaign for campaign, _ in found], [similarity for _, similarity in found]
    return Candidates.positive(campaigns, similarities, lambda place: {"similarity": round(similarities[place], 4)})


def engagement(context: Context, sources: Sources) -> Candidates:
    """What does well now, for everyone; a campaign nobody has seen yet stands at the prior."""
    standing = sources.knowledge.standing(sources.channel)
    return Candidates(standing.campaigns, standing.engagement, lambda place: {"conversions": standing.conversions[place]})


CHANNELS: dict[str, Channel] = {
    "related": related,
    "mentions": mentions,
    "intents": intents,
    "content": content,
    "engagement": engagement,
    "similar_conversations": similar_conversations,
    "similar_users": similar_users,
}
"""Every channel by the name that evidence and weights use, to be begun and then waited for; those that wait for a store last."""


def _sharpened(similarity: float) -> float:
    return max(similarity, 0.0) ** SHARPNESS


def _named(campaign_id: str, context: Context) -> dict[str, str]:
    """The message in which the person last named the campaign; texts of nobody in particular have no id."""
    mention = context.mentioned.get(campaign_id)
    return {"message_id": mention.last_message_id} if mention and mention.last_message_id else {}
