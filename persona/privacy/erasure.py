"""Erasing a person everywhere, and the proof of it: what was found, what is left, and where copies lie that are out of reach.

The tombstone comes first and the records last: they tell which drops and texts were the person's, so that an erasure that was
interrupted anywhere finds the rest when it is run again.
"""

import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from persona.errors import NotFound
from persona.intake.drops import claim_settled
from persona.intake.inbox import arrivals_in
from persona.language.intents import definition_texts
from persona.pipeline.draining import Pipeline
from persona.pipeline.labelling import forget_lessons, outdated_classifiers
from persona.pipeline.lease import Lease
from persona.privacy.copies import (
    CopyFound,
    Source,
    as_they_were_claimed,
    claimed_copies,
    erase_from_copy,
    erase_from_sources,
    find_in_copies,
    recount_without_copy,
)
from persona.privacy.holdings import UNKNOWN, QuarantinedLine, count_in_stores, quarantined_of
from persona.privacy.residue import residue_of
from persona.privacy.search import Identifier
from persona.settings import Settings
from persona.stores.documents.dumping import drop_beside
from persona.stores.documents.embeddings import text_hash
from persona.stores.opening import Stores

MENTIONS_LISTED = 1_000
Progress = Callable[[str], None]
Proof = dict[str, Any]


def erase(user_id: str, settings: Settings, stores: Stores, *, run_id: str, progress: Progress = lambda what: None) -> Proof:
    """Erase this person from every store, claimed copy and watched file; return the proof, which is kept as well.

    What they do from now on is welcome. Raises `NotFound` where nothing is held and nobody of that id was erased before, `Busy`
    where another run holds the lease. Interrupted, it is finished by being run again.
    """
    pipeline = Pipeline(settings, stores.documents, stores.warehouse, stores.cache)
    with pipeline.lease(run_id, "erasure") as lease:
        drop_beside(stores.documents)  # what a restore that died has left
        claim_settled(pipeline, run_id=run_id)  # what lies in the drop folder is in the ledger, or is not old enough to be
        return erase_under(lease, user_id, settings, stores, run_id=run_id, progress=progress)


def erase_under(
    lease: Lease,
    user_id: str,
    settings: Settings,
    stores: Stores,
    *,
    run_id: str,
    again: bool = False,
    progress: Progress = lambda what: None,
) -> Proof:
    """`erase` for a holder of the lease.

    With `again`, for one who was erased and came back with an old copy of the truth: the tombstone keeps its time, and the watched
    folders are left alone, as what is in them came later.
    """
    return _Erasure(lease, user_id, settings, stores, run_id, progress).run(again=again)


