"""The answers that name people, for the team's own eyes: whom to show a campaign, and who is like whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from persona.errors import NotFound, StoreUnavailable
from persona.ranking.recommender import Degraded, ProfileStore, Query, Recommender, Snapshot
from persona.schemas import Audience, Campaign, Member, SimilarPeople, SimilarPerson, Vector
from persona.stores.documents.embeddings import text_hash

MOST = 100
"""People that an answer names at most, and that an audience looks for in each of three ways: each costs what a recommendation costs."""
BREADTH = 3
"""So many times as many people as are asked for are found in each way, up to `MOST`, and each asked for their own ranking."""


class InterestStore(Protocol):
    """What finding an audience needs of the graph."""

    def interested_in(self, campaign_id: str, *, limit: int) -> list[str]: ...


class TextStore(Protocol):
    """What finding an audience needs of the texts' vectors."""

    def get(self, hashes: set[str]) -> Mapping[str, Vector]: ...


class KnownStore(Protocol):
    """What finding similar people needs of the records."""

    def known_among(self, users: Sequence[str]) -> set[str]: ...


@dataclass(frozen=True)
class People:
    """Finds people in the stores it is given."""

    recommender: Recommender
    vectors: ProfileStore
    graph: InterestStore
    texts: TextStore
    records: KnownStore

    def audience(self, campaign_id: str, query: Query, snapshot: Snapshot) -> Audience:
        """Up to `query.k` people who may be offered this campaign, by the score that it has in their own answers.

        They are looked for among those whose words are like the campaign's, who want what it is for, or who engaged with it. Who is held
        out is left out. Raises `NotFound` for an unknown campaign, `StoreUnavailable` when a store is missing and no other knows whom
        to ask about.
        """
        campaign = snapshot.campaign(campaign_id)
        degraded = Degraded()
        limit = min(BREADTH * query.k, MOST)
        nearest: list[str] = degraded.unless(lambda: self._nearest(campaign, limit), [])
        interested: list[str] = degraded.unless(lambda: self.graph.interested_in(campaign_id, limit=limit), [])
        people = dict.fromkeys([*nearest, *interested])
        if degraded.stores and not people:
            raise StoreUnavailable(", ".join(sorted(degraded.stores)), "nobody else knows whom to ask about")
        scores: dict[str, float] = {}
        for user_id in people:
            ranking = self.recommender.ranking_for(user_id, query, snapshot, degraded)
            offer = None if ranking.held_out else ranking.offer_of(campaign_id)
            if offer is not None:
                scores[user_id] = offer.ranking_score
        best = sorted(scores, key=lambda user_id: (-scores[user_id], user_id))[: query.k]
        return Audience(
            campaign_id=campaign_id,
            audience=[Member(user_id=user_id, rank=rank, score=scores[user_id]) for rank, user_id in enumerate(best, 1)],
            generation=snapshot.generation,
            degraded=sorted(degraded.stores),
        )

    def similar(self, user_id: str, *, k: int) -> SimilarPeople:
        """The `k` people whose conversations are nearest to this one's; nobody is near who never said anything.

        Raises `NotFound` for an unknown person, `StoreUnavailable`.
        """
        vector = self.vectors.user_vector(user_id)
        if vector is None and not self.records.known_among([user_id]):
            raise NotFound(f"no such user: {user_id}", hint="People are known from their first record on.")
        found = [] if vector is None else self.vectors.similar_users(vector, limit=k, exclude=user_id)
        return SimilarPeople(
            user_id=user_id,
            similar=[
                SimilarPerson(user_id=other, rank=rank, similarity=round(near, 6)) for rank, (other, near) in enumerate(found, 1)
            ],
        )

    def _nearest(self, campaign: Campaign, limit: int) -> list[str]:
        key = text_hash(campaign.text)
        vector = self.texts.get({key}).get(key) if campaign.text else None
        return [] if vector is None else [user for user, _ in self.vectors.similar_users(vector, limit=limit, exclude=None)]
