"""The kinds of values in a spec: ids, names, addresses, dates, vectors; each refuses what makes no sense."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from cortexclient.credentials import is_loopback
from cortexclient.spec.problems import did_you_mean, short
from cortexclient.spec.table_schemas import COLUMN_TYPES, schema_names, table_field

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DOI",
    "Bool",
    "CloudPath",
    "ColumnKind",
    "ColumnName",
    "DatasetName",
    "Datastack",
    "Day",
    "Finding",
    "FrozenDict",
    "FrozenMap",
    "Id",
    "Number",
    "PointName",
    "Role",
    "SchemaName",
    "ServerAddress",
    "TableName",
    "Text",
    "TimeStamp",
    "Url",
    "Vector",
    "VersionNumber",
    "VoxelSize",
    "Written",
    "distinct",
    "raise_findings",
    "refuse",
]

K = TypeVar("K")
V = TypeVar("V")

MAX_INT64 = 2**63 - 1
_DEVICES = {
    *("con", "prn", "aux", "nul"),
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)),
}


def refuse(code: str, what: str, advice: str) -> NoReturn:
    """Raise the pydantic error that becomes a `Problem` with this code."""
    raise PydanticCustomError(code, "{what}", {"what": what, "advice": advice})


class Finding(NamedTuple):
    """A mistake at a place below the value that a validator looks at."""

    place: tuple[str | int, ...]
    code: str
    what: str
    advice: str


def raise_findings(findings: Iterable[Finding]) -> None:
    """Raise all findings of a validator in one error, each at its own place, for pydantic to join to others."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(code, "{what}", {"what": what, "advice": advice}), loc=place, input=None
        )
        for place, code, what, advice in findings
    ]
    if details:
        raise ValidationError.from_exception_data("spec", details)


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a list that has an item twice."""
    raise_findings(
        Finding((index,), "CX302", f"{value!r} is listed twice", "keep one of them")
        for index, value in enumerate(values)
        if value in values[:index]
    )
    return values


class FrozenDict(dict[K, V]):
    """A mapping that cannot be changed, so that all its users can share one spec."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("specs are read-only; make a changed copy with spec.with_overrides({...})")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[object, ...]:
        # the default would rebuild it item by item, which is refused
        return (type(self), (dict(self),))


