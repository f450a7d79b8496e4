"""What an evaluation found, as a document, as Markdown and as a picture. Nothing is measured here."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from persona.evaluation.gate import Difference, Limits
from persona.ranking.generation import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Figures(BaseModel):
    """How one contender did in one window."""

    name: str
    setting: str = ""
    """Chosen on earlier windows."""
    metrics: dict[str, float]
    """Means over the window's queries."""
    warm: dict[str, float]
    """Over those of users who had done something before the window; empty where there were none."""
    cold: dict[str, float]
    coverage: float
    gini: float


class Judged(BaseModel):
    """One window, and how each contender did in it."""

    name: str
    start_ms: int
    end_ms: int
    queries: int
    users: int
    warm: int
    """Queries of users who had done something before."""
    contenders: list[Figures]
    """The candidate first."""


class Report(BaseModel):
    """An evaluation of a candidate, or of what serves."""

    model: str = "the candidate"
    fingerprint: str
    in_force: str | None
    limits: Limits
    engagements: int
    campaigns: int
    weights: dict[str, float]
    half_life_days: float
    tuned_on: int
    windows: list[Judged]
    differences: list[Difference]
    verdict: Verdict
    notes: list[str]


def markdown(report: Report) -> str:
    """The report for people to read."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"**{_capital(report.model)} {'passes' if report.verdict.publish else 'does not pass'}**: {report.verdict.reason}."
    yield ""
    yield (
        f"{report.engagements:,} engagements with {report.campaigns:,} campaigns. Half-life {report.half_life_days:g} days; weights "
        + ("the prior's: " if not report.tuned_on else f"tuned on {report.tuned_on:,} queries: ")
        + ", ".join(f"{channel} {weight:.2f}" for channel, weight in sorted(report.weights.items(), key=lambda item: -item[1]))
        + "."
    )
    for note in report.notes:
        yield f"- {note}"
    for window in report.windows:
        yield ""
        yield from _table(window)
        yield from _differences([found for found in report.differences if found.window == window.name])


def _table(window: Judged) -> Iterator[str]:
    yield f"### {_capital(window.name)}: {_day(window.start_ms)} to {_day(window.end_ms - 1)}"
    yield ""
    yield f"{window.queries:,} queries of {window.users:,} users, {window.warm:,} of people known before."
    yield ""
    metrics = list(window.contenders[0].metrics) if window.contenders else []
    yield "| | " + " | ".join([*metrics, *(f"{metric}, cold" for metric in metrics[:1]), "coverage", "Gini", "setting"]) + " |"
    yield "|---" * (len(metrics) + 5) + "|"
    for found in window.contenders:
        cold = [f"{found.cold[metric]:.3f}" if found.cold else "" for metric in metrics[:1]]
        cells = [*(f"{found.metrics[metric]:.3f}" for metric in metrics), *cold, f"{found.coverage:.2f}", f"{found.gini:.2f}"]
        yield f"| {found.name} | " + " | ".join([*cells, found.setting]) + " |"


def _differences(differences: list[Difference]) -> Iterator[str]:
    if not differences:
        return
    yield ""
    yield "| the candidate's advantage over | by | mean | 95 % interval |"
    yield "|---|---|---|---|"
    for found in differences:
        yield f"| {found.against} | {found.metric} | {found.mean:+.3f} | {found.low:+.3f} to {found.high:+.3f} |"


def picture(report: Report) -> "Figure":
    """The candidate's advantage over what it was compared with, window by window, with intervals."""
    from matplotlib.figure import Figure  # not for who only decides

    shown = report.differences[::-1]
    figure = Figure(figsize=(7, 0.8 + 0.24 * max(len(shown), 4)), layout="constrained")
    axes = figure.subplots()
    for place, found in enumerate(shown):
        axes.plot([found.low, found.high], [place, place], color="#4f43dd", linewidth=2)
        axes.plot([found.mean], [place], "o", color="#4f43dd", markersize=4)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{found.metric} over {found.against}, {found.window}" for found in shown], fontsize=7)
    axes.set_xlabel("advantage of the candidate, with its 95 % interval")
    return figure


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
