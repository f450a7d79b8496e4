"""What the modules on Redis share: how a person is named there, what says that their answers are outdated, errors in our own words."""

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import redis
import redis.asyncio

from persona.errors import PersonaError, StoreRefused, StoreUnavailable
from persona.stores._connecting import GRANTS, Terms

if TYPE_CHECKING:
    from redis.client import Pipeline

EPOCH_KEY = "persona:cache:epoch"
COUNT_KEY = "persona:count:{bucket}"
VERSION_KEY = "persona:version:{user}"
ANSWERS_KEY = "persona:answers:{user}"
VERSION_SECONDS = 3_600
TERMS = Terms(
    "redis",
    "REDIS_URL",
    encrypted="begin REDIS_URL with rediss://",
    ca="`ssl_ca_certs` in REDIS_URL",
    certificate="`ssl_certfile` and `ssl_keyfile` in REDIS_URL name ours and its key",
)
C = TypeVar("C", redis.Redis, redis.asyncio.Redis)


def hashed(user_id: str) -> str:
    """The person in a key."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def evict(commands: "Pipeline", users: Iterable[str]) -> None:
    """Add to these commands what removes the answers of these (hashed) people and keeps out any that is being computed now."""
    for user in users:
        commands.set(VERSION_KEY.format(user=user), secrets.token_hex(8), ex=VERSION_SECONDS)
        commands.unlink(ANSWERS_KEY.format(user=user))


def client_of(kind: type[C], url: str, **options: Any) -> C:
    """A client of this kind, which connects when it is first used. Raises `StoreRefused` where the address cannot be used."""
    with TERMS.readable(redis.RedisError):
        client: C = kind.from_url(url, **options)
        pool = client.connection_pool
        pool.connection_class(
            **pool.connection_kwargs
        )  # the address's options are looked at here, else with the first connection
    return client


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the driver in our own words: `StoreUnavailable` or `StoreRefused`."""
    try:
        yield
    except redis.RedisError as error:
        raise _in_our_words(error) from None


def _in_our_words(error: redis.RedisError) -> PersonaError:
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return StoreRefused("redis refused the credentials", hint="Check REDIS_URL.")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return TERMS.fault(error) or StoreUnavailable("redis", str(error))
    if isinstance(error, redis.exceptions.NoPermissionError):
        return StoreRefused(f"redis refused: {error}", hint=GRANTS)
    return StoreRefused(f"redis refused: {error}", hint="Check the server's memory, its disk and whether it is a replica.")
