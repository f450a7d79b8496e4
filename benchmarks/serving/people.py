"""A world by seed: who engaged with which campaign, and what they said, as records and vectors. No store is written here."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np

from persona import synthetic
from persona.language.encoder import Encoder
from persona.language.intents import definition_texts
from persona.schemas import Campaign, Customer, Event, IntentDefinition, Vector, Vectors
from persona.stores.documents.embeddings import text_hash

CAMPAIGNS = 1_000
ENGAGEMENTS_A_USER = 17.6
"""1,760,000 at 100,000 users, each with another (user, campaign) pair."""
FEWEST = 4
"""Engagements of one person."""
SECOND_CONVERSATION = 0.25
"""Share of people who came back on another day."""
NAMES_A_CAMPAIGN = 0.1
"""Share of messages that do."""
OWN_TASTE = 0.75
"""Share of engagements with what answers the person's own intent."""
NOISE = 0.6
"""Length of the random part of a message's vector; that of the sentence it is near to is 1."""
SPAN = timedelta(days=30)
CHANNELS = ("web", "email", "push", "chat")
EVENTS: Mapping[Event, float] = {
    Event.IMPRESSION: 0.4,
    Event.OPEN: 0.12,
    Event.CLICK: 0.3,
    Event.CONVERSION: 0.15,
    Event.DISMISS: 0.03,
}
AT_ONCE = 1_000
"""People that are drawn together: of a world of any size they are the same."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Some people: all their records, by person and time, and the vector of each text that they sent."""

    histories: Mapping[str, Sequence[dict[str, Any]]]
    vectors: Mapping[str, Vector]

    @property
    def records(self) -> Iterator[dict[str, Any]]:
        """Everybody's."""
        for history in self.histories.values():
            yield from history


