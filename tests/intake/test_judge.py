"""Whether a drop comes in: the same counts always get the same verdict."""

from collections import Counter

import pytest

from persona.intake.judge import judge, judge_attempts
from persona.schemas import Reason


@pytest.mark.parametrize(("read", "bad", "held"), [(0, 0, False), (10, 0, False), (10, 5, False), (10, 6, True), (1, 1, True)])
def test_a_drop_is_held_when_more_than_the_share_does_not_validate(read: int, bad: int, held: bool) -> None:
    rejected = Counter({Reason.MISSING_FIELD: bad} if bad else {})
    assert (judge(read, rejected, reject_share=0.5) is not None) is held
    assert judge(read, rejected, reject_share=1.0) is None


def test_the_reason_is_what_most_lines_suffer_from_and_bytes_come_before_fields() -> None:
    fields = judge(10, Counter({Reason.MISSING_FIELD: 3, Reason.INVALID_FIELD: 5}), reject_share=0.5)
    mixed = judge(10, Counter({Reason.MISSING_FIELD: 8, Reason.INVALID_JSON: 2}), reject_share=0.5)
    assert fields is not None and fields.reason is Reason.INVALID_FIELD and "8 of 10" in fields.detail
    assert mixed is not None and mixed.reason is Reason.INVALID_JSON


def test_the_third_crash_holds_a_drop() -> None:
    assert [judge_attempts(crashes) is not None for crashes in range(5)] == [False, False, False, True, True]
    hold = judge_attempts(3)
    assert hold is not None and hold.reason is Reason.CRASHED_RUN
