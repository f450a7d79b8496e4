"""Every store over TLS and with no more rights than the operations' document grants: all that is done works, nothing else does.

MongoDB, Redis and PostgreSQL speak TLS themselves; Milvus and the graph have TLS in front of them.
"""

import asyncio
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import grpc
import numpy as np
import psycopg
import pymilvus
import pymongo
import pytest
import redis
from fastapi.testclient import TestClient
from pydantic import SecretStr
from pymongo.errors import OperationFailure

from persona.errors import PersonaError, StoreRefused, StoreUnavailable
from persona.schemas import Conversation, UserProfile
from persona.settings import Settings, StoreName
from persona.stores.kept_answers import Question
from persona.stores.opening import cache_of, documents_of, graph_of, kept_answers_of, vectors_of, warehouse_of
from persona.stores.vectors import EXACT_UP_TO, open_vectors
from serving import services
from serving.app import create_app
from tests.cli.conftest import Answer, Command
from tests.servers import secured
from tests.servers.running import Running
from tests.servers.secured import ADMIN, PASSWORD, Certificates, login
from tests.stores.conftest import DIMENSION
from tests.worlds import HashingEncoder, clear, environment_of, eventually, generated, put_drop, said, whole_answer

OPENED: dict[StoreName, Callable[[Settings], AbstractContextManager[Any]]] = {
    "mongodb": documents_of,
    "milvus": lambda settings: vectors_of(settings, version="v1"),
    "neo4j": graph_of,
    "warehouse": warehouse_of,
    "redis": cache_of,
}
SETTING: dict[StoreName, str] = {
    "mongodb": "MONGODB_URI", "milvus": "MILVUS_URI", "neo4j": "NEO4J_URI", "warehouse": "WAREHOUSE_URL", "redis": "REDIS_URL",
}  # fmt: skip
STORES: tuple[StoreName, ...] = tuple(SETTING)
OF_THEIR_OWN: tuple[StoreName, ...] = ("mongodb", "redis", "warehouse")
"""With users and TLS in the server itself."""
CA: dict[StoreName, str] = {
    "mongodb": "tlsCAFile", "milvus": "PERSONA_CA_FILE", "neo4j": "PERSONA_CA_FILE", "warehouse": "sslrootcert", "redis": "ssl_ca_certs",
}  # fmt: skip
ENCRYPTED: dict[StoreName, str] = {
    "mongodb": "tls=true", "milvus": "https://", "neo4j": "bolt+s://", "warehouse": "sslmode=verify-full", "redis": "rediss://",
}  # fmt: skip
OWN_CERTIFICATE = {"mongodb": "tlsCertificateKeyFile", "redis": "ssl_certfile", "warehouse": "sslcert"}
TIMEOUT = 2.0
ASSETS = ("milvus_collection", "neo4j_graph", "engagement_metrics", "intents", "embeddings")


@dataclass(frozen=True)
class Access:
    """A store's server, and how it is addressed."""

    store: StoreName
    port: int
    ca: Path
    user: str = "persona"
    password: str = PASSWORD
    host: str = "localhost"
    tls: bool = True
    certificate: Path | None = None
    token: str = ""

    @property
    def url(self) -> str:
        at, who, own = f"{self.host}:{self.port}", login(self.user, self.password), self.certificate
        match self.store:
            case "mongodb":
                options = f"tls=true&tlsCAFile={self.ca}" + (f"&tlsCertificateKeyFile={own}" if own else "")
                return f"mongodb://{who}@{at}/?directConnection=true" + f"&{options}" * self.tls
            case "redis":
                options = f"ssl_ca_certs={self.ca}" + (f"&ssl_certfile={own}&ssl_keyfile={own}" if own else "")
                return f"redis{'s' * self.tls}://{who}@{at}/0" + f"?{options}" * self.tls
            case "warehouse":
                options = f"verify-full&sslrootcert={self.ca}" + (f"&sslcert={own}&sslkey={own}" if own else "")
                return f"postgresql://{who}@{at}/persona?sslmode={options if self.tls else 'disable'}"
            case "neo4j":
                return f"bolt{'+s' * self.tls}://{at}"
            case "milvus":
                return f"http{'s' * self.tls}://{at}"

    @property
    def settings(self) -> Settings:
        """With this store, and no other that could be opened."""
        addresses = dict.fromkeys(map(str.lower, SETTING.values()), "nowhere") | {SETTING[self.store].lower(): self.url}
        who = {"neo4j_user": self.user, "neo4j_password": self.password, "milvus_token": self.token}
        return Settings(_env_file=None, ca_file=self.ca, store_timeout_seconds=TIMEOUT, **addresses, **who)


