"""Temporary homes with stores of their own, as every benchmark begins with. Nothing is measured here."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from persona.local.stack import start_stores, stop_stores
from persona.settings import Settings


@contextmanager
def home(**environment: str) -> Iterator[Settings]:
    """Settings of a temporary home with running stores, in the environment too: Dagster's resources and processes read it there."""
    with tempfile.TemporaryDirectory(prefix="persona-bench-") as folder:
        os.environ |= {
            "PERSONA_HOME": folder,
            "PERSONA_DROPS": f"{folder}/watched",
            "PERSONA_CATALOG": f"{folder}/catalog",
            "PERSONA_SETTLE_SECONDS": "0",
            **environment,
        }
        settings = Settings()
        settings.drops.mkdir()
        start_stores(settings)
        try:
            yield settings
        finally:
            stop_stores(settings)
