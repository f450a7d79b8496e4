"""What Prometheus is told, that dashboard and alerts ask for nothing else, and that health is told in time."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from serving import telemetry
from serving.guard import HEALTH_SECONDS, THREADS
from tests.serving.conftest import Fakes, eventually

DOCS = Path(__file__).parents[2] / "docs"
ROUTE = "/recommendations/{user_id}"

Figure = Callable[..., float]


@pytest.fixture
def figure(client: TestClient) -> Figure:
    """The figure with this name and these labels, 0 where there is none yet."""

    def asked(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        found = [
            sample.value for family in families for sample in family.samples if (sample.name, sample.labels) == (name, labels)
        ]
        return found[0] if found else 0.0

    return asked


def test_requests_are_counted_by_route_and_never_by_what_a_client_sent(client: TestClient, figure: Figure) -> None:
    well = {"method": "GET", "route": ROUTE, "status": "2xx"}
    odd = {"method": "other", "route": ROUTE, "status": "4xx"}
    nowhere = {"method": "GET", "route": "none", "status": "4xx"}
    name = "persona_http_request_duration_seconds_count"
    before = [figure(name, **labels) for labels in (well, odd, nowhere)]
    for number in range(3):
        client.get(f"/recommendations/secret-person-{number}")
        client.request(f"BREW{number}", "/recommendations/secret-person")
        client.get(f"/secret-person/{number}")
    assert [figure(name, **labels) for labels in (well, odd, nowhere)] == [count + 3 for count in before]
    told = client.get("/metrics").text
    assert "secret-person" not in told and "BREW" not in told


def test_answers_are_counted_by_source_and_by_what_they_lack(client: TestClient, fakes: Fakes, figure: Figure) -> None:
    asked = {
        "computed": lambda: figure("persona_answers_total", source="computed"),
        "cache": lambda: figure("persona_answers_total", source="cache"),
        "hit": lambda: figure("persona_cache_reads_total", result="hit"),
        "miss": lambda: figure("persona_cache_reads_total", result="miss"),
        "failed": lambda: figure("persona_cache_reads_total", result="failed"),
        "degraded": lambda: figure("persona_answers_degraded_total", store="redis"),
    }
    before = {name: ask() for name, ask in asked.items()}
    client.get("/recommendations/u_1")
    client.get("/recommendations/u_1")
    fakes.redis.down = True
    client.get("/recommendations/u_1")
    grown = {name: ask() - before[name] for name, ask in asked.items()}
    assert grown == {"computed": 2, "cache": 1, "hit": 1, "miss": 1, "failed": 1, "degraded": 1}


def test_a_store_is_timed_and_its_breaker_shown(client: TestClient, fakes: Fakes, figure: Figure) -> None:
    def calls(outcome: str) -> float:
        return figure("persona_store_call_duration_seconds_count", store="milvus", outcome=outcome)

    before = {outcome: calls(outcome) for outcome in ("ok", "failed", "late")}
    client.get("/recommendations/u_1")
    assert calls("ok") > before["ok"]
    assert figure("persona_store_breaker_open", store="milvus") == 0
    fakes.milvus.thawed.clear()
    client.get("/recommendations/u_2")
    assert calls("late") > before["late"]
    fakes.milvus.thawed.set()
    eventually(lambda: figure("persona_store_breaker_open", store="milvus") == 0)
    fakes.milvus.down = True
    client.get("/recommendations/u_4")
    eventually(lambda: figure("persona_store_breaker_open", store="milvus") == 1)
    refused = figure("persona_store_refusals_total", store="milvus")
    client.get("/recommendations/u_3")
    assert figure("persona_store_refusals_total", store="milvus") > refused
    eventually(lambda: calls("failed") > before["failed"])
    fakes.milvus.down = False
    eventually(lambda: figure("persona_store_breaker_open", store="milvus") == 0)


def test_a_store_that_nobody_asks_anything_is_seen_to_be_down(client: TestClient, fakes: Fakes, figure: Figure) -> None:
    assert figure("persona_store_up", store="warehouse") == 1
    fakes.warehouse.down = True
    assert figure("persona_store_up", store="warehouse") == 0


def test_the_generation_and_the_age_of_the_data_are_those_of_the_answers(
    client: TestClient, fakes: Fakes, figure: Figure
) -> None:  # fmt: skip
    assert figure("persona_generation_info", generation="g_1") == 1
    assert figure("persona_campaigns") == 4
    assert figure("persona_data_age_seconds") == pytest.approx(client.get("/health").json()["data_age_s"], abs=60)
    loads = figure("persona_snapshot_load_duration_seconds_count")
    fakes.mongodb.generation = "g_2"
    eventually(lambda: figure("persona_generation_info", generation="g_2") == 1)
    eventually(lambda: figure("persona_generation_info", generation="g_1") == 0)  # a scrape may meet the swap in the middle
    assert figure("persona_snapshot_load_duration_seconds_count") == loads + 1


def test_whoever_prefers_openmetrics_gets_it(client: TestClient) -> None:
    told = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert told.headers["content-type"].startswith("application/openmetrics-text")
    assert told.text.endswith("# EOF\n")
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")


# -- health -----------------------------------------------------------------------------------------------------------------


def test_health_and_readiness_are_told_whatever_hangs(client: TestClient, fakes: Fakes) -> None:
    assert HEALTH_SECONDS < 2
    for store in fakes.all:
        store.thawed.clear()
    with ThreadPoolExecutor(THREADS) as crowd:
        waiting = [crowd.submit(client.get, f"/recommendations/u_{number}") for number in range(2 * THREADS)]
        health, ready = client.get("/health"), client.get("/readyz")
        assert {answer.result().status_code for answer in waiting} == {200}
    assert ready.status_code == 200, "an answer still comes from memory"
    assert (health.status_code, health.json()["status"]) == (503, "down")
    assert all(store["status"] == "down" and store["error"] for store in health.json()["stores"].values())
    for store in fakes.all:
        store.thawed.set()
    eventually(lambda: client.get("/health").json()["status"] == "ok")


# -- dashboard and alerts ---------------------------------------------------------------------------------------------------


def dashboard_queries() -> list[str]:
    panels = json.loads((DOCS / "grafana" / "persona.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def alert_queries() -> list[str]:
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("queries", [dashboard_queries, alert_queries])
def test_every_query_is_for_a_figure_that_there_is(queries: Callable[[], list[str]]) -> None:
    exported = {
        f"{family.name}{suffix}": set(metric._labelnames)
        for metric in vars(telemetry).values()
        if hasattr(metric, "_labelnames")
        for family in metric.describe()
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
    }
    asked = queries()
    assert asked
    for query in asked:
        names = set(re.findall(r"persona_\w+", query))
        assert names <= set(exported), query
        known = set.union({"le", "instance", "job"}, *(exported[name] for name in names))
        matched = {label for matchers in re.findall(r"\{(.*?)\}", query) for label in re.findall(r"(\w+)\s*[=!]", matchers)}
        grouped = {label for labels in re.findall(r"by \((.*?)\)", query) for label in labels.split(", ")}
        assert matched | grouped <= known, query


def test_every_alert_has_a_page_that_it_names() -> None:
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    rules = {rule["alert"]: rule["annotations"]["runbook"] for group in groups for rule in group["rules"]}
    assert rules == {name: f"docs/alerts.md#{name.lower()}" for name in rules}
    pages = re.split(r"^## ", (DOCS / "alerts.md").read_text(), flags=re.MULTILINE)[1:]
    assert [page.splitlines()[0] for page in pages] == list(rules)
    for page in pages:
        assert all(f"**{part}" in page for part in ("Means.", "Look.", "Do.", "Over when")), page


def test_every_figure_stands_on_the_dashboard_or_in_an_alert() -> None:
    asked = " ".join(dashboard_queries() + alert_queries())
    figures = {metric.describe()[0].name for metric in vars(telemetry).values() if hasattr(metric, "_labelnames")}
    assert {name for name in figures if name not in asked} == set()
