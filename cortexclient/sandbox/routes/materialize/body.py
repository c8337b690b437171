"""What the body and the arguments of a query may hold, and what the service says of anything else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import Response

from cortexclient.sandbox.routes.pages import json_response


class RefusedError(Exception):
    """A request that is refused with a body of its own kind."""

    def __init__(self, body: dict[str, Any], status: int = 500) -> None:
        super().__init__(str(body))
        self.body = body
        self.status = status

    def response(self) -> Response:
        """The answer."""
        return json_response(self.body, self.status)


class _InvalidError(ValueError):
    def __init__(self, problem: list[str] | dict[str, Any]) -> None:
        super().__init__(str(problem))
        self.problem = problem


Check = Callable[[Any], Any]
# what a body may write for true and false, in small letters, large ones or with a capital
_TRUTHS: dict[Any, bool] = {
    1: True,
    0: False,
    **{
        form: truth
        for truth, words in ((True, "t true on y yes 1"), (False, "f false off n no 0"))
        for word in words.split()
        for form in (word, word.title(), word.upper())
    },
}


@dataclass(frozen=True)
class BodySchema:
    """Fields that a body may have, and those that it must have."""

    fields: dict[str, Check]
    required: tuple[str, ...] = ()


def mapping(value: Any) -> Any:
    """A field that is a JSON object."""
    if not isinstance(value, Mapping):
        raise _InvalidError(["Not a valid mapping type."])
    return value


def text(value: Any) -> str:
    """A field of text."""
    if not isinstance(value, str):
        raise _InvalidError(["Not a valid string."])
    return value


def _numeric(kind: Callable[[Any], Any], word: str, value: Any) -> Any:
    if isinstance(value, bool):
        raise _InvalidError([f"Not a valid {word}."])
    try:
        return kind(value)
    except OverflowError:
        raise _InvalidError(["Number too large."]) from None
    except (TypeError, ValueError):
        raise _InvalidError([f"Not a valid {word}."]) from None


def integer(value: Any) -> int:
    """A field that is a whole number: 2.5 means 2 and "4" means 4."""
    return int(_numeric(int, "integer", value))


def number(value: Any) -> float:
    """A field that is a number."""
    found = float(_numeric(float, "number", value))
    if not math.isfinite(found):
        raise _InvalidError(["Special numeric values (nan or infinity) are not permitted."])
    return found


# date and hour must be there; a fraction is cut after six digits, and twelve are the most it may have
_MOMENT = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})[T ](\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,6})\d{0,6})?)?"
    r"(Z|[+-]\d{2}(?::?\d{2})?)?"
)


def moment(value: Any) -> datetime:
    """A field that is a time; UTC where it names no zone."""
    found = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise _InvalidError(["Not a valid datetime."])
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        start = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=UTC
        )
        return start + timedelta(microseconds=int((fraction or "").ljust(6, "0"))) - _offset(zone)
    except (ValueError, OverflowError):
        raise _InvalidError(["Not a valid datetime."]) from None


def _offset(zone: str | None) -> timedelta:
    if zone is None or zone == "Z":
        return timedelta()
    digits = zone[1:].replace(":", "")
    ahead = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return -ahead if zone[0] == "-" else ahead


def boolean(value: Any) -> bool:
    """A field that is true or false."""
    truth = _TRUTHS.get(value) if isinstance(value, Hashable) else None
    if truth is None:
        raise _InvalidError(["Not a valid boolean."])
    return truth


def list_of(item: Check, length: int | None = None) -> Check:
    """A field that is a list."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise _InvalidError(["Not a valid list."])
        found, problems = [], {}
        for index, entry in enumerate(value):
            try:
                if entry is None:
                    raise _InvalidError(["Field may not be null."])
                found.append(item(entry))
            except _InvalidError as error:
                problems[str(index)] = error.problem
        if problems:
            raise _InvalidError(problems)
        if length is not None and len(found) != length:
            raise _InvalidError([f"Length must be {length}."])
        return found

    return check


