"""What generated data promises: reproducible, valid, streamed, and with tastes that words show."""

import gzip
import json
import tracemalloc
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persona.errors import InvalidInput
from persona.language.encoder import Encoder, load_encoder
from persona.schemas import Campaign, Customer, Event, IntentDefinition
from persona.settings import Settings
from persona.synthetic import Synthetic, event_records, generate, write

END = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for compress in (False, True):
        first, again, other = (
            write(generate(seed=seed, end=END), tmp_path / folder / "d", tmp_path / folder / "c", drops=3, compress=compress)
            for folder, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert [path.name for path in first] == [path.name for path in again]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
        assert not {path.name for path in first} & {path.name for path in other}
    for name in ("campaigns.json", "intents.json", "users.json"):
        assert (tmp_path / "a/c" / name).read_bytes() == (tmp_path / "b/c" / name).read_bytes()


def test_drops_hold_every_record_once_in_whole_files(tmp_path: Path) -> None:
    world = generate(messages=250, end=END)
    seen: list[int] = []
    paths = write(world, tmp_path / "drops", tmp_path / "catalog", drops=4, compress=True, progress=seen.append)
    assert sorted((tmp_path / "drops").iterdir()) == sorted(paths)
    parts = [[json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()] for path in paths]
    assert [record for part in parts for record in part] == list(world.records())
    assert [sum("message" in record for record in part) for part in parts] == [62, 63, 62, 63]
    assert seen[-1] == 250


def test_a_failure_leaves_no_file_behind(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(generate(messages=1500, end=END), tmp_path / "drops", tmp_path / "catalog", progress=stop)
    assert list((tmp_path / "drops").iterdir()) == []


def test_records_fit_the_contract() -> None:
    world = generate(messages=2000, end=END)
    records = list(world.records())
    assert sum("message" in record for record in records) == 2000
    assert len({record["message_id"] for record in records}) == len(records)
    campaigns = {entry["campaign_id"] for entry in world.campaign_catalog()}
    users = {entry["user_id"] for entry in world.customers()}
    assert "u_001" in users and "c_102" in campaigns and len(campaigns) >= 24
    for record in records:
        assert record["user_id"] in users
        assert record.get("campaign_id", "c_102") in campaigns
        assert END - timedelta(days=31) <= datetime.fromisoformat(record["timestamp"]) <= END
        if "message" not in record:
            assert Event(record["event"]) is not Event.MESSAGE and "campaign_id" in record
    events = Counter(record.get("event", "message") for record in records)
    assert events["impression"] > events["click"] > events["conversion"] > events["dismiss"] > 0
    conversions = [(record["user_id"], record["campaign_id"]) for record in records if record.get("event") == "conversion"]
    assert len(conversions) == len(set(conversions))


def test_catalogs_fit_the_schemas(tmp_path: Path) -> None:
    world = generate(end=END)
    write(world, tmp_path / "drops", tmp_path)
    campaigns = [Campaign.model_validate(entry) for entry in json.loads((tmp_path / "campaigns.json").read_text())]
    intents = [IntentDefinition.model_validate(entry) for entry in json.loads((tmp_path / "intents.json").read_text())]
    customers = [Customer.model_validate(entry) for entry in json.loads((tmp_path / "users.json").read_text())]
    assert len(campaigns) == world.campaigns and len(customers) == world.users
    assert len({campaign.name for campaign in campaigns}) == len(campaigns)
    assert all(len(intent.examples) >= 8 for intent in intents)
    assert {intent for campaign in campaigns for intent in campaign.intents} == {intent.intent for intent in intents}
    assert any(customer.consents_to("email") for customer in customers)


@pytest.mark.parametrize(("messages", "distinct"), [(300, 0.95), (100_000, 0.7)])
def test_talk_is_varied(messages: int, distinct: float) -> None:
    texts = [record["message"] for record in generate(messages=messages, end=END).records() if "message" in record]
    assert len(set(texts)) / len(texts) > distinct


@pytest.mark.parametrize("arguments", [{"messages": 1}, {"users": 1}, {"campaigns": 1}, {"messages": 7, "users": 90}])
def test_small_worlds_work(arguments: dict[str, Any]) -> None:
    world = generate(**arguments, end=END)
    assert sum("message" in record for record in world.records()) == world.messages
    assert len(world.campaign_catalog()) == world.campaigns


def test_a_world_without_anything_is_refused() -> None:
    with pytest.raises(InvalidInput, match="messages"):
        generate(messages=0)


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        write(generate(messages=100_000, end=END), tmp_path / "drops", tmp_path / "catalog")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


def test_event_records_cover_the_pairs() -> None:
    records = list(event_records(5000, 1200, end=END))
    assert len({record["message_id"] for record in records}) == 5000
    assert len({(record["user_id"], record["campaign_id"]) for record in records[:1200]}) == 1200
    assert len({(record["user_id"], record["campaign_id"]) for record in records}) == 1200
    assert all(END - timedelta(days=31) <= datetime.fromtimestamp(record["timestamp"] / 1000, UTC) <= END for record in records)
    assert records == list(event_records(5000, 1200, end=END))
    assert len(list(event_records(3, 1))) == 3


# -- tastes -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(Settings(_env_file=None))  # type: ignore[call-arg]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_words_predict_later_conversions_better_than_popularity(encoder: Encoder, seed: int) -> None:
    by_words, by_popularity = hits_at_5(generate(messages=2400, seed=seed, end=END), encoder)
    print(f"seed {seed}: Hit@5 of later conversions by words {by_words:.3f}, by popularity {by_popularity:.3f}")
    assert by_popularity > 0.15, "popularity has to be a real baseline"
    assert by_words > by_popularity + 0.1


def hits_at_5(world: Synthetic, encoder: Encoder) -> tuple[float, float]:
    """Share of later conversions found among five campaigns not yet converted: by mean message vector, and by popularity."""
    records = sorted(world.records(), key=lambda record: str(record["timestamp"]))
    cut = END - timedelta(days=30 * 0.3)
    earlier = [record for record in records if datetime.fromisoformat(record["timestamp"]) < cut]
    campaigns = [Campaign.model_validate(entry) for entry in world.campaign_catalog()]
    columns = {campaign.campaign_id: column for column, campaign in enumerate(campaigns)}
    campaign_vectors = encoder.encode([campaign.text for campaign in campaigns])

    said = [(record["user_id"], record["message"]) for record in earlier if "message" in record]
    profiles: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(encoder.dimension, dtype=np.float32))
    for (user, _), vector in zip(said, encoder.encode([text for _, text in said]), strict=True):
        profiles[user] += vector
    popularity = np.zeros(len(campaigns))
    taken: defaultdict[str, set[int]] = defaultdict(set)
    for record in earlier:
        if record.get("event") == "conversion":
            popularity[columns[record["campaign_id"]]] += 1
            taken[record["user_id"]].add(columns[record["campaign_id"]])

    hits = [
        [columns[record["campaign_id"]] in best(scores, taken[record["user_id"]])
         for scores in (campaign_vectors @ profiles[record["user_id"]], popularity)]
        for record in records[len(earlier):]
        if record.get("event") == "conversion" and record["user_id"] in profiles
    ]  # fmt: skip
    by_words, by_popularity = np.mean(hits, axis=0)
    return float(by_words), float(by_popularity)


def best(scores: np.ndarray, taken: set[int]) -> list[int]:
    return [int(column) for column in np.argsort(-scores, kind="stable") if column not in taken][:5]


def test_drift_is_events_without_words_of_people_who_never_take_the_same_twice() -> None:
    world = generate(messages=3000, end=END, drift=True)
    records = list(world.records())
    assert records == list(world.records())
    assert len(records) == len({record["message_id"] for record in records}) == 3000
    assert {record["event"] for record in records} == {"conversion", "click", "dismiss"}
    assert not any("message" in record for record in records)
    times = [record["timestamp"] for record in records]
    assert times == sorted(times)
    assert datetime.fromisoformat(times[0]) == END - timedelta(days=120)
    assert datetime.fromisoformat(times[-1]) < END
    pairs = Counter((record["user_id"], record["campaign_id"]) for record in records)
    assert pairs.most_common(1)[0][1] <= 2
    assert sum(count > 1 for count in pairs.values()) < 30
    assert world.name != generate(messages=3000, end=END).name


def test_drift_changes_what_is_popular_and_people_come_and_go() -> None:
    records = list(generate(messages=6000, end=END, drift=True).records())
    early, late = (Counter(record["campaign_id"] for record in part) for part in (records[:1500], records[-1500:]))
    top = [{campaign for campaign, _ in part.most_common(10)} for part in (early, late)]
    assert len(top[0] & top[1]) <= 5
    people = [{record["user_id"] for record in part} for part in (records[:1500], records[-1500:])]
    assert not people[0] & people[1]


def test_drifting_drops_hold_equal_numbers_of_events(tmp_path: Path) -> None:
    world = generate(messages=100, end=END, drift=True)
    paths = write(world, tmp_path / "drops", tmp_path / "catalog", drops=4)
    parts = [[json.loads(line) for line in path.read_bytes().splitlines()] for path in paths]
    assert [len(part) for part in parts] == [25, 25, 25, 25]
    assert [record for part in parts for record in part] == list(world.records())
