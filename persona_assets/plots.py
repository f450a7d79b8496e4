"""Pictures for the Dagster UI, as small PNGs in Markdown. What they show comes in; nothing is read here."""

import base64
import io
import warnings
from collections.abc import Sequence

import dagster as dg
import pandas as pd
from matplotlib.figure import Figure

from persona.evaluation.report import Report, picture
from persona.ranking.model import RankingModel

TOP = 12


def events_by_day(events: Sequence[tuple[str, str, int]]) -> dg.MarkdownMetadataValue:
    """Events a day, by kind: `events` is (ISO day, event, how many)."""
    frame = pd.DataFrame(events, columns=["day", "event", "n"])
    counts = frame.pivot_table(index="day", columns="event", values="n", aggfunc="sum", fill_value=0)
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    if not counts.empty:
        counts[counts.sum().sort_values(ascending=False).index].plot.bar(stacked=True, ax=axes, width=0.9, legend=False)
        axes.set_xticks(range(0, len(counts), max(1, len(counts) // 6)))
        axes.tick_params(axis="x", rotation=0)
        axes.set_xlabel("")
        figure.legend(loc="outside right upper", fontsize="small", frameon=False, reverse=True)
    axes.set_ylabel("events a day")
    return _picture(figure, "events by day")


def top_campaigns(model: RankingModel) -> dg.MarkdownMetadataValue:
    """The campaigns with the strongest decayed engagement."""
    best = sorted(model.overall.items(), key=lambda item: -item[1].engagement)[:TOP][::-1]
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    places = range(len(best))
    axes.barh(places, [figures.engagement for _, figures in best], color="#4f43dd")
    axes.set_yticks(places, labels=[campaign[:24] for campaign, _ in best], parse_math=False)
    axes.set_xlabel(f"engagement, half-life {model.half_life_days:g} days")
    return _picture(figure, "top campaigns")


def advantage(report: Report) -> dg.MarkdownMetadataValue:
    """How much better the evaluated model is than what it was compared with."""
    return _picture(picture(report), "advantage of the candidate")


def _picture(figure: Figure, title: str) -> dg.MarkdownMetadataValue:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # ids may be in any script; a box in its place will do
        figure.savefig(buffer, format="png", dpi=80)
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")
