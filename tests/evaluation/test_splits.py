"""No split lets the future, or a held-out user, be learned from."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from persona.evaluation.splits import Window, rolling_windows, strong_generalisation

TIMES = st.lists(st.integers(min_value=0, max_value=60), max_size=80)
USERS = st.lists(st.integers(min_value=0, max_value=9), min_size=4, max_size=80)


@given(TIMES, st.integers(min_value=1, max_value=5), st.sampled_from([0.05, 0.1, 0.3]))
def test_windows_follow_each_other_backwards_and_leave_something_to_learn_from(
    times: list[int], count: int, share: float
) -> None:
    windows = rolling_windows(times, count=count, share=share)
    assert len(windows) <= count
    for window in windows:
        assert any(window.start_ms <= time < window.end_ms for time in times)
        assert min(times) < window.start_ms < window.end_ms
    for newer, older in pairwise(windows):
        assert older.end_ms == newer.start_ms
    if windows:
        assert windows[0].end_ms == max(times) + 1


def test_a_window_holds_its_share() -> None:
    assert rolling_windows(range(100), count=3, share=0.1) == [Window(90, 100), Window(80, 90), Window(70, 80)]
    assert rolling_windows([], count=2, share=0.1) == rolling_windows([5] * 20, count=2, share=0.1) == []


@given(USERS, st.integers(min_value=1, max_value=6))
def test_a_held_out_user_is_not_learned_from_and_is_both_shown_and_hidden(users: list[int], held_out: int) -> None:
    of = np.array(users)
    learned, parts = strong_generalisation(of, held_out=held_out)
    out = {part.user for part in parts}
    assert len(out) == min(held_out, sum(users.count(user) >= 2 for user in set(users)))
    assert not {*of[learned].tolist()} & out
    for part in parts:
        assert len(part.shown) and len(part.hidden)
        everything = np.sort(np.concatenate([part.shown, part.hidden]))
        assert everything.tolist() == np.flatnonzero(of == part.user).tolist()
    assert len(learned) + sum(len(part.shown) + len(part.hidden) for part in parts) == len(users)
