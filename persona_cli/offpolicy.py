"""`persona offpolicy`: what another policy would have earned, from logged impressions with propensities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from persona.errors import InvalidInput, NotFound
from persona.evaluation import offpolicy as estimates
from persona.evaluation.offpolicy import Estimate, Impressions
from persona_cli.options import Json
from persona_cli.output import emit
from persona_cli.texts import lines_of

COLUMNS = {"item_id": str, "position": str, "click": float, "propensity_score": float}


def offpolicy(
    logs: Annotated[list[Path], typer.Argument(help="CSV files of impressions: item_id, position, click, propensity_score.")],
    policy: Annotated[list[Path] | None, typer.Option(help="Logs of the policy to estimate: how often they show what.")] = None,
    ranking: Annotated[Path | None, typer.Option(help="Or a ranking to estimate: an item a line.")] = None,
    json: Json = False,
) -> None:
    """Estimate another policy's click rate by IPS and SNIPS, with 95 % intervals."""
    if bool(policy) == (ranking is not None):
        raise InvalidInput("no policy to estimate, or two", hint="Give either --policy LOG.csv or --ranking FILE.")
    log = _read(logs)
    other = _read(policy) if policy else None
    if other:
        target = estimates.frequencies(other)
    else:
        assert ranking is not None
        slots = sorted(set(log.slots), key=lambda slot: (len(slot), slot))  # 2 before 10
        target = estimates.deterministic(lines_of(ranking), slots)
    weights = estimates.weights_of(log, target)
    document = {
        "impressions": len(log.actions),
        "logged": _document(estimates.on_policy(log)),
        "ips": _document(estimates.ips(weights, log.rewards)),
        "snips": _document(estimates.snips(weights, log.rewards)),
        **({"own": _document(estimates.on_policy(other))} if other else {}),
    }
    emit(document, _text(document))


def _read(files: Sequence[Path]) -> Impressions:
    for file in files:
        if not file.is_file():
            raise NotFound(f"no such file: {file}")
    import pandas as pd  # takes most of a second: not for `persona --help`

    try:
        log = pd.concat(pd.read_csv(file, usecols=list(COLUMNS), dtype=COLUMNS) for file in files)
    except ValueError as error:
        raise InvalidInput(f"not a log of impressions: {error}", hint=f"It needs the columns {', '.join(COLUMNS)}.") from None
    return Impressions(
        slots=log["position"].tolist(),
        actions=log["item_id"].tolist(),
        rewards=log["click"].to_numpy(),
        propensities=log["propensity_score"].to_numpy(),
    )


def _document(estimate: Estimate) -> dict[str, Any]:
    return {name: round(number, 6) for name, number in estimate._asdict().items()}


WORDS = {
    "logged": "click rate of the log itself",
    "ips": "of the policy, by IPS",
    "snips": "of the policy, by SNIPS",
    "own": "of the policy, by its own log",
}


def _text(document: dict[str, Any]) -> str:
    lines = [f"{document['impressions']:,} impressions"]
    for name, words in WORDS.items():
        if found := document.get(name):
            interval = f"{found['value']:.3%}  ({found['low']:.3%} to {found['high']:.3%})"
            lines.append(f"{words:<30} {interval}  worth {found['effective']:,.0f} impressions")
    return "\n".join(lines)
