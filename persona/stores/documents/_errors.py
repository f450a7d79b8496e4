"""MongoDB's errors in the product's words. Every collection class passes its methods through `translated`."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pymongo.client_session import ClientSession
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from persona.errors import StoreRefused, StoreUnavailable
from persona.settings import StoreName
from persona.stores._connecting import Terms

C = TypeVar("C")

STORE: StoreName = "mongodb"
TERMS = Terms(
    STORE,
    "MONGODB_URI",
    encrypted="put `tls=true` into MONGODB_URI",
    ca="`tlsCAFile` in MONGODB_URI",
    certificate="`tlsCertificateKeyFile` in MONGODB_URI names ours with its key",
)
# starting, shutting or stepping down, interrupted, not primary
UNAVAILABLE_CODES = {91, 189, 211, 11600, 11602, 10107, 13435, 13436}
HINTS = {
    13: "The credentials in MONGODB_URI may not read or write this database: grant readWrite on it.",
    18: "Check the user name and password in MONGODB_URI.",
    371: "Someone has told MongoDB to refuse writes (setUserWriteBlockMode): have that ended, then run again.",
}
DISK_FULL_CODE, DISK_FULL_SIGN = 14031, "No space left on device"  # the sign comes with a code that says nothing


@contextmanager
def mongodb_errors() -> Iterator[None]:
    """Raise `StoreUnavailable` or `StoreRefused` for what the driver raises."""
    try:
        yield
    except OperationFailure as error:
        if error.code in UNAVAILABLE_CODES:
            raise StoreUnavailable(STORE, str(error.code)) from None
        if isinstance(error, ExecutionTimeout):
            raise StoreUnavailable(STORE, "the operation took too long") from None
        if error.code == DISK_FULL_CODE or DISK_FULL_SIGN in str(error.details):
            raise StoreRefused("MongoDB's disk is full", hint="Free space on its volume, then run again.") from None
        hint = HINTS.get(error.code or 0, "Mend what MongoDB names, then run again: nothing that was read is lost.")
        raise StoreRefused(f"MongoDB refused (code {error.code}): {_reason(error)}", hint=hint) from None
    except (ConnectionFailure, NetworkTimeout, AutoReconnect) as error:
        # once there are connections, one that breaks says nothing of how they are made
        fault = TERMS.fault(error) if isinstance(error, ServerSelectionTimeoutError) else None
        raise fault or StoreUnavailable(STORE, _in_words(error)) from None
    except PyMongoError as error:
        raise StoreRefused(f"MongoDB: {type(error).__name__}", hint="See the log for the driver's message.") from None


def translated(cls: type[C]) -> type[C]:
    """Class decorator: public methods raise the product's errors instead of the driver's."""
    for name, function in list(vars(cls).items()):
        if not name.startswith("_") and inspect.isfunction(function):
            setattr(cls, name, _translated(function))
    return cls


def _translated(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generating(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with mongodb_errors():
                yield from function(*args, **kwargs)

        return generating

    @functools.wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("session"), ClientSession):  # in a transaction the driver must see its own errors, to try again
            return function(*args, **kwargs)
        with mongodb_errors():
            return function(*args, **kwargs)

    return calling


def _in_words(error: Exception) -> str:
    if isinstance(error, ServerSelectionTimeoutError):
        return "no server takes writes at its address"
    return "it took too long to answer" if isinstance(error, NetworkTimeout) else "the connection broke"


def _reason(error: OperationFailure) -> str:
    # the server's message may quote a document, and with it a person's words: its code's name is enough
    return (error.details or {}).get("codeName") or "see the server's log"
