"""What the body and the arguments of a query may hold, and what the service says of anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from cortexclient.sandbox.responses import json_response

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

__all__ = ["COMPLEX", "LIVE", "SIMPLE", "Refused", "checked_body", "query_arguments"]


class Refused(Exception):
    """A request that is refused with a body of its own kind."""

    def __init__(self, body: dict[str, Any], status: int = 500) -> None:
        super().__init__(str(body))
        self.body = body
        self.status = status

    def response(self) -> Response:
        """The answer."""
        return json_response(self.body, self.status)


class _Invalid(ValueError):
    def __init__(self, problem: list[str] | dict[str, Any]) -> None:
        super().__init__(str(problem))
        self.problem = problem


Check = Callable[[Any], Any]


def _mapping(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _Invalid(["Not a valid mapping type."])
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Invalid(["Not a valid string."])
    return value


def _integer(value: Any) -> int:
    # 2.5 means 2 and "4" means 4
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise _Invalid(["Not a valid integer."]) from None


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise _Invalid(["Not a valid number."])
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _Invalid(["Not a valid number."]) from None


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _Invalid(["Not a valid datetime."]) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _list_of(item: Check, length: int | None = None) -> Check:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise _Invalid(["Not a valid list."])
        found, problems = [], {}
        for index, entry in enumerate(value):
            try:
                found.append(item(entry))
            except _Invalid as error:
                problems[str(index)] = error.problem
        if problems:
            raise _Invalid(problems)
        if length is not None and len(found) != length:
            raise _Invalid([f"Length must be {length}."])
        return found

    return check


_FILTERS: dict[str, Check] = {
    f"filter_{kind}_dict": _mapping
    for kind in ("in", "notin", "equal", "greater", "less", "greater_equal", "less_equal", "spatial", "regex")
}
_COMMON: dict[str, Check] = {
    **_FILTERS, "offset": _integer, "limit": _integer, "desired_resolution": _list_of(_number, 3),
}
SIMPLE: dict[str, Check] = {**_COMMON, "select_columns": _list_of(_text)}
COMPLEX: dict[str, Check] = {
    **SIMPLE, "tables": _list_of(_list_of(_text, 2)), "select_column_map": _mapping, "suffixes": _list_of(_text),
    "suffix_map": _mapping,
}
LIVE: dict[str, Check] = {
    **_COMMON, "table": _text, "timestamp": _moment, "join_tables": _list_of(_list_of(_text)),
    "select_columns": _mapping, "suffixes": _mapping,
}
_REQUIRED = {id(COMPLEX): ("tables",), id(LIVE): ("table", "timestamp")}


def checked_body(data: Any, schema: dict[str, Check]) -> dict[str, Any]:
    """Body of a query with its values in their types.

    Raises
    ------
    Refused
        With ``schema_errors``: every problem of the body, by field.
    """
    if not isinstance(data, Mapping):
        raise Refused({"schema_errors": {"_schema": ["Invalid input type."]}})
    found: dict[str, Any] = {}
    problems: dict[str, Any] = {}
    for name in _REQUIRED.get(id(schema), ()):
        if name not in data:
            problems[name] = ["Missing data for required field."]
    for name, value in data.items():
        if name not in schema:
            problems[name] = ["Unknown field."]
        elif value is None:
            problems[name] = ["Field may not be null."]
        else:
            try:
                found[name] = schema[name](value)
            except _Invalid as error:
                problems[name] = error.problem
    if problems:
        raise Refused({"schema_errors": problems})
    return found


# argument -> (default, help text, which the service puts before every complaint)
_BOOLEANS = {
    "return_pyarrow": (True, "whether to return query in pyarrow compatible binary format(faster), false returns json"),
    "arrow_format": (False, "whether to convert dataframe to pyarrow ipc batch format"),
    "split_positions": (False, "whether to return position columnsas seperate x,y,z columns (faster)"),
    "count": (False, "whether to only return the count of a query"),
    "allow_missing_lookups": (False, "whether to return annotation results when there are new annotations without lookups"),
    "allow_invalid_root_ids": (False, "whether to let a query proceed when passed a set of root ids that are not valid"),
    "ipc_compress": (True, "whether to have arrow compress the result"),
    "direct_sql_pandas": (False, "whether to use direct SQL queries with pandas"),
}
_SAMPLE_HELP = (
    "How many samples to randomly get using tablesample on annotation tables, useful for visualization of large tables "
    "does not work as a random sample of query"
)
_WORDS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}


def query_arguments(query: QueryParams) -> dict[str, Any]:
    """Arguments of a query's address; unknown ones are ignored.

    Raises
    ------
    Refused
        If one has a value that it cannot have.
    """
    arguments: dict[str, Any] = {}
    for name, (default, text) in _BOOLEANS.items():
        given = query.get(name)
        if given is None:
            arguments[name] = default
            continue
        truth = _WORDS.get(given.lower())
        if truth is None:
            raise _bad_argument(name, f"{text} Invalid literal for boolean(): {given}")
        arguments[name] = truth
    sample = query.get("random_sample")
    arguments["random_sample"] = None if sample is None else _sample(sample)
    return arguments


def _sample(given: str) -> int:
    try:
        sample = int(given)
    except ValueError:
        raise _bad_argument("random_sample", f"{_SAMPLE_HELP} {given} is not a valid integer") from None
    if sample < 1:
        text = f"Invalid random_sample: {sample}. random_sample must be a positive integer"
        raise _bad_argument("random_sample", f"{_SAMPLE_HELP} {text}")
    return sample


def _bad_argument(name: str, text: str) -> Refused:
    return Refused({"errors": {name: text}, "message": "Input payload validation failed"})
