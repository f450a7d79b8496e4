"""An export holds everything that is held, and nothing of anybody else."""

import json

from persona.privacy.holdings import export
from tests.privacy.conftest import OTHERS, VERA, Place


def test_everything_is_in_it(place: Place) -> None:
    document = export(VERA, place.settings, place.world.stores)
    records = {record["message_id"]: record for record in document["records"]}
    assert len(records) == 9 and {record["user_id"] for record in records.values()} == {VERA}
    assert records[f"m_{VERA}_21"]["value"] == 0.1 and records[f"m_{VERA}_21"]["event"] == "click"
    assert {"drop", "line", "channel", "message", "timestamp"} <= set(records[f"m_{VERA}_0"])
    assert len(document["quarantined"]) == 6 + 2 and all(found["line"] for found in document["quarantined"])
    names = {drop["drop"]: drop["name"] for drop in document["drops"]}
    assert set(names.values()) == {
        "again.json", "clicks.json.gz", "cut.json", "everyone.jsonl", "held.jsonl", "mixed.jsonl", "single.json", "table.csv"
    }  # fmt: skip
    waiting = [(names[found["drop"]], found["line"]) for found in document["waiting"]]
    assert sorted(waiting, key=str) == [
        ("cut.json", None),
        ("held.jsonl", 1),
        ("held.jsonl", 2),
        ("held.jsonl", 4),
        ("table.csv", None),
    ]
    assert document["customer"] == {"user_id": VERA, "segments": ["gold"], "consent": True, "suppressed": False}
    assert len(document["milvus"]["profile"]) == 1 and len(document["milvus"]["profile"][0]["vector"]) == 16
    assert {row["user_id"] for row in document["milvus"]["conversations"]} == {VERA}
    assert {tie["campaign_id"] for tie in document["neo4j"]["engaged"]} == {"c_0", "c_1", "c_2"}
    assert document["neo4j"]["engaged"][0]["click"] == 1 and document["neo4j"]["expressed"]
    assert [tie["campaign_id"] for tie in document["neo4j"]["mentioned"]] == ["c_3"]
    assert records[f"m_{VERA}_30"]["mentioned_campaigns"] == ["c_3"]
    assert len(document["warehouse"]["engagements"]) == 3 and document["warehouse"]["user_engagement"][0]["events"] == 3
    text = json.dumps(document)
    assert not any(f'"{other}"' in text for other in OTHERS)
