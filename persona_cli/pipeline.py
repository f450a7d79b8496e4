"""Opening the domain's stores for commands that work in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from persona.pipeline.draining import Pipeline, Progress
from persona.settings import Settings
from persona.stores.opening import cache_of, documents_of, warehouse_of


@contextmanager
def open_pipeline(settings: Settings, progress: Progress = lambda stage, done: None) -> Iterator[Pipeline]:
    """The pipeline on the stores that the settings name; `progress` is told what each stage has written."""
    with (
        documents_of(settings) as documents,
        warehouse_of(settings) as warehouse,
        cache_of(settings, at_once=False) as cache,
    ):
        yield Pipeline(settings, documents, warehouse, cache, progress)
