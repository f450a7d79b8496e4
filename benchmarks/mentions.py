"""How well and how fast campaigns are found by name: `python -m benchmarks.mentions`.

On the public set `redial_train`, against the films that people marked in their messages: `mentions`, an attribute that is for
measuring alone. What is found and was not marked counts as wrong here, though much of it is meant. Then with a catalog of 20,000.
"""

import gzip
import os
import random
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from persona.language.mentions import NameFinder
from persona.schemas import Campaign

DATA = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")).resolve() / "redial_train"
MANY = 20_000


def main() -> None:
    campaigns = [Campaign.model_validate(entry) for entry in orjson.loads((DATA / "campaigns.json").read_bytes())]
    lines = (line for drop in sorted((DATA / "drops").iterdir()) for line in gzip.decompress(drop.read_bytes()).splitlines())
    messages = [record for record in map(orjson.loads, lines) if "message" in record]
    texts = [record["message"] for record in messages]
    named = {campaign.campaign_id for campaign in campaigns if campaign.name != campaign.campaign_id}
    marked = [named.intersection(record.get("mentions", ())) for record in messages]

    table = Table("names", "built in, s", "texts/s", "precision", "recall", title=f"{len(texts):,} messages")
    building, rate, found = _timed(campaigns, texts)
    both = sum(len(ours & theirs) for ours, theirs in zip(found, marked, strict=True))
    precision, recall = both / sum(map(len, found)), both / sum(map(len, marked))
    table.add_row(f"{len(named):,}", f"{building:.2f}", f"{rate:,.0f}", f"{precision:.3f}", f"{recall:.3f}")
    building, rate, _ = _timed(_many(texts), texts)
    table.add_row(f"{MANY:,}", f"{building:.2f}", f"{rate:,.0f}", "", "")
    Console(width=110).print(table)


def _timed(campaigns: list[Campaign], texts: list[str]) -> tuple[float, float, list[set[str]]]:
    begun = time.perf_counter()
    finder = NameFinder(campaigns)
    built = time.perf_counter()
    found = [set(finder.find(text)) for text in texts]
    return built - begun, len(texts) / (time.perf_counter() - built), found


def _many(texts: list[str]) -> list[Campaign]:
    """Names of one to five of the words that are said: far more of them occur than of any real catalog's."""
    dice = random.Random(1)
    words = [word for text in texts for word in text.split()]
    names = (" ".join(dice.choices(words, k=dice.randint(1, 5))) + f" ({1950 + number % 70})" for number in range(MANY))
    return [Campaign(campaign_id=f"c_{number}", name=name) for number, name in enumerate(names)]


if __name__ == "__main__":
    main()
