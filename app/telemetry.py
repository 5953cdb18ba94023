"""JSON log lines of any process, with secrets masked."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

TOKEN = re.compile(r"sx_[0-9a-f]{32}_[0-9A-Za-z]{43}")
PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+(?=@)")
SECRET_NAMES = {"authorization", "key", "token", "password", "pepper", "secret"}


def configure(level: str) -> None:
    """Write structlog's lines as JSON to stderr."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hide_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # the stderr of now
    )


def hide_secrets(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> Any:
    """Mask keys and passwords, by the name of the field and by their form anywhere."""
    for name, value in line.items():
        if name.lower() in SECRET_NAMES:
            line[name] = "***"
        elif isinstance(value, str):
            line[name] = PASSWORD.sub(r"\1:***", TOKEN.sub("sx_***", value))
    return line
