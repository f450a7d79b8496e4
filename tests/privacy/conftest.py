"""A small world in which one of a few people left traces everywhere, and eyes of its own to look for them: drivers, and bytes."""

import gzip
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from bson.raw_bson import RawBSONDocument
from pydantic import SecretStr
from pymilvus import MilvusClient

from persona.intake.catalogs import load_folder
from persona.intake.drops import take_in_all
from persona.settings import Settings
from persona.stores.documents.ledger import Entry
from tests.kept_answers import Kept
from tests.pipeline.conftest import START, World
from tests.pipeline.conftest import new_world as new_world
from tests.worlds import graph_session

VERA = "vera-4711ü"
ESCAPED = json.dumps(VERA)[1:-1]
OTHERS = ["u_1", "u_2", "vera-47"]


def said(user: str, number: int, **fields: Any) -> dict[str, Any]:
    """A message about a campaign."""
    record = {"user_id": user, "message": f"about refund {number} from {user}", "timestamp": START + 600 * number}
    return {**record, "message_id": f"m_{user}_{number}", "channel": "email", **fields}


def drops() -> dict[str, bytes]:
    """File name to content: every format, and every end that a line or a drop can come to."""
    everyone = [said(user, number) for number in range(4) for user in (*OTHERS, VERA)]
    clicks = [
        said(user, 20 + number, event="click", campaign_id=f"c_{number}", value=0.1 * number)
        for number in range(3)
        for user in (*OTHERS, VERA)
    ]
    shared = [said(user, 30, message="the same words on offer c 3") for user in (VERA, "u_1")]
    mention = [said("u_2", 31, message=f"{VERA} told me"), said("u_2", 32, message=f'line\n"{VERA}"', attributes={"a": "ä"})]
    bad = [{"user_id": VERA, "message": "no time"}, {"user_id": "u_1", "message": "no time"}]
    future = [said(VERA, 33, timestamp="2999-01-01T00:00:00Z")]
    broken = [f'{{"user_id": "{VERA}", "message": "cut', f'{{"user_id": "{ESCAPED}", oops}}', f'["{VERA}", "a list"]']
    large = [json.dumps({"filler": "x" * 1_100_000, "user_id": VERA, "message": "beyond"})]
    return {
        "everyone.jsonl": _lines(everyone),
        "clicks.json.gz": gzip.compress(json.dumps(clicks, ensure_ascii=False, indent=1).encode()),
        "again.json": json.dumps(everyone[2:6]).encode(),
        "mixed.jsonl": _lines([*shared, *mention, *bad, *future, *broken, *large, *[said("u_1", n) for n in range(40, 60)]]),
        "single.json": json.dumps(said(VERA, 70)).encode(),
        "held.jsonl": _lines([said(VERA, 80), *bad, *bad, said("u_1", 81)]),
        "cut.json": json.dumps([said(VERA, 90), said("u_1", 91)]).encode()[:-20],
        "table.csv": f"user,words\n{VERA},hello\n".encode(),
        "others.jsonl": _lines([said("u_1", 95), said("u_2", 96)]),
    }


def _lines(records: list[Any]) -> bytes:
    return b"".join((record if isinstance(record, str) else json.dumps(record)).encode() + b"\n" for record in records)


