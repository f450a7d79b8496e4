"""What the environment may say, and what it must not be able to say by accident."""

from pathlib import Path

import pytest
import trustme
from pydantic import ValidationError

from persona.errors import NotStarted
from persona.settings import Settings, StoreAddresses


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)


def test_the_login_s_home_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PERSONA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.chdir(tmp_path)
    assert settings().home == tmp_path / "data" / "var"


def test_folders_are_absolute_whatever_the_working_directory_becomes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERSONA_DROPS", "incoming")
    monkeypatch.chdir(tmp_path)
    assert settings().drops == tmp_path / "incoming"
    assert settings().catalog.is_absolute()


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_DIM", "")
    assert settings().embedding_dim is None


def test_milvus_by_host_and_port() -> None:
    assert settings(milvus_host="vectors", milvus_port=19531).milvus_uri == "http://vectors:19531"


def test_without_stores_the_error_names_what_is_missing_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(NotStarted) as error:
        _ = settings(home=tmp_path, mongodb_uri="mongodb://m", redis_url="redis://r", milvus_uri=None, neo4j_uri=None).addresses
    assert "milvus, neo4j" in error.value.message
    assert "persona stores up" in error.value.hint


def test_passwords_are_masked(tmp_path: Path) -> None:
    addresses = settings(
        home=tmp_path,
        mongodb_uri="mongodb://me:hunter2@a,b/?replicaSet=rs0",
        milvus_uri="http://m:19530",
        neo4j_uri="neo4j://n",
        neo4j_password="hunter2",
        redis_url="redis://:hunter2@r/0",
        warehouse_url="postgresql://me:hunter2@p/persona",
    ).addresses
    assert "hunter2" in addresses.mongodb
    assert "hunter2" not in repr(addresses.masked())
    assert "hunter2" not in repr(settings(redis_url="redis://:hunter2@r/0"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://me:hunter2@a:1,b:2/?replicaSet=rs0", "mongodb://me:***@a:1,b:2/?replicaSet=rs0"),
        (
            "mongodb://me:hunter%402@a/?tlsCertificateKeyFilePassword=hunter2",
            "mongodb://me:***@a/?tlsCertificateKeyFilePassword=***",
        ),
        ("mongodb://a/?authMechanismProperties=AWS_SESSION_TOKEN:hunter2", "mongodb://a/?authMechanismProperties=***"),
        ("redis://r:6379/0?password=hunter2", "redis://r:6379/0?password=***"),
        (
            "rediss://:hunter2@r/0?ssl_ca_certs=/ca.pem&ssl_password=hunter2",
            "rediss://:***@r/0?ssl_ca_certs=/ca.pem&ssl_password=***",
        ),
        ("postgresql://p/db?password=hunter2&sslpassword=hunter2", "postgresql://p/db?password=***&sslpassword=***"),
        (
            "postgresql://p/db?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgresql://p/db?sslmode=verify-full&sslrootcert=/ca.pem",
        ),
        ("postgresql://p/db?password=a&hunter2", "postgresql://p/db?password=***&***"),
        ("https://hunter2@milvus:19530", "https://***@milvus:19530"),
        ("neo4j+s://graph.internal:7687", "neo4j+s://graph.internal:7687"),
        ("sqlite:////a folder/with@sign#1.sqlite", "sqlite:////a folder/with@sign#1.sqlite"),
        # what a driver may still understand, and what none does
        ("postgresql://me:hun/ter2@p/db", "postgresql://***"),
        ("postgresql://me:hun?ter2@p/db", "postgresql://***"),
        ("redis://:hun@ter2@r/0", "redis://***"),
        ("redis://:hun#ter2@r/0", "redis://***"),
        ("postgresql://p/db?password=hun@ter2", "postgresql://***"),
        ("me:hunter2@r", "***"),
    ],
)
def test_passwords_are_masked_wherever_they_stand(url: str, shown: str) -> None:
    rest = {"milvus": "", "neo4j": "", "neo4j_user": "", "neo4j_password": "", "redis": "", "warehouse": ""}
    masked = StoreAddresses(mongodb=url, **rest).masked()["mongodb"]
    assert masked == shown
    assert "hun" not in masked and "ter2" not in masked


def test_a_file_of_cas_is_looked_at_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in (None, "no certificate"):
        if text:
            (tmp_path / "ca.pem").write_text(text)
        with pytest.raises(ValidationError, match="certificates in PEM"):
            settings(ca_file="ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    assert settings(ca_file="ca.pem").ca_file == tmp_path / "ca.pem"
