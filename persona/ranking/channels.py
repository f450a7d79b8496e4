"""Channels: each goes from a person's context to candidates with evidence. Retrieval asks one store or two; nothing is decided here.

Evidence speaks of others as counts only, never by id or word.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import nlargest
from operator import itemgetter
from typing import Any, Protocol

import numpy as np

from persona.ranking.context import Context
from persona.ranking.model import UNSEEN, RankingModel
from persona.ranking.relations import NOT_THEIRS
from persona.schemas import Campaign, NeighbourVote, RelatedVote, SimilarConversation, Vector

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


class VectorSearch(Protocol):
    """What the channels ask of the vector store."""

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]: ...
    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]: ...
    def similar_campaigns(self, vector: Vector, *, limit: int) -> list[tuple[str, float]]: ...


class GraphSearch(Protocol):
    """What the channels ask of the graph."""

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]: ...
    def related_campaigns(self, history: Mapping[str, float], *, generation: str, limit: int) -> list[RelatedVote]: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything a channel may look at besides the person."""

    vectors: VectorSearch
    graph: GraphSearch
    campaigns: Mapping[str, Campaign]
    model: RankingModel
    now_ms: int
    channel: str | None
    generation: str | None
    """Whose relations count; None: nobody's."""


Channel = Callable[[Context, Sources], list[Candidate]]


def similar_users(context: Context, sources: Sources) -> list[Candidate]:
    """What people with similar conversations engaged with: similarity x engagement x recency, discounted by popularity."""
    if context.vector is None:
        return []
    found = sources.vectors.similar_users(context.vector, limit=NEIGHBOURS, exclude=context.user_id)
    neighbours = {user: _sharpened(similarity) for user, similarity in found if similarity > 0}
    if not neighbours:
        return []
    votes = sources.graph.campaigns_of(
        neighbours, now_ms=sources.now_ms, half_life_days=sources.model.taste_half_life_days, limit=CANDIDATES
    )
    return [
        Candidate(vote.campaign_id, vote.score / np.sqrt(1 + sources.model.strength_of(vote.campaign_id)), {"users": vote.users})
        for vote in votes
        if vote.score > 0
    ]


def similar_conversations(context: Context, sources: Sources) -> list[Candidate]:
    """What the most similar conversations named or led to."""
    if context.vector is None:
        return []
    scores: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    nearest = sources.vectors.similar_conversations(context.vector, limit=NEIGHBOURS, exclude_user=context.user_id)
    for conversation in nearest:
        for campaign, strength in conversation.outcomes.items():
            scores[campaign] += _sharpened(conversation.similarity) * strength
            counts[campaign] += strength > 0
    return [Candidate(campaign, score, {"conversations": counts[campaign]}) for campaign, score in scores.items() if score > 0]


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


def related(context: Context, sources: Sources) -> list[Candidate]:
    """What goes together with what the person engaged with."""
    history = weighted_history(context, now_ms=sources.now_ms, half_life_days=sources.model.taste_half_life_days)
    if not history or sources.generation is None:
        return []
    strongest = dict(nlargest(LONGEST_HISTORY, history.items(), key=itemgetter(1, 0)))
    votes = sources.graph.related_campaigns(strongest, generation=sources.generation, limit=CANDIDATES)
    return [
        Candidate(
            vote.campaign_id,
            vote.score,
            {
                "because": vote.because,
                "support": vote.support,
                "weight": vote.weight,
                "run_id": vote.run_id,
                **_named(vote.because, context),
            },
        )
        for vote in votes
        if vote.score > 0
    ]


def mentions(context: Context, sources: Sources) -> list[Candidate]:
    """Campaigns that the person's messages name, by how often and how lately."""
    half_life_ms = sources.model.half_life_days * MS_PER_DAY
    return [
        Candidate(
            mention.campaign_id,
            mention.count * 0.5 ** (max(sources.now_ms - mention.last_at_ms, 0) / half_life_ms),
            {"messages": mention.count, **_named(mention.campaign_id, context)},
        )
        for mention in context.mentioned.values()
    ]


def intents(context: Context, sources: Sources) -> list[Candidate]:
    """Campaigns that address what the person said they want, by how often they said it."""
    total = sum(context.intents[intent].count for intent in context.intents)
    best: dict[str, Candidate] = {}
    for campaign in sources.campaigns.values():
        for intent in campaign.intents:
            expressed = context.intents.get(intent)
            if expressed is None:
                continue
            score = expressed.count / total
            if campaign.campaign_id not in best or score > best[campaign.campaign_id].score:
                evidence: dict[str, Any] = {"intent": intent, "messages": expressed.count}
                if expressed.last_message_id:
                    evidence["message_id"] = expressed.last_message_id
                best[campaign.campaign_id] = Candidate(campaign.campaign_id, score, evidence)
    return list(best.values())


def content(context: Context, sources: Sources) -> list[Candidate]:
    """Campaigns whose own words are like the person's: what a new campaign lives on."""
    if context.vector is None:
        return []
    found = sources.vectors.similar_campaigns(context.vector, limit=CANDIDATES)
    return [
        Candidate(campaign, similarity, {"similarity": round(similarity, 4)}) for campaign, similarity in found if similarity > 0
    ]


def engagement(context: Context, sources: Sources) -> list[Candidate]:
    """What does well now, for everyone; a campaign nobody has seen yet stands at the prior."""
    figures = sources.model.figures_on(sources.channel)
    return [
        Candidate(campaign, figure.engagement, {"conversions": figure.conversions})
        for campaign in sources.campaigns
        for figure in [figures.get(campaign, UNSEEN)]
    ]


CHANNELS: dict[str, Channel] = {
    "similar_conversations": similar_conversations,
    "similar_users": similar_users,
    "related": related,
    "mentions": mentions,
    "intents": intents,
    "content": content,
    "engagement": engagement,
}
"""Every channel by the name that evidence and weights use."""


def _sharpened(similarity: float) -> float:
    return max(similarity, 0.0) ** SHARPNESS


def _named(campaign_id: str, context: Context) -> dict[str, str]:
    """The message in which the person last named the campaign; texts of nobody in particular have no id."""
    mention = context.mentioned.get(campaign_id)
    return {"message_id": mention.last_message_id} if mention and mention.last_message_id else {}
