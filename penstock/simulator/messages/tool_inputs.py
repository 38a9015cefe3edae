"""A tool's input made up from its JSON schema."""

from random import Random
from typing import Any

from penstock.simulator.messages.prose import prose

_MAX_DEPTH = 8


def tool_input(schema: dict[str, Any], rng: Random) -> dict[str, Any]:
    """An object that fits ``schema``, as far as it uses common keywords."""
    value = _value(schema, rng, schema, 0)
    return value if isinstance(value, dict) else {}


def _value(schema: Any, rng: Random, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return "…"
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    make = {"object": _object, "array": _array}.get(kind)
    return make(schema, rng, root, depth) if make else _scalar(kind, schema, rng)


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow references, and take the first of several alternatives."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref")
        alternatives = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if isinstance(reference, str) and reference.startswith("#/"):
            found: Any = root
            for part in reference[2:].split("/"):
                found = found.get(part, {}) if isinstance(found, dict) else {}
        elif alternatives:
            found = alternatives[0]
        else:
            break
        schema = found if isinstance(found, dict) else {}
    return schema


def _object(
    schema: dict[str, Any], rng: Random, root: dict[str, Any], depth: int
) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = schema.get("required") or []
    # Deep inside only what is required: a recursive schema would not end.
    names = required if depth >= _MAX_DEPTH // 2 else [*properties]
    return {name: _value(properties.get(name, {}), rng, root, depth + 1) for name in names}


def _array(schema: dict[str, Any], rng: Random, root: dict[str, Any], depth: int) -> list[Any]:
    fewest = schema.get("minItems", 0)
    count = 0 if depth >= _MAX_DEPTH // 2 else min(2, schema.get("maxItems", 2))
    items = schema.get("items", {})
    return [_value(items, rng, root, depth + 1) for _ in range(max(fewest, count))]


def _scalar(kind: str, schema: dict[str, Any], rng: Random) -> Any:
    if kind == "null":
        return None
    if kind == "boolean":
        return rng.random() < 0.5
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 101) - 1)
        number = rng.randint(int(low), max(int(low), int(high)))
        return number if kind == "integer" else float(number)
    fewest = schema.get("minLength", 0)
    length = max(fewest, min(rng.randrange(12, 48), schema.get("maxLength", 48)))
    return prose(rng, length)
