"""An erasure that was cut off anywhere and run again ends as if it had never been cut off."""

from collections.abc import Callable
from typing import Any

import pytest

from persona.intake import blanking
from persona.privacy import copies
from persona.privacy.erasure import erase, is_complete
from persona.stores.cache import Cache
from persona.stores.documents.catalog import Catalog
from persona.stores.documents.classifiers import Classifiers
from persona.stores.documents.embeddings import Embeddings
from persona.stores.documents.erasures import Erasures
from persona.stores.documents.ledger import Ledger
from persona.stores.documents.quarantine import Quarantine
from persona.stores.documents.records import Records
from persona.stores.documents.tombstones import Tombstones
from persona.stores.graph import Graph
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse
from tests.pipeline.conftest import World
from tests.privacy.conftest import VERA, Cut, Place, cut_at
from tests.privacy.test_erasure import MENTIONING, NOT_OURS_TO_CHANGE

pytestmark = pytest.mark.slow

STEPS: list[tuple[Any, str]] = [
    (Tombstones, "place"), (Ledger, "add_alias"), (Quarantine, "remove"), (Ledger, "recount"), (blanking.os, "replace"),
    (copies, "recount_without_copy"), (copies, "_remember"), (VectorStore, "remove_user"), (Graph, "remove_user"),
    (Warehouse, "remove_user"), (Cache, "forget"), (Classifiers, "unlearn"), (Embeddings, "remove"),
    (Catalog, "remove_customer"), (Records, "remove_user"), (Erasures, "put"),
]  # fmt: skip


def test_cut_off_at_every_step(place: Place, new_world: Callable[[], World]) -> None:
    cuts = 0
    for owner, verb in STEPS:
        for after in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                cut_at(patch, owner, verb, after=after)
                try:
                    erase(VERA, place.settings, place.world.stores, run_id="e")
                except Cut:
                    cuts += 1
            place.world.drain()
    proof = erase(VERA, place.settings, place.world.stores, run_id="e")
    assert cuts >= len(STEPS)
    assert is_complete(proof)
    assert place.seen(VERA) == MENTIONING | NOT_OURS_TO_CHANGE
    counts = place.counts()
    assert all(of["read"] == of["accepted"] + of["duplicate"] + of["quarantined"] + of["erased"] for of in counts.values())
    place.world.agrees_with_the_truth()
    place.read_everything_again()
    assert place.counts() == counts

    undisturbed = Place(new_world())
    undisturbed.fill()
    erase(VERA, undisturbed.settings, undisturbed.world.stores, run_id="e")
    assert undisturbed.counts() == counts
