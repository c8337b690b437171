"""Compare an answer of the sandbox with the recorded one by content, by the rules of the recording's README.

The same must be: status, Arrow columns (names, types, order), rows as a multiset, JSON values, the three headers of
`dataframe_resolution`, `column_names`, `Warning` texts, ids, times, the order of rows of one frozen table. May differ:
addresses, compression, the order of other rows, of keys and of lists that are sets, the wording of errors, tracebacks,
times of making.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import unquote

import pyarrow as pa

__all__ = ["Answered", "compare"]

_HOST = re.compile(r"https?://[\w.\-]+(:\d+)?")
_TIME = re.compile(r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:?\d\d|Z)?$")
_MEANT = re.compile(r"^([45]\d\d) [A-Z]")
# values that the sandbox cannot share with the recording: addresses of stand-ins, times of making
_ADDRESSES = {
    "local_server",
    "segmentation_source",
    "image_source",
    "viewer_site",
    "skeleton_source",
    "data_dir",
}
# ... and a skeleton says when it was made
_USED = {"last_used", "updated"}
_VOLATILE = {"traceback", "duration", "timestamp"}
# hexadecimal digits of a gzipped body inside of JSON
_GZIP = "1f8b08"
_ID = 1 << 40
_SECONDS = 1e-3
_EPOCH = 1e9


class Answered(Protocol):
    """What a comparison needs to know of an answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def compare(exchange: dict[str, Any], response: Answered) -> list[str]:
    """Differences that matter between a recorded exchange and an answer to the same request.

    Parameters
    ----------
    exchange : dict
        A line of ``exchanges.jsonl.gz``.
    response : Answered

    Returns
    -------
    list of str
        Empty where the two are alike.
    """
    found: list[str] = []
    if exchange["status"] != response.status:
        found.append(f"status {response.status} instead of {exchange['status']}: {response.body[:300]!r}")
        return found
    found += _headers(exchange, response)
    body = exchange["body"]
    kind = (body or {}).get("kind")
    if kind == "arrow-ipc-stream":
        found += _arrow(exchange, response)
    elif kind in ("json", "gzip-json"):
        found += _json(exchange, response, packed=kind == "gzip-json")
    elif kind in ("text", "gzip-text"):
        found += _text(exchange, response, packed=kind == "gzip-text")
    elif kind == "uint64-le":
        recorded = b"".join(
            int(number).to_bytes(8, "little") for number in body.get("values", body.get("value", []))
        )
        if recorded != response.body:
            found.append("other ids in the binary body")
    elif kind == "binary" and "hex" in body and bytes.fromhex(body["hex"]) != response.body:
        found.append("another binary body")
    return found


# --- headers


def _values(headers: Sequence[Sequence[str]], name: str) -> list[str]:
    return [str(value) for key, value in headers if key.lower() == name]


def _headers(exchange: dict[str, Any], response: Answered) -> list[str]:
    recorded, answered = exchange["response_headers"] or [], response.headers
    found = [
        f"{name}: {_values(answered, name)} instead of {_values(recorded, name)}"
        for name in ("dataframe_resolution", "used-bounds")
        if _values(recorded, name) != _values(answered, name)
    ]
    names = [
        [ast.literal_eval(value) for value in _values(side, "column_names")] for side in (recorded, answered)
    ]
    if names[0] != names[1]:
        found.append(f"column_names: {names[1]} instead of {names[0]}")
    warnings = [Counter(_plain(value) for value in _values(side, "warning")) for side in (recorded, answered)]
    if warnings[0] != warnings[1]:
        found.append(f"warnings: {dict(warnings[1])} instead of {dict(warnings[0])}")
    for name in ("www-authenticate", "location"):
        shapes = [
            [_HOST.sub("HOST", unquote(value)) for value in _values(side, name)]
            for side in (recorded, answered)
        ]
        if shapes[0] != shapes[1]:
            found.append(f"{name}: {shapes[1]} instead of {shapes[0]}")
    kinds = [
        [value.split(";")[0] for value in _values(side, "content-type")] for side in (recorded, answered)
    ]
    if kinds[0] != kinds[1]:
        found.append(f"content type: {kinds[1]} instead of {kinds[0]}")
    return found


def _plain(text: str) -> str:
    # the eight blanks inside one of the texts are the recording's own; how many a proxy leaves is no content
    return re.sub(r"\s+", " ", _HOST.sub("HOST", text)).strip()


# --- Arrow


