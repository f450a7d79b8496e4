"""Removing what the local servers keep of the deleted: oplog, journals, free pages, logs. What is deleted is decided elsewhere.

MongoDB is copied document by document into a fresh server, Milvus and the graph begin empty and are computed from it, SQLite rewrites
its file. Whoever else has the stores open loses them for that time; the platform's own services are stopped and started again.
"""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from persona.local.processes import ProcessSpec, read_json, write_private
from persona.local.stack import (
    renew_stores,
    running_services,
    spare_server,
    start_services,
    start_stores,
    stop_services,
)
from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.pipeline.lease import lease
from persona.privacy.erasure import Proof
from persona.privacy.residue import residue_of
from persona.privacy.search import Identifier
from persona.settings import Settings, StoreName
from persona.stores.documents.copying import copy_everything
from persona.stores.opening import Stores, documents_of, open_stores

PROJECTIONS: dict[StoreName, str] = {"milvus": "milvus_collection", "neo4j": "neo4j_graph"}
STOPPED = "scrub.json"
"""Which services are to be started again: if this ends before, the next scrub does it."""
Progress = Callable[[str], None]


def scrub(user_id: str, proof: Proof, settings: Settings, *, progress: Progress = lambda what: None) -> Proof:
    """Leave no byte of the erased in the files of the local servers; return the proof with what was looked for and found.

    Servers of one's own are left alone: the proof goes on saying what each of them needs. Raises `Busy` while another run is writing.
    Interrupted, it is finished by being run again.
    """
    start_stores(settings)
    run_id = f"scrub-{uuid.uuid4()}"
    stopped = settings.home / "run" / STOPPED
    try:
        _renew(settings, run_id, stopped, progress)
        with open_stores(settings) as stores:
            stores.warehouse.compact()
            _compute_what_waits(settings, stores, run_id, progress)
            progress("looking for the id in every file")
            named = [entry for entry in proof["residue"] if entry not in residue_of(settings)]
            proof = {
                **proof,
                "residue": [*named, *residue_of(settings, scrubbed=True)],
                "scrubbed": {"at": datetime.now(UTC), "found_in": files_with(user_id, settings)},
            }
            stores.documents.erasures.put(proof)
    finally:
        if services := _specs(stopped):
            progress("starting the services")
            start_services(settings, services)
            stopped.unlink()
    return proof


def files_with(user_id: str, settings: Settings) -> list[str]:
    """The files under PERSONA_HOME in which the id stands, escaped or not, by their path in it."""
    identifier = Identifier(user_id)
    files = sorted(path for path in settings.home.rglob("*") if path.is_file() and not path.is_symlink())
    return [identifier.masked(str(path.relative_to(settings.home))) for path in files if identifier.stands_in_file(path)]


def _renew(settings: Settings, run_id: str, stopped: Path, progress: Progress) -> None:
    """Stop the services, noting them in `stopped`, and start the local servers on fresh files; their projections are to be computed.

    All of it under the lease: what another wrote into a server that is thrown away would be lost.
    """
    emptied = [store for store in PROJECTIONS if store in settings.uses_local_servers]
    with documents_of(settings) as documents:
        seconds, patience = settings.lease_seconds, settings.lease_wait_seconds
        with lease(documents, run_id=run_id, purpose="scrub", seconds=seconds, wait_seconds=patience) as held:
            if services := running_services(settings):
                write_private(stopped, json.dumps([service.to_json() for service in services]))
            progress("stopping the services")
            stop_services(settings)
            # before anything is emptied: if this ends early, the next run computes it all the same
            documents.ledger.reopen([PROJECTIONS[store] for store in emptied])
            if "mongodb" in settings.uses_local_servers:
                _copy_documents(settings, progress)
            held.check()
            progress("starting the stores on fresh files")
            renew_stores(settings, empty=emptied)


def _copy_documents(settings: Settings, progress: Progress) -> None:
    """The lease goes with them, and is given back where it has gone."""
    with spare_server(settings, "mongodb") as spare:
        copy_everything(
            settings.addresses.mongodb, spare["mongodb"], progress=lambda name, done: progress(f"{done:,} {name} copied")
        )


def _specs(stopped: Path) -> list[ProcessSpec]:
    return [ProcessSpec.from_json(fields) for fields in read_json(stopped) or []]


def _compute_what_waits(settings: Settings, stores: Stores, run_id: str, progress: Progress) -> None:
    pipeline = Pipeline(settings, stores.documents, stores.warehouse, stores.cache)
    for stage, apply in (
        ("milvus_collection", lambda batch: sinks.index_vectors(batch, stores.vectors)),
        ("neo4j_graph", lambda batch: sinks.link(batch, stores.graph)),
    ):
        progress(f"computing {stage} anew")
        pipeline.drain(stage, apply, run_id=run_id)
