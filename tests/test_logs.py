"""What the log shows to whoever reads it, and what it must not."""

import sys

import pytest
import structlog

from persona.logs import configure_logs


@pytest.mark.parametrize("on_terminal", [True, False])
def test_what_went_wrong_is_shown_without_what_was_at_hand(
    on_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal, raising=False)
    configure_logs("INFO")
    try:
        _fail("what a person" + " said")
    except ZeroDivisionError:
        structlog.get_logger("test").exception("something failed")
    structlog.reset_defaults()
    told = capsys.readouterr().err
    assert "something failed" in told and "ZeroDivisionError" in told and "_fail" in told
    assert "what a person said" not in told


def _fail(words: str) -> float:
    return len(words) / 0
