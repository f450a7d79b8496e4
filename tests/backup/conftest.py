"""Homes with a database, a graph, collections and a warehouse, filled without Dagster and with an encoder of a few lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from persona.backup.making import back_up
from persona.backup.manifest import Manifest
from persona.backup.restoring import Restored, restore
from persona.evaluation.candidate import evaluate_candidate
from persona.intake.catalogs import load_folder
from persona.intake.drops import take_in_all
from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.privacy.erasure import Proof, erase
from persona.ranking.publication import fit_candidate, publish_candidate
from persona.ranking.recommender import Query, Recommender, load_snapshot
from persona.settings import Settings
from persona.stores.opening import Stores, open_stores
from tests.worlds import NEWEST, HashingEncoder, clear, environment_of, generated, put_drop, said

ENCODER = HashingEncoder()


@dataclass(frozen=True)
class Home:
    """One home on the stack's servers."""

    settings: Settings
    encoder: HashingEncoder = ENCODER

    @contextmanager
    def opened(self) -> Iterator[tuple[Stores, Pipeline]]:
        with open_stores(self.settings) as stores:
            yield stores, Pipeline(self.settings, stores.documents, stores.warehouse, stores.cache)

    def fill(self) -> None:
        """With drops and catalogs, a line that is kept out, a drop that is held, one that comes twice, and a model with relations."""
        generated(self.settings, drops=3)
        clicks = [said(user, "this", campaign_id=each, event="click") for user in ("u_y", "u_z") for each in ("c_1", "c_101")]
        mixed = [said("vera", "a loan please", campaign_id="c_1"), said("u_x", "hello"), "{", *clicks]
        put_drop(self.settings.drops, "mixed.jsonl", mixed)
        put_drop(self.settings.drops, "held.jsonl", ['{"user_id": "vera"}', "{", said("vera", "kept out with the others")])
        put_drop(self.settings.drops, "again.jsonl", [said("u_x", "hello")])
        self.drain()

    def drain(self) -> None:
        """Take in what has arrived and apply it everywhere."""
        with self.opened() as (stores, pipeline):
            apply = {
                "embeddings": lambda batch: sinks.embed(batch, self.encoder),
                "intents": lambda batch: sinks.label(batch, threshold=self.settings.intent_threshold),
                "milvus_collection": lambda batch: sinks.index_vectors(batch, stores.vectors),
                "neo4j_graph": lambda batch: sinks.link(batch, stores.graph),
                "engagement_metrics": lambda batch: sinks.count(batch, stores.warehouse),
            }
            load_folder(pipeline, run_id="r")
            take_in_all(pipeline, run_id="r")
            for stage, function in apply.items():
                pipeline.drain(stage, function, run_id="r")
            fit_candidate(pipeline, stores.warehouse, run_id="r")
            evaluate_candidate(pipeline, run_id="r")
            publish_candidate(pipeline, stores.graph, run_id="r")

    def answers(self) -> dict[str, Any]:
        """What everybody would be offered at one moment."""
        with self.opened() as (stores, _):
            documents = stores.documents
            vectors = stores.vectors.at(documents.embeddings.collections_in_use())
            recommender, snapshot = (
                Recommender(vectors, stores.graph, documents),
                load_snapshot(documents),
            )
            query = Query(k=10, at=NEWEST)
            found = {user: recommender.for_user(user, query, snapshot) for user in documents.records.users_after("", limit=100)}
            return {
                user: [(item.campaign_id, round(item.ranking_score, 5), item.reason) for item in answer.recommendations]
                for user, answer in found.items()
            }

    def back_up(self, folder: Path) -> Manifest:
        with self.opened() as (stores, _):
            return back_up(folder, self.settings, stores, run_id="backup")

    def restore(self, folder: Path, *, replace: bool = False) -> Restored:
        with self.opened() as (stores, _):
            return restore(folder, self.settings, stores, self.encoder, run_id="restore", replace=replace)

    def erase(self, user_id: str) -> Proof:
        with self.opened() as (stores, _):
            return erase(user_id, self.settings, stores, run_id="erase")

    def copies(self) -> dict[str, bytes]:
        """The claimed copies by name."""
        return {path.name: path.read_bytes() for path in self.settings.claimed_drops.iterdir()}


@pytest.fixture(autouse=True)
def nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service has to leave the old collections first."""
    monkeypatch.setattr(sinks, "READERS_LEAVE_SECONDS", 0.0)


@pytest.fixture
def new_home(stack_settings: Settings, tmp_path: Path) -> Iterator[Callable[[str], Home]]:
    """Makes empty homes; the servers are emptied for each, as if they were others."""
    made: list[Home] = []

    def make(name: str) -> Home:
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in environment_of(stack_settings, tmp_path / name).items():
                patch.setenv(variable, value)
            settings = Settings(_env_file=None)
        settings.drops.mkdir(parents=True)
        settings.catalog.mkdir()
        if made:
            clear(made[-1].settings)
        clear(settings)
        made.append(Home(settings))
        return made[-1]

    yield make
    for home in made:
        clear(home.settings)
