"""What every test may ask for: settings with a running local stack. Fixtures of one store stand beside that store's tests."""

from collections.abc import Iterator

import pytest

from persona.local.stack import start_stores, stop_stores
from persona.settings import Settings


@pytest.fixture(scope="session")
def stack_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a throw-away home whose stores run; a store whose URL is set in the environment is used in its place."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), _env_file=None)
    start_stores(settings)
    try:
        yield settings
    finally:
        stop_stores(settings)
