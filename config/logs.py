"""Logs: one line per event, without prompts, answers or keys."""

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any

from config.settings import WorkerSettings
from penstock.access.redaction import redacted

#: Loggers that write bodies and headers at DEBUG; limited to WARNING and above. The last ones are
#: of the storage that a spool may use.
_VERBOSE = (
    *("anthropic", "httpx2", "httpcore2", "httpx", "httpcore", "aiohttp", "urllib3"),
    *("botocore", "aiobotocore", "boto3", "s3fs", "gcsfs", "azure", "adlfs", "paramiko", "fsspec"),
)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the fields of ``extra`` in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for ``record``."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = _added(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        # `json` serializes what orjson refuses.
        return redacted(json.dumps({**extra, **fields}, default=str))


def _added(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of ``extra`` without Celery's ``data``, a task's context."""
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD and k != "data"}


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message``, followed by ``extra`` as ``key=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines for ``record`` and its exception."""
        return redacted(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the line without its exception."""
        added = "".join(f" {name}={value}" for name, value in _added(record).items())
        return super().formatMessage(record) + added


def configure_logs(settings: WorkerSettings, logfile: str | None = None) -> None:
    """Send all logs to a file, or to standard error, in the format of the settings.

    ``logfile`` is Celery's ``--logfile``. A detached worker has no standard error.
    """
    handler = (
        WatchedFileHandler(logfile, encoding="utf-8")
        if logfile
        else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(logging.WARNING)
