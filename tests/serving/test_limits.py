"""How often a key may ask: counted in Redis, and without it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient

from persona.errors import TooManyRequests
from persona.settings import Settings
from serving.app import create_app
from serving.auth import Caller
from serving.guard import Guard
from serving.limits import Limits
from tests.serving.conftest import FakeCache, Fakes
from tests.serving.test_keys import KEYS, bearer, setting

SHOP, TEAM = Caller("shop", frozenset({"read"})), Caller("team", frozenset({"read"}))


@contextmanager
def limited(fakes: Fakes, settings: Settings, rate: str | None) -> Iterator[TestClient]:
    stricter = Settings(_env_file=None, home=settings.home, api_keys=setting(KEYS), rate_limit=rate)
    with TestClient(create_app(stricter, stores=fakes.openers())) as running:
        yield running


@pytest.mark.parametrize("redis_is_down", [False, True])
def test_a_key_that_asks_too_often_is_told_when_to_come_back(fakes: Fakes, settings: Settings, redis_is_down: bool) -> None:
    with limited(fakes, settings, "3/day") as client:
        fakes.redis.down = redis_is_down
        answers = [client.get("/recommendations/u_1", headers=bearer(KEYS["read"])) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 86_400
        assert answers[-1].json()["type"] == "urn:persona:problem:too_many_requests"
        assert client.get("/health", headers=bearer(KEYS["read"])).status_code == 429, "every route counts"
        assert client.get("/users/u_1/similar", headers=bearer(KEYS["admin"])).status_code == 200, "each key for itself"
        assert client.get("/livez").status_code == 200


def test_what_a_key_may_not_do_does_not_use_up_its_requests(fakes: Fakes, settings: Settings) -> None:
    with limited(fakes, settings, "1/day") as client:
        for _ in range(3):
            assert client.get("/users/u_1/similar", headers=bearer(KEYS["read"])).status_code == 403
        assert client.get("/health", headers=bearer(KEYS["read"])).status_code == 200


def test_without_a_rate_nothing_is_counted(fakes: Fakes, settings: Settings) -> None:
    with limited(fakes, settings, None) as client:
        assert client.get("/recommendations/u_1", headers=bearer(KEYS["read"])).status_code == 200
    assert not fakes.redis.counted


def test_windows_go_by_the_clock() -> None:
    limits = Limits("2/minute", Guard("redis", FakeCache().opened, deadline=1), clock=lambda: 130.0)
    assert limits.seconds == 60
    assert limits.bucket(SHOP, 119.9) == limits.bucket(SHOP, 60) != limits.bucket(SHOP, 120)
    assert limits.bucket(SHOP, 60) != limits.bucket(TEAM, 60)
    limits.judge(SHOP, 2)
    with pytest.raises(TooManyRequests) as refused:
        limits.judge(SHOP, 3)
    assert refused.value.retry_after == 50
    nothing = Limits(None, Guard("redis", FakeCache().opened, deadline=1))
    assert nothing.bucket(SHOP, 0) is None
    nothing.judge(SHOP, 10**9)
