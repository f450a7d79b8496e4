"""MongoDB's errors in the product's words. Every collection class passes its methods through `translated`."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)

from persona.errors import StoreRefused, StoreUnavailable

C = TypeVar("C")

STORE = "mongodb"
UNAVAILABLE_CODES = {91, 189, 11600, 11602, 10107, 13435, 13436}  # shutting down, stepping down, interrupted, not primary
HINTS = {
    13: "The credentials in MONGODB_URI may not read or write this database: grant readWrite on it.",
    18: "Check the user name and password in MONGODB_URI.",
    14031: "MongoDB's disk is full: free space on its volume, then run again.",
}


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
        hint = HINTS.get(error.code or 0, "Mend what MongoDB names, then run again: nothing that was read is lost.")
        raise StoreRefused(f"MongoDB refused (code {error.code}): {_reason(error)}", hint=hint) from None
    except (ConnectionFailure, NetworkTimeout, AutoReconnect) as error:
        raise StoreUnavailable(STORE, type(error).__name__) from None
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
        if "session" in kwargs:  # inside a transaction the driver must see its own errors, to know which to try again
            return function(*args, **kwargs)
        with mongodb_errors():
            return function(*args, **kwargs)

    return calling


def _reason(error: OperationFailure) -> str:
    # the server's message may quote a document, and with it a person's words: its code's name is enough
    return (error.details or {}).get("codeName") or "see the server's log"
