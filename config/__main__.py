"""``python -m config``: prints every setting with its value, default and meaning."""

import os
import sys

from pydantic import SecretStr

from config.settings import WorkerSettings
from penstock.access.redaction import shown_url
from penstock.errors import ConfigurationError
from penstock.settings import variable_of
from penstock.store.connection import redis_address


def main() -> int:
    """Print the settings. An invalid value is reported in one line, with exit code 1."""
    try:
        settings = WorkerSettings.load()
    except ConfigurationError as error:
        print(f"penstock: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for name, field in WorkerSettings.model_fields.items():
        value = getattr(settings, name)
        default = field.get_default(call_default_factory=True)
        if name == "redis_url":
            value, default = redis_address(settings), default.get_secret_value()
        elif isinstance(value, SecretStr):
            value = "(set)"
        elif name == "anthropic_base_url" and value:
            value = shown_url(value)
        shown = "" if value is None else str(value)
        changed = "" if value == default else f"   (default: {default})"
        print(f"{variable_of(WorkerSettings, name)} = {shown}{changed}")  # noqa: T201
        print(f"    {field.description}")  # noqa: T201
    return 0


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has closed the pipe. Python would report that again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)
