"""The schema of report.json, closed: for readers new keys may come, for us none comes unnamed."""

from __future__ import annotations

from typing import Any


def everything_named(schema: Any) -> Any:
    """Return the schema with every object closed, except where it says that it is open."""
    if isinstance(schema, list):
        return [everything_named(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: everything_named(value) for key, value in schema.items()}
    if "required" in schema:
        inner.setdefault("additionalProperties", False)
    return inner