# -- servers ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mongodb(certificates: Certificates) -> Iterator[Access]:
    with secured.mongodb(certificates) as port:
        access = Access("mongodb", port, certificates.ca)
        with pymongo.MongoClient(replace(access, user=ADMIN).url) as client:
            secured.grant_in_mongodb(client)
        yield access


@pytest.fixture(scope="module")
def redis_server(certificates: Certificates) -> Iterator[Access]:
    with secured.redis_server(certificates) as port:
        access = Access("redis", port, certificates.ca)
        with redis.Redis.from_url(replace(access, user=ADMIN).url) as client:
            secured.grant_in_redis(client)
        yield access


@pytest.fixture(scope="module")
def warehouse_server(certificates: Certificates) -> Iterator[Access]:
    with secured.postgresql(certificates) as port:
        access = Access("warehouse", port, certificates.ca)
        secured.grant_in_postgresql(replace(access, user=ADMIN).url.replace("/persona?", "/{database}?"))
        yield access


@pytest.fixture(scope="module")
def milvus(certificates: Certificates, stack_settings: Settings) -> Iterator[Access]:
    addresses = stack_settings.addresses
    with secured.tls_in_front(_port(addresses.milvus), certificates.server) as port:
        yield Access("milvus", port, certificates.ca, token=addresses.milvus_token)


@pytest.fixture(scope="module")
def neo4j(certificates: Certificates, stack_settings: Settings) -> Iterator[Access]:
    addresses = stack_settings.addresses
    with secured.tls_in_front(_port(addresses.neo4j), certificates.server) as port:
        yield Access("neo4j", port, certificates.ca, user=addresses.neo4j_user, password=addresses.neo4j_password)


@pytest.fixture
def access(store: StoreName, request: pytest.FixtureRequest) -> Access:
    """To the server of the store that the test names."""
    names: dict[StoreName, str] = {"redis": "redis_server", "warehouse": "warehouse_server"}
    found: Access = request.getfixturevalue(names.get(store, store))
    return found


@pytest.fixture
def persona(
    mongodb: Access,
    redis_server: Access,
    warehouse_server: Access,
    milvus: Access,
    neo4j: Access,
    stack_settings: Settings,
    tmp_path: Path,
) -> Iterator[Command]:
    """The command in an empty home, on servers that all speak TLS."""
    local = stack_settings.model_copy(update={"mongodb_database": "none"})
    clear(local)
    environment = environment_of(stack_settings, tmp_path) | {
        "MONGODB_URI": mongodb.url.replace("directConnection=true", "replicaSet=persona"),
        "MONGODB_DATABASE": "persona",
        "REDIS_URL": redis_server.url,
        "WAREHOUSE_URL": warehouse_server.url,
        "MILVUS_URI": milvus.url,
        "NEO4J_URI": neo4j.url,
        "PERSONA_CA_FILE": str(mongodb.ca),
        "PERSONA_STORE_TIMEOUT_SECONDS": "5",
        "PERSONA_DEADLINE_SECONDS": "5",
        "PERSONA_RATE_LIMIT": "10000/minute",
        "COLUMNS": "200",
    }
    yield Command(tmp_path, environment)
    clear(local)


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port