def _without_nulls(value: object) -> object:
    """Leave out entries that a null cleared."""
    return (
        {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value
    )


FrozenMap = Annotated[Mapping[K, V], BeforeValidator(_without_nulls), AfterValidator(FrozenDict)]


# ---------------------------------------------------------------------------------------------------------------- text
# C0 and C1 except tab and line feed, and what turns the direction of writing: a terminal or a page would obey them
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _visible(value: str) -> str:
    found = _UNSEEN.search(value)
    if found is not None:
        refuse(
            "CX207",
            f"the character U+{ord(found.group()):04X} controls terminals or the direction of writing",
            "remove it",
        )
    return value


Text = Annotated[str, Field(strict=True, min_length=1, max_length=20_000), AfterValidator(_visible)]
Bool = Annotated[bool, Field(strict=True)]
VersionNumber = Annotated[StrictInt, Field(ge=1, le=10**9)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Written:
    """Annotation of a text that matches a regular expression; the message about another one is in words."""

    regex: str
    what: str
    """What the text would be: the name of a table."""
    advice: str

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> core_schema.CoreSchema:
        # no name is longer, and a regular expression may need the square of the length
        text = core_schema.str_schema(strict=True, max_length=2000)
        return core_schema.no_info_after_validator_function(self._check, text)

    def __get_pydantic_json_schema__(self, _schema: object, _handler: object) -> dict[str, str]:
        return {"type": "string", "pattern": f"^{self.regex}$"}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.regex, value):
            refuse("CX207", f"{short(value)} cannot be {self.what}", self.advice)
        return value


def _importable(value: str) -> str:
    if value in _DEVICES:
        what = f"{value!r} is a device on Windows, where no file may have that name"
        refuse("CX207", what, "call it otherwise")
    if keyword.iskeyword(value):
        what = f"{value!r} is a word of Python and cannot be imported"
        refuse("CX207", what, f"call it {value}_dataset, say")
    return value


_LOWER = "use lower-case letters, digits and underscores, beginning with a letter"
DatasetName = Annotated[
    str,
    Written(r"[a-z][a-z0-9_]{0,62}", "the name of a dataset", f"{_LOWER} (at most 63)"),
    AfterValidator(_importable),
]
Role = Annotated[str, Written(r"[a-z][a-z0-9_]{0,62}", "a role of tables", _LOWER)]
TableName = Annotated[
    str,
    Written(
        r"[A-Za-z_][A-Za-z0-9_]{0,126}",
        "the name of a table or view",
        "table names are letters, digits and underscores; look them up on the server's info page",
    ),
]
Datastack = Annotated[
    str,
    Written(
        r"[A-Za-z0-9][A-Za-z0-9_.-]{0,126}",
        "the name of a datastack",
        "use the server's own name for it (letters, digits, _ . -), for example minnie65_public",
    ),
]
DOI = Annotated[
    str,
    Written(
        r"10\.[0-9]{4,9}/\S{1,200}",
        "a DOI",
        "write the bare DOI, without https://doi.org/ : 10.1038/s41586-025-08790-w",
    ),
]


# ------------------------------------------------------------------------------------------------------------- columns
def _schema_name(value: str) -> str:
    known = schema_names()
    if value not in known:
        advice = did_you_mean(value, known, f"there are {', '.join(known)}")
        refuse("CX206", f"{value[:60]!r} is not a schema of EMAnnotationSchemas", advice)
    return value


def _column_type(value: object) -> object:
    try:
        table_field("", value)
    except ValueError as error:
        advice = "write bool, int, float, text, id, point or bound_point, with |null behind it where it may be missing"
        refuse("CX206", str(error), f"{advice}; or the list of values that the column may have")
    return tuple(value) if isinstance(value, list) else value


PointName = Annotated[str, Written("[a-z][a-z0-9_]*", "the name of a point", _LOWER)]
ColumnName = Annotated[
    str,
    Written(
        "[A-Za-z_][A-Za-z0-9_]{0,62}",
        "the name of a column",
        "use letters, digits and underscores, as the server does",
    ),
]
SchemaName = Annotated[str, Field(strict=True), AfterValidator(_schema_name)]
ColumnKind = Annotated[
    str | tuple[str | int | None, ...],
    BeforeValidator(_column_type),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": rf"^({'|'.join(COLUMN_TYPES)})(\s*\|\s*null)?$",
                },
                {"type": "array", "items": {"type": ["string", "integer", "null"]}, "minItems": 1},
            ]
        }
    ),
]


# ----------------------------------------------------------------------------------------------------------- addresses
_HOST = re.compile(r"[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)*\.?")


