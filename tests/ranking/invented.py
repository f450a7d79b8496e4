"""People, campaigns and what passed between them, invented by seed, as all stores would tell of them."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import numpy as np

from persona.errors import StoreUnavailable
from persona.ranking.knowledge import CampaignWords, Related
from persona.ranking.model import fit
from persona.ranking.people import People
from persona.ranking.recommender import Query, Recommender, Rules, Snapshot
from persona.ranking.tracing import Trail
from persona.schemas import (
    Campaign,
    Customer,
    DayBucket,
    Engagement,
    Event,
    ExpressedIntent,
    FrequencyCap,
    Mention,
    NeighbourVote,
    Relation,
    SimilarConversation,
    Ties,
    Vector,
    Why,
)
from persona.stores.documents.embeddings import text_hash
from persona.stores.documents.ledger import Entry

AT = datetime(2026, 1, 10, 12, tzinfo=UTC)
INTENTS = ["buy", "leave", "ask"]
EVENTS = [event for event in Event if event != Event.MESSAGE]


class World:
    """People, campaigns and what passed between them, in all stores at once; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.down: set[str] = set()
        self.people = [f"person-{seed}-{number}" for number in range(self.random.randint(2, 5))]
        self.campaigns = {campaign.campaign_id: campaign for campaign in map(self._campaign, range(self.random.randint(2, 8)))}
        self.entries = {f"d_{number}": entry(number) for number in range(3)}
        self.records_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number in range(self.random.randint(5, 60)):
            self._record(number)
        self.customers = {
            person: Customer(user_id=person, consent=self.random.random() < 0.5, suppressed=self.random.random() < 0.1)
            for person in self.people
        }
        self.vectors = {
            person: self._vector()
            for person, records in self.records_of.items()
            if any("text_hash" in record for record in records)
        }
        model = fit(self._buckets(), facts=9, fingerprint="f")
        names = sorted(self.campaigns)
        related = Related(("run-0", [Relation(each, other, 0.5, 2) for other in names if other != each]) for each in names)
        words = CampaignWords({name: self._vector() for name in names[1::2]})
        self.snapshot = Snapshot("g_1", model, 1, self.campaigns, AT, relations=related, words=words)

    def _campaign(self, number: int) -> Campaign:
        some = self.random
        return Campaign(
            campaign_id=f"c_{number}",
            name=f"Campaign {number}",
            intents=some.sample(INTENTS, some.randint(0, 2)),
            categories=some.sample(["a", "b"], some.randint(0, 2)),
            channels=some.choice([[], ["email"], ["email", "sms"]]),
            status=some.choice(["active", "active", "active", "paused"]),
            requires_consent=some.random() < 0.3,
            frequency_cap=some.choice([None, FrequencyCap(count=1, days=30)]),
        )

    def _record(self, number: int) -> None:
        some = self.random
        person = some.choice(self.people)
        record: dict[str, Any] = {
            "_id": f"m_{number}-of-{person}", "user_id": person, "timestamp": AT - timedelta(hours=some.randint(1, 900)),
            "drop": some.choice(sorted(self.entries)), "line": number, "channel": some.choice(["email", "sms", "unknown"]),
        }  # fmt: skip
        if some.random() < 0.5:
            record |= {"event": "message", "message": f"words of {person}, {number}", "text_hash": str(number)}
            record |= {"intent": some.choice(INTENTS), "names": some.sample(sorted(self.campaigns), some.randint(0, 1))}
        else:
            record |= {"event": some.choice(EVENTS).value}
            if record["event"] != "unsubscribe" or some.random() < 0.8:
                record |= {"campaign_id": some.choice(sorted(self.campaigns))}
        self.records_of[person].append(record)

    def _vector(self) -> Vector:
        vector = np.array([self.random.random() for _ in range(3)], np.float32)
        return vector / np.linalg.norm(vector)

    def _buckets(self) -> list[DayBucket]:
        return [
            DayBucket(f"2026-01-0{day}", campaign, "email", self.random.choice(EVENTS).value, self.random.randint(1, 9), 0.0)
            for campaign in sorted(self.campaigns)[1:]
            for day in (1, 5)
        ]

    # -- as the stores answer -----------------------------------------------------------------------------------------

    def _up(self, store: str) -> None:
        if store in self.down:
            raise StoreUnavailable(store, "told to be down")

    def user_vector(self, user_id: str) -> Vector | None:
        self._up("milvus")
        return self.vectors.get(user_id)

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]:
        self._up("milvus")
        return [(person, float(other @ vector)) for person, other in self.vectors.items() if person != exclude]

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]:
        self._up("milvus")
        return [
            SimilarConversation(float(other @ vector), {record["campaign_id"]: 1.0})
            for person, other in self.vectors.items()
            for record in self.records_of[person]
            if person != exclude_user and "campaign_id" in record
        ]

    def ties_of(self, user_id: str) -> Ties:
        self._up("neo4j")
        return Ties(self._engaged(user_id), self._expressed(user_id), self._mentioned(user_id))

    def _engaged(self, user_id: str) -> list[Engagement]:
        return [
            Engagement(user_id, record["campaign_id"], 0.5, 0.0, {record["event"]: 1}, 0, 0, record["_id"])
            for record in self.records_of[user_id]
            if "campaign_id" in record
        ]

    def _expressed(self, user_id: str) -> list[ExpressedIntent]:
        counts = Counter(record["intent"] for record in self.records_of[user_id] if "intent" in record)
        last = {intent: self._expressing(user_id, intent)[0] for intent in counts}
        return [ExpressedIntent(user_id, intent, n, at_ms(last[intent]), last[intent]["_id"]) for intent, n in counts.items()]

    def _mentioned(self, user_id: str) -> list[Mention]:
        counts = Counter(campaign for record in self.records_of[user_id] for campaign in record.get("names", ()))
        last = {campaign: self._naming(user_id, campaign)[0] for campaign in counts}
        return [Mention(campaign, n, at_ms(last[campaign]), last[campaign]["_id"]) for campaign, n in counts.items()]

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]:
        self._up("neo4j")
        campaigns = {record["campaign_id"] for person in neighbours for record in self.history(person)}
        return [NeighbourVote(campaign, 0.5, len(neighbours)) for campaign in sorted(campaigns)]

    def _naming(self, user_id: str, campaign_id: str) -> list[dict[str, Any]]:
        return newest_first(record for record in self.records_of[user_id] if campaign_id in record.get("names", ()))

    def _expressing(self, user_id: str, intent: str) -> list[dict[str, Any]]:
        return newest_first(record for record in self.records_of[user_id] if record.get("intent") == intent)

    def history(self, user_id: str) -> list[dict[str, Any]]:
        return [record for record in self.records_of[user_id] if "campaign_id" in record]

    def policy_of(self, user_id: str, *, impressions_since: datetime) -> tuple[list[dict[str, Any]], Customer | None]:
        self._up("mongodb")
        return [record for record in self.records_of[user_id] if record["event"] != "message"], self.customers.get(user_id)

    def done_with(self, user_id: str, campaign_id: str) -> list[dict[str, Any]]:
        self._up("mongodb")
        return [
            record for record in self.history(user_id) if record["campaign_id"] == campaign_id and record["event"] != "impression"
        ]

    def naming(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]:
        self._up("mongodb")
        return self._naming(user_id, campaign_id)[:limit]

    def expressing(self, user_id: str, intent: str, *, limit: int) -> list[dict[str, Any]]:
        self._up("mongodb")
        return self._expressing(user_id, intent)[:limit]

    def newest_messages(self, user_id: str, *, limit: int) -> list[dict[str, Any]]:
        self._up("mongodb")
        return newest_first(record for record in self.records_of[user_id] if "message" in record)[:limit]

    def between(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]:
        self._up("mongodb")
        records = newest_first(self.records_of[user_id])
        return [
            record
            for record in records
            if record.get("campaign_id", campaign_id if record["event"] == "unsubscribe" else None) == campaign_id
        ][:limit]

    def get(self, entries: Sequence[str]) -> list[Entry]:
        self._up("mongodb")
        return [self.entries[name] for name in entries if name in self.entries]

    def interested_in(self, campaign_id: str, *, limit: int) -> list[str]:
        self._up("neo4j")
        wanted = set(self.campaigns[campaign_id].intents)
        return [
            person
            for person, records in self.records_of.items()
            if any(record.get("campaign_id") == campaign_id or record.get("intent") in wanted for record in records)
        ][:limit]

    def known_among(self, users: Sequence[str]) -> set[str]:
        self._up("mongodb")
        return {user for user in users if self.records_of.get(user)}

    # -- asking -------------------------------------------------------------------------------------------------------

    def recommender(self, **rules: Any) -> Recommender:
        return Recommender(self, self, self, Rules(**rules))

    def why(self, user_id: str, campaign_id: str, *, rules: Rules | None = None, **query: Any) -> Why:
        recommender = Recommender(self, self, self, rules or Rules())
        return recommender.why(user_id, campaign_id, Query(**{"at": AT, **query}), self.snapshot, Trail(self, self))

    def people_of(self, **rules: Any) -> People:
        return People(self.recommender(**rules), self, self, Texts(self), self)


def newest_first(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(sorted(records, key=itemgetter("_id")), key=itemgetter("timestamp"), reverse=True)


def at_ms(record: dict[str, Any]) -> int:
    return round(record["timestamp"].timestamp() * 1000)


class Texts:
    """The vectors of the campaigns' names."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get(self, hashes: set[str]) -> Mapping[str, Vector]:
        named = {text_hash(campaign.text) for campaign in self.world.campaigns.values() if campaign.text}
        return {key: np.array([1, 0, 0], np.float32) for key in hashes & named}


def entry(number: int) -> Entry:
    return Entry(f"d_{number}", "drop", f"day-{number}.jsonl", 1, "accepted", run_id=f"run-{number}")
