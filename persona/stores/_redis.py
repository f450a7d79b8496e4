"""What the modules on Redis share: how a person is named there, what says that their answers are outdated, errors in our own words."""

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis

from persona.errors import PersonaError, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from redis.client import Pipeline

EPOCH_KEY = "persona:cache:epoch"
COUNT_KEY = "persona:count:{bucket}"
VERSION_KEY = "persona:version:{user}"
ANSWERS_KEY = "persona:answers:{user}"
VERSION_SECONDS = 3_600


def hashed(user_id: str) -> str:
    """The person in a key."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def evict(commands: "Pipeline", users: Iterable[str]) -> None:
    """Add to these commands what removes the answers of these (hashed) people and keeps out any that is being computed now."""
    for user in users:
        commands.set(VERSION_KEY.format(user=user), secrets.token_hex(8), ex=VERSION_SECONDS)
        commands.unlink(ANSWERS_KEY.format(user=user))


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
        return StoreUnavailable("redis", str(error))
    return StoreRefused(f"redis refused: {error}", hint="Check the server's memory, its disk and whether it is a replica.")
