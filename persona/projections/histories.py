"""Everybody's records in columns, and what `conversations` and `engagements` make of one history made of all of them at once. Pure.

What a conversation, a tie or a profile is, is said there; here a hundred thousand people's are computed in a second.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persona.projections.conversations import (
    ATTRIBUTION,
    OPENING_CHARACTERS,
    PROFILE_HALF_LIFE,
    PROFILE_PARTS,
    SILENCE,
    conversation_id,
    said_in,
)
from persona.projections.engagements import EVENT_NAMES, EVENT_WEIGHTS, MENTION_WEIGHT
from persona.schemas import Event, Vector, Vectors

if TYPE_CHECKING:
    import pyarrow as pa

NONE = -1
"""The number of what is not there."""
EVER, NEVER = np.iinfo(np.int64).max, np.iinfo(np.int64).min
"""After and before every time."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
EVENTS = {name: number for number, name in enumerate(EVENT_NAMES)}
"""Their numbers."""
WEIGHTS = np.array([EVENT_WEIGHTS[Event(name)] for name in EVENT_NAMES])
"""Of events by their number."""
NEGATIVE = WEIGHTS < 0

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Record = Mapping[str, Any]


class Names:
    """The distinct strings of a column, in their order; their numbers are their places."""

    def __init__(self, names: Iterable[str]) -> None:
        self.all = sorted(names)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """By name."""
        return {name: number for number, name in enumerate(self.all)}


