"""Power cuts and kills: everything at once, or a run or a server alone, anywhere; what is held then is what it would have been."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from persona import synthetic
from tests.crash import crash, table
from tests.platforms import Platform, platform_in
from tests.worlds import NEWEST, content, differences, eventually, ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # whole platforms, started over and over

MESSAGES = 150


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """The platform that will be killed."""
    with platform_in(tmp_path / "killed") as platform:
        platform.folder.mkdir()
        platform.environment["PERSONA_LEASE_SECONDS"] = "5"  # the dead holder's is waited for
        yield platform


@pytest.fixture
def undisturbed(tmp_path: Path) -> Iterator[Platform]:
    """Stores in another home, to which nothing happens."""
    with platform_in(tmp_path / "undisturbed") as other:
        other.folder.mkdir()
        yield other


def test_killed_between_two_assets_and_in_the_middle_of_one(platform: Platform, undisturbed: Platform) -> None:
    platform.persona("up", "--no-samples")
    arrives(platform, seed=1)
    killed_when(platform, lambda documents: at_work(documents, "milvus_collection"), "the beginning of milvus_collection")
    platform.persona("stores", "up")
    assert not applied(platform, "milvus_collection"), "the kill came too late to be in the middle"
    platform.persona("up")
    arrives(platform, seed=2)
    killed_when(platform, lambda documents: entry(documents, seed=2, mark="embeddings"), "the mark of embeddings")
    platform.persona("up")
    assert platform.get("/health")["status"] == "ok"
    assert not [name for name, entry in ledger(platform.settings).items() if entry["pending"]]
    # Intents are learned when a ranking run is due, which after a kill may or may not have been: both sides learn from everything.
    assert platform.persona("materialize")["status"] == "success"
    eventually(lambda: {status for _, status, _ in platform.runs()} <= {"SUCCESS", "FAILURE"}, seconds=60, what="the last end")
    survived = content(platform.settings, vectors=False)
    platform.persona("down")

    undisturbed.persona("stores", "up")
    for seed in (1, 2):
        arrives(undisturbed, seed=seed)
    assert undisturbed.persona("materialize")["status"] == "success"
    assert differences(content(undisturbed.settings, vectors=False), survived) == {}


def arrives(platform: Platform, *, seed: int) -> None:
    """The first brings the catalogs."""
    world = synthetic.generate(messages=MESSAGES, seed=seed, users=80, end=NEWEST)
    synthetic.write(world, platform.settings.drops, platform.settings.catalog if seed == 1 else platform.folder / "unused")


def killed_when(platform: Platform, happens: Callable[[Any], Any], what: str) -> None:
    settings = platform.settings
    with pymongo.MongoClient(settings.addresses.mongodb, tz_aware=True) as client:
        deadline = time.monotonic() + 120
        while not happens(client[settings.mongodb_database]):
            assert time.monotonic() < deadline, f"{what} did not come\n{platform.logs()}"
            time.sleep(0.005)
    assert platform.kill_everything() > 8


def entry(documents: Any, *, seed: int, mark: str) -> bool:
    name = {"$regex": f"^synthetic-{seed}-"}
    return bool(documents["ledger"].find_one({"name": name, f"marks.{mark}": {"$exists": True}}))


def at_work(documents: Any, asset: str) -> bool:
    return bool(documents["leases"].find_one({"holder.purpose": asset}))


def applied(platform: Platform, asset: str) -> bool:
    return any(asset in entry["marks"] for entry in ledger(platform.settings).values() if entry["kind"] == "drop")


def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    result = crash(5, seed=11, folder=tmp_path)
    assert result.good, table(result)
    assert (result.kills, result.stops) == (5, 1)
