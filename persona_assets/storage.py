"""Where Dagster keeps its runs, events and ticks: which database, and whether it is to be had. What runs is elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from dagster import StringSource
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from persona.errors import PersonaError
from persona.settings import Settings


class Storage(DagsterStorage):
    """What `dagster.yaml` names: PostgreSQL where the settings give its URL, else SQLite in Dagster's home.

    So one file serves both, holds no password, and every process finds the URL where it finds its other settings.
    """

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`base_dir`, for SQLite."""
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> DagsterStorage:
        """Dagster's own storage of the one kind or the other, with its tables made: never one of this class."""
        url = postgresql_url(Settings())
        if url is None:
            return DagsterSqliteStorage.from_local(config_value["base_dir"], inst_data)
        from dagster_postgres import DagsterPostgresStorage  # of the extra `postgresql`

        return DagsterPostgresStorage(url, inst_data=inst_data)


def postgresql_url(settings: Settings) -> str | None:
    """The URL for SQLAlchemy, password included; None for SQLite.

    It names psycopg2, which dagster-postgres is written for; SQLAlchemy 2.1 takes psycopg 3 where none is named, whose connections
    end where psycopg2's go on. Who cannot connect gives up after the stores' timeout, not the system's.
    """
    if settings.dagster_storage_url is None:
        return None
    url = make_url(settings.dagster_storage_url.get_secret_value()).set(drivername="postgresql+psycopg2")
    if "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(max(2, round(settings.store_timeout_seconds)))})  # 2 is libpq's least
    return url.render_as_string(hide_password=False)


def reach(settings: Settings) -> str:
    """Connect to where the history is, and say where that is, the password hidden.

    Raises `PersonaError`, with what to do, where it does not answer.
    """
    if (url := postgresql_url(settings)) is not None:
        if find_spec("dagster_postgres") is None:
            raise PersonaError("dagster-postgres is not installed", hint="pip install 'persona[postgresql]'")
        engine = create_engine(url, poolclass=NullPool)
        with in_our_words(settings), engine.connect():
            pass
    return settings.dagster_storage


@contextmanager
def in_our_words(settings: Settings) -> Iterator[None]:
    """Around what asks PostgreSQL: raise `PersonaError` for its errors."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0].strip()
        raise PersonaError(
            f"Dagster's storage {settings.dagster_storage} is not to be had: {reason}",
            hint="Start the server, create the database with this user as its owner, or mend PERSONA_DAGSTER_STORAGE_URL.",
        ) from None
