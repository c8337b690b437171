"""What an unquoted YAML value means.

YAML 1.1 and 1.2 readers disagree about ``no``, ``012`` and ``12:30``. Here such a value means nothing until it is
quoted, so that no editor, validator or other language reads a spec differently from us.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from cortexclient.spec.nodes import Lookalike

__all__ = ["resolve"]

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(\.[0-9]*)?[ \t]*(Z|[-+][0-9:]+)?"
)
_OTHER_NUMBERS = re.compile(
    r"[-+]?(0[0-9_]+|0o[0-7]+|0x[0-9a-fA-F_]+|0b[01_]+|[0-9][0-9_]*_[0-9_]*|[0-9]+(:[0-9]{1,2})+(\.[0-9]*)?)"
)
_NOT_NUMBERS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"null": None, "Null": None, "NULL": None, "~": None, "": None}
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_YES_NO = {form for word in ("yes", "no", "on", "off") for form in (word, word.title(), word.upper())}
_MOST_DIGITS = 30
_SHORT = 40


def resolve(text: str) -> Any:
    """Value of an unquoted scalar.

    The same words and numbers stand in every spec, so short ones are looked up rather than parsed.

    Returns
    -------
    None, bool, int, float, datetime.date, datetime.datetime, Lookalike or str
    """
    return _remembered(text) if len(text) <= _SHORT else _resolve(text)


def _resolve(text: str) -> Any:
    if text in _WORDS:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if text in _YES_NO:
        return Lookalike(text, "a truth value")
    first = text[0]
    if not (first.isdigit() or first in "+-."):
        return text
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= _MOST_DIGITS else Lookalike(text, "a number of too many digits")
    if _FLOAT.fullmatch(text):
        return float(text)
    return _date_or_text(text)


_remembered = lru_cache(maxsize=4096)(_resolve)


def _date_or_text(text: str) -> Any:
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        return Lookalike(text, "a date")
    if _OTHER_NUMBERS.fullmatch(text):
        return Lookalike(text, "a number in another notation")
    if _NOT_NUMBERS.fullmatch(text):
        return Lookalike(text, "no finite number")
    return text