# -- what is granted ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_granted_is_enough(
    persona: Command, redis_server: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LazyEncoder", lambda settings: HashingEncoder(settings.embedding_model))

    def done(*arguments: str) -> Answer:
        answer = persona(*arguments, "--json")
        assert answer.code == 0, answer.out + answer.err
        return answer

    generated(persona.settings, messages=60, drops=2)
    put_drop(persona.settings.drops, "bad.jsonl", ["{", said("vera", "a loan please", campaign_id="c_101"), said("tom", "hello")])
    ran = done("materialize").json
    assert {stage["status"] for stage in ran["stages"]} == {"success"}
    assert (ran["drops"]["read"], ran["drops"]["quarantined"]) == (113, 1)
    assert [generation["in_force"] for generation in done("generations", "list").lines] == [True]

    with TestClient(create_app(persona.settings)) as http:
        eventually(lambda: http.get("/health").json()["status"] == "ok", seconds=60)

        def source() -> str:
            found: str = whole_answer(lambda: http.get("/recommendations/vera"))["retrieval_source"]
            return found

        def is_kept() -> bool:
            return source() == "cache"

        assert source() == "computed"
        eventually(is_kept, seconds=10)
        for _ in range(2):
            words = {"user_id": "vera", "message": "and savings", "timestamp": "2026-06-01T00:00:00Z"}
            answer = http.post("/conversations", json=words, headers={"Idempotency-Key": "once"})
            assert answer.status_code == 202, answer.text
        eventually(is_kept, seconds=10)
        assert done("materialize").json["drops"]["accepted"] == 1
        assert source() == "computed"
        eventually(is_kept, seconds=10)
        assert http.get("/users/vera/export").json()["records"][-1]["message"] == "and savings"
        assert http.post("/events", json={"user_id": "tom", "event": "click", "campaign_id": "c_101"}).status_code == 202
        assert http.delete("/users/tom").status_code == 200  # who came in and is in no store yet
    done("warm", "--users", "5")
    backup = str(tmp_path / "backup")
    done("backup", backup)
    for asset in ASSETS:
        done("rebuild", asset)
    done("erase", "vera")
    assert done("restore", backup, "--replace").json["erased_again"] == 1
    assert done("recommend", "vera", "--k", "3").lines[0]["known_user"] is False
    with redis.Redis.from_url(replace(redis_server, user=ADMIN).url) as client:
        assert client.acl_log() == [], "refused without a word"
        used = {name.removeprefix("cmdstat_").replace("|", " ") for name in client.info("commandstats")}
    granted = {name.replace("|", " ") for name in re.findall(r"\+([\w|]+)", secured.documented("redis"))}
    assert granted <= used, "granted and not needed"


def test_answers_are_kept_for_callers_without_a_limit(redis_server: Access) -> None:
    question = Question("u_1", "scope", "field")

    async def kept() -> bytes | None:
        async with kept_answers_of(redis_server.settings) as answers:
            [nothing] = await answers.look_up([question])
            await answers.keep(question, b"answer", version=nothing.version, ttl=60)
            [found] = await answers.look_up([question])
            return found.answer

    assert asyncio.run(kept()) == b"answer"


def test_a_transaction_that_nobody_ends_holds_no_lease(mongodb: Access) -> None:
    with documents_of(mongodb.settings) as gone, documents_of(mongodb.settings) as documents, gone.session() as left:
        holder = {"run_id": "gone", "purpose": "", "host": "", "pid": 1, "process_started": 0.0}
        token = gone.leases.acquire(holder, seconds=60, session=left.session_id)
        assert token
        left.start_transaction()
        assert gone.leases.fence(token, seconds=60, session=left)
        started = time.monotonic()
        with documents.session() as session:
            taken = documents.leases.acquire(holder, seconds=60, session=session.session_id, instead_of=token)
        assert taken and taken > token and time.monotonic() - started < 20, "its session was not ended"
        documents.leases.release(taken)


def test_who_may_only_read_cannot_even_serve(mongodb: Access) -> None:
    with pymongo.MongoClient(replace(mongodb, user=ADMIN).url) as admin:
        admin.admin.command("createUser", "reader", pwd=PASSWORD, roles=[{"role": "read", "db": "persona"}])
    error = refusal(replace(mongodb, user="reader").settings, "mongodb")
    assert isinstance(error, StoreRefused) and "readWrite" in error.hint


