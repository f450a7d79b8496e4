"""How the service logs: structlog, JSON lines on stderr, each in one write. What is logged is up to each module."""

import os
import sys

import orjson
import structlog


class Lines:
    """Takes lines for a file descriptor: those of several workers do not mix, and a full disk costs the line, not the request."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, line: bytes) -> None:
        """Write the line at once."""
        try:
            os.write(self._descriptor, line)
        except OSError:
            return

    def flush(self) -> None:
        """Nothing is held back."""


def log_json(level: str) -> None:
    """Set structlog up for a process that serves."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(Lines(sys.stderr.fileno())),  # type: ignore[arg-type]  # all it asks of a file
        cache_logger_on_first_use=True,
    )
