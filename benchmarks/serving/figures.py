"""A measured value beside its goal and its bound, and the table of them. Nothing is measured here."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value beside what it should keep."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    bound: str = ""
    """What was measured beside it in the same run."""

    @property
    def met(self) -> bool:
        """Whether the goal, if there is one, is kept."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def show(console: Console, title: str, figures: Sequence[Figure]) -> None:
    """Print them as a table."""
    table = Table("", "measured", "goal", "", "beside it", title=title, title_justify="left")
    for figure in figures:
        goal = "" if figure.goal is None else f"{'>=' if figure.at_least else '<='} {figure.goal:,.2f}"
        verdict = "" if figure.goal is None else "met" if figure.met else "[bold]missed[/]"
        table.add_row(figure.what, f"{figure.value:,.2f} {figure.unit}", goal, verdict, figure.bound)
    console.print(table)
