"""Events without words on campaigns that come into fashion and go out of it, cut in time, as tasks."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import orjson

from benchmarks.homes import home
from benchmarks.public.contenders import Als, Contender, Ease, EaseAndPopularity, Events, ItemKnn, Popularity, Task
from benchmarks.public.product import Record, answers_in, as_ranked, persona, records_of, write_lines
from benchmarks.public.scoring import Bools, Ints

EVENTS, USERS, CAMPAIGNS = 40_000, 1_500, 240
CUT, CUT_BEFORE = 0.8, 0.64
"""Shares of the events that are known: to everyone, and where settings are chosen on what follows up to the cut."""
WEIGHTS = {"conversion": 1.0, "click": 0.5}
TASTE = ("campaign_id", "name", "description", "categories", "intents")
"""Of a campaign in the catalog; consent and caps would keep it from people whatever they like."""

CONTENDERS: Mapping[str, Sequence[Contender]] = {
    "popularity": [
        Popularity({"conversion": converted, "click": clicked})
        for converted, clicked in ((1, 0), (1, 0.25), (1, 0.5), (1, 1), (0.5, 1), (0, 1))
    ],
    "decayed popularity": [Popularity(WEIGHTS, days) for days in (1.0, 2.0, 4.0, 7.0, 14.0, 30.0)],
    "ItemKNN": [ItemKnn(neighbours, half_life=days) for neighbours in (20, 60, 240) for days in (None, 30.0)],
    "EASE": [Ease(penalty, days) for penalty in (10.0, 100.0, 1_000.0) for days in (None, 30.0)],
    "EASE and decayed popularity": [
        EaseAndPopularity(Ease(100.0, 30.0), Popularity(WEIGHTS, days), share) for days in (4.0, 7.0) for share in (0.2, 0.3, 0.5)
    ],
    "iALS": [
        Als(factors, penalty, confidence)
        for factors, penalty, confidence in ((8, 1, 5), (16, 1, 5), (16, 10, 20), (32, 1, 5), (32, 10, 20), (64, 5, 10))
    ],
}


def run(seed: int) -> tuple[Task, Ints, list[Task]]:
    """Judge the product on everyone who converts after the cut; return the task, its answers, and an earlier window."""
    with home() as settings:
        made = settings.home / "made"
        sizes = ("--messages", EVENTS, "--users", USERS, "--campaigns", CAMPAIGNS, "--seed", seed)
        persona("generate", "--drift", *map(str, sizes), "--into", made, "--catalogs", made)
        (drop,) = made.glob("*.jsonl")
        records = sorted(records_of(drop), key=lambda record: str(record["timestamp"]))
        catalog = orjson.loads((made / "campaigns.json").read_bytes())
        campaigns = {campaign["campaign_id"]: number for number, campaign in enumerate(catalog)}
        known, before = records[: round(CUT * len(records))], round(CUT_BEFORE * len(records))

        task, users = _task(records, len(known), campaigns)
        offered = settings.home / "campaigns.json"
        offered.write_bytes(orjson.dumps([{name: campaign[name] for name in TASTE} for campaign in catalog]))
        persona("catalog", offered)
        write_lines(settings.drops / "known.jsonl", known)
        persona("materialize")
        lists = _answers(users, campaigns, settings.home)
    return task, as_ranked(_untaken(lists, task.taken)), [_task(known, before, campaigns)[0]]


def _answers(users: Sequence[str], campaigns: Mapping[str, int], folder: Path) -> list[list[int]]:
    """All campaigns for each: what a person has met is struck out afterwards, as it is for every contender."""
    questions, answers = folder / "users.txt", folder / "answers.jsonl"
    questions.write_text("\n".join(users), encoding="utf-8")
    persona("recommend", "--users", questions, "--k", str(len(campaigns)), "--output", answers)
    return answers_in(answers, users, "user_id", campaigns)


def _untaken(lists: Sequence[Sequence[int]], taken: Bools) -> list[list[int]]:
    return [[campaign for campaign in row if not struck[campaign]] for row, struck in zip(lists, taken, strict=True)]


def _task(records: Sequence[Record], cut: int, campaigns: Mapping[str, int]) -> tuple[Task, list[str]]:
    """Who converts after the cut on what they had not met before it, and what they had met; their names beside it."""
    people = {user: number for number, user in enumerate(dict.fromkeys(record["user_id"] for record in records))}
    row = np.array([people[record["user_id"]] for record in records])
    campaign = np.array([campaigns[record["campaign_id"]] for record in records])
    kind = np.array([record["event"] for record in records])
    day = np.array([datetime.fromisoformat(record["timestamp"]).timestamp() / 86_400 for record in records])
    shape, now = (len(people), len(campaigns)), day[cut]

    taken, relevant = (np.zeros(shape, dtype=np.bool_) for _ in range(2))
    taken[row[:cut], campaign[:cut]] = True
    converted = kind[cut:] == "conversion"
    relevant[row[cut:][converted], campaign[cut:][converted]] = True
    relevant &= ~taken
    asked = np.flatnonzero(relevant.any(axis=1))

    place = np.full(len(people), -1)
    place[asked] = np.arange(len(asked))
    theirs = np.flatnonzero(place[row[:cut]] >= 0)
    past = Events(row[:cut], campaign[:cut], kind[:cut], now - day[:cut])
    history = Events(place[row[theirs]], campaign[theirs], kind[theirs], now - day[theirs])
    names = list(people)
    task = Task(past, len(people), history, WEIGHTS, taken[asked], relevant[asked], users=asked)
    return task, [names[person] for person in asked]
