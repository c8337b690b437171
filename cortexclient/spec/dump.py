"""A spec as plain values: what YAML and JSON can hold, without the defaults."""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime
from typing import Any

from pydantic import BaseModel

__all__ = ["fingerprint", "plain", "summary"]

# below this every JSON reader keeps an integer exactly; ids above are written as text
_SAFE_INTEGER = 2**53


def plain(section: BaseModel) -> dict[str, Any]:
    """Everything in a section that differs from the default, private keys included.

    Returns
    -------
    dict
        JSON-like values; times in ISO form with a ``Z``; integers that JSON readers would round are text.
    """
    values: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.is_required() or value != field.get_default(call_default_factory=True):
            values[field.alias or name] = _value(value)
    values.update({key: _value(value) for key, value in getattr(section, "private", {}).items()})
    return values


def _value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return plain(value)
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _SAFE_INTEGER:
        return str(value)
    return value


def summary(section: BaseModel) -> str:
    """Return what is set as YAML for people: without sources and BibTeX, and of versions the numbers only."""
    import yaml

    values = plain(section)
    if isinstance(citation := values.get("citation"), dict):
        citation.pop("bibtex", None)
    left_out = {name: values.pop(name, None) for name in ("schema_version", "sources", "versions")}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    if versions := left_out["versions"]:
        text += f"# versions: {', '.join(str(each['version']) for each in versions)}\n"
    if left_out["sources"]:
        text += f"# sources: `cortexclient show {values.get('name', '')} --resolved` lists them\n"
    return text


def fingerprint(section: BaseModel) -> str:
    """Sixteen hexadecimal digits that change when any value of the section does (SHA-256 of its JSON)."""
    text = json.dumps(plain(section), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
