"""What a backup and a restore promise: everything comes back as it was, here or elsewhere; nothing half; and the erased stay erased."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymilvus import MilvusClient

from persona.backup import making, restoring
from persona.backup.manifest import read_manifest
from persona.errors import Busy, InvalidInput, NotFound, PersonaError, StoreRefused
from persona.schemas import UserProfile
from persona.stores.documents import dumping
from tests.backup.conftest import Home
from tests.worlds import Dump, content, differences, everything, learned, put_drop, said

pytestmark = pytest.mark.slow

PASSED_BY_HAND = ("files", "generations", "relations", "centroids")
KEPT_APART = ("mongodb:backups",)


def held(home: Home) -> Dump:
    """What the stores hold, and what of MongoDB `content` leaves out; where the backups are is told apart."""
    found = content(home.settings)
    with pymongo.MongoClient(home.settings.addresses.mongodb, tz_aware=True) as client:
        database = client[home.settings.mongodb_database]
        for name in PASSED_BY_HAND:
            found[f"mongodb:{name}"] = sorted(map(str, database[name].find()))
    found["neo4j:RELATED"] = learned(home.settings)["neo4j:RELATED"]
    return {name: rows for name, rows in found.items() if name not in KEPT_APART}


def mongodb(home: Home) -> Any:
    client: Any = pymongo.MongoClient(home.settings.addresses.mongodb, tz_aware=True)
    return client[home.settings.mongodb_database]


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Where it is put."""
    return tmp_path / "somewhere" / "backup"


def test_restored_elsewhere_everything_is_as_it_was(new_home: Callable[[str], Home], backup: Path) -> None:
    here = new_home("here")
    here.fill()
    before, answers, copies = held(here), here.answers(), here.copies()
    assert len(answers) > 5 and all(answers.values()) and len(copies) == 6 and before["neo4j:RELATED"]
    manifest = here.back_up(backup)
    assert held(here) == before
    elsewhere = new_home("elsewhere")
    done = elsewhere.restore(backup)
    assert differences(before, held(elsewhere)) == {}
    assert elsewhere.answers() == answers
    assert elsewhere.copies() == copies
    assert (done.at, done.drops, done.erased_again, done.not_in_backup) == (manifest.at, 6, 0, [])
    assert done.documents == sum(manifest.collections.values())
    with elsewhere.opened() as (stores, _):
        documents = stores.documents
        assert documents.ledger.waiting(["embeddings", "intents", "milvus_collection", "neo4j_graph", "engagement_metrics"]) == 0
        assert len(stores.warehouse.stages("r")) > 5 and stores.warehouse.stages("restore")[-1].status == "success"
        assert documents.embeddings.collections_named() == [documents.embeddings.collections_in_use()]
        documents.records.expressive_among(["u_x"])  # by an index that has to be there
        assert [known.path for known in documents.backups.before(datetime.now(UTC))] == [str(backup)]
    for home in (elsewhere,):  # and it goes on: what arrives next is applied, what arrived before is known
        put_drop(home.settings.drops, "next.jsonl", [said("u_next", "a loan please", campaign_id="c_1")])
        put_drop(home.settings.drops, "known.jsonl", [said("u_x", "hello")])
        home.drain()
        assert "u_next" in home.answers()
        assert sum(row.count('"name"') for row in held(home)["mongodb:ledger"]) == len(before["mongodb:ledger"]) + 1


