"""MongoDB, the truth: one class for each kind of thing kept there, all on one client. Queries live in these modules and nowhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import ConfigurationError

from persona.schemas import Customer
from persona.stores.documents._errors import TERMS, mongodb_errors
from persona.stores.documents.backups import Backups
from persona.stores.documents.catalog import Catalog
from persona.stores.documents.classifiers import Classifiers
from persona.stores.documents.conversations import Conversations
from persona.stores.documents.embeddings import Embeddings
from persona.stores.documents.erasures import Erasures
from persona.stores.documents.generations import Generations
from persona.stores.documents.idempotency import IdempotencyKeys
from persona.stores.documents.leases import Leases
from persona.stores.documents.ledger import Ledger
from persona.stores.documents.quarantine import Quarantine
from persona.stores.documents.rebuilds import Rebuilds
from persona.stores.documents.records import Records
from persona.stores.documents.relations import Relations
from persona.stores.documents.tombstones import Tombstones

T = TypeVar("T")


@dataclass(frozen=True)
class Documents:
    """The collections of one database."""

    client: MongoClient[dict[str, Any]]
    database: Database[dict[str, Any]]
    records: Records
    embeddings: Embeddings
    conversations: Conversations
    classifiers: Classifiers
    ledger: Ledger
    quarantine: Quarantine
    catalog: Catalog
    generations: Generations
    relations: Relations
    leases: Leases
    rebuilds: Rebuilds
    backups: Backups
    tombstones: Tombstones
    erasures: Erasures
    idempotency: IdempotencyKeys

    @contextmanager
    def session(self) -> Iterator[ClientSession]:
        """A session for transactions, one after the other."""
        with mongodb_errors():
            session = self.client.start_session()
        with session:
            yield session

    def transaction(self, work: Callable[[ClientSession], T], *, session: ClientSession | None = None) -> T:
        """Run `work` in one transaction, of this session or one of its own, again on transient errors; all of it happens or none."""
        with mongodb_errors(), nullcontext(session) if session else self.client.start_session() as ours:
            return ours.with_transaction(work)

    def policy_of(self, user_id: str, *, impressions_since: datetime) -> tuple[list[dict[str, Any]], Customer | None]:
        """What policy looks at: the person's decisions (see `Records.decisions_of`), and what the catalog knows of them."""
        return self.records.decisions_of(user_id, impressions_since=impressions_since), self.catalog.customer(user_id)

    def server_version(self) -> str:
        """Of MongoDB."""
        with mongodb_errors():
            return str(self.client.server_info()["version"])

    def ping(self) -> None:
        """Raise `StoreUnavailable` when the server does not answer."""
        with mongodb_errors():
            self.client.admin.command("ping")


@contextmanager
def open_documents(url: str, database: str, *, timeout_seconds: float) -> Iterator[Documents]:
    """Connect, make sure of the indexes, hand the collections out, close.

    Raises `StoreUnavailable` when no primary answers within the timeout, `StoreRefused` where the address cannot be used.
    """
    with TERMS.readable(ConfigurationError):
        client: MongoClient[dict[str, Any]] = MongoClient(
            url,
            tz_aware=True,
            serverSelectionTimeoutMS=int(timeout_seconds * 1000),
            connectTimeoutMS=int(timeout_seconds * 1000),
            appname="persona",
        )
    try:
        documents = documents_in(client, database)
        with mongodb_errors():
            documents.records.ensure_indexes()
            documents.embeddings.ensure_indexes()
            documents.catalog.ensure_indexes()
            documents.ledger.ensure_indexes()
            documents.quarantine.ensure_indexes()
            documents.relations.ensure_indexes()
            documents.conversations.ensure_indexes()
            documents.idempotency.ensure_indexes()
        yield documents
    finally:
        client.close()


def documents_in(client: MongoClient[dict[str, Any]], database: str) -> Documents:
    """The collections of a database on a client that someone else opens and closes."""
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
    db = client.get_database(database, codec_options=options)
    return Documents(
        client=client,
        database=db,
        records=Records(db),
        embeddings=Embeddings(db),
        conversations=Conversations(db),
        classifiers=Classifiers(db),
        ledger=Ledger(db),
        quarantine=Quarantine(db),
        catalog=Catalog(db),
        generations=Generations(db),
        relations=Relations(db),
        leases=Leases(db),
        rebuilds=Rebuilds(db),
        backups=Backups(db),
        tombstones=Tombstones(db),
        erasures=Erasures(db),
        idempotency=IdempotencyKeys(db),
    )
