"""Persona as its users have it: files in, its command line, files out. Nothing is measured here but seconds."""

import gzip
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.public.scoring import DEPTH, Ints

Record = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]


def persona(*arguments: str | Path) -> float:
    """Run the command line as a process; return its seconds. What it says goes to stderr. Raises `SystemExit` where it fails."""
    command = [sys.executable, "-m", "persona_cli.main", *map(str, arguments)]
    began = time.perf_counter()
    done = subprocess.run(command, check=False, stdout=sys.stderr, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if done.returncode:
        raise SystemExit(f"persona {arguments[0]} ended with {done.returncode}")
    seconds = time.perf_counter() - began
    print(f"persona {arguments[0]}: {seconds:,.0f} s", file=sys.stderr)
    return seconds


def records_of(file: Path) -> list[Record]:
    """The records of a drop."""
    content = file.read_bytes()
    return [orjson.loads(line) for line in (gzip.decompress(content) if file.suffix == ".gz" else content).splitlines()]


def write_lines(file: Path, documents: Iterable[Any]) -> None:
    """JSON lines."""
    file.write_bytes(b"".join(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE) for document in documents))


def answers_in(file: Path, queries: Sequence[str], key: str, campaigns: Mapping[str, int]) -> list[list[int]]:
    """The campaigns of each query's answer by number, best first. Raises `SystemExit` where a store was out of reach."""
    answers = {answer[key]: answer for answer in records_of(file)}
    if degraded := sum(bool(answer["degraded"]) for answer in answers.values()):
        raise SystemExit(f"{degraded:,} answers are degraded")
    return [[campaigns[offer["campaign_id"]] for offer in answers[query]["recommendations"]] for query in queries]


def as_ranked(lists: Sequence[Sequence[int]]) -> Ints:
    """Lists of campaigns as `measure` wants them."""
    ranked = np.full((len(lists), DEPTH), -1, dtype=np.int64)
    for row, campaigns in zip(ranked, lists, strict=True):
        row[: len(campaigns)] = campaigns[:DEPTH]
    return ranked