def _web_address(value: str, *, what: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        refuse("CX207", f"{short(value)} is not an address", "write it as https://host.name/path")
    if re.search(r"[\s\x00-\x1f\x7f<>\"\\^`{|}]", value):
        refuse("CX207", f"{short(value)} holds characters that no address has", "remove blanks and quotes")
    if parts.username or parts.password or "@" in parts.netloc:
        refuse("CX405", f"{what} carries a user name or password", "remove everything before the @")
    if parts.hostname and not _HOST.fullmatch(parts.hostname) and not parts.netloc.startswith("["):
        refuse("CX207", f"{short(parts.hostname)} is not the name of a host", "write it as host.name")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        refuse("CX207", f"{short(value)} is not a web address", "write it as https://host.name/path")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        refuse(
            "CX402", f"{what} is plain http to {parts.hostname}", "use https (http is for this machine only)"
        )
    return value


def _url(value: str) -> str:
    return _web_address(value, what="the address")


Url = Annotated[
    str,
    Field(strict=True, max_length=2000),
    AfterValidator(_url),
    WithJsonSchema({"type": "string", "pattern": r"^https?://\S+$"}),
]


def _server_address(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if separator and scheme not in {"http", "https"}:
        if scheme not in _launchers():
            refuse(
                "CX406",
                f"no server is reached by {short(scheme)}://",
                f"use https://, or one of the installed launchers: {', '.join(sorted(_launchers()))}",
            )
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", rest):
            refuse("CX207", f"{short(value)} does not name what to start", f"write it as {scheme}://small")
        return value
    _web_address(value, what="the server address")
    parts = urlsplit(value)
    if parts.query or parts.fragment:
        refuse("CX207", f"{short(value)} has a query or fragment", "give the address of the server only")
    return value.rstrip("/")


def _launchers() -> set[str]:
    """Schemes that start a server on this machine (entry points of the group ``cortexclient.servers``)."""
    from importlib.metadata import entry_points

    return {"sandbox", *(point.name for point in entry_points(group="cortexclient.servers"))}


ServerAddress = Annotated[
    str,
    Field(strict=True, max_length=500),
    AfterValidator(_server_address),
    WithJsonSchema({"type": "string", "pattern": r"^[a-z][a-z0-9+.-]*://\S+$"}),
]


def _cloud_path(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if scheme in {"http", "https"}:
        return _web_address(value, what="the path")
    if not separator or scheme not in {"gs", "s3", "file"} or not rest.strip("/") or re.search(r"\s", rest):
        refuse(
            "CX207",
            f"{short(value)} is not a path in a bucket",
            f"a folder of this machine is written as file://{value[:200]}"
            if value.startswith("/")
            else "write it as gs://bucket/folder/, s3://..., https://... or file:///...",
        )
    bucket = rest.split("/")[0]
    if "@" in bucket:
        refuse("CX405", "the path carries a user name or password", "remove everything before the @")
    if scheme != "file" and not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,220}[a-z0-9])?", bucket):
        refuse(
            "CX207", f"{short(bucket)} is not the name of a bucket", f"write it as {scheme}://bucket/folder/"
        )
    return value


CloudPath = Annotated[
    str,
    Field(strict=True, max_length=2000),
    AfterValidator(_cloud_path),
    WithJsonSchema({"type": "string", "pattern": r"^(gs|s3|file|https?)://\S+$"}),
]


# ----------------------------------------------------------------------------------------------------------------- ids
def _id(value: object) -> int:
    if isinstance(value, float):
        what = f"the id {short(value)} is a floating-point number, which cannot hold 18 digits"
        refuse("CX205", what, 'write all digits, best in quotes: "864691135336055529"')
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"-?[0-9]{1,30}", text):
        what = f"{short(value)} is not an id"
        refuse("CX205", what, 'write all its digits and nothing else, best in quotes: "864691135336055529"')
    if not 0 <= int(text) <= MAX_INT64:
        refuse("CX205", f"the id {short(value)} is outside 0 to 2^63-1", "check the digits")
    return int(text)


Id = Annotated[
    int,
    BeforeValidator(_id),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": "^[0-9]{1,19}$"}, {"type": "integer", "minimum": 0}]}
    ),
]


# ----------------------------------------------------------------------------------------------------- times and dates
def _timestamp(value: object) -> datetime:
    advice = 'write UTC in ISO form, in quotes: "2025-01-13T10:10:01.286229Z"'
    with suppress(ValueError):
        value = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
    if not isinstance(value, datetime):
        refuse("CX209", f"{short(value)} is not a time", advice)
    # the house rule: a time without a zone is UTC
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:  # the first or last hours that there are, in another zone
        refuse("CX209", f"{short(value)} is not a time in UTC", advice)


TimeStamp = Annotated[
    datetime,
    BeforeValidator(_timestamp),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$"}),
]


def _day(value: object) -> date:
    with suppress(ValueError):
        value = date.fromisoformat(value.strip()) if isinstance(value, str) else value
    if isinstance(value, datetime) or not isinstance(value, date):
        refuse("CX209", f"{short(value)} is not a date", 'write a day as "2026-11-20"')
    return value


Day = Annotated[
    date, BeforeValidator(_day), WithJsonSchema({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"})
]


# ------------------------------------------------------------------------------------------------------------- vectors
Vector = tuple[Number, Number, Number]


def _voxel_size(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(value) <= 0 or max(value) > 1e6:
        refuse(
            "CX208",
            f"{list(value)} is not the size of a voxel",
            "three positive lengths in nm, as [4, 4, 40]",
        )
    return value


_LENGTH = {"type": "number", "exclusiveMinimum": 0}
VoxelSize = Annotated[
    Vector,
    AfterValidator(_voxel_size),
    WithJsonSchema({"type": "array", "items": _LENGTH, "minItems": 3, "maxItems": 3}),
]