@dataclass(frozen=True)
class People:
    """`users` people. The same arguments and encoder give the same world."""

    users: int
    seed: int
    end: datetime
    encoder: Encoder
    """Of the sentences that messages are near to; there are too many messages to encode."""

    @cached_property
    def _catalogs(self) -> synthetic.Synthetic:
        return synthetic.generate(messages=self.users, users=self.users, campaigns=CAMPAIGNS, seed=self.seed, end=self.end)

    @cached_property
    def campaigns(self) -> list[Campaign]:
        """What may be offered."""
        return [Campaign.model_validate(campaign) for campaign in self._catalogs.campaign_catalog()]

    @cached_property
    def intents(self) -> list[IntentDefinition]:
        """What may be wanted."""
        return [IntentDefinition.model_validate(intent) for intent in self._catalogs.intent_catalog()]

    def customers(self) -> Iterator[Customer]:
        """Who consents, and who is to be left alone."""
        return (Customer.model_validate(customer) for customer in self._catalogs.customers())

    @cached_property
    def catalog_vectors(self) -> dict[str, Vector]:
        """Of every text of the catalogs, by the text's hash."""
        texts = {campaign.text for campaign in self.campaigns}
        texts |= {text for intent in self.intents for text in definition_texts(intent)}
        return dict(zip(map(text_hash, sorted(texts)), self.encoder.encode(sorted(texts)), strict=True))

    @cached_property
    def drop(self) -> str:
        """Which all records came with."""
        return hashlib.sha256(f"{self.users}/{self.seed}/{self.end}".encode()).hexdigest()

    @property
    def engagements(self) -> int:
        """How many there are."""
        return sum(self._engagements_of(number) for number in range(self._crowds))

    def crowds(self) -> Iterator[Crowd]:
        """Everybody, some at a time."""
        return map(self._crowd, range(self._crowds))

    @property
    def _crowds(self) -> int:
        return -(-self.users // AT_ONCE)

    def _size(self, crowd: int) -> int:
        return min(AT_ONCE, self.users - crowd * AT_ONCE)

    def _engagements_of(self, crowd: int) -> int:
        return round(self._size(crowd) * ENGAGEMENTS_A_USER)

    def _crowd(self, number: int) -> Crowd:
        rng = np.random.default_rng([self.seed, number])
        users = [user_id(number * AT_ONCE + each) for each in range(self._size(number))]
        tastes = rng.integers(len(self.intents), size=len(users))
        histories: dict[str, list[dict[str, Any]]] = {user: [] for user in users}
        for record in self._engaged(rng, users, tastes, self._engagements_of(number)):
            histories[record["user_id"]].append(record)
        vectors: dict[str, Vector] = {}
        for record, vector in self._said(rng, users, tastes):
            histories[record["user_id"]].append(record)
            vectors[record["text_hash"]] = vector
        for history in histories.values():
            history.sort(key=lambda record: (record["timestamp"], record["_id"]))
        return Crowd(histories, vectors)

    def _engaged(
        self, rng: np.random.Generator, users: Sequence[str], tastes: np.ndarray, engagements: int
    ) -> Iterator[dict[str, Any]]:
        """One record for each pair, drawn without putting back: the largest of log weight + Gumbel noise."""
        keenness = rng.lognormal(0, 0.5, size=len(users))
        counts = FEWEST + rng.multinomial(engagements - FEWEST * len(users), keenness / keenness.sum())
        chances = np.log(self._popularity + self._fits[tastes]) + rng.gumbel(size=(len(users), CAMPAIGNS))
        best = np.argsort(-chances, axis=1)
        events, odds = [event.value for event in EVENTS], list(EVENTS.values())
        for user, count, ranked in zip(users, counts, best, strict=True):
            happened = rng.choice(len(events), size=count, p=odds)
            moments = rng.random(size=count)
            channels = rng.integers(len(CHANNELS), size=count)
            for each, campaign in enumerate(ranked[:count]):
                yield {
                    **self._record(user, f"e{each}", moments[each]),
                    "event": events[happened[each]],
                    "channel": CHANNELS[channels[each]],
                    "campaign_id": self.campaigns[campaign].campaign_id,
                }  # fmt: skip

    def _said(
        self, rng: np.random.Generator, users: Sequence[str], tastes: np.ndarray
    ) -> Iterator[tuple[dict[str, Any], Vector]]:
        """One message opens a conversation; some have two of these."""
        for user, taste in zip(users, tastes, strict=True):
            for turn in range(1 + (rng.random() < SECOND_CONVERSATION)):
                names = rng.random() < NAMES_A_CAMPAIGN
                sentences, vectors = (self._about_campaigns if names else self._requests)[taste]
                drawn = rng.integers(len(sentences))
                message = f"{sentences[drawn]} ({user}, {turn + 1})"
                noise = rng.standard_normal(vectors.shape[1], dtype=np.float32)
                vector = vectors[drawn] + NOISE * noise / np.linalg.norm(noise)
                yield {
                    **self._record(user, f"m{turn}", rng.random()),
                    "event": Event.MESSAGE.value,
                    "channel": "chat",
                    "message": message,
                    "text_hash": text_hash(message),
                    "expressive": True,
                }, vector / np.linalg.norm(vector)  # fmt: skip

    def _record(self, user: str, name: str, moment: float) -> dict[str, Any]:
        """`moment` in [0, 1) of the time that there is, in whole seconds."""
        at = self.end - timedelta(seconds=int((1 - moment) * SPAN.total_seconds()))
        return {"_id": f"{user}-{name}", "user_id": user, "timestamp": at, "drop": self.drop, "digest": f"{user}-{name}"}

    @cached_property
    def _popularity(self) -> np.ndarray:
        """Of each campaign with everybody, summing to the share of what is nobody's own taste; shape (campaigns,)."""
        ranks = np.random.default_rng([self.seed, CAMPAIGNS]).permutation(CAMPAIGNS) + 1
        popularity = ranks**-0.8
        return (1 - OWN_TASTE) * popularity / popularity.sum()

    @cached_property
    def _fits(self) -> np.ndarray:
        """What the campaigns that answer an intent have on top of that; shape (intents, campaigns)."""
        own = np.array([[intent.intent in campaign.intents for campaign in self.campaigns] for intent in self.intents])
        weights = own * self._popularity
        return OWN_TASTE * weights / weights.sum(axis=1, keepdims=True)

    @cached_property
    def _requests(self) -> list[tuple[list[str], Vectors]]:
        return [self._sentences(intent.examples, intent.examples) for intent in self.intents]

    @cached_property
    def _about_campaigns(self) -> list[tuple[list[str], Vectors]]:
        of_intents = [[each for each in self.campaigns if intent.intent in each.intents] for intent in self.intents]
        return [
            self._sentences([f"Is “{campaign.name}” still on?" for campaign in own], [campaign.text for campaign in own])
            for own in of_intents
        ]

    def _sentences(self, sentences: list[str], near: Sequence[str]) -> tuple[list[str], Vectors]:
        return sentences, np.stack([self.catalog_vectors[text_hash(text)] for text in near])


def user_id(number: int) -> str:
    """Of the person with this number, from 0: as the catalog of customers has it."""
    return f"u_{number + 1:03d}"


def now() -> datetime:
    """When a world ends that nobody set an end to."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
