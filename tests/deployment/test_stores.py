"""What the compose file does to MongoDB, PostgreSQL and Redis. Milvus and Neo4j are not here as it has them."""

import base64
import hashlib
import hmac
import re
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from persona.stores.documents import open_documents
from persona.stores.warehouse import open_warehouse
from tests.deployment.composed import GIVEN, environment_of, services
from tests.deployment.servers import Mongo, redis_is_well
from tests.platforms import unused_port


def address(service: str, name: str, at: str) -> str:
    """A URL that the compose file gives this service, with `at` for host and port."""
    url = environment_of(services()[service])[name]
    login, _, rest = url.rpartition("@")
    return f"{login}@{at}/{rest.partition('/')[2]}"


def test_the_user_may_do_what_persona_does_and_nothing_else(mongo: Mongo) -> None:
    with open_documents(mongo.address(), "persona", timeout_seconds=10) as documents, documents.session() as session:
        holder = {"run_id": "r", "purpose": "test", "host": "h", "pid": 1, "process_started": 0.0}
        token = documents.leases.acquire(holder, seconds=30, session=session.session_id, instead_of=None)
        assert token is not None
        documents.transaction(lambda inside: documents.leases.fence(token, seconds=30, session=inside), session=session)
        # the one who takes over ends the session of the one before
        with documents.session() as other:
            assert (documents.leases.acquire(holder, seconds=30, session=other.session_id, instead_of=token) or 0) > token
        collection = documents.database["beside"]
        collection.insert_one({"_id": 1})
        collection.rename("besides", dropTarget=True)
        documents.database["besides"].drop()
        with pytest.raises(OperationFailure, match="not authorized"):
            documents.client["other"]["collection"].insert_one({})
        with pytest.raises(OperationFailure, match="not authorized"):
            documents.client.admin.command("createUser", "somebody", pwd="x", roles=["root"])


def test_nobody_is_let_in_without_a_password(mongo: Mongo) -> None:
    with mongo.client() as anyone, pytest.raises(OperationFailure, match="requires authentication"):
        anyone["persona"]["records"].find_one()
    assert (mongo.config / "keyfile").stat().st_mode & 0o777 == 0o600


def test_begun_again_it_changes_nothing_but_a_new_password(mongo: Mongo) -> None:
    with mongo.client(username="root", password=mongo.root) as root:
        before = root.admin.command("replSetGetConfig")["config"]
        assert mongo.init() == 0
        assert root.admin.command("replSetGetConfig")["config"] == before
    given = GIVEN["MONGODB_PASSWORD"]
    assert mongo.init(MONGODB_PASSWORD="another") == 0
    try:
        with MongoClient[dict[str, Any]](mongo.address(**{given: "another"})) as client:
            assert client["persona"]["records"].estimated_document_count() >= 0
        with (
            MongoClient[dict[str, Any]](mongo.address()) as client,
            pytest.raises(OperationFailure, match="Authentication failed"),
        ):
            client["persona"]["records"].find_one()
    finally:
        assert mongo.init() == 0


def test_a_wrong_root_password_is_a_failure(mongo: Mongo) -> None:
    assert mongo.init(MONGODB_ROOT_PASSWORD="wrong") == 1


def test_the_key_of_the_set_outlives_the_container(tmp_path: Path) -> None:
    mongo = Mongo(tmp_path)
    with mongo.started():
        key = (mongo.config / "keyfile").read_text()
    with mongo.started():
        assert (mongo.config / "keyfile").read_text() == key and len(key) == 1008


def test_the_warehouse_is_its_user_s(databases: str) -> None:
    url = address("serving", "WAREHOUSE_URL", databases.rpartition("@")[2])
    with open_warehouse(url, timeout_seconds=5) as warehouse:
        warehouse.ping()
    with closing(psycopg.connect(url)) as connection:
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert owners == [("warehouse",)]


def test_each_user_sees_one_database(databases: str) -> None:
    host = databases.rpartition("@")[2]
    urls = address("serving", "WAREHOUSE_URL", host), address("daemon", "PERSONA_DAGSTER_STORAGE_URL", host)
    for own, other in (urls, urls[::-1]):
        with closing(psycopg.connect(own)) as connection:
            connection.execute("CREATE TABLE mine (id integer)")
        login, foreign = own.rpartition("/")[0], other.rpartition("/")[2]
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(f"{login}/{foreign}")


def test_their_passwords_are_those_of_the_urls(databases: str) -> None:
    with closing(psycopg.connect(f"{databases}/postgres")) as connection:
        rows = connection.execute(
            "SELECT rolname, rolsuper, rolpassword FROM pg_authid WHERE rolname IN ('warehouse', 'dagster')"
        )
        found = {name: (superuser, verifier) for name, superuser, verifier in rows}
    assert set(found) == {"warehouse", "dagster"}
    for name, (superuser, verifier) in found.items():
        assert not superuser and verifies(verifier, GIVEN[f"{name.upper()}_PASSWORD"]), name
        assert not verifies(verifier, "another")


def verifies(verifier: str, password: str) -> bool:
    """Whether what PostgreSQL keeps of a password (RFC 5803) is of this one."""
    rounds, salt, stored, _ = re.fullmatch(r"SCRAM-SHA-256\$(\d+):(.+)\$(.+):(.+)", verifier).groups()  # type: ignore[union-attr]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds))
    return hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest() == base64.b64decode(stored)


def test_postgresql_s_health_check_tells_whether_it_answers(databases: str) -> None:
    [how, *ready] = services()["postgres"]["healthcheck"]["test"]
    assert how == "CMD"
    assert subprocess.run([*ready, "-p", databases.rpartition(":")[2]], check=False).returncode == 0
    assert subprocess.run([*ready, "-p", str(unused_port())], check=False).returncode == 2


def test_redis_is_a_cache_behind_a_password(redis_port: int) -> None:
    with redis.Redis.from_url(address("serving", "REDIS_URL", f"127.0.0.1:{redis_port}"), decode_responses=True) as client:
        names = ("maxmemory", "maxmemory-policy", "save", "appendonly")
        settings = {name: client.config_get(name)[name] for name in names}
    assert settings == {"maxmemory": str(256 << 20), "maxmemory-policy": "allkeys-lru", "save": "", "appendonly": "no"}
    assert services()["redis"]["deploy"]["resources"]["limits"]["memory"] == "512m"
    with redis.Redis(port=redis_port) as anyone, pytest.raises(redis.AuthenticationError):
        anyone.ping()


def test_its_health_check_wants_an_answer(redis_port: int) -> None:
    assert redis_is_well(redis_port)
    assert not redis_is_well(redis_port, REDISCLI_AUTH="wrong")
    assert not redis_is_well(unused_port())