class _Erasure:
    def __init__(self, lease: Lease, user_id: str, settings: Settings, stores: Stores, run_id: str, progress: Progress) -> None:
        self._lease = lease
        self._identifier = Identifier(user_id)
        self._user_id = self._identifier.user_id
        self._settings = settings
        self._stores = stores
        self._documents = stores.documents
        self._run_id = run_id
        self._progress = progress

    def run(self, *, again: bool = False) -> Proof:
        self._progress("looking for the person in every store and claimed drop")
        paths = claimed_copies(self._settings)
        copies = find_in_copies(paths, self._documents, self._identifier)
        clean = as_they_were_claimed(self._documents, paths) - {copy.path.name for copy in copies}
        quarantined = quarantined_of(self._stores, self._identifier, copies)
        found = count_in_stores(self._stores, self._user_id)
        found |= {"quarantine": len(quarantined), "drops": _records_in(copies)}
        tombstones = self._documents.tombstones
        before = tombstones.times([self._user_id]).get(self._user_id)
        # Redis has an answer for anybody who was asked for
        if before is None and not any(n for store, n in found.items() if store != "redis"):
            raise NotFound(UNKNOWN, hint="Ids are compared exactly, upper and lower case included.")
        self._lease.check()
        at = datetime.now(UTC)
        newest = self._documents.records.newest_of_user(self._user_id)
        until = before if again and before else max(at, newest or at)  # a producer's clock may be ahead by a day
        tombstone = tombstones.place(self._user_id, at=until)
        self._erase_from_drops(copies, quarantined)
        sources = [] if again else self._erase_from_sources(clean)
        self._erase_from_projections()
        texts = self._texts()
        found |= self._known_of(texts) | {"texts": len(texts)}
        self._erase_texts(texts)
        self._lease.check()
        self._documents.catalog.remove_customer(self._user_id)
        self._documents.records.remove_user(self._user_id)
        self._stores.cache.forget(self._user_id)  # last: until then an answer may be made of what was left
        self._progress("looking again")
        left = self._left(copies, texts)
        mentions = self._mentions(copies)
        proof: Proof = {
            "erasure": uuid.uuid4().hex,
            "user": tombstone,
            "at": at,
            "found": found,
            "left": left,
            "drops": [
                {"drop": copy.path.name, "lines": copy.found.theirs, "emptied": copy.found.unreadable}
                for copy in copies
                if copy.found
            ],
            "sources": [
                {"file": self._identifier.masked(source.path.name), "rewritten": source.rewritten, "why": source.why}
                for source in sources
            ],
            "mentions": mentions[:MENTIONS_LISTED],
            "mentions_in_all": len(mentions),
            "backups": [{"path": backup.path, "at": backup.at} for backup in self._documents.backups.before(at)],
            "residue": [*self._named(sources), *residue_of(self._settings)],
        }
        self._documents.erasures.put(proof)
        return proof

    def _erase_from_drops(self, copies: list[CopyFound], quarantined: list[QuarantinedLine]) -> None:
        documents, run_id = self._documents, self._run_id
        of_user = documents.records.drops_of_user(self._user_id)
        blanked = [copy for copy in copies if copy.found]
        for done, copy in enumerate(blanked, 1):
            self._lease.check()
            erase_from_copy(documents, copy, of_user=of_user.get(copy.path.name, 0), run_id=run_id)
            self._progress(f"claimed drops: {done} of {len(blanked)}")
        lines = Counter(found.drop for found in quarantined)
        gone = sorted({*of_user, *lines} - {copy.path.name for copy in blanked})
        for entry in documents.ledger.get(gone):
            self._lease.check()
            recount_without_copy(
                documents, entry, of_user=of_user.get(entry.id, 0), quarantined_of_user=lines[entry.id], run_id=run_id
            )
        for found in quarantined:
            documents.quarantine.remove(found.drop, [found.line])

    def _erase_from_projections(self) -> None:
        stores = self._stores
        self._progress("projections")
        for version in stores.vectors.versions():  # of a truth that is gone, too
            self._lease.check()
            stores.vectors.at(version).remove_user(self._user_id)
        stores.graph.fenced(self._lease.token).remove_user(self._user_id)
        stores.warehouse.fenced(self._lease.token).remove_user(self._user_id)

    def _texts(self) -> list[str]:
        """The hashes of the texts that no one else's record and no catalog has."""
        texts = self._documents.records.texts_of_user_alone(self._user_id)
        texts -= {text_hash(campaign.text) for campaign in self._documents.catalog.campaigns()}
        texts -= {text_hash(text) for intent in self._documents.catalog.intents() for text in definition_texts(intent)}
        return sorted(texts)

    def _erase_texts(self, texts: list[str]) -> None:
        """Forget what is known of the texts and was learned from them, and of conversations."""
        self._lease.check()
        forget_lessons(self._documents, self._lease, texts)
        self._documents.embeddings.remove(texts)
        self._documents.conversations.remove_user(self._user_id)

    def _known_of(self, texts: list[str]) -> dict[str, int]:
        return {**self._documents.embeddings.kept_of(texts), "lessons": self._documents.classifiers.count_of(texts)}

    def _erase_from_sources(self, clean: set[str]) -> list[Source]:
        return erase_from_sources(self._settings, self._documents, self._identifier, self._lease, clean=clean)

    def _left(self, copies: list[CopyFound], texts: list[str]) -> dict[str, int]:
        """What every store answers when it is asked again, and every file that was rewritten; under the lease no other changes."""
        rewritten = [copy.path for copy in copies if copy.path.exists()]
        rewritten += [arrival.path for arrival in arrivals_in(self._settings.inbox)]
        again = find_in_copies(rewritten, self._documents, self._identifier)
        return count_in_stores(self._stores, self._user_id) | {
            "quarantine": len(quarantined_of(self._stores, self._identifier, again)),
            "drops": _records_in(again),
            **self._known_of(texts),
            "classifiers": outdated_classifiers(self._documents),
        }

    def _mentions(self, copies: list[CopyFound]) -> list[dict[str, Any]]:
        """Where others' words hold the id."""
        catalog = self._documents.catalog
        entries = [("campaigns", campaign.campaign_id, campaign.model_dump_json()) for campaign in catalog.campaigns()]
        entries += [("intents", intent.intent, intent.model_dump_json()) for intent in catalog.intents()]
        records: list[dict[str, Any]] = [
            {"drop": copy.path.name, "line": line} for copy in copies for line in copy.found.mentions
        ]
        return records + [
            {"catalog": name, "entry": self._identifier.masked(key)}
            for name, key, content in entries
            if self._identifier.stands_in(content.encode())
        ]

    def _named(self, sources: list[Source]) -> list[dict[str, str]]:
        """Where the person's name is left because it is not ours to change."""
        named = [
            {
                "where": f"{self._identifier.masked(source.path.name)} in the watched folder",
                "removed_by": f"its owner: it is {source.why}",
            }
            for source in sources
            if not source.rewritten
        ]
        states = ["claimed", "accepted", "held", "discarded"]
        named += [
            {"where": f"the name of drop {entry.id[:12]}", "removed_by": "nothing: a drop keeps the name of its file"}
            for entry in self._documents.ledger.all_of("drop", states=states)
            if self._identifier.stands_in(entry.name.encode(errors="surrogateescape"))
        ]
        return named


def is_complete(proof: Proof) -> bool:
    """Whether nothing of the person is left in any store or claimed drop."""
    return not any(proof["left"].values())


def _records_in(copies: list[CopyFound]) -> int:
    return sum(len(copy.found.theirs) + copy.found.unreadable for copy in copies)
