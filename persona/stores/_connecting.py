"""Why a server could not be spoken to, in words: what drivers say of addresses, TLS and certificates. What they are asked is elsewhere.

Drivers tell these faults apart in their messages alone. Those are OpenSSL's, libpq's and gRPC's, and are never passed on: what is
wrong with an address is told without quoting it, as a password may stand in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from persona.errors import StoreRefused, StoreUnavailable
from persona.settings import StoreName


@dataclass(frozen=True, slots=True)
class Terms:
    """What a store's address is called in the settings, and how it says what TLS needs."""

    store: StoreName
    address: str
    encrypted: str
    """How to ask for TLS."""
    ca: str
    """What names the CA that vouches for the server."""
    certificate: str = "Persona has none for this store"
    """What names the certificate of ours, where there can be one."""

    def fault(self, error: BaseException) -> StoreUnavailable | None:
        """What this error says of the connection; None where it says nothing of it."""
        said = " ".join(map(str, _chain(error))).lower()
        for signs, reason, hint in FAULTS:
            if any(sign in said for sign in signs):
                return StoreUnavailable(self.store, reason, hint=hint.format(terms=self))
        return None

    @contextmanager
    def readable(self, *errors: type[Exception]) -> Iterator[None]:
        """Raise `StoreRefused` for what a driver, with `errors` of its own, says of the address before it connects."""
        surprises: tuple[type[Exception], ...] = (ValueError, TypeError, *errors)
        try:
            yield
        except OSError as error:
            raise StoreRefused(f"a file that {self.address} names cannot be read: {error.strerror}", hint=FILES) from None
        except surprises as error:
            raise StoreRefused(f"{self.address} cannot be used ({type(error).__name__})", hint=SYNTAX) from None


GRANTS = "Grant what docs/operations.md lists for it under “Credentials and transport”."
FILES = "It has to be there, readable for this user, and in PEM."
SYNTAX = (
    "It is read as scheme://user:password@host:port/name?option=value, with options that its driver knows; "
    "in a password : / ? # [ ] @ % are written as %3A %2F %3F %23 %5B %5D %40 %25."
)
# The first whose sign is found counts.
FAULTS = (
    (
        ("certificate is not valid for", "does not match host name", "hostname verification check failed"),
        "its certificate is for another name",
        "Use the name that is in the certificate in {terms.address}, or have one made for this name.",
    ),
    (("certificate has expired",), "its certificate has expired", "Have it renewed."),
    (
        ("certificate verify failed", "certificate_verify_failed"),
        "its certificate is from no CA that is trusted here",
        "{terms.ca} names the file with the certificate of the CA that signed it.",
    ),
    (
        ("certificate_required", "certificate required", "requires a valid client certificate", "unknown_ca", "unknown ca"),
        "it asks for a certificate that its CA has signed",
        "{terms.certificate}.",
    ),
    (
        ("no_certificate_or_crl_found", 'certificate file "', "error 2 connecting", "error 13 connecting"),
        "a file that its address names cannot be read",
        FILES,
    ),
    (
        ("wrong_version_number", "wrong version number", "does not support ssl"),
        "it does not speak TLS",
        "Check host and port in {terms.address}, and whether the server has TLS switched on.",
    ),
    (
        ("timeout connecting",),
        "it does not answer",
        "Check host and port in {terms.address}, and whether the server has TLS switched on where it says so.",
    ),
    (("no encryption",), "it takes encrypted connections only", "{terms.encrypted}."),
    (
        # all that some say to whom they expected to speak, or not to speak, TLS, or to show a certificate
        ("connection closed", "connection reset", "socket closed", "handshake response", "eof occurred in violation of protocol"),
        "it ended the connection",
        "If it runs well, it speaks TLS only ({terms.encrypted}), none at all (look at {terms.address}), or asks for a certificate"
        " ({terms.certificate}).",
    ),
)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and all that led to it."""
    found = [error]
    for each in found:
        led_to_it = (each.__cause__, each.__context__, *(each.exceptions if isinstance(each, BaseExceptionGroup) else ()))
        found += [cause for cause in led_to_it if cause is not None and not any(cause is known for known in found)]
    return found
