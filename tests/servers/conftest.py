"""What is tested on the servers of production alone, where they are asked for."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without `--servers` there is nothing here to be run."""
    return True if config.getoption("--servers") == "local" else None
