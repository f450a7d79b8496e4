"""Whether a drop may come in: a pure decision over its counts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from persona.schemas import Reason

MAX_CRASHES = 3
LOST_COPY = "Our copy of it was lost, and its file is gone: hand it in again."
UNREADABLE = frozenset({Reason.INVALID_JSON, Reason.INVALID_ENCODING, Reason.TOO_DEEP})
"""What is wrong with the bytes comes before what is wrong with the fields."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The drop is kept out whole, with the reason and what to do."""

    reason: Reason
    detail: str


def judge(read: int, rejected: Mapping[Reason, int], *, reject_share: float) -> Hold | None:
    """Hold a drop of which more than `reject_share` does not validate; the same counts always get the same verdict.

    `read` leaves out the records of erased people: they say nothing about the file.
    So many bad lines mean that the file is not what it says it is, and what did validate of it is not to be trusted either.
    """
    bad = sum(rejected.values())
    if not read or bad / read <= reject_share:
        return None
    unreadable = {reason: count for reason, count in rejected.items() if reason in UNREADABLE}
    reason, count = Counter(unreadable or rejected).most_common(1)[0]
    detail = f"{bad} of {read} records do not validate ({count} of them: {reason}); mend the file and drop it again."
    return Hold(reason, detail)


def judge_attempts(crashes: int) -> Hold | None:
    """Hold a drop during which runs have crashed again and again, so that its neighbours go on."""
    if crashes < MAX_CRASHES:
        return None
    detail = f"{crashes} runs ended abruptly while they read this drop; the log of those runs says why."
    return Hold(Reason.CRASHED_RUN, detail)
