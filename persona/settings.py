"""Every setting of the platform, read once from the environment and `.env`. Nothing else reads the environment; no logic beyond defaults.

A store's URL, when set, replaces the local server. Where none is set, `Settings.addresses` reads what the local stack wrote down
when it picked its ports.
"""

import json
import re
import ssl
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url

from persona.errors import NotStarted
from persona.keys import ApiKey, parse_keys

StoreName = Literal["mongodb", "milvus", "neo4j", "warehouse", "redis"]
BUNDLED_MODEL = "all-MiniLM-L6-v2"
ADDRESS = re.compile(
    r"(?P<scheme>[\w+.-]+)://(?:(?P<user>[^:@/?#]*)(?P<password>:[^@/?#]*)?@)?(?P<where>/[^?]*|[^@?#]*)(?:\?(?P<options>[^@#]*))?"
)
SHOWN_OPTIONS = frozenset({
    "authmechanism", "authsource", "directconnection", "replicaset", "tls", "tlscafile", "ssl_ca_certs", "sslmode", "sslrootcert",
})  # fmt: skip
"""Of an address; what others hold may be a password."""


class StoreAddresses(BaseModel):
    """Where the five stores are, passwords included. `masked` is what may be shown."""

    mongodb: str
    milvus: str
    milvus_token: str = ""
    neo4j: str
    neo4j_user: str
    neo4j_password: str
    redis: str
    warehouse: str

    def masked(self) -> dict[StoreName, str]:
        """The URLs with their passwords hidden, wherever in them they stand."""
        return {
            "mongodb": _masked(self.mongodb),
            "milvus": _masked(self.milvus),
            "neo4j": _masked(self.neo4j),
            "warehouse": _masked(self.warehouse),
            "redis": _masked(self.redis),
        }


