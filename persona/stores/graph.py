"""Who engaged with what, who named what, and who means what: people, campaigns and intents in Neo4j over Bolt.

A projection of MongoDB: every write can be repeated, the whole graph rebuilt. Weights and counts are computed elsewhere.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
import orjson
import stamina
from neo4j import (
    READ_ACCESS,
    WRITE_ACCESS,
    Driver,
    GraphDatabase,
    ManagedTransaction,
    Query,
    Record,
    Session,
    TrustCustomCAs,
    unit_of_work,
)
from neo4j.exceptions import AuthError, ConfigurationError, ConstraintError, DriverError, Neo4jError

from persona.errors import PersonaError, StoreRefused, StoreUnavailable
from persona.schemas import Campaign, Engagement, Event, ExpressedIntent, Mention, NeighbourVote, Relation, Ties
from persona.stores._chunks import chunks
from persona.stores._connecting import GRANTS, Terms
from persona.stores.fencing import lease_lost

# What both ends of the subset understand, Neo4j 5 and ArcadeDB: both ends of a relationship bound before it is MERGEd, no APOC,
# no dynamic labels, times as integers. The index of whoever is looked up is named: Neo4j keeps a plan for a while, and one that it made
# when a first drop had just begun, its statistics not yet taken, reads a whole index for each row.

CONSTRAINTS = (
    "CREATE CONSTRAINT user_id IF NOT EXISTS FOR (user:User) REQUIRE user.user_id IS UNIQUE",
    "CREATE CONSTRAINT campaign_id IF NOT EXISTS FOR (campaign:Campaign) REQUIRE campaign.campaign_id IS UNIQUE",
    "CREATE CONSTRAINT intent IF NOT EXISTS FOR (intent:Intent) REQUIRE intent.intent IS UNIQUE",
    "CREATE CONSTRAINT fence IF NOT EXISTS FOR (fence:Fence) REQUIRE fence.name IS UNIQUE",
)

MERGE_USERS = "UNWIND $rows AS user_id MERGE (:User {user_id: user_id}) RETURN count(*) AS n"
MERGE_CAMPAIGNS = "UNWIND $rows AS campaign_id MERGE (:Campaign {campaign_id: campaign_id}) RETURN count(*) AS n"
MERGE_INTENTS = "UNWIND $rows AS intent MERGE (:Intent {intent: intent}) RETURN count(*) AS n"

DESCRIBE_CAMPAIGNS = """
UNWIND $rows AS row
MATCH (campaign:Campaign {campaign_id: row.campaign_id})
USING INDEX SEEK campaign:Campaign(campaign_id)
SET campaign.name = row.name, campaign.status = row.status
RETURN count(*) AS n
"""

FORGET_STALE_ADDRESSES = """
UNWIND $rows AS row
MATCH (campaign:Campaign {campaign_id: row.campaign_id})-[stale:ADDRESSES]->(intent:Intent)
USING INDEX SEEK campaign:Campaign(campaign_id)
WHERE NOT intent.intent IN row.intents
DELETE stale
RETURN count(*) AS n
"""

MERGE_ADDRESSES = """
UNWIND $rows AS row
MATCH (campaign:Campaign {campaign_id: row.campaign_id})
USING INDEX SEEK campaign:Campaign(campaign_id)
MATCH (intent:Intent {intent: row.intent})
USING INDEX SEEK intent:Intent(intent)
MERGE (campaign)-[:ADDRESSES]->(intent)
RETURN count(*) AS n
"""

MERGE_ENGAGEMENTS = """
UNWIND $rows AS row
MATCH (user:User {user_id: row.user_id})
USING INDEX SEEK user:User(user_id)
MATCH (campaign:Campaign {campaign_id: row.campaign_id})
USING INDEX SEEK campaign:Campaign(campaign_id)
MERGE (user)-[engaged:ENGAGED]->(campaign)
SET engaged = row.properties
RETURN count(*) AS n
"""

FORGET_STALE_ENGAGED = """
UNWIND $rows AS row
MATCH (user:User {user_id: row.user_id})-[stale:ENGAGED]->(campaign:Campaign)
USING INDEX SEEK user:User(user_id)
WHERE NOT campaign.campaign_id IN row.campaign_ids
DELETE stale
RETURN count(*) AS n
"""

NOTE_ENGAGEMENTS = """
UNWIND $rows AS row
MATCH (user:User {user_id: row.user_id})
USING INDEX SEEK user:User(user_id)
SET user.engagements = row.engagements
RETURN count(*) AS n
"""

FORGET_STALE_EXPRESSED = """
UNWIND $rows AS row
MATCH (user:User {user_id: row.user_id})-[stale:EXPRESSED]->(intent:Intent)
USING INDEX SEEK user:User(user_id)
WHERE NOT intent.intent IN row.intents
DELETE stale
RETURN count(*) AS n
"""

MERGE_EXPRESSED = """
UNWIND $rows AS row
MATCH (user:User {user_id: row.user_id})
USING INDEX SEEK user:User(user_id)
MATCH (intent:Intent {intent: row.intent})
USING INDEX SEEK intent:Intent(intent)
MERGE (user)-[expressed:EXPRESSED]->(intent)
SET expressed = row.properties
RETURN count(*) AS n
"""

FORGET_RELATED = """
UNWIND $rows AS campaign_id
MATCH (campaign:Campaign {campaign_id: campaign_id})-[stale:RELATED]->(:Campaign)
USING INDEX SEEK campaign:Campaign(campaign_id)
DELETE stale
RETURN count(*) AS n
"""

# Created, as what was there is gone: to look for each first takes twenty times as long.
CREATE_RELATED = """
UNWIND $rows AS row
MATCH (campaign:Campaign {campaign_id: row.campaign_id})
USING INDEX SEEK campaign:Campaign(campaign_id)
UNWIND row.related AS each
MATCH (other:Campaign {campaign_id: each.campaign_id})
USING INDEX SEEK other:Campaign(campaign_id)
CREATE (campaign)-[:RELATED {generation: row.generation, weight: each.weight, support: each.support, run_id: row.run_id}]->(other)
RETURN count(*) AS n
"""

FORGET_OTHER_RELATED = """
MATCH (:Campaign)-[related:RELATED]->(:Campaign)
WHERE NOT related.generation IN $rows
WITH related LIMIT $batch
DELETE related
RETURN count(*) AS n
"""

COUNT_RELATED = """
MATCH (:Campaign)-[related:RELATED]->(:Campaign)
WHERE related.generation = $generation
RETURN count(related) AS n
"""

FORGET_STALE_MENTIONED = """
UNWIND $rows AS row
MATCH (user:User {user_id: row.user_id})-[stale:MENTIONED]->(campaign:Campaign)
USING INDEX SEEK user:User(user_id)
WHERE NOT campaign.campaign_id IN row.campaign_ids
DELETE stale
RETURN count(*) AS n
"""

MERGE_MENTIONED = """
UNWIND $rows AS row
MATCH (user:User {user_id: row.user_id})
USING INDEX SEEK user:User(user_id)
MATCH (campaign:Campaign {campaign_id: row.campaign_id})
USING INDEX SEEK campaign:Campaign(campaign_id)
MERGE (user)-[mentioned:MENTIONED]->(campaign)
SET mentioned = row.properties
RETURN count(*) AS n
"""

# From the people alone: a hundred properties are read ten times as fast as the thousands of relationships that they stand for.
ENGAGEMENTS_OF = """
UNWIND $user_ids AS user_id
MATCH (user:User {user_id: user_id})
USING INDEX SEEK user:User(user_id)
WHERE user.engagements IS NOT NULL
RETURN collect(user.user_id) AS user_ids, collect(user.engagements) AS engagements
"""

# All that ties a person in one question.
TIES_OF = """
MATCH (user:User {user_id: $user_id})-[tie:ENGAGED|EXPRESSED|MENTIONED]->(target)
USING INDEX SEEK user:User(user_id)
RETURN collect([type(tie), target.campaign_id, target.intent, properties(tie)]) AS ties
"""

HISTORY_OF = """
MATCH (user:User {user_id: $user_id})-[engaged:ENGAGED]->(campaign:Campaign)
USING INDEX SEEK user:User(user_id)
RETURN campaign.campaign_id AS campaign_id, properties(engaged) AS properties
ORDER BY properties.last_at_ms DESC, campaign_id
"""

INTENTS_OF = """
MATCH (user:User {user_id: $user_id})-[expressed:EXPRESSED]->(intent:Intent)
USING INDEX SEEK user:User(user_id)
RETURN intent.intent AS intent, properties(expressed) AS properties
ORDER BY properties.last_at_ms DESC, intent
"""

MENTIONS_OF = """
MATCH (user:User {user_id: $user_id})-[mentioned:MENTIONED]->(campaign:Campaign)
USING INDEX SEEK user:User(user_id)
RETURN campaign.campaign_id AS campaign_id, properties(mentioned) AS properties
ORDER BY properties.last_at_ms DESC, campaign_id
"""

WANTING = """
MATCH (campaign:Campaign {campaign_id: $campaign_id})-[:ADDRESSES]->(:Intent)<-[expressed:EXPRESSED]-(user:User)
USING INDEX SEEK campaign:Campaign(campaign_id)
RETURN user.user_id AS user_id, sum(expressed.count) AS strength, max(expressed.last_at_ms) AS last_at_ms
ORDER BY strength DESC, last_at_ms DESC, user_id
LIMIT $limit
"""

ENGAGING = """
MATCH (campaign:Campaign {campaign_id: $campaign_id})<-[engaged:ENGAGED]-(user:User)
USING INDEX SEEK campaign:Campaign(campaign_id)
WHERE engaged.weight > 0
RETURN user.user_id AS user_id
ORDER BY engaged.weight DESC, engaged.last_at_ms DESC, user_id
LIMIT $limit
"""

FOUND_USERS = """
UNWIND $rows AS row
MATCH (user:User {user_id: row})
USING INDEX SEEK user:User(user_id)
RETURN user.user_id AS user_id
"""

# From the people's side: a campaign may have every person there is at its other end.
FOUND_ENGAGEMENTS = """
UNWIND $rows AS row
MATCH (user:User {user_id: row})-[:ENGAGED]->(campaign:Campaign)
USING INDEX SEEK user:User(user_id)
RETURN row AS user_id, collect(campaign.campaign_id) AS campaign_ids
"""

INCOMPLETE_ENDS = """
UNWIND $rows AS row
MATCH (user:User {user_id: row})-[]->(target)
USING INDEX SEEK user:User(user_id)
WHERE (target.campaign_id IS NULL AND target.intent IS NULL) OR NOT (target:Campaign OR target:Intent)
RETURN DISTINCT elementId(target) AS element
LIMIT $limit
"""

EVENTS = tuple(event.value for event in Event)
T = TypeVar("T")
Tie = TypeVar("Tie", Engagement, ExpressedIntent)
Countable = Literal["User", "Campaign", "Intent", "ENGAGED", "EXPRESSED", "MENTIONED", "ADDRESSES"]
COUNTS: Mapping[Countable, str] = {
    "User": "MATCH (node:User) RETURN count(node) AS n",
    "Campaign": "MATCH (node:Campaign) RETURN count(node) AS n",
    "Intent": "MATCH (node:Intent) RETURN count(node) AS n",
    # of any nodes: that number is kept by the server, that of ties between these and those it has to count
    "ENGAGED": "MATCH ()-[tie:ENGAGED]->() RETURN count(tie) AS n",
    "EXPRESSED": "MATCH ()-[tie:EXPRESSED]->() RETURN count(tie) AS n",
    "MENTIONED": "MATCH ()-[tie:MENTIONED]->() RETURN count(tie) AS n",
    "ADDRESSES": "MATCH ()-[tie:ADDRESSES]->() RETURN count(tie) AS n",
}

COUNT_OF = """
MATCH (user:User {user_id: $user_id})
USING INDEX SEEK user:User(user_id)
OPTIONAL MATCH (user)-[tie]->()
RETURN count(DISTINCT user) + count(tie) AS n
"""

REMOVE_TIES_OF = """
UNWIND $rows AS user_id
MATCH (user:User {user_id: user_id})-[tie]->()
USING INDEX SEEK user:User(user_id)
DELETE tie
RETURN count(*) AS n
"""

# In parts by id, as the whole list may be long; what is removed first loses its relationships, in parts too.
USERS_AFTER = "MATCH (user:User) WHERE user.user_id > $last RETURN user.user_id AS user_id ORDER BY user.user_id LIMIT $limit"
CAMPAIGN_IDS = "MATCH (campaign:Campaign) RETURN campaign.campaign_id AS campaign_id"
UNTIE_CAMPAIGN = """
UNWIND $rows AS row
MATCH (campaign:Campaign {campaign_id: row})-[tie]-()
USING INDEX SEEK campaign:Campaign(campaign_id)
WITH tie LIMIT $batch
DELETE tie
RETURN count(*) AS n
"""
DELETE_CAMPAIGNS = """
UNWIND $rows AS row
MATCH (node:Campaign {campaign_id: row})
USING INDEX SEEK node:Campaign(campaign_id)
DETACH DELETE node
RETURN count(*) AS n
"""
DELETE_USERS = """
UNWIND $rows AS row
MATCH (node:User {user_id: row})
USING INDEX SEEK node:User(user_id)
DETACH DELETE node
RETURN count(*) AS n
"""
DELETE_LONE_INTENTS = "MATCH (node:Intent) WHERE NOT (node)--() DELETE node RETURN count(*) AS n"

# Relationships first, both in parts: a server with a small heap refuses to detach a campaign from everyone in one transaction.
CLEAR_STEPS = (
    "MATCH (:User)-[tie]->() WITH tie LIMIT $batch DELETE tie RETURN count(*) AS n",
    "MATCH (:Campaign)-[tie]->() WITH tie LIMIT $batch DELETE tie RETURN count(*) AS n",
    "MATCH (node:User|Campaign|Intent) WITH node LIMIT $batch DETACH DELETE node RETURN count(*) AS n",
)

# Two steps: the first takes the write lock, so that no other writer changes the token that the second reads.
TOUCH_FENCE = "MERGE (fence:Fence {name: 'pipeline'}) SET fence.writes = coalesce(fence.writes, 0) + 1"
RAISE_FENCE = """
MATCH (fence:Fence {name: 'pipeline'})
WHERE fence.token IS NULL OR fence.token <= $token
SET fence.token = $token
RETURN count(*) AS n
"""

PING = "RETURN 1 AS n"

BATCH = 5_000
WRITE_PATIENCE = 6  # a batch of relationships may take this many times as long as a read
MS_PER_DAY = 86_400_000
LN_2 = 0.6931471805599453
CONSTRAINT_ATTEMPTS = 6

VERIFIED = "+s"
"""Ends the schemes that ask for TLS and for a certificate that is valid."""
FORBIDDEN = "Neo.ClientError.Security.Forbidden"
TERMS = Terms("neo4j", "NEO4J_URI", encrypted="begin NEO4J_URI with neo4j+s:// or bolt+s://", ca="PERSONA_CA_FILE")


class Graph:
    """The engagement graph of one database."""

    def __init__(self, driver: Driver, *, database: str, timeout_seconds: float, token: int | None = None) -> None:
        self._driver = driver
        self._database = database
        self._timeout = timeout_seconds
        self._token = token

    def fenced(self, token: int) -> Self:
        """The same graph for the holder of the lease with this token: once a newer token wrote, writes raise `LeaseLost`."""
        return type(self)(self._driver, database=self._database, timeout_seconds=self._timeout, token=token)

    # -- writing --------------------------------------------------------------------------------------------------------

    def upsert_users(self, user_ids: Iterable[str]) -> int:
        """Make sure that these people are in the graph; return how many."""
        return sum(self._write((MERGE_USERS, part)) for part in chunks(sorted(set(user_ids)), BATCH))

    def upsert_campaigns(self, campaigns: Sequence[Campaign]) -> int:
        """Write names, statuses and addressed intents, remove the intents no longer addressed; return how many campaigns."""
        written = 0
        for part in chunks(campaigns, BATCH):
            rows = [campaign.model_dump(include={"campaign_id", "name", "status", "intents"}) for campaign in part]
            addresses = [{"campaign_id": row["campaign_id"], "intent": intent} for row in rows for intent in row["intents"]]
            written += self._write(
                (MERGE_ADDRESSES, addresses),
                (FORGET_STALE_ADDRESSES, rows),
                (DESCRIBE_CAMPAIGNS, rows),
                ends=(
                    (MERGE_CAMPAIGNS, [row["campaign_id"] for row in rows]),
                    (MERGE_INTENTS, [address["intent"] for address in addresses]),
                ),
            )
        return written

    def upsert_engagements(self, engagements: Sequence[Engagement]) -> int:
        """Write each (user, campaign) pair once, whatever was there before; return the number of relationships written."""
        return sum(
            self._write(
                (MERGE_ENGAGEMENTS, [_engagement_row(engagement) for engagement in part]),
                ends=(
                    (MERGE_USERS, [engagement.user_id for engagement in part]),
                    (MERGE_CAMPAIGNS, [engagement.campaign_id for engagement in part]),
                ),
            )
            for part in chunks(_last_of_each(engagements, key=lambda engaged: (engaged.user_id, engaged.campaign_id)), BATCH)
        )

    def replace_engagements(
        self, user_ids: Iterable[str], engagements: Sequence[Engagement], *, touched: Set[tuple[str, str]] | None = None
    ) -> int:
        """Make `engagements` all that ties these people: written as `upsert_engagements` does, anything else of theirs removed.

        With `touched`, only these (user, campaign) pairs differ from what was there, and none is to be removed. Return how many
        relationships were written.
        """
        of_user = _by_user(user_ids, _last_of_each(engagements, key=lambda engaged: (engaged.user_id, engaged.campaign_id)))
        written = 0
        for part in chunks(sorted(of_user), BATCH // 5):
            due = [engagement for user_id in part for engagement in of_user[user_id]]
            if touched is None:
                rows = [
                    {"user_id": user_id, "campaign_ids": [engagement.campaign_id for engagement in of_user[user_id]]}
                    for user_id in part
                ]
                self._write((FORGET_STALE_ENGAGED, rows))
            else:
                due = [engagement for engagement in due if (engagement.user_id, engagement.campaign_id) in touched]
            written += self.upsert_engagements(due)
            self._write((NOTE_ENGAGEMENTS, [_noted_row(user_id, of_user[user_id]) for user_id in part]))
        return written

    def replace_expressed(self, user_ids: Iterable[str], expressed: Sequence[ExpressedIntent]) -> int:
        """Make `expressed` all that these people express: each (user, intent) pair once, anything else of theirs removed.

        Return how many relationships were written.
        """
        of_user = _by_user(user_ids, _last_of_each(expressed, key=lambda pair: (pair.user_id, pair.intent)))
        written = 0
        for part in chunks(sorted(of_user), BATCH // 5):
            pairs = [pair for user_id in part for pair in of_user[user_id]]
            stale = [{"user_id": user_id, "intents": [pair.intent for pair in of_user[user_id]]} for user_id in part]
            ends = (MERGE_USERS, [pair.user_id for pair in pairs]), (MERGE_INTENTS, [pair.intent for pair in pairs])
            written += self._write((FORGET_STALE_EXPRESSED, stale), _expressed_step(pairs), ends=ends)
        return written

    def replace_mentioned(self, mentioned: Mapping[str, Sequence[Mention]]) -> int:
        """Make `mentioned`, by user id, all that these people mention: each campaign once, anything else of theirs removed.

        Return how many relationships were written.
        """
        written = 0
        for part in chunks(sorted(mentioned), BATCH // 5):
            rows = [_mentioned_row(user_id, mention) for user_id in part for mention in mentioned[user_id]]
            stale = [
                {"user_id": user_id, "campaign_ids": [mention.campaign_id for mention in mentioned[user_id]]} for user_id in part
            ]
            ends = (MERGE_USERS, [row["user_id"] for row in rows]), (MERGE_CAMPAIGNS, [row["campaign_id"] for row in rows])
            written += self._write((FORGET_STALE_MENTIONED, stale), (MERGE_MENTIONED, rows), ends=ends)
        return written

    def users_after(self, last: str, *, limit: int) -> list[str]:
        """The next `limit` people after this id, in the order the server gives ids."""
        return [record["user_id"] for record in self._read(USERS_AFTER, last=last, limit=limit)]

    def campaign_ids(self) -> list[str]:
        """Every campaign there is."""
        return [record["campaign_id"] for record in self._read(CAMPAIGN_IDS)]

    def delete_users(self, user_ids: Iterable[str]) -> int:
        """Remove these people and what ties them; return how many there were."""
        return sum(self._write((DELETE_USERS, part)) for part in chunks(sorted(set(user_ids)), BATCH // 5))

    def delete_campaigns(self, campaign_ids: Iterable[str]) -> int:
        """Remove these campaigns and what ties them; return how many there were."""
        removed = 0
        for part in chunks(sorted(set(campaign_ids)), BATCH // 5):
            while self._write((UNTIE_CAMPAIGN, part)):
                pass
            removed += self._write((DELETE_CAMPAIGNS, part))
        return removed

    def delete_lone_intents(self) -> int:
        """Remove the intents that nobody expresses and no campaign addresses; return how many there were."""
        return self._write((DELETE_LONE_INTENTS, []))

    def clear(self) -> None:
        """Remove every person, campaign and intent, and what ties them."""
        for step in CLEAR_STEPS:
            while self._write((step, [])):
                pass

    # -- what goes together -----------------------------------------------------------------------------------------------

    def replace_relations(self, relations: Mapping[str, Sequence[Relation]], *, generation: str, run_id: str) -> int:
        """Make `relations`, by campaign, all that these campaigns lead to; return how many relationships were written."""
        written = 0
        for part in chunks(sorted(relations), BATCH // 25):
            rows = [
                {
                    "campaign_id": campaign, "generation": generation, "run_id": run_id,
                    "related": [
                        {"campaign_id": each.related_id, "weight": float(each.weight), "support": each.support}
                        for each in relations[campaign]
                    ],
                }
                for campaign in part
            ]  # fmt: skip
            ends = [*part, *(each.related_id for campaign in part for each in relations[campaign])]
            written += self._write((FORGET_RELATED, part), (CREATE_RELATED, rows), ends=((MERGE_CAMPAIGNS, ends),))
        return written

    def forget_relations(self, *, but: Collection[str]) -> None:
        """Remove the relations of every other generation."""
        while self._write((FORGET_OTHER_RELATED, sorted(but))):
            pass

    def count_relations(self, generation: str) -> int:
        """How many relations the generation has."""
        return int(self._read(COUNT_RELATED, generation=generation)[0]["n"])

    # -- retrieving -----------------------------------------------------------------------------------------------------

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]:
        """What these people are positively tied to, best first; `neighbours` maps user id to similarity.

        A tie counts similarity x weight x 0.5 ** (age / half-life), its age taken at `now_ms` (UTC epoch) and never below zero.
        """
        [(users, noted)] = self._ask(ENGAGEMENTS_OF, user_ids=list(neighbours))
        if not noted:
            return []
        names, weighed, times = zip(*orjson.loads(f"[{','.join(noted)}]"), strict=True)
        tied = list(chain.from_iterable(names))
        of_user = np.repeat([float(neighbours[user]) for user in users], list(map(len, names)))
        weights = np.array(list(chain.from_iterable(weighed)), np.float64)
        ages = now_ms - np.array(list(chain.from_iterable(times)), np.float64)
        pulls = of_user * weights * np.exp(-LN_2 / (half_life_days * MS_PER_DAY) * np.maximum(ages, 0))
        campaigns = sorted(set(tied))
        number_of = dict(zip(campaigns, range(len(campaigns)), strict=True))
        numbers = np.array(list(map(number_of.__getitem__, tied)), np.intp)
        scores = np.bincount(numbers, pulls, len(campaigns))
        counts = np.bincount(numbers, minlength=len(campaigns))
        best = np.argsort(-scores, kind="stable")[:limit]
        voted = zip(map(campaigns.__getitem__, best.tolist()), scores[best].tolist(), counts[best].tolist(), strict=True)
        return list(map(NeighbourVote._make, voted))

    def ties_of(self, user_id: str) -> Ties:
        """What the person is tied to, has expressed, and has named: `history_of`, `intents_of` and `mentions_of` in one question."""
        ties = Ties([], [], [])
        [(found,)] = self._ask(TIES_OF, user_id=user_id)  # one row, as reading many takes longer than finding them
        for kind, campaign_id, intent, properties in found:
            if kind == "ENGAGED":
                ties.engaged.append(_engagement(user_id, campaign_id, properties))
            elif kind == "EXPRESSED":
                ties.expressed.append(ExpressedIntent(user_id=user_id, intent=intent, **properties))
            else:
                ties.mentioned.append(Mention(campaign_id=campaign_id, **properties))
        ties.engaged.sort(key=lambda tie: (-tie.last_at_ms, tie.campaign_id))
        ties.expressed.sort(key=lambda tie: (-tie.last_at_ms, tie.intent))
        ties.mentioned.sort(key=lambda tie: (-tie.last_at_ms, tie.campaign_id))
        return ties

    def history_of(self, user_id: str) -> list[Engagement]:
        """Everything the person is tied to, newest first."""
        return [
            _engagement(user_id, record["campaign_id"], record["properties"])
            for record in self._read(HISTORY_OF, user_id=user_id)
        ]

    def intents_of(self, user_id: str) -> list[ExpressedIntent]:
        """What the person has expressed, newest first."""
        return [
            ExpressedIntent(user_id=user_id, intent=record["intent"], **record["properties"])
            for record in self._read(INTENTS_OF, user_id=user_id)
        ]

    def mentions_of(self, user_id: str) -> list[Mention]:
        """The campaigns that the person's messages name, newest first."""
        return [
            Mention(campaign_id=record["campaign_id"], **record["properties"])
            for record in self._read(MENTIONS_OF, user_id=user_id)
        ]

    def interested_in(self, campaign_id: str, *, limit: int) -> list[str]:
        """Up to `limit` people who expressed an intent that the campaign addresses, then up to `limit` positively tied to it."""
        found = [self._read(query, campaign_id=campaign_id, limit=limit) for query in (WANTING, ENGAGING)]
        return list(dict.fromkeys(record["user_id"] for records in found for record in records))

    # -- checking -------------------------------------------------------------------------------------------------------

    def missing_users(self, user_ids: Iterable[str]) -> list[str]:
        """Those of `user_ids` that the graph does not know, sorted."""
        wanted = set(user_ids)
        for part in chunks(sorted(wanted), BATCH):
            wanted -= {record["user_id"] for record in self._read(FOUND_USERS, rows=part)}
        return sorted(wanted)

    def missing_engagements(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of the (user id, campaign id) `pairs` that no ENGAGED ties, sorted."""
        wanted = set(pairs)
        for part in chunks(sorted({user_id for user_id, _ in wanted}), BATCH):
            for record in self._read(FOUND_ENGAGEMENTS, rows=part):
                wanted.difference_update((record["user_id"], campaign_id) for campaign_id in record["campaign_ids"])
        return sorted(wanted)

    def incomplete_ends(self, user_ids: Iterable[str], *, limit: int) -> list[str]:
        """Element ids of up to `limit` nodes tied to these people that are neither a campaign nor an intent with its id."""
        found: list[str] = []
        for part in chunks(sorted(set(user_ids)), BATCH):
            found += [record["element"] for record in self._read(INCOMPLETE_ENDS, rows=part, limit=limit)]
            if len(set(found)) >= limit:
                break
        return list(dict.fromkeys(found))[:limit]

    def count(self, what: Countable) -> int:
        """How many nodes of a label, or relationships of a type, there are."""
        return int(self._read(COUNTS[what])[0]["n"])

    def ping(self) -> None:
        """Return when the server answers; raise `StoreUnavailable` or `StoreRefused`."""
        self._read(PING)

    # -- one person -----------------------------------------------------------------------------------------------------

    def count_of(self, user_id: str) -> int:
        """How many nodes and relationships are this person's."""
        return sum(int(record["n"]) for record in self._read(COUNT_OF, user_id=user_id))

    def remove_user(self, user_id: str) -> None:
        """Remove this person and everything that ties them."""
        self._write((REMOVE_TIES_OF, [user_id]), (DELETE_USERS, [user_id]))

    # -- one transaction each -------------------------------------------------------------------------------------------

    def _session(self, access: str) -> Session:
        return self._driver.session(
            database=self._database,
            default_access_mode=access,
            # Within one process every read sees the writes before it, on a cluster too.
            bookmark_manager=self._driver.execute_query_bookmark_manager,
        )

    def _ask(self, query: str, **parameters: Any) -> list[Record]:
        """What `_read` returns, in one round trip and without another attempt: for answers that somebody waits for."""
        with _translated(), self._session(READ_ACCESS) as session:
            return list(session.run(Query(query, timeout=self._timeout), parameters))

    def _read(self, query: str, **parameters: Any) -> list[Record]:
        @unit_of_work(timeout=self._timeout)
        def work(transaction: ManagedTransaction) -> list[Record]:
            return list(transaction.run(query, parameters))

        with _translated(), self._session(READ_ACCESS) as session:
            return session.execute_read(work)

    def _write(self, *steps: tuple[str, list[Any]], ends: Sequence[tuple[str, list[str]]] = ()) -> int:
        """Run `ends` (ids to MERGE) and then `steps` as one transaction; return the last step's count."""

        @unit_of_work(timeout=self._timeout * WRITE_PATIENCE)  # a writer that sleeps holds its locks no longer than this
        def work(transaction: ManagedTransaction) -> int:
            if self._token is not None:
                transaction.run(TOUCH_FENCE).consume()
                if not transaction.run(RAISE_FENCE, token=self._token).single(strict=True)["n"]:
                    raise lease_lost()
            for query, identifiers in ends:
                # Sorted, so that two writers meet in one order and do not wait for each other.
                transaction.run(query, rows=sorted(set(identifiers))).consume()
            counts = [transaction.run(query, rows=rows, batch=BATCH).single(strict=True)["n"] for query, rows in steps]
            return int(counts[-1])

        # execute_write repeats transient errors itself. Two writers that MERGE the same new node may also end in a
        # ConstraintError, which the driver takes for final.
        with _translated():
            for attempt in stamina.retry_context(
                on=ConstraintError, attempts=CONSTRAINT_ATTEMPTS, wait_initial=0.05, wait_jitter=0.05, wait_max=1
            ):
                with attempt, self._session(WRITE_ACCESS) as session:
                    return session.execute_write(work)
        raise AssertionError("unreachable: the last attempt returns or raises")


@contextmanager
def open_graph(
    url: str, *, user: str, password: str, database: str = "neo4j", ca_file: Path | None = None, timeout_seconds: float = 10
) -> Iterator[Graph]:
    """Connect within `timeout_seconds`, make sure of the constraints, hand the store out, close.

    Of `neo4j+s://` and `bolt+s://` the server's certificate is held against `ca_file`, or the system's CAs. Raises `StoreUnavailable`
    or `StoreRefused`.
    """
    with TERMS.readable(ConfigurationError):
        address, trust = _trusting(url, ca_file)
        driver = GraphDatabase.driver(
            address,
            auth=(user, password),
            connection_timeout=timeout_seconds,
            connection_acquisition_timeout=timeout_seconds,
            max_transaction_retry_time=timeout_seconds,
            initial_retry_delay=0.05,  # the driver's own, a second, doubles past the timeout
            notifications_min_severity="OFF",
            **trust,
        )
    with driver:
        graph = Graph(driver, database=database, timeout_seconds=timeout_seconds)
        with _translated():
            driver.verify_connectivity()
            for constraint in CONSTRAINTS:
                driver.execute_query(constraint, database_=database)
        yield graph


def _trusting(url: str, ca_file: Path | None) -> tuple[str, Mapping[str, Any]]:
    """The address and the driver's options with which this CA counts: the scheme that asks for TLS allows for none but the system's."""
    scheme, _, rest = url.partition("://")
    if ca_file is None or not scheme.endswith(VERIFIED):
        return url, {}
    return f"{scheme.removesuffix(VERIFIED)}://{rest}", {"encrypted": True, "trusted_certificates": TrustCustomCAs(str(ca_file))}


def _last_of_each(items: Iterable[T], *, key: Callable[[T], tuple[str, str]]) -> list[T]:
    return list({key(item): item for item in items}.values())


def _by_user(user_ids: Iterable[str], ties: Iterable[Tie]) -> dict[str, list[Tie]]:
    """The ties of each person, those of `user_ids` who have none included."""
    of_user: dict[str, list[Tie]] = {user_id: [] for user_id in user_ids}
    for tie in ties:
        of_user.setdefault(tie.user_id, []).append(tie)
    return of_user


def _engagement(user_id: str, campaign_id: str, properties: Mapping[str, Any]) -> Engagement:
    return Engagement(
        user_id=user_id,
        campaign_id=campaign_id,
        weight=properties["weight"],
        value=properties["value"],
        counts={event: properties[event] for event in EVENTS if event in properties},
        first_at_ms=properties["first_at_ms"],
        last_at_ms=properties["last_at_ms"],
        last_message_id=properties["last_message_id"],
    )


def _engagement_row(engagement: Engagement) -> dict[str, Any]:
    return {
        "user_id": engagement.user_id,
        "campaign_id": engagement.campaign_id,
        "properties": {
            **engagement.counts,
            "weight": float(engagement.weight),
            "value": float(engagement.value),
            "first_at_ms": engagement.first_at_ms,
            "last_at_ms": engagement.last_at_ms,
            "last_message_id": engagement.last_message_id,
        },
    }


def _noted_row(user_id: str, engagements: Sequence[Engagement]) -> dict[str, Any]:
    """What of these is positive, in columns: campaigns, weights, times."""
    positive = sorted((each for each in engagements if each.weight > 0), key=lambda each: each.campaign_id)
    columns = (
        [engagement.campaign_id for engagement in positive],
        [float(engagement.weight) for engagement in positive],
        [engagement.last_at_ms for engagement in positive],
    )
    return {"user_id": user_id, "engagements": orjson.dumps(columns).decode() if positive else None}


def _mentioned_row(user_id: str, mention: Mention) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "campaign_id": mention.campaign_id,
        "properties": {"count": mention.count, "last_at_ms": mention.last_at_ms, "last_message_id": mention.last_message_id},
    }


def _expressed_step(pairs: Iterable[ExpressedIntent]) -> tuple[str, list[Any]]:
    rows = [
        {
            "user_id": pair.user_id,
            "intent": pair.intent,
            "properties": {"count": pair.count, "last_at_ms": pair.last_at_ms, "last_message_id": pair.last_message_id},
        }
        for pair in pairs
    ]
    return MERGE_EXPRESSED, rows


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DriverError, Neo4jError) as error:
        raise _in_our_words(error) from None


def _in_our_words(error: DriverError | Neo4jError) -> PersonaError:
    # Codes and class names only: a server's message may quote the ids in the query.
    if isinstance(error, AuthError):
        return StoreRefused("neo4j refused the credentials", hint="Check NEO4J_USER and NEO4J_PASSWORD.")
    if isinstance(error, DriverError):
        return TERMS.fault(error) or StoreUnavailable("neo4j", type(error).__name__)
    if error.is_retryable() or "TransactionTimedOut" in (error.code or ""):
        return StoreUnavailable("neo4j", error.code or "a transient error")
    hint = GRANTS if error.code == FORBIDDEN else "Check the server's log, its disk and the user's rights."
    return StoreRefused(f"neo4j refused: {error.code}", hint=hint)
