"""`persona up`, `down`, `status`: the whole platform on this machine."""

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from pydantic import SecretStr

from persona import synthetic
from persona.errors import PersonaError
from persona.intake.claim import settled_files
from persona.local.processes import ProcessSpec
from persona.local.stack import (
    service_port,
    services_status,
    start_services,
    start_stores,
    stop_services,
    stop_stores,
    stores_status,
    wipe_stores,
)
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import DRAINING_ASSETS
from persona.ranking.publication import fit_is_due
from persona.settings import Settings
from persona_cli.options import Json
from persona_cli.output import Steps, emit, steps
from persona_cli.pipeline import open_pipeline

FIRST_ANSWER_SECONDS = 300
WHOLE_ANSWER_SECONDS = 60
"""From then on a first answer will do that a store is missing from."""
LOCATION = "persona_assets"


def up(
    samples: Annotated[bool, typer.Option(help="Generate conversations where there are no drops at all.")] = True,
    json: Json = False,
) -> None:
    """Start stores, Dagster and the API, and print a first recommendation. Harmless when they run."""
    settings = Settings()
    with steps() as step:
        _samples(settings, step) if samples else None
        step.now("starting the stores")
        start_stores(settings, progress=lambda name: step.now(f"{name} is ready"))
        services = _start_services(settings, step)
        with open_pipeline(settings) as pipeline:
            answer = _first_answer(settings, pipeline, services["api"], step)
    emit(
        {"dagster": services["dagster"], "api": services["api"], "recommendation": answer},
        f"Dagster  [bold]{services['dagster']}[/]\nAPI      [bold]{services['api']}[/]  (docs: {services['api']}/docs)\n"
        + _shown(answer, services["api"] if settings.keys else None),
    )


def down(
    wipe: Annotated[
        bool, typer.Option("--wipe", help="Also remove everything under PERSONA_HOME: stores, history, logs.")
    ] = False,
    json: Json = False,
) -> None:
    """Stop everything that `up` started. With --wipe, start afresh next time; the drop folder is left alone."""
    settings = Settings()
    with steps() as step:
        step.now("stopping the services")
        stop_services(settings)
        step.now("stopping the stores")
        stop_stores(settings)
        if wipe:
            wipe_stores(settings)
            # claimed drops belong to the ledger: where that is on a server of one's own, they stay
            claimed = ["drops"] if "mongodb" in settings.uses_local_servers else []
            for folder in ("stores", "dagster", "logs", "inbox", "run", *claimed):
                shutil.rmtree(settings.home / folder, ignore_errors=True)
    emit({"stopped": True, "wiped": wipe}, "stopped" + (" and wiped" if wipe else ""))


def status(json: Json = False) -> None:
    """Which services and stores there are, and how they are."""
    settings = Settings()
    services = services_status(settings)
    stores = stores_status(settings)
    urls = settings.addresses.masked() if settings.addresses_file.exists() or not settings.uses_local_servers else {}
    document: dict[str, Any] = {
        "home": str(settings.home),
        "services": {
            name: {"state": services[key].state, "url": _site(services[key].url), "pid": services[key].pid}
            if key in services
            else {"state": "stopped", "url": None, "pid": None}
            for name, key in (("api", "api"), ("dagster", "webserver"), ("dagster_daemon", "daemon"), ("dagster_code", "code"))
        },
        "stores": {name: {"state": state.state, "url": urls.get(name)} for name, state in stores.items()},
        "dagster_storage": settings.dagster_storage,
    }
    document["stores"]["warehouse"] = {
        "state": "file" if settings.warehouse_url is None else "external",
        "url": urls.get("warehouse"),
    }
    lines = [
        f"{name:<15} {entry['state']:<12} {entry['url'] or ''}"
        for part in ("services", "stores")
        for name, entry in document[part].items()
    ]
    emit(document, "\n".join([*lines, f"{'dagster storage':<15} {'':<12} {settings.dagster_storage}"]))


def _samples(settings: Settings, step: Steps) -> None:
    taken_in_before = settings.addresses_file.exists() or not settings.uses_local_servers
    if taken_in_before or any(settled_files(settings.drops, settle_seconds=0)) or any(settings.catalog.glob("*.json")):
        return
    step.now("generating conversations for a first look")
    synthetic.write(synthetic.generate(messages=300), settings.drops, settings.catalog)


def _start_services(settings: Settings, step: Steps) -> dict[str, str]:
    ports = {
        "code": service_port(settings, "code", 4000),
        "webserver": service_port(settings, "webserver", settings.dagster_port),
        "api": service_port(settings, "api", settings.api_port),
    }
    step.now("preparing Dagster")
    _prepare_dagster(settings, ports["code"])
    step.now("starting Dagster and the API")
    start_services(settings, _services(settings, ports), progress=lambda name: step.now(f"{name} is ready"))
    return {"dagster": f"http://127.0.0.1:{ports['webserver']}", "api": f"http://{settings.api_host}:{ports['api']}"}