@pytest.mark.parametrize(
    ("database", "command"),
    [
        ("other", {"find": "records"}),
        ("other", {"insert": "records", "documents": [{"_id": 1}]}),
        ("admin", {"find": "system.users"}),
        ("local", {"find": "oplog.rs"}),
        ("admin", {"listDatabases": 1, "authorizedDatabases": False}),
        ("persona", {"dropDatabase": 1}),
        ("persona", {"createUser": "other", "pwd": "x", "roles": []}),
        ("admin", {"renameCollection": "persona.records", "to": "other.records"}),
        ("admin", {"killAllSessions": []}),
        ("admin", {"getParameter": "*"}),
        ("admin", {"shutdown": 1}),
    ],
)
def test_mongodb_refuses_what_is_not_granted(mongodb: Access, database: str, command: dict[str, Any]) -> None:
    with pymongo.MongoClient(mongodb.url) as client:
        client["persona"]["records"].find_one()
        with pytest.raises(OperationFailure) as refused:
            client[database].command(command)
    assert refused.value.code in (13, 73), refused.value  # a system collection is no name that anybody may give


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL", "FLUSHDB", "CONFIG GET requirepass", "CONFIG SET maxmemory 1", "ACL LIST", "ACL WHOAMI", "KEYS *", "GET other",
        "SET other 1", "DEL persona:x", "EVAL return(1) 0", "INFO", "MONITOR", "SHUTDOWN", "SCRIPT FLUSH",
        "PUBLISH channel x", "SELECT 1", "SAVE", "REPLICAOF NO ONE", "CLIENT LIST", "MIGRATE a 1 persona:x 0 1", "EXISTS persona:x other",
    ],
)  # fmt: skip
def test_redis_refuses_what_is_not_granted(redis_server: Access, command: str) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("persona:x", 1)
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())


