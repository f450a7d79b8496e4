"""Checks on the fitted model and on what serves."""

import math

import dagster as dg

from persona.pipeline.anomalies import Finding
from persona.ranking.generation import Verdict
from persona.ranking.model import RankingModel
from persona.stores.documents import Documents
from persona.stores.warehouse import Warehouse
from persona_assets.assets.ranking import generation, ranking_evaluation, ranking_model
from persona_assets.checks.results import all_sound, noticed


@dg.asset_check(asset=ranking_model, blocking=True)
def figures_are_sound(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """Every figure of the candidate is finite, every approval a share, and the weights add up to one."""
    stored = documents.generations.candidate()
    model = RankingModel.model_validate(stored) if stored else None
    if model is None:
        return all_sound(0, [])
    faults = [
        campaign
        for campaign, figures in model.overall.items()
        if not (math.isfinite(figures.strength) and figures.strength >= 0 and 0 < figures.approval < 1)
    ]
    if not math.isclose(sum(model.weights.values()), 1.0, abs_tol=1e-6):
        faults.append("weights")
    return all_sound(len(model.overall), faults, faults)


@dg.asset_check(asset=ranking_evaluation)
def recommendation_quality(
    context: dg.AssetCheckExecutionContext, documents: dg.ResourceParam[Documents], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """The model that was fitted last loses no more than the margin, and no campaign rose too fast; else why it waits."""
    candidate = documents.generations.candidate()
    found = documents.generations.report(candidate["fingerprint"]) if candidate else None
    verdict = Verdict.model_validate(found["verdict"]) if found else None
    if verdict is None or verdict.publish:
        reason = verdict.reason if verdict else "nothing to compare yet"
        return dg.AssetCheckResult(passed=True, severity=dg.AssetCheckSeverity.WARN, description=reason)
    return noticed(
        Finding(verdict.value, verdict.limit), warehouse, run_id=context.run.run_id, asset="ranking_evaluation",
        check_name="recommendation_quality", description=verdict.reason,
    )  # fmt: skip


@dg.asset_check(asset=generation)
def a_generation_is_in_force(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """There is a generation, it can be read, and the campaigns it ranks are in the catalog."""
    in_force = documents.generations.in_force()
    ranked = set(RankingModel.model_validate(in_force[1]).overall) if in_force else set()
    unknown = ranked - {campaign.campaign_id for campaign in documents.catalog.campaigns()}
    return dg.AssetCheckResult(
        passed=in_force is not None and not unknown,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"generation": in_force[0] if in_force else "none", "campaigns": len(ranked), "unknown": len(unknown)},
    )
