"""What the environment may say, and what it must not be able to say by accident."""

from pathlib import Path

import pytest

from persona.errors import NotStarted
from persona.settings import Settings


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
