"""Who is held out: as many as asked for, the same ones always, and others with another salt."""

import pytest

from persona.ranking.holdout import Holdout

PEOPLE = [f"u_{number}" for number in range(20_000)]


def held_out(percent: float, salt: str = "holdout") -> set[str]:
    holdout = Holdout(percent, salt)
    return {person for person in PEOPLE if holdout.has(person)}


@pytest.mark.parametrize("percent", [0.5, 5, 50])
def test_as_many_are_held_out_as_asked_for(percent: float) -> None:
    expected = percent / 100
    deviation = (expected * (1 - expected) / len(PEOPLE)) ** 0.5
    assert abs(len(held_out(percent)) / len(PEOPLE) - expected) < 4 * deviation


def test_nobody_and_everybody() -> None:
    assert held_out(0) == set()
    assert held_out(100) == set(PEOPLE)


def test_who_is_held_out_stays_so_when_more_are() -> None:
    assert held_out(1) < held_out(2) < held_out(40)


def test_another_salt_holds_out_others() -> None:
    one, other = held_out(10, "spring"), held_out(10, "autumn")
    assert len(one & other) < 0.2 * len(one)


def test_the_hash_is_the_same_on_every_machine_and_in_every_release() -> None:
    assert [person for person in PEOPLE[:60] if Holdout(10).has(person)] == [
        "u_13",
        "u_19",
        "u_26",
        "u_30",
        "u_31",
        "u_35",
        "u_46",
        "u_53",
    ]
