"""Records are taken out of a file where they stood: every other byte, line number and format stays."""

import gzip
import json
import random
from pathlib import Path

import pytest

from persona.intake.blanking import blanked
from persona.intake.parse import DropFault, raw_records
from persona.intake.records import ERASED_RECORD
from persona.privacy.search import Identifier, search

WORDS = ["a", "ä\u2028", '"', "\\", "]}", "x" * 700, "😀", "{[", ","]


def world(seed: int) -> tuple[str, bytes, list[bytes]]:
    """A file's name, its content, and its records."""
    dice = random.Random(seed)
    records = [json.dumps({"n": n, "w": dice.choices(WORDS, k=3)}, ensure_ascii=dice.random() < 0.5).encode() for n in range(30)]
    records.insert(7, b'{"n": ' + "".join(dice.choices("123456789", k=1 << 20)).encode() + b"}")
    suffix = dice.choice([".json", ".jsonl", ".json.gz", ".ndjson.gz"])
    mark = dice.choice([b"", b"\xef\xbb\xbf"])
    if suffix.startswith(".json") and not suffix.startswith(".jsonl"):
        content = mark + b" [ " + b" ,\n ".join(records) + b"\n]\n"
    else:
        content = mark + b"\n\n".join(record + dice.choice([b"", b"\r", b"  "]) for record in records)
    return f"drop{suffix}", gzip.compress(content) if suffix.endswith(".gz") else content, records


@pytest.mark.parametrize("seed", range(8))
def test_the_others_stay_where_they_were(tmp_path: Path, seed: int) -> None:
    name, content, records = world(seed)
    path = tmp_path / name
    path.write_bytes(content)
    path.chmod(0o640)
    before = list(raw_records(path, name))
    assert len(before) == len(records)
    chosen = {raw.line for raw in random.Random(seed).sample(before, 9)} | {before[7].line}
    with blanked(path, name, chosen) as sha256:
        assert path.read_bytes() == content, "until it is made known the file is what it was"
    after = list(raw_records(path, name))
    assert [raw.line for raw in after] == [raw.line for raw in before]
    for old, new in zip(before, after, strict=True):
        assert new.raw == (ERASED_RECORD if old.line in chosen else old.raw)
    assert path.stat().st_mode & 0o777 == 0o640 and list(tmp_path.iterdir()) == [path]
    with blanked(path, name, chosen) as again:
        assert again == sha256, "the same content has the same hash, compressed or not"


def test_a_file_of_nothing_but_marks_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "drop.jsonl.gz"
    records = [json.dumps({"user_id": "u_1", "n": random.Random(n).random()}) for n in range(100_000)]
    path.write_bytes(gzip.compress("\n".join(records).encode()))
    with blanked(path, path.name, range(1, 100_001)):
        pass
    assert all(raw.raw == ERASED_RECORD for raw in raw_records(path, path.name))


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "drop.json"
    path.write_bytes(b'[{"n": 1}, {"n": 2}')
    with pytest.raises(DropFault), blanked(path, path.name, [1]):
        pass
    path.write_bytes(b'[{"n": 1}, {"n": 2}]')
    with pytest.raises(RuntimeError), blanked(path, path.name, [1]):
        raise RuntimeError
    assert path.read_bytes() == b'[{"n": 1}, {"n": 2}]' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("user_id", "theirs", "mention", "neither"),
    [
        ("u_1", '{"user_id": "u_1"}', '{"user_id": "x", "message": "hi u_1!"}', '{"user_id": "u_10"}'),
        ("u_1", '{"user_id": " \\u0075_1 "}', '{"user_id": "x", "message": "so\\nu_1"}', '{"user_id": "U_1", "message": "u_1x"}'),
        ("7", '{"user_id": 7}', '{"user_id": 70, "value": 7}', '{"user_id": "007", "value": 17}'),
        ('a"b\\c', json.dumps({"user_id": 'a"b\\c'}), json.dumps({"user_id": "x", "message": 'a"b\\c'}), '{"user_id": "a"}'),
        ("é😀", json.dumps({"user_id": "é😀"}), '{"user_id": "x", "message": "é😀"}', '{"user_id": "é"}'),
        ("u_1", '{"user_id": "u_1", broken', '{"message": "not u_1, me", "user_id": "x"}', "broken u_1x"),
        ("u_1", '{"user_id": "u\\_1", broken', '{"user_id": "x", "message": "\\"u_1\\""}', '{"user_id": "u\\n_1"}'),
        ("vera", '["vera"]', '["about vera"]', "[]"),
    ],
)
def test_whose_record_it_is(tmp_path: Path, user_id: str, theirs: str, mention: str, neither: str) -> None:
    path = tmp_path / "drop.jsonl"
    path.write_text("\n".join([neither, theirs, mention, ERASED_RECORD.decode()]), encoding="utf-8")
    found = search(path, path.name, Identifier(user_id))
    assert (found.read, found.theirs, found.mentions, found.erased) == (4, [2], [3], 1)


@pytest.mark.parametrize(
    ("behind", "theirs", "mentions"), [('"user_id": "u_1"', [2], []), ('"a": "of u_1."', [], [2]), ('"a": "u_1x"', [], [])]
)
def test_what_stands_far_behind_in_a_record_too_large_to_keep(
    tmp_path: Path, behind: str, theirs: list[int], mentions: list[int]
) -> None:
    path = tmp_path / "drop.jsonl"
    filler = "x" * (1 << 20)
    path.write_text(f'{{}}\n{{"filler": "{filler}", {behind}, "more": "{filler}"}}\n{{"user_id": "x", "message": "u_1"}}\n')
    found = search(path, path.name, Identifier("u_1"))
    assert (found.theirs, found.mentions) == (theirs, [*mentions, 3])