def _arrow(exchange: dict[str, Any], response: Answered) -> list[str]:
    try:
        table = pa.ipc.open_stream(response.body).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        return [f"no Arrow stream: {error}"]
    body = exchange["body"]
    recorded = [(name, kind) for name, kind, *_ in body["schema"]]
    answered = [(item.name, str(item.type)) for item in table.schema]
    if recorded != answered:
        return [f"schema: {answered} instead of {recorded}"]
    pandas = [
        _pandas_types((body.get("schema_metadata") or {}).get("pandas")),
        _pandas_types(_own_metadata(table)),
    ]
    if pandas[0] != pandas[1] and "schema_metadata" in body:
        return [f"pandas metadata: {pandas[1]} instead of {pandas[0]}"]
    if body["num_rows"] != table.num_rows:
        return [f"{table.num_rows} rows instead of {body['num_rows']}"]
    sent = [_canonical(row) for row in zip(*(_cells(column) for column in table.columns), strict=True)]
    recorded_rows = [_canonical(row) for row in body["rows"]]
    ours, theirs = Counter(sent), Counter(recorded_rows)
    if ours == theirs and sent != recorded_rows and _as_stored(exchange):
        return ["rows in another order than that of their storage"]
    if ours == theirs or _any_subset(exchange):
        return []
    if len(body["rows"]) < body["num_rows"] and not theirs - ours:  # not all rows were written down
        return []
    index = next((at for at, (name, _) in enumerate(recorded) if name == "__index_level_0__"), None)
    if index is not None:
        # numbers the rows of an answer before its last filter, in whatever order the planner chose
        ours, theirs = (_without(rows, index) for rows in (ours, theirs))
        if ours == theirs:
            return []
    return [
        f"rows differ, such as {next(iter(ours - theirs), None)} instead of {next(iter(theirs - ours), None)}"
    ]


def _own_metadata(table: pa.Table) -> dict[str, Any] | None:
    stored = (table.schema.metadata or {}).get(b"pandas")
    return None if stored is None else dict(json.loads(stored))


def _pandas_types(metadata: dict[str, Any] | None) -> list[tuple[str, str]] | None:
    """What a client's frame will have for types; it reads them from here."""
    if metadata is None:
        return None
    return [(str(column["field_name"]), column["numpy_type"]) for column in metadata["columns"]]


def _without(rows: Counter[str], index: int) -> Counter[str]:
    shorter: Counter[str] = Counter()
    for row, count in rows.items():
        cells = json.loads(row)
        del cells[index]
        shorter[json.dumps(cells)] += count
    return shorter


