"""Plots of whatever campaigns are called."""

import warnings

import pytest

from persona.ranking.model import fit
from persona.schemas import DayBucket
from persona_assets import plots


@pytest.mark.parametrize("name", ["$\\frac{$", "$a$", "\x01\x02", "田中さん", "a" * 256])
def test_any_name_can_be_shown(name: str) -> None:
    model = fit([DayBucket("2026-01-01", name, "email", "click", 3, 0.0)], facts=3, fingerprint="f")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plots.top_campaigns(model).value.startswith("![top campaigns](data:image/png;base64,")