class Settings(BaseSettings):
    """The whole configuration; `.env.example` documents each entry for people."""

    # a prefix, although most entries name their variable: without it `home` would be read from HOME
    model_config = SettingsConfigDict(
        env_prefix="PERSONA_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        validate_default=True,
        hide_input_in_errors=True,  # what does not validate may be a password
    )

    home: Path = Field(default=Path("data/var"))
    drops: Path = Field(default=Path("data/drops"))
    catalog: Path = Field(default=Path("data/catalog"))

    api_host: str = Field(default="127.0.0.1")
    api_port: int = Field(default=8000)
    api_workers: int = Field(default=1, ge=1, le=64)
    dagster_port: int = Field(default=3000)
    dagster_storage_url: SecretStr | None = Field(default=None)
    api_keys: SecretStr = Field(default=SecretStr(""))
    rate_limit: str | None = Field(default=None)
    deadline_seconds: float = Field(default=0.15, gt=0)
    max_body_bytes: int = Field(default=10 << 20, ge=1)
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(default=())

    settle_seconds: float = Field(default=3, ge=0)
    sensor_seconds: int = Field(default=10, ge=1)
    reject_share: float = Field(default=0.5, ge=0, le=1)
    lease_seconds: float = Field(default=30, ge=1)
    lease_wait_seconds: float = Field(default=120, ge=0)

    mongodb_uri: SecretStr | None = Field(default=None, validation_alias="MONGODB_URI")
    mongodb_database: str = Field(default="persona", validation_alias="MONGODB_DATABASE")
    milvus_uri: str | None = Field(default=None, validation_alias="MILVUS_URI")
    milvus_host: str | None = Field(default=None, validation_alias="MILVUS_HOST")
    milvus_port: int = Field(default=19530, validation_alias="MILVUS_PORT")
    milvus_token: SecretStr = Field(default=SecretStr(""), validation_alias="MILVUS_TOKEN")
    milvus_index: Literal["AUTO", "FLAT", "HNSW", "AUTOINDEX"] = Field(default="AUTO", validation_alias="MILVUS_INDEX")
    neo4j_uri: str | None = Field(default=None, validation_alias="NEO4J_URI")
    neo4j_user: str = Field(default="neo4j", validation_alias="NEO4J_USER")
    neo4j_password: SecretStr = Field(default=SecretStr(""), validation_alias="NEO4J_PASSWORD")
    neo4j_database: str = Field(default="neo4j", validation_alias="NEO4J_DATABASE")
    redis_url: SecretStr | None = Field(default=None, validation_alias="REDIS_URL")
    redis_ttl_seconds: int = Field(default=300, ge=1, validation_alias="REDIS_TTL_SECONDS")
    warehouse_url: SecretStr | None = Field(default=None, validation_alias="WAREHOUSE_URL")
    sqlite_path: Path | None = Field(default=None, validation_alias="SQLITE_PATH")
    store_timeout_seconds: float = Field(default=10, gt=0)
    ca_file: Path | None = Field(default=None)

    embedding_model: str = Field(default=BUNDLED_MODEL, validation_alias="EMBEDDING_MODEL")
    embedding_dim: int | None = Field(default=None, gt=0, validation_alias="EMBEDDING_DIM")
    embedding_precision: Literal["fp32", "bf16"] = Field(default="fp32", validation_alias="EMBEDDING_PRECISION")
    intent_threshold: float = Field(default=0.35, ge=0, le=1)
    ranking_margin: float = Field(default=0.02, ge=0, le=1)
    ranking_jump: float = Field(default=0.2, gt=0, le=1)
    repeat_conversions: bool = Field(default=False, validation_alias="REPEAT_CONVERSIONS")
    category_limit: int | None = Field(default=None, ge=1)
    diversity_lambda: float = Field(default=1, ge=0, le=1)
    holdout_percent: float = Field(default=0, ge=0, le=100)
    holdout_salt: str = Field(default="holdout")

    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO")

    @field_validator("home", "drops", "catalog", "sqlite_path", "ca_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    @field_validator("ca_file")
    @classmethod
    def _certificates(cls, path: Path | None) -> Path | None:
        if path:
            try:
                ssl.create_default_context(cafile=path)
            except OSError:
                raise ValueError("a file that can be read and holds certificates in PEM is expected") from None
        return path

    @field_validator("api_keys")
    @classmethod
    def _readable_keys(cls, keys: SecretStr) -> SecretStr:
        parse_keys(keys.get_secret_value())
        return keys

    @field_validator("dagster_storage_url")
    @classmethod
    def _a_postgresql_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parts = make_url(url.get_secret_value())
        except Exception:  # the port is no number, say; the message could hold the password
            parts = None
        if parts is None or parts.drivername != "postgresql" or not parts.host or not parts.database:
            raise ValueError("postgresql://user:password@host:port/database is expected")
        return url

    @field_validator("rate_limit")
    @classmethod
    def _one_rate(cls, rate: str | None) -> str | None:
        if rate is None:
            return None
        from limits import parse_many  # takes a third of a second to import: not for whoever sets no rate

        try:
            [limit] = parse_many(rate)
        except ValueError:
            raise ValueError("one rate is expected, like 10000/minute or 50/second") from None
        if limit.amount < 1:
            raise ValueError("a rate that lets nobody in")
        return rate

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, origins: object) -> object:
        return tuple(filter(None, map(str.strip, origins.split(",")))) if isinstance(origins, str) else origins

    @field_validator("cors_origins")
    @classmethod
    def _as_browsers_send_them(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if origin != "*" and (not parts.scheme or origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc):
                raise ValueError("origins are * or like https://app.example.org: scheme, host, port, and nothing after them")
        return origins

    @model_validator(mode="after")
    def _milvus_from_host(self) -> Self:
        if self.milvus_uri is None and self.milvus_host:
            self.milvus_uri = f"http://{self.milvus_host}:{self.milvus_port}"
        return self

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """Whom the service lets in; without any it listens on loopback only and asks nobody for a key."""
        return parse_keys(self.api_keys.get_secret_value())

    @property
    def addresses_file(self) -> Path:
        """Where the local stack writes the addresses it picked (mode 0600: passwords are in it)."""
        return self.home / "stores" / "addresses.json"

    @property
    def claimed_drops(self) -> Path:
        """Where claimed copies of drops lie, one file per SHA-256."""
        return self.home / "drops"

    @property
    def inbox(self) -> Path:
        """Where what comes in over HTTP lies until it is claimed."""
        return self.home / "inbox"

    @property
    def dagster_home(self) -> Path:
        """Dagster's configuration and logs, and its history where no PostgreSQL is named for it."""
        return self.home / "dagster"

    @property
    def dagster_storage(self) -> str:
        """Where Dagster keeps its history, to be shown: the password is hidden."""
        return _masked(
            self.dagster_storage_url.get_secret_value() if self.dagster_storage_url else f"sqlite:///{self.dagster_home}"
        )

    @property
    def uses_local_servers(self) -> frozenset[StoreName]:
        """The stores for which no URL is set; the warehouse is a file and needs no server."""
        urls: dict[StoreName, object] = {
            "mongodb": self.mongodb_uri, "milvus": self.milvus_uri, "neo4j": self.neo4j_uri, "redis": self.redis_url,
        }  # fmt: skip
        return frozenset(name for name, url in urls.items() if url is None)

    @cached_property
    def addresses(self) -> StoreAddresses:
        """The five addresses: set ones as they are, the others from the local stack.

        Raises `NotStarted` where a local server is needed and the local stack has never run.
        """
        local: dict[str, str] = {}
        if self.uses_local_servers:
            try:
                local = json.loads(self.addresses_file.read_text())
                _ = [local[store] for store in self.uses_local_servers]
            except (FileNotFoundError, KeyError):
                raise NotStarted(
                    f"no local stores under {self.home}, and no URL set for: {', '.join(sorted(self.uses_local_servers))}",
                    hint="`persona stores up` starts them; or set MONGODB_URI, MILVUS_URI, NEO4J_URI and REDIS_URL.",
                ) from None
        warehouse = self.warehouse_url.get_secret_value() if self.warehouse_url else f"sqlite:///{self._sqlite_file}"
        return StoreAddresses(
            mongodb=self.mongodb_uri.get_secret_value() if self.mongodb_uri else local["mongodb"],
            milvus=self.milvus_uri or local["milvus"],
            milvus_token=self.milvus_token.get_secret_value(),
            neo4j=self.neo4j_uri or local["neo4j"],
            neo4j_user=self.neo4j_user if self.neo4j_uri else local["neo4j_user"],
            neo4j_password=self.neo4j_password.get_secret_value() if self.neo4j_uri else local["neo4j_password"],
            redis=self.redis_url.get_secret_value() if self.redis_url else local["redis"],
            warehouse=warehouse,
        )

    @property
    def _sqlite_file(self) -> Path:
        return self.sqlite_path or self.home / "stores" / "warehouse.sqlite"


def _masked(url: str) -> str:
    """Names and hosts, and of options those that are known to be harmless. A URL that cannot be taken apart for sure is not shown."""
    if not (parts := ADDRESS.fullmatch(url)):
        return f"{url.partition('://')[0]}://***" if "://" in url else "***"
    user = parts["user"] if parts["password"] else "***"  # a name alone may be a token
    login = "" if parts["user"] is None else f"{user}{':***' if parts['password'] else ''}@"
    options = "&".join(map(_masked_option, parts["options"].split("&"))) if parts["options"] else ""
    return f"{parts['scheme']}://{login}{parts['where']}{'?' * bool(options)}{options}"


def _masked_option(option: str) -> str:
    name, equals, _ = option.partition("=")
    return option if name.lower() in SHOWN_OPTIONS else f"{name}=***" if equals else "***"
