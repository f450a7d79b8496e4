"""A world in which the real asset graph runs on real servers, with an encoder of a few lines; every test begins with nothing."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from persona.pipeline import rebuilding
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS
from persona.settings import Settings
from persona.stores.opening import open_stores
from persona_assets import execution, resources
from persona_assets.execution import Execution
from persona_cli.pipeline import open_pipeline
from tests.worlds import HashingEncoder, clear, environment_of

ASSETS = tuple(stage for stage in CODE_VERSIONS if stage != "cache")


class World:
    """One home: its settings follow the environment, its Dagster instance lasts as long as the test."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    @property
    def settings(self) -> Settings:
        return Settings()

    def pipeline(self) -> AbstractContextManager[Pipeline]:
        return open_pipeline(self.settings)

    def run(self, *assets: str) -> Execution:
        """Materialise these assets, or all, with their checks."""
        with self.pipeline() as pipeline:
            return execution.execute(self.settings, pipeline, assets=assets or ASSETS)

    def succeed(self, *assets: str) -> Execution:
        """As `run`, when nothing may fail."""
        done = self.run(*assets)
        assert done.success, done.error
        return done

    def rebuild(self, asset: str) -> None:
        """As `persona rebuild` does, without what it then materialises."""
        with open_stores(self.settings) as stores:
            pipeline = Pipeline(self.settings, stores.documents, stores.warehouse, stores.cache)
            rebuilding.rebuild(asset, pipeline, stores, encoder_named(self.settings), run_id="rebuild")

    def metadata(self, asset: str) -> dict[str, Any]:
        """Of the asset's latest materialisation."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None and event.asset_materialization is not None
        return {key: entry.value for key, entry in event.asset_materialization.metadata.items()}

    def data_versions(self) -> dict[str, str]:
        """Of every asset's latest materialisation."""
        found = {}
        for asset in ASSETS:
            event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
            tags = event.asset_materialization.tags if event and event.asset_materialization else None
            found[asset] = (tags or {}).get("dagster/data_version", "")
        return found


def failed_checks(done: Execution) -> list[str]:
    """The names of the checks that did not pass."""
    return [check["check"] for check in done.checks if not check["passed"]]


@pytest.fixture
def world(stack_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An empty world."""
    for name, value in environment_of(stack_settings, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PERSONA_LOG_LEVEL", "ERROR")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "LazyEncoder", lambda settings: encoder_named(settings))
    settings = Settings()
    settings.drops.mkdir()
    settings.catalog.mkdir()
    clear(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(execution, "prepare_instance", lambda settings: nullcontext(instance))
        yield World(instance)
    clear(settings)


def encoder_named(settings: Settings) -> HashingEncoder:
    """Another encoder for another EMBEDDING_MODEL."""
    return HashingEncoder(settings.embedding_model, settings.embedding_dim or 48)


@contextmanager
def lease_held(pipeline: Pipeline) -> Iterator[None]:
    """Another run holds the lease."""
    with pipeline.lease("another-run", "a test"):
        yield


def names(entries: Sequence[Any]) -> list[str]:
    """Of ledger entries."""
    return [entry.name for entry in entries]
