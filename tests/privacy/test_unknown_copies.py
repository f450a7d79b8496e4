"""Copies of drops that the ledger does not know, as after a restore of an older backup: others' lines in them stay."""

import gzip
import hashlib
import json
from collections.abc import Callable

from persona.intake.parse import raw_records
from persona.intake.records import ERASED_RECORD
from persona.privacy.erasure import erase, is_complete
from persona.privacy.holdings import export
from persona.privacy.search import format_of
from tests.pipeline.conftest import World
from tests.privacy.conftest import VERA, Place, said

RECORDS = [said("u_1", 1), said(VERA, 1), said("u_2", 1, message=f"{VERA} told me")]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
ARRAY = json.dumps(RECORDS, indent=1).encode()
READABLE = [LINES, ARRAY, b"\xef\xbb\xbf" + LINES, gzip.compress(ARRAY), gzip.compress(b"\n" + LINES), b'["a list"]\n' + LINES]
MENTION = json.dumps(RECORDS[2], indent=1).encode()
THEIRS = json.dumps(RECORDS[1], indent=1).encode()
NOT_READABLE = [f"user,words\n{VERA},hello\n".encode(), ARRAY[:-20]]


def test_others_lines_in_copies_that_nobody_knows_stay(new_world: Callable[[], World]) -> None:
    place = Place(new_world())
    copies = place.settings.claimed_drops
    copies.mkdir(parents=True, exist_ok=True)
    names = {hashlib.sha256(content).hexdigest(): content for content in (*READABLE, MENTION, THEIRS, *NOT_READABLE)}
    for name, content in names.items():
        (copies / name).write_bytes(content)

    waiting = export(VERA, place.settings, place.world.stores)["waiting"]
    assert len(waiting) == len(READABLE) + 1 + len(NOT_READABLE)

    proof = erase(VERA, place.settings, place.world.stores, run_id="e")
    assert is_complete(proof)
    assert {copy.name for copy in copies.iterdir()} == {name for name, content in names.items() if content not in NOT_READABLE}
    for name, content in names.items():
        if content in READABLE:
            left = [raw.raw for raw in raw_records(copies / name, format_of(copies / name) or "")][-3:]
            assert left[1] == ERASED_RECORD and [json.loads(left[0]), json.loads(left[2])] == [RECORDS[0], RECORDS[2]]
        elif content is MENTION:
            assert (copies / name).read_bytes() == MENTION
        elif content is THEIRS:
            assert (copies / name).read_bytes() == ERASED_RECORD
    assert proof["mentions_in_all"] == len(proof["mentions"]) == len(READABLE) + 1

    place.take_in({"late.jsonl": LINES})
    assert place.counts() == {"late.jsonl": {"read": 3, "accepted": 2, "duplicate": 0, "quarantined": 0, "erased": 1}}