_FILTERS: dict[str, Check] = {
    f"filter_{kind}_dict": mapping
    for kind in ("in", "notin", "equal", "greater", "less", "greater_equal", "less_equal", "spatial", "regex")
}
_COMMON: dict[str, Check] = {
    **_FILTERS,
    "offset": integer,
    "limit": integer,
    "desired_resolution": list_of(number, 3),
}
SIMPLE = BodySchema({**_COMMON, "select_columns": list_of(text)})
COMPLEX = BodySchema(
    {
        **SIMPLE.fields,
        "tables": list_of(list_of(text, 2)),
        "select_column_map": mapping,
        "suffixes": list_of(text),
        "suffix_map": mapping,
    },
    required=("tables",),
)
LIVE = BodySchema(
    {
        **_COMMON,
        "table": text,
        "timestamp": moment,
        "join_tables": list_of(list_of(text)),
        "select_columns": mapping,
        "suffixes": mapping,
    },
    required=("table", "timestamp"),
)


def nested(schema: BodySchema) -> Check:
    """A field that holds another body."""

    def check(value: Any) -> dict[str, Any]:
        return _checked(value, schema)

    return check


def checked_body(data: Any, schema: BodySchema) -> dict[str, Any]:
    """Body of a request with its values in their types.

    Raise RefusedError with ``schema_errors``: every problem of the body, by field.
    """
    try:
        return _checked(data, schema)
    except _InvalidError as error:
        raise RefusedError({"schema_errors": error.problem}) from None


def _checked(data: Any, schema: BodySchema) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise _InvalidError({"_schema": ["Invalid input type."]})
    found: dict[str, Any] = {}
    problems: dict[str, Any] = {
        name: ["Missing data for required field."] for name in schema.required if name not in data
    }
    for name, value in data.items():
        if name not in schema.fields:
            problems[name] = ["Unknown field."]
        elif value is None:
            problems[name] = ["Field may not be null."]
        else:
            try:
                found[name] = schema.fields[name](value)
            except _InvalidError as error:
                problems[name] = error.problem
    if problems:
        raise _InvalidError(problems)
    return found


# of the service: its warnings, and the default and help of arguments; the help stands before every complaint
TEXTS: dict[str, Any] = json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8"))
_FLAGS = {"true": True, "1": True, "on": True, "false": False, "0": False, "": False}


def query_arguments(query: QueryParams) -> dict[str, Any]:
    """Arguments of a query's address; unknown ones are ignored.

    Raise RefusedError if one has a value that it cannot have.
    """
    arguments: dict[str, Any] = {
        name: flag(query, name, argument["help"], default=argument["default"])
        for name, argument in TEXTS["arguments"].items()
    }
    sample = query.getlist("random_sample")
    arguments["random_sample"] = _sample(sample[0]) if sample else None
    return arguments


def flag(query: QueryParams, name: str, help_text: str, *, default: bool = False) -> bool:
    """Argument that is true or false; the first counts where there are several, and an empty one is false.

    Raise RefusedError if it is neither.
    """
    given = query.getlist(name)
    if not given:
        return default
    truth = _FLAGS.get(given[0].lower())
    if truth is None:
        raise bad_argument(name, f"{help_text} Invalid literal for boolean(): {given[0].lower()}")
    return truth


def _sample(given: str) -> int:
    help_text = TEXTS["random_sample"]
    try:
        sample = int(given)
    except ValueError:
        raise bad_argument("random_sample", f"{help_text} {given} is not a valid integer") from None
    if sample < 1:
        problem = f"Invalid random_sample: {sample}. random_sample must be a positive integer"
        raise bad_argument("random_sample", f"{help_text} {problem}")
    return sample


def bad_argument(name: str, problem: str) -> RefusedError:
    """Return the refusal of an argument of the address."""
    return RefusedError({"errors": {name: problem}, "message": "Input payload validation failed"})
