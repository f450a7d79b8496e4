"""Opening the domain's stores for commands that work in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from persona.pipeline.draining import Pipeline, Progress
from persona.settings import Settings
from persona.stores.cache import open_cache
from persona.stores.documents import open_documents
from persona.stores.warehouse import open_warehouse


@contextmanager
def open_pipeline(settings: Settings, progress: Progress = lambda stage, done: None) -> Iterator[Pipeline]:
    """The pipeline on the stores that the settings name; `progress` is told what each stage has written."""
    timeout = settings.store_timeout_seconds
    with (
        open_documents(settings.addresses.mongodb, settings.mongodb_database, timeout_seconds=timeout) as documents,
        open_warehouse(settings.addresses.warehouse, timeout_seconds=timeout) as warehouse,
        open_cache(settings.addresses.redis, timeout_seconds=timeout, at_once=False) as cache,
    ):
        yield Pipeline(settings, documents, warehouse, cache, progress)