def test_redis_lets_no_script_near_other_keys(redis_server: Access) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        declared, hidden = (
            client.register_script("return redis.call('GET', KEYS[1])"),
            client.register_script("return redis.call('GET', 'other')"),
        )
        assert declared(keys=["persona:none"]) is None
        for script, keys in ((declared, ["other"]), (hidden, [])):
            with pytest.raises(redis.exceptions.ResponseError, match="one of the keys"):
                script(keys=keys)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE other", "ALTER ROLE persona SUPERUSER", "CREATE DATABASE other", "CREATE SCHEMA other", "CREATE TABLE public.x ()",
        "SELECT rolpassword FROM pg_authid", "COPY (SELECT 1) TO PROGRAM 'true'", "SELECT pg_read_file('PG_VERSION')",
        "CREATE EXTENSION dblink", "ALTER SYSTEM SET work_mem = '1GB'", "SELECT pg_reload_conf()", "SET ROLE admin",
        "SELECT * FROM private.secrets",
    ],
)  # fmt: skip
def test_postgresql_refuses_what_is_not_granted(warehouse_server: Access, statement: str) -> None:
    with psycopg.connect(replace(warehouse_server, user=ADMIN).url, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA IF NOT EXISTS private")
        admin.execute("CREATE TABLE IF NOT EXISTS private.secrets ()")
    with (
        psycopg.connect(warehouse_server.url, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_postgresql_lets_nobody_else_in(warehouse_server: Access) -> None:
    with psycopg.connect(replace(warehouse_server, user=ADMIN).url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}'".encode())
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(replace(warehouse_server, user="stranger").url)


def test_rights_that_are_missing_are_told(redis_server: Access, warehouse_server: Access) -> None:
    with redis.Redis.from_url(replace(redis_server, user=ADMIN).url) as admin:
        admin.acl_setuser("poor", enabled=True, passwords=[f"+{PASSWORD}"], keys=["other:*"], commands=["+ping", "+set"])
    with cache_of(replace(redis_server, user="poor").settings) as cache, pytest.raises(StoreRefused) as refused:
        cache.announce()
    assert "permission" in refused.value.message and "Credentials and transport" in refused.value.hint
    with psycopg.connect(replace(warehouse_server, user=ADMIN).url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE poor LOGIN PASSWORD '{PASSWORD}'".encode())
        admin.execute("GRANT CONNECT ON DATABASE persona TO poor")
    error = refusal(replace(warehouse_server, user="poor").settings, "warehouse")
    assert "Credentials and transport" in error.hint


def test_what_milvus_has_to_grant_is_enough_and_no_more_is_let(production: Running) -> None:
    """On the server itself, with the user that the document makes."""
    address, root = production.addresses["milvus"], production.addresses["milvus_token"]
    block = secured.documented("python").replace("https://milvus.internal:19530", address).replace(f"root:{PASSWORD}", root)
    exec(block)
    vector, near = np.ones(DIMENSION, np.float32), np.full(DIMENSION, 0.5, np.float32)
    with open_vectors(address, token=f"persona:{PASSWORD}", version="v999") as store:
        eventually(lambda: store.prepare(DIMENSION) or True, seconds=60, what="the grants' being in force")
        for rows in (0, EXACT_UP_TO + 1):
            store.prepare(DIMENSION, rows=rows)
            store.upsert_users([UserProfile("u_1", vector, 1, 1), UserProfile("u_2", near, 1, 1)])
            store.upsert_conversations([Conversation("ab", "u_1", vector, 1, 1, 1, {"c_1": 1.0})])
            store.await_visible()
            store.warm()
            assert store.versions() and store.index() and store.user_vector("u_1") is not None
            assert store.similar_users(vector, limit=1) and store.everything_of("u_1") and store.count("users") == 2
            assert store.similar_conversations(vector, limit=1, exclude_user="u_2") and store.present_users(["u_2"]) == {"u_2"}
            store.remove_user("u_1")
            store.drop()
    user = pymilvus.MilvusClient(address, token=f"persona:{PASSWORD}", dedicated=True)
    beyond: list[Callable[[], object]] = [
        lambda: user.create_user("another", PASSWORD),
        lambda: user.create_role("another"),
        lambda: user.grant_role("persona", "admin"),
        lambda: user.drop_role("persona"),
        lambda: user.list_users(),
    ]
    try:
        for forbidden in beyond:
            with pytest.raises((pymilvus.MilvusException, grpc.RpcError), match=r"(?i)permission|privilege"):
                forbidden()
    finally:
        user.close()


# -- what goes wrong ----------------------------------------------------------------------------------------------------------


def refusal(settings: Settings, store: StoreName) -> PersonaError:
    """What is said when the store is opened, in time and without anything secret."""
    started = time.monotonic()
    with pytest.raises((StoreUnavailable, StoreRefused)) as refused, OPENED[store](settings):
        pass
    assert time.monotonic() - started < TIMEOUT + 2
    error: PersonaError = refused.value
    told = "".join(traceback.format_exception(error)) + error.hint + repr(settings.addresses.masked()[store])
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "s3cret", "the:store", settings.addresses.neo4j_password, "PRIVATE KEY"):
        assert secret not in told
    return error


@pytest.mark.parametrize("store", STORES)
def test_a_server_that_another_ca_vouches_for(store: StoreName, access: Access, certificates: Certificates) -> None:
    error = refusal(replace(access, ca=certificates.other_ca).settings, store)
    assert isinstance(error, StoreUnavailable) and "from no CA that is trusted" in error.message
    assert CA[store] in error.hint


@pytest.mark.parametrize("store", STORES)
def test_a_server_of_another_name(store: StoreName, access: Access) -> None:
    error = refusal(replace(access, host="127.0.0.1").settings, store)
    assert isinstance(error, StoreUnavailable) and "for another name" in error.message
    assert SETTING[store] in error.hint


@pytest.mark.parametrize("store", ["mongodb", "milvus", "neo4j", "redis"])  # libpq does not tell it from any other
def test_a_certificate_that_has_expired(store: StoreName, access: Access, certificates: Certificates) -> None:
    with secured.tls_in_front(access.port, certificates.expired) as port:
        assert "has expired" in refusal(replace(access, port=port).settings, store).message


@pytest.mark.parametrize("store", STORES)
def test_plain_text_to_a_server_that_wants_tls(store: StoreName, access: Access) -> None:
    error = refusal(replace(access, tls=False).settings, store)
    assert isinstance(error, StoreUnavailable)
    assert ("takes encrypted connections only" if store == "warehouse" else "ended the connection") in error.message
    assert ENCRYPTED[store] in error.hint and SETTING[store] in error.hint


@pytest.mark.parametrize("store", STORES)
def test_tls_to_a_server_that_has_none(
    store: StoreName, access: Access, stack_settings: Settings, request: pytest.FixtureRequest
) -> None:
    plain = request.getfixturevalue("postgresql") if store == "warehouse" else getattr(stack_settings.addresses, store)
    error = refusal(replace(access, port=_port(plain)).settings, store)
    # some wait for the end of what they take for a command, or hang up
    assert isinstance(error, StoreUnavailable) and re.search("speak TLS|not answer|ended the connection", error.message)
    assert SETTING[store] in error.hint


@pytest.mark.parametrize("store", [*OF_THEIR_OWN, "neo4j"])
def test_a_wrong_password(store: StoreName, access: Access) -> None:
    error = refusal(replace(access, password="s3cret, but another").settings, store)
    assert isinstance(error, StoreRefused)
    assert "AuthenticationFailed" in error.message if store == "mongodb" else "refused the credentials" in error.message
    assert ("NEO4J_PASSWORD" if store == "neo4j" else SETTING[store]) in error.hint


@pytest.mark.parametrize("store", OF_THEIR_OWN)
def test_a_file_of_cas_that_is_none(store: StoreName, access: Access, tmp_path: Path) -> None:
    no_certificate = tmp_path / "ca.pem"
    for text in (None, "no certificate"):
        if text:
            no_certificate.write_text(text)
        settings = access.settings.model_copy(update={SETTING[store].lower(): SecretStr(replace(access, ca=no_certificate).url)})
        error = refusal(settings, store)
        assert "cannot be read" in error.message and "PEM" in error.hint


@pytest.mark.parametrize("store", STORES)
def test_an_address_that_cannot_be_read_is_not_quoted(store: StoreName, access: Access) -> None:
    scheme = access.url.partition("://")[0]
    settings = access.settings.model_copy(
        update={SETTING[store].lower(): _like(access.settings, store, f"{scheme}://persona:{PASSWORD}@localhost:1/0?x=y")}
    )
    error = refusal(settings, store)
    assert isinstance(error, StoreRefused) and SETTING[store] in error.message
    assert "%40" in error.hint


def _like(settings: Settings, store: StoreName, url: str) -> SecretStr | str:
    return SecretStr(url) if isinstance(getattr(settings, SETTING[store].lower()), SecretStr) else url


@pytest.mark.parametrize("store", ["redis", "warehouse"])
def test_an_option_that_the_driver_does_not_know(store: StoreName, access: Access) -> None:
    url = access.url + "&ssl_sesame=s3cret"
    settings = access.settings.model_copy(update={SETTING[store].lower(): SecretStr(url)})
    assert isinstance(refusal(settings, store), StoreRefused)


def test_doctor_says_it_too(persona: Command, mongodb: Access, certificates: Certificates) -> None:
    wrong = replace(mongodb, ca=certificates.other_ca).url
    done = persona("doctor", "--json", MONGODB_URI=wrong, PERSONA_STORE_TIMEOUT_SECONDS="2")
    [finding] = [finding for finding in done.json["findings"] if finding["what"] == "mongodb"]
    assert not finding["ok"] and "from no CA that is trusted" in finding["detail"] and "tlsCAFile" in finding["hint"]
    assert {finding["what"] for finding in done.json["findings"] if not finding["ok"]} == {"mongodb", "model"}
    for secret in (PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in done.out + done.err


# -- certificates of our own ----------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(store: StoreName, request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Access]:
    """A server that takes nobody without a certificate of its CA's, and its administrator."""
    if store == "warehouse":
        known: Access = request.getfixturevalue("warehouse_server")
        with psycopg.connect(replace(known, user=ADMIN).url, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE certified LOGIN SUPERUSER PASSWORD '{PASSWORD}'".encode())
        yield replace(known, user="certified")
    else:
        server = secured.mongodb if store == "mongodb" else secured.redis_server
        with server(certificates, of_clients=True) as port:
            yield Access(store, port, certificates.ca, user=ADMIN)


@pytest.mark.parametrize("store", OF_THEIR_OWN)
def test_a_server_that_asks_for_our_certificate(store: StoreName, asking: Access, certificates: Certificates) -> None:
    with OPENED[store](replace(asking, certificate=certificates.client).settings) as opened:
        opened.ping()
    for shown in (None, certificates.stranger):
        error = refusal(replace(asking, certificate=shown).settings, store)
        assert "certificate" in str(error) and OWN_CERTIFICATE[store] in error.hint