def _prepare_dagster(settings: Settings, code_port: int) -> None:
    from persona_assets.execution import prepare_instance  # Dagster takes a second to import: not for `persona status`
    from persona_assets.runs import close_orphaned_runs

    running = any(service.state in ("running", "starting") for service in services_status(settings).values())
    with prepare_instance(settings) as instance:
        close_orphaned_runs(instance, nothing_runs=not running)
    server = {"host": "127.0.0.1", "port": code_port, "location_name": LOCATION}
    _workspace(settings).write_bytes(orjson.dumps({"load_from": [{"grpc_server": server}]}))  # JSON is YAML


def _workspace(settings: Settings) -> Path:
    return settings.dagster_home / "workspace.yaml"


def _services(settings: Settings, ports: dict[str, int]) -> list[ProcessSpec]:
    secrets = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    known = f"{settings.model_dump()}{settings.addresses}{secrets}"
    environment = {
        "PERSONA_HOME": str(settings.home),
        "PERSONA_DROPS": str(settings.drops),
        "PERSONA_CATALOG": str(settings.catalog),
        "PERSONA_API_PORT": str(ports["api"]),
        "DAGSTER_HOME": str(settings.dagster_home),
        # read by nobody: with other settings the services are others, and are started anew
        "PERSONA_SETTINGS_DIGEST": hashlib.sha256(known.encode()).hexdigest()[:16],
    }

    def service(name: str, *argv: str, ready: str | None = None) -> ProcessSpec:
        log = settings.home / "logs" / f"{name}.log"
        return ProcessSpec(name, (sys.executable, "-m", *argv), Path.cwd(), log, environment, ready)

    code, web = str(ports["code"]), str(ports["webserver"])
    workspace = str(_workspace(settings))
    return [
        service(
            "code", "dagster", "api", "grpc", "-m", "persona_assets.definitions", "-h", "127.0.0.1", "-p", code,
            "--location-name", LOCATION, ready=f"tcp://127.0.0.1:{code}",
        ),
        service(
            "webserver", "dagster_webserver", "-h", "127.0.0.1", "-p", web, "-w", workspace,
            ready=f"http://127.0.0.1:{web}/server_info",
        ),
        service("daemon", "dagster._daemon", "run", "-w", workspace),
        service("api", "persona_cli.main", "serve", ready=f"http://{settings.api_host}:{ports['api']}/livez"),
    ]  # fmt: skip


def _first_answer(settings: Settings, pipeline: Pipeline, api: str, step: Steps) -> dict[str, Any] | None:
    """Wait until what is there has been applied and a generation serves, then ask for someone who spoke.

    None with nothing to ask for, and where keys are set, of which only the digests are known here.
    """
    deadline = time.monotonic() + FIRST_ANSWER_SECONDS
    documents = pipeline.documents
    while time.monotonic() < deadline:
        settled = settled_files(settings.drops, settle_seconds=0)
        files = {str(file.path): file.signature for file in settled if os.access(file.path, os.R_OK)}
        if not files and documents.records.count() == 0:
            return None
        waiting = len(documents.ledger.unseen(files)) + documents.ledger.waiting(DRAINING_ASSETS)
        if not waiting and (documents.generations.in_force_id() or not fit_is_due(pipeline)):
            if settings.keys:
                return None
            answer = _asked(api, documents.records.someone() or "somebody new")
            # a service that has just started may not have reached every store yet
            if answer and (not answer["degraded"] or time.monotonic() > deadline - FIRST_ANSWER_SECONDS + WHOLE_ANSWER_SECONDS):
                return answer
        step.now(
            f"waiting for the first run ({waiting} drops or catalogs to apply)" if waiting else "waiting for the first model"
        )
        time.sleep(0.5)
    raise PersonaError(
        f"nothing was recommended within {FIRST_ANSWER_SECONDS} s",
        hint=f"Look at the runs in Dagster, and at the logs in {settings.home / 'logs'}.",
    )


def _asked(api: str, user_id: str) -> dict[str, Any]:
    import httpx

    try:
        response = httpx.get(f"{api}/recommendations/-", params={"user_id": user_id, "k": 3}, timeout=10, trust_env=False)
    except httpx.HTTPError:
        return {}
    return dict(response.json()) if response.status_code == 200 else {}


def _shown(answer: dict[str, Any] | None, api_with_keys: str | None) -> str:
    if api_with_keys:
        return f"API keys are set: curl -H 'Authorization: Bearer …' {api_with_keys}/recommendations/u_001"
    if answer is None:
        return "No conversations yet: put a file into the drop folder, or run `persona generate`."
    offers = [f"  {offer['rank']}. {offer['campaign_id']}  {offer['reason']}" for offer in answer["recommendations"]]
    return "\n".join([f"For {answer['user_id']}:", *offers])


def _site(ready: str | None) -> str | None:
    return "/".join(ready.split("/")[:3]) if ready else None
