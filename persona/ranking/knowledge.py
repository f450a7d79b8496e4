"""What is known of campaigns apart from any person, in memory: made once for a generation and a catalog. No store is asked."""

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from persona.ranking.model import ANY_CHANNEL, UNSEEN, RankingModel
from persona.schemas import Campaign, RelatedVote, Relation, Vector

NOWHERE = -1
"""The number of a campaign that has none."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class RelatedSearch(Protocol):
    """Finds what goes together with a history."""

    def related_campaigns(self, history: Mapping[str, float], *, limit: int) -> Sequence[RelatedVote]: ...


class WordSearch(Protocol):
    """Finds campaigns by what their texts say."""

    def similar_campaigns(self, vector: Vector, *, limit: int) -> Sequence[tuple[str, float]]: ...


class Related:
    """A generation's relations, as columns: one entry for each, those of a campaign together."""

    def __init__(self, of_campaigns: Iterable[tuple[str, Sequence[Relation]]]) -> None:
        """Take in the run that learned them and the relations of one campaign, campaign by campaign (see `Relations.of`)."""
        self._run_of: dict[str, str] = {}
        self._entries_of: dict[str, slice] = {}
        related: list[str] = []
        weights: list[float] = []
        support: list[int] = []
        for run_id, relations in of_campaigns:
            begin = len(related)
            related += [relation.related_id for relation in relations]
            weights += [relation.weight for relation in relations]
            support += [relation.support for relation in relations]
            campaign = relations[0].campaign_id
            self._run_of[campaign], self._entries_of[campaign] = run_id, slice(begin, len(related))
        self._names = sorted(set(related))
        number_of = {name: number for number, name in enumerate(self._names)}
        self._related: Ints = np.fromiter((number_of[name] for name in related), np.intp, len(related))
        self._weights: Floats = np.array(weights, np.float64)
        self._support = np.array(support, np.int64)
        self._places = np.arange(len(related))

    def __len__(self) -> int:
        """How many relations there are."""
        return len(self._related)

    def related_campaigns(self, history: Mapping[str, float], *, limit: int) -> list[RelatedVote]:
        """What goes together with the campaigns of a history, best first; `history` maps campaign id to weight.

        A campaign's score is the sum of weight x the relation's weight; of the history's campaigns the one that adds most is named, of
        equals the first by id.
        """
        past = [campaign for campaign in sorted(history) if campaign in self._entries_of]
        if not past:
            return []
        slices = [self._entries_of[campaign] for campaign in past]
        entries = np.concatenate([self._places[each] for each in slices])
        lengths = [each.stop - each.start for each in slices]
        of_past = np.repeat(np.arange(len(past)), lengths)
        related = self._related[entries]
        pulls = np.repeat(np.array([history[campaign] for campaign in past], np.float64), lengths) * self._weights[entries]
        scores = np.bincount(related, pulls, len(self._names))
        most = np.full(len(self._names), -np.inf)
        np.maximum.at(most, related, pulls)
        strongest = np.flatnonzero(pulls == most[related])[::-1]
        through = np.full(len(self._names), NOWHERE)
        through[related[strongest]] = strongest  # the last that is written stays: the first of equals
        found = np.flatnonzero(through != NOWHERE)
        best = found[np.argsort(-scores[found], kind="stable")][:limit]
        because = [past[place] for place in of_past[through[best]].tolist()]
        chosen = entries[through[best]]
        voted = zip(
            map(self._names.__getitem__, best.tolist()),
            scores[best].tolist(),
            because,
            self._support[chosen].tolist(),
            self._weights[chosen].tolist(),
            map(self._run_of.__getitem__, because),
            strict=True,
        )
        return list(map(RelatedVote._make, voted))


class CampaignWords:
    """What the campaigns' own texts say, as vectors."""

    def __init__(self, vectors: Mapping[str, Vector], *, collections: str = "", unread: Iterable[str] = ()) -> None:
        """Take in a vector for each campaign id, all of the model of people's vectors in these `collections`.

        `unread` are the hashes of texts that had no vector yet.
        """
        self.campaigns = sorted(vectors)
        self.collections = collections
        self.unread = frozenset(unread)
        stacked = np.array([vectors[campaign] for campaign in self.campaigns] or np.zeros((0, 0)), np.float32)
        self._directions = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def similar_campaigns(self, vector: Vector, *, limit: int) -> list[tuple[str, float]]:
        """The `limit` campaigns nearest to `vector`, as (campaign id, cosine), nearest first; none where another model made it."""
        length = float(np.linalg.norm(vector))
        if not length or vector.shape != self._directions.shape[1:]:
            return []
        cosines = self._directions @ (vector / np.float32(length))
        best = np.argsort(-cosines, kind="stable")[:limit]
        return list(zip(map(self.campaigns.__getitem__, best.tolist()), cosines[best].tolist(), strict=True))


NO_RELATIONS = Related([])
NO_WORDS = CampaignWords({})


class Standing(NamedTuple):
    """How every campaign of the catalog does with everyone, in columns."""

    campaigns: Sequence[str]
    engagement: Floats
    conversions: Sequence[int]


@dataclass(frozen=True)
class Knowledge:
    """The campaigns, what was learned of them, and what is found by both."""

    campaigns: Mapping[str, Campaign]
    model: RankingModel
    relations: RelatedSearch = NO_RELATIONS
    words: WordSearch = NO_WORDS

    def is_of(self, *parts: object) -> bool:
        """Whether it is made of these very campaigns, model, relations and words."""
        return all(map(operator.is_, parts, (self.campaigns, self.model, self.relations, self.words)))

    @cached_property
    def number_of(self) -> Mapping[str, int]:
        """The campaigns' places in the order of their ids."""
        return {campaign: number for number, campaign in enumerate(sorted(self.campaigns))}

    @cached_property
    def addressing(self) -> Mapping[str, Sequence[str]]:
        """Intent to the campaigns that address it."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for campaign in self.campaigns.values():
            for intent in campaign.intents:
                found[intent].append(campaign.campaign_id)
        return dict(found)

    def strengths(self, campaigns: Sequence[str]) -> Floats:
        """The decayed engagement with each of these over all channels; 0 for one that the model does not know."""
        return np.fromiter(map(self._strength_of.get, campaigns, repeat(0.0)), np.float64, len(campaigns))

    def standing(self, channel: str | None) -> Standing:
        """How the campaigns do on a channel (see `RankingModel.figures_on`); one that nobody has seen yet stands at the prior."""
        of_channel = channel if channel is not None and self.model.figures.get(channel) else ANY_CHANNEL
        if of_channel not in self._standings:
            figures = self.model.figures_on(of_channel)
            known = [figures.get(campaign, UNSEEN) for campaign in self.campaigns]
            engagement = np.array([figure.engagement for figure in known], np.float64)
            self._standings[of_channel] = Standing(list(self.campaigns), engagement, [figure.conversions for figure in known])
        return self._standings[of_channel]

    @cached_property
    def _strength_of(self) -> Mapping[str, float]:
        return {campaign: figures.strength for campaign, figures in self.model.overall.items()}

    @cached_property
    def _standings(self) -> dict[str, Standing]:
        return {}