def _cells(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return [
            None if value is None else str(value)
            for value in column.cast(pa.timestamp("us", "UTC")).to_pylist()
        ]
    return list(column.to_pylist())


def _canonical(row: Sequence[Any]) -> str:
    return json.dumps([_cell(value) for value in row])


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value else float(f"{value:.7g}")
    if isinstance(value, str) and _TIME.match(value):
        return value.replace("T", " ").removesuffix("+00:00").removesuffix("Z").ljust(19).rstrip("0")
    return value


def _as_stored(exchange: dict[str, Any]) -> bool:
    """Whether rows come in the order of the database: those of one frozen table, not joined with a list of ids."""
    one = re.search(r"/version/\d+/table/", exchange["url"])
    return one is not None and "filter_in_dict" not in exchange["request_body"]


def _any_subset(exchange: dict[str, Any]) -> bool:
    """Whether a limit may leave other rows: joins, views and live answers come in the planner's order."""
    request = exchange["request_body"]
    limited = (isinstance(request, dict) and "limit" in request) or any(
        "imit" in value for value in _values(exchange["response_headers"] or [], "warning")
    )
    return "random_sample=" in exchange["url"] or (limited and "/table/" not in exchange["url"])


# --- JSON and text


def _unpacked(body: bytes, *, packed: bool) -> bytes:
    return gzip.decompress(body) if packed else body


def _json(exchange: dict[str, Any], response: Answered, *, packed: bool) -> list[str]:
    try:
        answered = json.loads(_unpacked(response.body, packed=packed))
    except (ValueError, OSError) as error:
        return [f"no JSON: {error}: {response.body[:80]!r}"]
    recorded = exchange["body"]["value"]
    failed = isinstance(exchange["status"], int) and exchange["status"] >= 400
    if failed and isinstance(recorded, dict) and isinstance(answered, dict):
        return _errors(recorded, answered)
    if isinstance(recorded, list) and isinstance(answered, list) and _any_subset(exchange):
        return (
            [] if len(recorded) == len(answered) else [f"{len(answered)} entries instead of {len(recorded)}"]
        )
    return _values_differ(recorded, answered, "", made="writes" in exchange["group"])


def _errors(recorded: dict[str, Any], answered: dict[str, Any]) -> list[str]:
    """Errors: the same keys and the same meant status; the wording is free."""
    found = []
    if set(recorded) - _VOLATILE != set(answered) - _VOLATILE:
        found.append(f"error with {sorted(answered)} instead of {sorted(recorded)}")
    for key in ("code", "error", "data", "schema_errors"):
        if key in recorded and key in answered:
            found += _values_differ(recorded[key], answered[key], f".{key}", made=False)
    meant = [_MEANT.match(str(side.get("message", ""))) for side in (recorded, answered)]
    if [found_status and found_status[1] for found_status in meant] != [meant[0] and meant[0][1]] * 2:
        found.append(f"message {answered.get('message')!r} instead of {recorded.get('message')!r}")
    return found


def _values_differ(recorded: Any, answered: Any, path: str, *, made: bool) -> list[str]:
    key = path.rsplit(".", 1)[-1]
    described = (
        key in ("description", "desription") and ".definitions." in path
    )  # the sandbox has its own words
    if key in _ADDRESSES or key in _USED or described or path.endswith(".meta.timestamp"):
        same = bool(recorded) == bool(answered)
    elif isinstance(recorded, dict) and isinstance(answered, dict):
        return _dicts_differ(recorded, answered, path, made=made)
    elif isinstance(recorded, list) and isinstance(answered, list):
        return _lists_differ(recorded, answered, path, made=made)
    elif isinstance(recorded, str) and isinstance(answered, str):
        return _strings_differ(recorded, answered, path, made=made)
    elif _is_number(recorded) and _is_number(answered):
        same = _same_number(recorded, answered)
    else:
        same = type(recorded) is type(answered) and recorded == answered
    return [] if same else [f"{path}: {str(answered)[:200]!r} instead of {str(recorded)[:200]!r}"]


def _dicts_differ(recorded: dict[str, Any], answered: dict[str, Any], path: str, *, made: bool) -> list[str]:
    found = [f"{path}: key {name!r} is missing" for name in sorted(set(recorded) - set(answered))]
    found += [
        f"{path}: key {name!r} is not in the recording" for name in sorted(set(answered) - set(recorded))
    ]
    for name in sorted(set(recorded) & set(answered)):
        found += _values_differ(recorded[name], answered[name], f"{path}.{name}", made=made)
    return found


def _strings_differ(recorded: str, answered: str, path: str, *, made: bool) -> list[str]:
    if recorded.startswith(_GZIP) and answered.startswith(_GZIP):
        sides = [json.loads(gzip.decompress(bytes.fromhex(side))) for side in (recorded, answered)]
        return _values_differ(*sides, path, made=made)
    times = [bool(_TIME.match(side)) for side in (recorded, answered)]
    if all(times) and (made or _cell(recorded) == _cell(answered)):
        return []
    alike = _HOST.sub("HOST", recorded) == _HOST.sub("HOST", answered)
    return [] if alike else [f"{path}: {answered!r} instead of {recorded!r}"]


def _same_number(recorded: float, answered: float) -> bool:
    if isinstance(recorded, int) and isinstance(answered, int):
        return recorded == answered
    if abs(recorded) > _EPOCH:  # seconds since 1970
        return abs(recorded - answered) <= _SECONDS
    tolerance = 1e-6 * max(1.0, abs(recorded))  # the precision of a float32
    return abs(recorded - answered) <= tolerance


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lists_differ(recorded: list[Any], answered: list[Any], path: str, *, made: bool) -> list[str]:
    if len(recorded) != len(answered):
        return [f"{path}: {len(answered)} entries instead of {len(recorded)}"]
    in_order = [
        problem
        for index, (left, right) in enumerate(zip(recorded, answered, strict=True))
        for problem in _values_differ(left, right, f"{path}[{index}]", made=made)
    ]
    if not in_order or not _is_set(recorded):
        return in_order
    if made and isinstance(recorded[0], dict):
        return in_order
    keys = [Counter(_set_key(item) for item in side) for side in (recorded, answered)]
    return [] if keys[0] == keys[1] else in_order


def _is_set(items: list[Any]) -> bool:
    """Lists of ids, of pairs of ids, of names and of records have no order that means anything."""
    return all(
        (isinstance(item, int) and item >= _ID)
        or isinstance(item, (str, dict))
        or (
            isinstance(item, list)
            and len(item) == 2
            and all(isinstance(part, int) and part >= _ID for part in item)
        )
        for item in items
    )


def _set_key(item: Any) -> str:
    if isinstance(item, list):
        return json.dumps(sorted(item))
    return json.dumps(item, sort_keys=True)


def _text(exchange: dict[str, Any], response: Answered, *, packed: bool) -> list[str]:
    recorded = exchange["body"].get("value", exchange["body"].get("text"))
    answered = _unpacked(response.body, packed=packed).decode("utf-8", "replace")
    if exchange["status"] >= 300 or _HOST.sub("HOST", str(recorded)) == _HOST.sub("HOST", answered):
        return []
    return [f"text {answered[:200]!r} instead of {str(recorded)[:200]!r}"]