class Histories:
    """Everybody's records in columns, by user, then time, then id; a record is a row, numbers stand for names, -1 for none.

    Columns rather than records: millions of them are to fit.
    """

    def __init__(self, records: "pa.Table", named: Mapping[str, Sequence[str]]) -> None:
        """Take in records as `Records.replayable` gives them; `named`: the campaigns that texts name, by the text's hash."""
        self.users, self.channels, self.texts, self.talks, self.intents = (
            Names(distinct(records[field])) for field in ("user_id", "channel", "text_hash", "conversation_id", "intent")
        )
        self.campaigns = Names({*distinct(records["campaign_id"]), *chain.from_iterable(named.values())})
        self._mentions_begin: Ints = np.cumsum([0, *(len(named.get(text, ())) for text in self.texts.all)])
        mentioned = (self.campaigns.numbers[campaign] for text in self.texts.all for campaign in named.get(text, ()))
        self._mentioned: Ints = np.fromiter(mentioned, np.int64)
        user, at_ms = numbered(records["user_id"], self.users.numbers), records["timestamp"].cast("int64").to_numpy()
        order = _in_order(user, at_ms, records["_id"])
        self._ids = records["_id"].take(order)
        self.user, self.at_ms = user[order], at_ms[order]
        self.event = numbered(records["event"], EVENTS)[order]
        self.campaign = numbered(records["campaign_id"], self.campaigns.numbers)[order]
        self.channel = numbered(records["channel"], self.channels.numbers)[order]
        self.text = numbered(records["text_hash"], self.texts.numbers)[order]
        self.talk = numbered(records["conversation_id"], self.talks.numbers)[order]
        self.intent = numbered(records["intent"], self.intents.numbers)[order]
        self.characters: Ints = records["characters"].fill_null(0).to_numpy()[order]
        self.begins: Ints = np.searchsorted(self.user, np.arange(len(self.users.all) + 1))
        self._first_ms = int(self.at_ms.min(initial=0))
        self._span_ms = int(self.at_ms.max(initial=0)) - self._first_ms + 1

    def records(self, rows: Iterable[int]) -> Iterator[dict[str, Any]]:
        """These rows as the truth has them (see `Records.histories`)."""
        places = np.fromiter(rows, dtype=np.int64)
        columns = (column[places].tolist() for column in (self.user, self.at_ms, self.event))
        told = zip(self._ids.take(places).to_pylist(), *columns, strict=True)
        optional = (
            ("campaign_id", self.campaigns, self.campaign),
            ("text_hash", self.texts, self.text),
            ("conversation_id", self.talks, self.talk),
            ("intent", self.intents, self.intent),
        )
        named = [(field, names.all, column[places].tolist()) for field, names, column in optional]
        characters = self.characters[places].tolist()
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

    # -- conversations ----------------------------------------------------------------------------------------------------

    def talks_before(self, at_ms: int) -> "Talks":
        """The conversations as they were then (see `conversations_of`)."""
        rows = np.flatnonzero((self.text != NONE) & (self.at_ms < at_ms))
        user, at = self.user[rows], self.at_ms[rows]
        key = self._talk_key(rows)
        unnamed = np.flatnonzero(self.talk[rows] == NONE)
        goes_on = (np.diff(user[unnamed]) == 0) & (np.diff(at[unnamed]) < SILENCE // MS)
        key[unnamed] = self._talk_keys + np.cumsum(np.concatenate(([True], ~goes_on)))[: len(unnamed)]
        keys, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        number = np.empty(len(keys), np.int64)
        number[np.argsort(first)] = np.arange(len(keys))  # by user and start
        talk = number[inverse]
        order = np.argsort(talk, kind="stable")
        begins = np.searchsorted(talk[order], np.arange(len(keys) + 1))
        named = keys < self._talk_keys
        begin_rows, end_rows = rows[order[begins[:-1]]], rows[order[begins[1:] - 1]]
        return Talks(
            rows[order], begins, self.user[begin_rows], self.at_ms[begin_rows], self.at_ms[end_rows], keys[named], number[named]
        )

    def ties_before(self, at_ms: int, talks: "Talks") -> "Ties":
        """What tied people to campaigns by then: what each message of a conversation names, then what happened."""
        texts = self.text[talks.rows]
        counts = self._mentions_begin[texts + 1] - self._mentions_begin[texts]
        saying = np.repeat(talks.rows, counts)
        mentioned = self._mentioned[ranges(self._mentions_begin[texts], counts)]
        rows = np.flatnonzero((self.campaign != NONE) & (self.at_ms < at_ms))
        return Ties(
            talk=np.concatenate((np.repeat(talks.of_rows, counts), self._talk_of(rows, talks))),
            user=np.concatenate((self.user[saying], self.user[rows])),
            campaign=np.concatenate((mentioned, self.campaign[rows])),
            event=np.concatenate((np.full(len(saying), NONE), self.event[rows])),
            at_ms=np.concatenate((self.at_ms[saying], self.at_ms[rows])),
        )

    def _talk_of(self, rows: Ints, talks: "Talks") -> Ints:
        """The conversation that each of these belongs to, -1 where none does."""
        if not len(talks.user):
            return np.full(len(rows), NONE)
        user, at = self.user[rows], self.at_ms[rows]
        last = np.searchsorted(self._moment(talks.user, talks.started_ms), self._moment(user, at), side="right") - 1
        latest = talks.latest(self._moment(talks.user, talks.ended_ms))[np.maximum(last, 0)]
        near = (last >= 0) & (talks.user[latest] == user) & (at - talks.ended_ms[latest] <= ATTRIBUTION // MS)
        found = np.where(near, latest, NONE)
        if len(talks.named):
            key = self._talk_key(rows)
            place = np.minimum(np.searchsorted(talks.named, key), len(talks.named) - 1)
            said = (self.talk[rows] != NONE) & (talks.named[place] == key)
            found[said] = talks.numbers[place[said]]
        return found

    def _moment(self, user: Ints, at_ms: Ints) -> Ints:
        """In the order of users, then time."""
        return user * self._span_ms + (at_ms - self._first_ms)

    def _talk_key(self, rows: Ints) -> Ints:
        key: Ints = self.user[rows] * max(len(self.talks.numbers), 1) + self.talk[rows]
        return key

    @property
    def _talk_keys(self) -> int:
        return len(self.users.numbers) * max(len(self.talks.numbers), 1)

    # -- what was said ----------------------------------------------------------------------------------------------------

    def talk_vectors(self, talks: "Talks", vectors: Vectors, openings: Mapping[str, tuple[str, Vector]]) -> Vectors:
        """Of each conversation, shape (conversations, dimension); `vectors` by the number of the text, `openings` by conversation."""
        from scipy.sparse import csr_array  # half a second to import

        opening = self._opening(talks)
        rows = talks.rows[opening]
        counts = np.bincount(talks.of_rows[opening], minlength=len(talks.user))
        begins = np.concatenate(([0], np.cumsum(counts)))
        lengths = self._lengths(rows).astype(np.float32)
        found = _unit(csr_array((lengths, self.text[rows], begins), shape=(len(counts), len(vectors))) @ vectors)
        for talk in np.flatnonzero(counts > 1).tolist() if openings else ():
            said = rows[begins[talk] : begins[talk + 1]]
            first = self._ids[talks.rows[talks.begins[talk]]].as_py()
            told, vector = openings.get(conversation_id(self.users.all[talks.user[talk]], first), ("", None))
            if vector is not None and told == said_in(self.texts.all[text] for text in self.text[said].tolist()):
                found[talk] = vector
        return found

    def profiles(self, talks: "Talks", of_talks: Vectors, vectors: Vectors) -> Vectors:
        """Of each user with a conversation (see `profile_of`), shape (users, dimension); `of_talks` as `talk_vectors` gives them."""
        from scipy.sparse import csr_array

        opening = self._opening(talks)
        talk, row = talks.of_rows, talks.rows
        opens = opening & np.concatenate((~opening[1:] | (np.diff(talk) != 0), [True]))[: len(opening)]  # its last message
        at_once = np.bincount(talk[opening], weights=self._lengths(row[opening]), minlength=len(talks.user))
        parts = np.flatnonzero(opens | ~opening)
        parts = parts[np.lexsort((self.at_ms[row[parts]], self.user[row[parts]]))]
        user, at = self.user[row[parts]], self.at_ms[row[parts]]
        _, place, counts = np.unique(user, return_inverse=True, return_counts=True)
        kept = np.arange(len(parts)) >= np.cumsum(counts)[place] - PROFILE_PARTS
        parts, at, place = parts[kept], at[kept], place[kept]
        age = _newest(place, at)[place] - at
        characters = np.where(opens[parts], np.minimum(at_once[talk[parts]], OPENING_CHARACTERS), self._lengths(row[parts]))
        weights = (0.5 ** (age / (PROFILE_HALF_LIFE // MS)) * characters).astype(np.float32)
        total = np.zeros((len(counts), vectors.shape[1]), np.float32)
        for these, column, of in ((opens[parts], talk, of_talks), (~opens[parts], self.text[row], vectors)):
            cells = (weights[these], (place[these], column[parts[these]]))
            total += csr_array(cells, shape=(len(counts), len(of))) @ of
        return _unit(total)

    def _opening(self, talks: "Talks") -> NDArray[np.bool_]:
        """Which messages of the conversations are of how they open."""
        lengths = self.characters[talks.rows] + 1
        before = np.cumsum(lengths) - lengths
        opening: NDArray[np.bool_] = before - before[talks.begins[:-1]][talks.of_rows] < OPENING_CHARACTERS
        return opening

    def _lengths(self, rows: Ints) -> Ints:
        lengths: Ints = np.clip(self.characters[rows], 1, OPENING_CHARACTERS)
        return lengths


@dataclass(frozen=True)
class Talks:
    """Conversations by user and start; all but the first of one entry for each."""

    rows: Ints
    """Their messages, conversation by conversation, by time."""
    begins: Ints
    """Where each one's begin among them, and where the last one's end."""
    user: Ints
    started_ms: Ints
    ended_ms: Ints
    named: Ints
    """Keys of those that have an id, in order."""
    numbers: Ints
    """Which they are."""

    @cached_property
    def of_rows(self) -> Ints:
        """The conversation of each message."""
        return np.repeat(np.arange(len(self.user)), np.diff(self.begins))

    @staticmethod
    def latest(ended: Ints) -> Ints:
        """For each number of conversations begun the one of them that ended last; `ended` in the order of users, then time."""
        last = ended == np.maximum.accumulate(ended)
        latest: Ints = np.maximum.accumulate(np.where(last, np.arange(len(ended)), 0))
        return latest


@dataclass(frozen=True)
class Ties:
    """What ties people to campaigns; columns of one length."""

    talk: Ints
    """The conversation that it belongs to; -1 for none."""
    user: Ints
    campaign: Ints
    event: Ints
    """-1: the person's words name the campaign."""
    at_ms: Ints

    @property
    def strength(self) -> Floats:
        """In [-1, 1]; negative: refused."""
        return np.where(self.event == NONE, MENTION_WEIGHT, WEIGHTS[self.event])

    def outcomes(self) -> tuple[Ints, Ints, Floats]:
        """Conversation, campaign, strength: the strongest event of a campaign counts, the later of equals."""
        inside = np.flatnonzero(self.talk != NONE)
        strength = self.strength[inside]
        order = np.lexsort((np.abs(strength), self.campaign[inside], self.talk[inside]))
        talk, campaign = self.talk[inside][order], self.campaign[inside][order]
        last = np.append((np.diff(talk) != 0) | (np.diff(campaign) != 0), True)[: len(order)]
        return talk[last], campaign[last], strength[order[last]]

    def pairs(self, campaigns: int) -> "Pairs":
        """Each (user, campaign) with anything that was done, as `engagement_of` folds it; there are so many campaigns."""
        done = np.flatnonzero(self.event != NONE)
        keys, pair = np.unique(self.user[done] * campaigns + self.campaign[done], return_inverse=True)
        at, event = self.at_ms[done], self.event[done]
        last, refused, engaged = (np.full(len(keys), NEVER) for _ in range(3))
        strongest = np.full(len(keys), -1.0)
        np.maximum.at(last, pair, at)
        np.maximum.at(refused, pair[NEGATIVE[event]], at[NEGATIVE[event]])
        np.maximum.at(engaged, pair[~NEGATIVE[event]], at[~NEGATIVE[event]])
        np.maximum.at(strongest, pair, WEIGHTS[event])
        return Pairs(
            keys // campaigns, keys % campaigns, np.where((refused != NEVER) & (refused >= engaged), -1.0, strongest), last
        )


@dataclass(frozen=True)
class Pairs:
    """Users and campaigns that anything happened between, in their order; columns of one length."""

    user: Ints
    campaign: Ints
    weight: Floats
    last_at_ms: Ints


def distinct(column: "pa.ChunkedArray") -> list[str]:
    """The strings that there are, in no order."""
    found: list[str] = column.unique().drop_null().to_pylist()
    return found


def numbered(column: "pa.ChunkedArray", numbers: Mapping[str, int]) -> Ints:
    """The number of each of these strings, all of which have one; -1 for none."""
    coded = column.dictionary_encode().combine_chunks()
    of_codes = np.array([*map(numbers.__getitem__, coded.dictionary.to_pylist()), NONE], np.int64)
    found: Ints = of_codes[coded.indices.fill_null(NONE).to_numpy(zero_copy_only=False)]
    return found


def _in_order(user: Ints, at_ms: Ints, ids: "pa.ChunkedArray") -> Ints:
    order = np.lexsort((at_ms, user))
    equal = (np.diff(user[order]) == 0) & (np.diff(at_ms[order]) == 0)
    if equal.any():  # only then do ids decide: comparing millions of them takes longer than all the rest
        tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
        rows = order[tied]
        _, rank = np.unique(np.array(ids.take(rows).to_pylist(), object), return_inverse=True)
        order[tied] = rows[np.lexsort((rank, at_ms[rows], user[rows]))]
    return order


def ranges(begins: Ints, counts: Ints) -> Ints:
    """The numbers from each beginning on, so many, one after the other."""
    ends = np.cumsum(counts)
    found: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - (ends - counts), counts)
    return found


def _newest(place: Ints, at_ms: Ints) -> Ints:
    newest = np.full(int(place.max(initial=-1)) + 1, NEVER)
    np.maximum.at(newest, place, at_ms)
    return newest


def _unit(vectors: NDArray[np.float32]) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = vectors / np.maximum(norms, 1e-9)
    found[norms[:, 0] <= 1e-9] = np.eye(1, vectors.shape[1], dtype=np.float32)  # as `conversations` says: any fixed one
    return found
