"""What can go wrong in words a person can act on. Every error the product raises on purpose is one of these; no logic."""


class PersonaError(Exception):
    """Something went wrong that the reader can mend; `hint` says how.

    `code` is stable and machine-readable, `exit_code` what the command line ends with.
    """

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message.rstrip('.')}. {hint}" if hint else message)
        self.message = message
        self.hint = hint


class InvalidInput(PersonaError):
    """What was handed in does not fit the contract."""

    code = "invalid_input"
    exit_code = 2


class Malformed(InvalidInput):
    """What was handed in cannot be read at all."""

    code = "malformed"


class NotFound(PersonaError):
    """There is no such user, campaign, drop or generation."""

    code = "not_found"
    exit_code = 3


class Busy(PersonaError):
    """Another run holds the lease, or too many wait for the same already; the message says which."""

    code = "busy"
    exit_code = 4


class TooManyRequests(PersonaError):
    """Whoever asks has asked too often, or tried too many keys; `retry_after` is when to come back, in seconds."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, hint=f"Ask again in {retry_after} s.")
        self.retry_after = retry_after


class StoreUnavailable(PersonaError):
    """A store did not answer within its deadline, or refused the connection."""

    code = "store_unavailable"

    def __init__(
        self, store: str, reason: str, *, hint: str = "`persona doctor` says which stores answer, and what to do."
    ) -> None:
        super().__init__(f"{store} is unavailable: {reason}", hint=hint)
        self.store = store


class StoreRefused(PersonaError):
    """A store answered but would not do it: its disk is full, it is read-only, the credentials are wrong."""

    code = "store_refused"


class NoRoom(PersonaError):
    """The disk that it would have to be written to is full."""

    code = "no_room"


class Conflict(PersonaError):
    """What was said under this name before was something else."""

    code = "conflict"


class LeaseLost(PersonaError):
    """This run slept past its lease and another took over; nothing more may be written."""

    code = "lease_lost"


class EmbeddingMismatch(PersonaError):
    """The stored vectors come from another model or dimension than the settings name."""

    code = "embedding_mismatch"


class NotStarted(PersonaError):
    """The local stack has not been started, so there is no address for a store."""

    code = "not_started"
