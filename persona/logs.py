"""How the platform logs: structlog, for people on a terminal, as JSON elsewhere, always on stderr. What is logged is up to each module.

Events carry run, drop and request ids; never a person's id or words.
"""

import logging
import sys

import structlog


def configure_logs(level: str) -> None:
    """Set structlog up for this process; harmless when done twice."""
    on_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not on_terminal else structlog.dev.set_exc_info,
            # the richer ones print local variables, people's words among them
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if on_terminal
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
