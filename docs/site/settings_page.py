"""The page of settings, generated from the fields of the settings."""

from collections.abc import Iterable
from typing import Any

from pydantic import SecretStr

from config.settings import WorkerSettings
from penstock.settings import ClientSettings, variable_of

_INTRODUCTION = """\
# Settings

Every setting is an environment variable; `penstock settings` prints the values in force. In Python,
`penstock.Client(retention_s=600)` sets one for that client, by its name in lower case without
`PENSTOCK_`. This page is generated from the code of the version it describes.
"""

#: A bound in the JSON schema → its words on the page.
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "greater than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
_KINDS = {
    "boolean": "true or false",
    "integer": "integer",
    "number": "number",
    "object": "JSON object",
}


def settings_page() -> str:
    """Return the page that lists every setting."""
    everywhere = ClientSettings.model_fields
    workers = [name for name in WorkerSettings.model_fields if name not in everywhere]
    return "\n".join(
        [
            _INTRODUCTION,
            "## Settings of every process\n",
            "Producers, readers and workers read these.\n",
            *_entries(everywhere),
            "## Settings of workers\n",
            *_entries(workers),
        ]
    )


def _entries(names: Iterable[str]) -> list[str]:
    schemas = WorkerSettings.model_json_schema()["properties"]
    entries = []
    for name in names:
        field = WorkerSettings.model_fields[name]
        variable = variable_of(WorkerSettings, name)
        default = _default(field.get_default(call_default_factory=True))
        kind = _kind(schemas.get(variable) or schemas[name])
        entries.append(f"### {variable}\n\n{field.description}\n\n{default} {kind}\n")
    return entries


def _default(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "":
        return "Not set by default."
    return f"Default: `{str(value).lower() if isinstance(value, bool) else value}`."


def _kind(schema: dict[str, Any]) -> str:
    """Describe the values that a setting may have."""
    if "anyOf" in schema:
        schema = next(each for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return f"One of {', '.join(f'`{value}`' for value in schema['enum'])}."
    words = [_KINDS.get(schema["type"], "text")]
    words += [f"{_BOUNDS[key]} {schema[key]:,.12g}" for key in _BOUNDS if key in schema]
    if "pattern" in schema:
        words.append(f"matching `{schema['pattern']}`")
    return f"Value: {', '.join(words)}."
