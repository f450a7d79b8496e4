"""Checks on what comes in."""

from datetime import UTC, datetime

import dagster as dg

from persona.intake.quarantine import advice
from persona.pipeline import anomalies
from persona.pipeline.stages import DRAINING_ASSETS, DROP_SINKS
from persona.stores.documents import Documents
from persona.stores.warehouse import Warehouse
from persona_assets.assets.intake import catalogs, raw_conversations
from persona_assets.checks.results import SAMPLE, all_sound, noticed

HISTORY = 30


@dg.asset_check(asset=raw_conversations, blocking=True)
def ids_are_present_and_unique(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """Every record of the run's drops has an id, a user and a time, and each accepted one is there exactly once."""
    drops = documents.ledger.to_check("raw_conversations", downstream=DROP_SINKS)
    ids = [entry.id for entry in drops]
    flawed = documents.records.flawed_of(ids, limit=SAMPLE)
    missing = [
        entry.name
        for entry in drops
        if entry.state == "accepted" and documents.records.count([entry.id]) != entry.counts.accepted
    ]
    sample = [f"{record['drop'][:12]} line {record['line']}" for record in flawed] + missing
    return all_sound(sum(entry.counts.accepted for entry in drops), [*flawed, *missing], sample)


@dg.asset_check(asset=raw_conversations, blocking=True)
def every_record_is_accounted_for(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """Of every drop, read = accepted + duplicate + quarantined + erased, and quarantine holds as many lines as it says."""
    drops = documents.ledger.to_check("raw_conversations", downstream=DROP_SINKS)
    unbalanced = [
        entry.name
        for entry in drops
        if not entry.counts.balanced or documents.quarantine.count([entry.id]) != entry.counts.quarantined
    ]
    return all_sound(sum(entry.counts.read for entry in drops), unbalanced, unbalanced)


@dg.asset_check(asset=raw_conversations)
def volume_is_usual(
    context: dg.AssetCheckExecutionContext, documents: dg.ResourceParam[Documents], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """The number of records, against the runs before."""
    run_id = context.run.run_id
    records = sum(entry.counts.accepted for entry in documents.ledger.applied("raw_conversations", run_id=run_id))
    finding = anomalies.volume(records, warehouse.records_of_stage("raw_conversations", except_run=run_id, limit=HISTORY))
    return noticed(
        finding, warehouse, run_id=run_id, asset="raw_conversations", check_name="volume_is_usual",
        description="Standard deviations off the log volume of earlier runs.",
    )  # fmt: skip


@dg.asset_check(asset=raw_conversations)
def few_records_are_rejected(
    context: dg.AssetCheckExecutionContext, documents: dg.ResourceParam[Documents], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """The share of the run's records that are in quarantine, held drops included."""
    run_id = context.run.run_id
    entries = documents.ledger.judged_in(run_id)
    counts = {
        "read": sum(entry.counts.read for entry in entries),
        "quarantined": sum(entry.counts.quarantined for entry in entries),
    }
    held = [f"{entry.name}: {entry.reason}" for entry in entries if entry.state == "held"]
    return noticed(
        anomalies.reject_share(counts), warehouse, run_id=run_id, asset="raw_conversations", check_name="few_records_are_rejected",
        description="Share of records in quarantine.", sample=held,
    )  # fmt: skip


@dg.asset_check(asset=raw_conversations)
def nothing_is_held(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """No drop is kept out whole and waits for a person, whichever run held it."""
    held = documents.ledger.all_of("drop", states=["held"])
    sample = [f"{entry.name} ({entry.id[:12]}): {entry.reason}. {entry.detail} {advice(entry)}" for entry in held[-SAMPLE:]]
    return dg.AssetCheckResult(
        passed=not held,
        severity=dg.AssetCheckSeverity.WARN,
        description="Drops that are held; `persona quarantine list` shows all of them.",
        metadata={"held": len(held), "sample": sample},
    )


@dg.asset_check(asset=raw_conversations)
def no_drop_waits_long(
    context: dg.AssetCheckExecutionContext, documents: dg.ResourceParam[Documents], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """How long the oldest drop has waited to be applied everywhere."""
    finding = anomalies.oldest_wait(documents.ledger.oldest_waiting(DRAINING_ASSETS), datetime.now(UTC))
    return noticed(
        finding, warehouse, run_id=context.run.run_id, asset="raw_conversations", check_name="no_drop_waits_long",
        description="Seconds since the oldest waiting drop was claimed.",
    )  # fmt: skip


@dg.asset_check(asset=catalogs)
def catalog_files_are_valid(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """No file of the catalog folder was refused; what was in force before stays in force."""
    refused = documents.ledger.all_of("catalog", states=["refused"])
    current = documents.ledger.in_a_file([entry.id for entry in refused])
    refused = [entry for entry in refused if entry.id in current]
    return dg.AssetCheckResult(
        passed=not refused,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"refused": len(refused), "sample": [f"{entry.name}: {entry.detail}" for entry in refused[-SAMPLE:]]},
    )