def test_what_is_there_is_replaced_only_when_that_is_said(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    home.fill()
    before, answers = held(home), home.answers()
    home.back_up(backup)
    later = put_drop(home.settings.drops, "later.jsonl", [said("u_later", "something else", campaign_id="c_new")])
    home.drain()
    grown = held(home)
    with pytest.raises(InvalidInput, match="already"):
        home.restore(backup)
    assert held(home) == grown
    version = mongodb(home)["state"].find_one({"_id": "catalog"})["version"]
    done = home.restore(backup, replace=True)
    assert differences(before, held(home)) == {}
    assert home.answers() == answers
    assert len(done.not_in_backup) == 1
    assert mongodb(home)["state"].find_one({"_id": "catalog"})["version"] > version  # so that serving notices
    assert later.exists()
    home.drain()
    assert "u_later" in home.answers()


DAMAGES: list[Callable[[Path], Any]] = [
    lambda backup: next((backup / "drops").iterdir()).unlink(),
    lambda backup: flip(backup / "mongodb" / "records.bson"),
    lambda backup: flip(backup / "manifest.json"),
    lambda backup: (backup / "manifest.sha256").unlink(),
    lambda backup: (backup / "mongodb" / "ledger.bson").write_bytes(b""),
    lambda backup: (backup / "history.json").write_text("{}"),
]


def test_a_damaged_backup_changes_nothing(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    put_drop(home.settings.drops, "a.jsonl", [said("u_1", "hello", campaign_id="c_1")])
    home.drain()
    home.back_up(backup)
    before, copies = everything(home.settings), home.copies()
    for number, damage in enumerate(DAMAGES):
        damaged = backup.with_name(f"damaged-{number}")
        shutil.copytree(backup, damaged)
        damage(damaged)
        with pytest.raises(InvalidInput, match="damaged"):
            home.restore(damaged, replace=True)
        assert (everything(home.settings), home.copies()) == (before, copies)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_where_there_is_no_backup_there_is_nothing_to_restore(new_home: Callable[[str], Home], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no backup"):
        new_home("here").restore(tmp_path)


def test_of_another_format_it_says_so(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    home.back_up(backup)
    manifest = read_manifest(backup)
    manifest.format = 99
    manifest.write(backup)
    with pytest.raises(InvalidInput, match="format 99"):
        home.restore(backup)


def test_a_backup_is_whole_or_not_there(new_home: Callable[[str], Home], backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = new_home("here")
    put_drop(home.settings.drops, "a.jsonl", [said("u_1", "hello")])
    home.drain()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def killed(*_: object) -> None:
        raise SystemExit

    for module, name, fault, raised in (
        (making.shutil, "copyfile", full, PersonaError),
        (dumping, "dump", killed, SystemExit),
        (making, "sha256_of", full, PersonaError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fault)
            with pytest.raises(raised) as error:
                home.back_up(backup)
        assert raised is SystemExit or "No space left" in str(error.value)
        assert list(backup.parent.iterdir()) == []
        with home.opened() as (stores, _):
            assert stores.documents.backups.before(datetime.now(UTC)) == []
            assert stores.documents.leases.holder() is None
    backup.with_name(f".{backup.name}.unfinished").mkdir()  # what one that was killed outright has left
    home.back_up(backup)
    assert [path.name for path in backup.parent.iterdir()] == [backup.name]
    with pytest.raises(InvalidInput, match="not empty"):
        home.back_up(backup)


def test_what_a_killed_backup_has_left_is_known_until_the_next_removes_it(
    new_home: Callable[[str], Home], backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = new_home("here")
    put_drop(home.settings.drops, "a.jsonl", [said("vera", "hello"), said("u_1", "hello")])
    home.drain()

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(making.Manifest, "write", killed)
        patch.setattr(making.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            home.back_up(backup)
    assert [path.name for path in backup.parent.iterdir()] == [f".{backup.name}.unfinished"]
    assert [known["path"] for known in home.erase("vera")["backups"]] == [str(backup)]
    home.back_up(backup.with_name("another"))
    assert [path.name for path in backup.parent.iterdir()] == ["another"]


def test_every_byte_is_on_the_disk_before_the_backup_is_there(
    new_home: Callable[[str], Home], backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = new_home("here")
    put_drop(home.settings.drops, "a.jsonl", [said("u_1", "hello")])
    home.drain()
    synced: set[Path] = set()
    real, unfinished = os.fsync, backup.with_name(f".{backup.name}.unfinished")

    def watched(descriptor: int) -> None:
        real(descriptor)
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", watched)
    home.back_up(backup)
    written = {unfinished / path.relative_to(backup) for path in backup.rglob("*")}
    assert len(written) > 10 and written | {unfinished, backup.parent} <= synced


def test_a_mount_point_is_refused_at_once(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    backup.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", backup], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk may be mounted here: {done.stderr.decode().strip()}")
    try:
        with pytest.raises(InvalidInput, match="Name a folder in it"):
            home.back_up(backup)
        home.back_up(backup / "monday")
        assert [path.name for path in backup.iterdir()] == ["monday"]
    finally:
        subprocess.run(["umount", "--lazy", backup], check=True)


def test_no_secret_is_in_it(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    home.back_up(backup)
    secrets = {home.settings.neo4j_password.get_secret_value(), home.settings.addresses.mongodb, home.settings.addresses.redis}
    written = b"".join(path.read_bytes() for path in backup.rglob("*") if path.is_file())
    assert [secret for secret in secrets if secret and "@" in secret and secret.encode() in written] == []
    assert home.settings.neo4j_password.get_secret_value().encode() not in written
    assert json.loads((backup / "settings.json").read_text())["mongodb_database"] == home.settings.mongodb_database
    assert (backup.stat().st_mode & 0o777) == 0o700


def test_while_another_writes_neither_begins(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    home.back_up(backup)
    hurried = Home(home.settings.model_copy(update={"lease_wait_seconds": 0}))
    with home.opened() as (_, pipeline), pipeline.lease("other", "a test"):
        with pytest.raises(Busy, match="other"):
            hurried.back_up(backup.with_name("second"))
        with pytest.raises(Busy, match="other"):
            hurried.restore(backup)


def test_an_interrupted_restore_is_finished_by_the_next(
    new_home: Callable[[str], Home], backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = new_home("here")
    here.fill()
    before, copies = held(here), here.copies()
    here.back_up(backup)
    elsewhere = new_home("elsewhere")

    def power_cut(*_: Any, **__: Any) -> None:
        raise RuntimeError("power cut")

    with elsewhere.opened() as (stores, pipeline):
        rebuilds = stores.documents.rebuilds
        rebuilds.begin("intents", run_id="of another truth", token=1)
        for when in ("_load_truth", "_put_drops", "use_beside", "_erase_again", "rebuild"):
            with monkeypatch.context() as patch:
                patch.setattr(dumping if when == "use_beside" else restoring, when, power_cut)
                with pytest.raises(RuntimeError, match="power cut"):
                    elsewhere.restore(backup)
            assert [name for name in mongodb(elsewhere).list_collection_names() if name.startswith(dumping.BESIDE)] == []
            if when == "_load_truth":  # nothing has been changed yet
                with pipeline.lease("other", "a test"):
                    continue
            for work in (elsewhere.drain, lambda: elsewhere.erase("vera"), lambda: elsewhere.back_up(backup.with_name("half"))):
                with pytest.raises(StoreRefused, match="persona restore DIR"):
                    work()
            assert not backup.with_name("half").exists()
        elsewhere.restore(backup)
        with pipeline.lease("other", "a test"):
            assert [rebuilds.run_of(asset) for asset in ("restore", "intents")] == [None, None]
    assert differences(before, held(elsewhere)) == {}
    assert elsewhere.copies() == copies


def test_vectors_of_a_truth_that_is_gone_do_not_stay(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    home.fill()
    before = held(home)
    home.back_up(backup)
    leave_behind(home, "v7", "vera")
    mongodb(home).client.drop_database(home.settings.mongodb_database)
    home.restore(backup)
    assert differences(before, held(home)) == {}
    with home.opened() as (stores, _):
        assert stores.vectors.versions() == [stores.documents.embeddings.collections_in_use()]
    empty = new_home("empty")
    empty.back_up(backup.with_name("empty"))
    leave_behind(empty, "v1", "vera")
    empty.restore(backup.with_name("empty"))
    with empty.opened() as (stores, _):
        assert stores.vectors.versions() == []


def leave_behind(home: Home, version: str, *users: str) -> None:
    """Collections that no truth names, not loaded, as after the server's restart."""
    with home.opened() as (stores, _):
        there = stores.vectors.at(version)
        there.prepare(home.encoder.dimension)
        vectors = home.encoder.encode(users)
        there.upsert_users([UserProfile(user, vector, 1, 1) for user, vector in zip(users, vectors, strict=True)])
    with closing(MilvusClient(home.settings.addresses.milvus, dedicated=True)) as client:
        for name in client.list_collections():
            if name.endswith(f"_{version}"):
                client.release_collection(name)


# -- who was erased ---------------------------------------------------------------------------------------------------------


def traces(home: Home, folder: Path | None = None) -> list[str]:
    """Where "vera" stands: in a store, or in a claimed copy."""
    found = [name for name, rows in everything(home.settings).items() if any("vera" in row for row in rows)]
    found += [name for name, content in home.copies().items() if b"vera" in content]
    return sorted(found)


def test_who_was_erased_since_is_erased_again_and_welcome_as_before(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    home.fill()
    assert len(traces(home)) > 8
    home.back_up(backup)
    proof = home.erase("vera")
    assert [known["path"] for known in proof["backups"]] == [str(backup)]
    assert traces(home) == []
    with home.opened() as (stores, _):
        erased = stores.documents.tombstones.times(["vera"])
    done = home.restore(backup, replace=True)
    assert done.erased_again == 1
    assert traces(home) == []
    with home.opened() as (stores, _):
        assert stores.documents.tombstones.times(["vera"]) == erased
        assert len(stores.documents.erasures.of_tombstone(proof["user"])) == 2
    now = datetime.now(UTC) + timedelta(minutes=1)
    put_drop(home.settings.drops, "new.jsonl", [{"user_id": "vera", "message": "here again", "timestamp": now.isoformat()}])
    put_drop(home.settings.drops, "old.jsonl", [said("vera", "long ago"), said("u_1", "hi")])
    home.drain()
    with home.opened() as (stores, _):
        assert [record["message"] for record in stores.documents.records.of_user("vera")] == ["here again"]


def test_backups_that_were_moved_stay_known(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    put_drop(home.settings.drops, "a.jsonl", [said("vera", "hello"), said("u_1", "hello")])
    home.drain()
    made = []
    for day in ("monday", "tuesday"):
        made.append(home.back_up(backup).at)
        backup.rename(backup.with_name(day))
    known = home.erase("vera")["backups"]
    assert [found["path"] for found in known] == [str(backup)] * 2
    assert [abs(found["at"] - at) < timedelta(milliseconds=1) for found, at in zip(known, made, strict=True)] == [True, True]
    home.restore(backup.with_name("monday"), replace=True)
    with home.opened() as (stores, _):
        found = {known.path for known in stores.documents.backups.before(datetime.now(UTC))}
    assert found == {str(backup), str(backup.with_name("monday"))}


def test_vectors_that_no_truth_names_forget_the_erased_too(new_home: Callable[[str], Home]) -> None:
    home = new_home("here")
    home.fill()
    leave_behind(home, "v7", "vera", "u_1")
    with home.opened() as (stores, _):
        in_use = stores.vectors.count_of("vera")
    proof = home.erase("vera")
    assert (proof["found"]["milvus"], proof["left"]["milvus"]) == (in_use + 1, 0)
    assert traces(home) == []
    with home.opened() as (stores, _):
        assert stores.vectors.at("v7").present_users(["vera", "u_1"]) == {"u_1"}


def test_who_was_erased_before_the_backup_and_came_back_is_kept(new_home: Callable[[str], Home], backup: Path) -> None:
    home = new_home("here")
    home.fill()
    home.erase("vera")
    now = datetime.now(UTC) + timedelta(minutes=1)
    put_drop(home.settings.drops, "new.jsonl", [{"user_id": "vera", "message": "here again", "timestamp": now.isoformat()}])
    home.drain()
    before = held(home)
    home.back_up(backup)
    assert home.restore(backup, replace=True).erased_again == 0
    assert differences(before, held(home)) == {}


def test_another_truths_tombstones_are_taken_in(new_home: Callable[[str], Home], backup: Path) -> None:
    here = new_home("here")
    here.fill()
    here.erase("u_x")
    here.back_up(backup)
    elsewhere = new_home("elsewhere")
    put_drop(elsewhere.settings.drops, "a.jsonl", [said("vera", "hello")])
    elsewhere.drain()
    elsewhere.erase("vera")
    assert elsewhere.restore(backup, replace=True).erased_again == 1
    assert traces(elsewhere) == []
    with elsewhere.opened() as (stores, _):
        assert set(stores.documents.tombstones.times(["vera", "u_x", "u_1"])) == {"vera", "u_x"}
        assert stores.documents.tombstones.count() >= 2


def test_a_copy_of_the_backup_elsewhere_restores_as_well(new_home: Callable[[str], Home], backup: Path, tmp_path: Path) -> None:
    home = new_home("here")
    put_drop(home.settings.drops, "a.jsonl", [said("u_1", "hello")])
    home.drain()
    home.back_up(backup)
    moved = tmp_path / "moved"
    shutil.copytree(backup, moved)
    before = held(home)
    home.restore(moved, replace=True)
    assert differences(before, held(home)) == {}
    with home.opened() as (stores, _):
        assert {known.path for known in stores.documents.backups.before(datetime.now(UTC))} == {str(backup), str(moved)}
