"""How checks report: the number, the limit, a sample; and a row in `anomalies` for what is unusual."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from persona.pipeline.anomalies import Finding
from persona.stores.warehouse import Warehouse

SAMPLE = 5


def all_sound(checked: int, faults: Sequence[object], sample: Sequence[str] = ()) -> dg.AssetCheckResult:
    """Passed when there is no fault among what was checked."""
    return dg.AssetCheckResult(
        passed=not faults,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"checked": checked, "faults": len(faults), **({"sample": list(sample)[:SAMPLE]} if sample else {})},
    )


def noticed(
    finding: Finding,
    warehouse: Warehouse,
    *,
    run_id: str,
    asset: str,
    check_name: str,
    description: str,
    sample: Sequence[str] = (),
) -> dg.AssetCheckResult:
    """A warning where the figure exceeds its limit, kept in the warehouse's `anomalies` too."""
    if not finding.usual:
        warehouse.record_anomaly(
            run_id,
            asset,
            check_name,
            severity="WARN",
            value=finding.value,
            threshold=finding.threshold,
            at=datetime.now(UTC),
        )
    return dg.AssetCheckResult(
        passed=finding.usual,
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
        metadata={
            "value": round(finding.value, 4),
            "threshold": finding.threshold,
            **({"sample": list(sample)[:SAMPLE]} if sample else {}),
        },
    )