class Place:
    """A world filled with `drops`, and what can be seen of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pipeline = world.pipeline
        self.settings = world.pipeline.settings
        self.documents = world.pipeline.documents

    def take_in(self, files: dict[str, bytes] | None = None) -> None:
        """Put the files into the watched folder and drain them to every store."""
        for name, content in (files or {}).items():
            (self.settings.drops / name).write_bytes(content)
        take_in_all(self.pipeline, run_id="r")
        self.world.drain()

    def fill(self) -> None:
        """Everything there can be of a person."""
        self.world.load_catalogs()
        customers = [{"user_id": user, "segments": ["gold"], "consent": True} for user in (*OTHERS, VERA)]
        (self.settings.catalog / "users.json").write_text(json.dumps(customers))
        load_folder(self.pipeline, run_id="r")
        self.take_in(drops())
        for user in (*OTHERS, VERA):
            _, version = Kept(self.pipeline.settings.addresses.redis).read(user, "g", "q")
            Kept(self.pipeline.settings.addresses.redis).write(
                user, "g", "q", f'{{"user_id": "{user}"}}'.encode(), version=version, ttl=60
            )

    @property
    def addressed(self) -> Settings:
        """Settings that name every store of this world, for those who open them for themselves."""
        addresses = self.settings.addresses
        urls = {name: SecretStr(url) for name, url in (("mongodb_uri", addresses.mongodb), ("redis_url", addresses.redis))}
        folders = {name: getattr(self.settings, name) for name in ("home", "drops", "catalog")}
        return Settings(
            _env_file=None, **folders, **urls, settle_seconds=0, mongodb_database=self.documents.database.name,
            milvus_uri=addresses.milvus, neo4j_uri=addresses.neo4j, neo4j_user=addresses.neo4j_user,
            neo4j_password=SecretStr(addresses.neo4j_password), sqlite_path=self.settings.home / "warehouse.sqlite",
        )  # fmt: skip

    def read_everything_again(self) -> None:
        """Judge every drop anew from its claimed copy, and apply it anew."""
        take_in_all(self.pipeline, run_id="again", drops=[entry.id for entry in self._drops()], reapply=True)
        self.world.drain()

    def empty_the_folder(self) -> None:
        """Let the watched folder be as new: every file that comes is looked at."""
        for path in self.settings.drops.iterdir():
            path.unlink()

    def seen(self, needle: str) -> set[str]:
        """Where the needle is, in whatever spelling: asked of every server through its driver, and of every file of ours."""
        spellings = {needle.encode(), json.dumps(needle)[1:-1].encode(), needle.encode("utf-16-le")}
        return {where for where, content in self._everything() if any(spelling in content for spelling in spellings)}

    def counts(self) -> dict[str, dict[str, int]]:
        """What the ledger says of each drop, by its file's name."""
        return {entry.name: entry.counts.as_dict() for entry in self._drops()}

    def _drops(self) -> list[Entry]:
        return self.documents.ledger.all_of("drop", states=["claimed", "accepted", "held", "discarded"])

    def _everything(self) -> Iterator[tuple[str, bytes]]:
        raw = self.documents.database.with_options(
            codec_options=self.documents.database.codec_options.with_options(document_class=RawBSONDocument)
        )
        for name in raw.list_collection_names():
            for found in raw[name].find():
                yield f"mongodb:{name}", bytes(found.raw)
        addresses = self.settings.addresses
        with closing(MilvusClient(addresses.milvus, token=addresses.milvus_token, dedicated=True)) as client:
            for name in client.list_collections():
                for row in client.query(name, filter='id != ""', output_fields=["*"], limit=16_000, consistency_level="Strong"):
                    yield f"milvus:{name.partition('_')[0]}", repr(row).encode()
        with graph_session(self.settings) as session:
            for found in session.run("MATCH (a) OPTIONAL MATCH (a)-[r]->() RETURN properties(a) AS a, properties(r) AS r"):
                yield "neo4j", repr(found.data()).encode()
        with closing(sqlite3.connect(self.settings.home / "warehouse.sqlite")) as connection:
            for line in connection.iterdump():
                yield "warehouse", line.encode()
        with redis.Redis.from_url(addresses.redis) as client:
            for key in client.scan_iter("persona:answers:*"):
                yield "redis", b" ".join(client.hgetall(key).values())
        for path in (path for path in self.settings.home.rglob("*") if path.is_file() and "warehouse" not in path.name):
            folder = path.relative_to(self.settings.home).parts[0]
            content = path.read_bytes()
            yield f"{folder}:{self._name_of(path)}", gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content

    def _name_of(self, path: Path) -> str:
        entries = self.documents.ledger.get([path.name])
        return entries[0].name if entries else path.name


class Cut(Exception):
    """A run that was ended from outside."""


def cut_at(patch: pytest.MonkeyPatch, owner: Any, verb: str, *, after: bool) -> None:
    """The verb ends the run, before or after its work is done."""
    real: Callable[..., Any] = getattr(owner, verb)

    def cutting(*args: Any, **kwargs: Any) -> Any:
        if after:
            real(*args, **kwargs)
        raise Cut

    patch.setattr(owner, verb, cutting)


@pytest.fixture
def place(new_world: Callable[[], World]) -> Place:
    """A filled world."""
    made = Place(new_world())
    made.fill()
    return made
