"""The kinds of faults: each changes one reply as a broken, overloaded, replaced or lying server would.

A fault that a client can notice is ``noticed``: the outcome must be the right answer or an error. A ``lie`` is a
well-formed answer of other content: no client can tell it from the truth, and any answer will do, but no foreign error.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import pyarrow as pa

from tests.storms.proxy import Fault, Reply

__all__ = ["LIES", "NOTICED"]

NOTICED: dict[str, Fault] = {}
LIES: dict[str, Fault] = {}

LOGIN = b"<!doctype html><html><title>Sign in</title><form action=/login><input name=password></form></html>"
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""End-of-stream mark of an Arrow stream."""


def noticed(fault: Fault) -> Fault:
    NOTICED[fault.__name__.strip("_")] = fault
    return fault


def lie(fault: Fault) -> Fault:
    LIES[fault.__name__.strip("_")] = fault
    return fault


def cut(rng: random.Random, body: bytes) -> int:
    return rng.randrange(max(1, len(body)))


# -- time ----------------------------------------------------------------------------------------------------------


@noticed
def delay(rng: random.Random, reply: Reply) -> None:
    reply.wait = rng.uniform(0.01, 0.2)


@noticed
def hang(rng: random.Random, reply: Reply) -> None:
    reply.wait, reply.end = 30.0, "reset"


@noticed
def drip(rng: random.Random, reply: Reply) -> None:
    reply.drip = (max(1, len(reply.body) // 12), 0.01)


@noticed
def drip_for_ever(rng: random.Random, reply: Reply) -> None:
    reply.drip, reply.end = (1, 0.15), "reset"


# -- the connection --------------------------------------------------------------------------------------------------


@noticed
def no_response(rng: random.Random, reply: Reply) -> None:
    reply.raw, reply.end = b"", rng.choice(["reset", "close", "half"])


@noticed
def broken_off(rng: random.Random, reply: Reply) -> None:
    reply.sent, reply.end = cut(rng, reply.body), rng.choice(["reset", "close"])
    reply.wait = rng.choice([0.0, 0.02])


@noticed
def broken_off_chunked(rng: random.Random, reply: Reply) -> None:
    reply.sent, reply.end = cut(rng, reply.body), rng.choice(["reset", "close"])
    reply.chunked = rng.choice([b"", b"%x" % max(1, reply.sent)])


@noticed
def broken_off_without_length(rng: random.Random, reply: Reply) -> None:
    reply.sent, reply.length, reply.end = cut(rng, reply.body), None, "close"


@noticed
def closed_after(rng: random.Random, reply: Reply) -> None:
    reply.end = rng.choice(["close", "half", "reset"])
    reply.set("Connection", "keep-alive")


@noticed
def chunked(rng: random.Random, reply: Reply) -> None:
    reply.chunked = b""


@noticed
def bad_chunk(rng: random.Random, reply: Reply) -> None:
    reply.chunked, reply.end = rng.choice([b"ZZZ", b"-5", b"ffffffffffffffffffff", b""]), "close"
    if reply.chunked == b"":
        reply.before = b"\r\n"


@noticed
def wrong_length(rng: random.Random, reply: Reply) -> None:
    size = len(reply.body)
    wrong = [
        "-1",
        "abc",
        "",
        "0",
        "9" * 20,
        str(size + 100),
        str(max(0, size - 1)),
        f"{size}, {size}",
        f"{size}, 3",
    ]
    reply.length, reply.end = rng.choice(wrong), "close"


@noticed
def sent_twice(rng: random.Random, reply: Reply) -> None:
    reply.times = rng.choice([2, 3])


@noticed
def garbage(rng: random.Random, reply: Reply) -> None:
    reply.raw = rng.choice(
        [b"\x00\x01\x02what\r\n\r\n", b"HTTP/0.9 200\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"SSH-2.0\r\n",
         b"HTTP/1.1 200\r\nno colon here\r\n\r\n", b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
         b"HTTP/2 200\r\n\r\n", b"\r\n\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x" * 200_000]
    )  # fmt: skip
    reply.end = "close"


# -- status and headers ----------------------------------------------------------------------------------------------


@noticed
def interim(rng: random.Random, reply: Reply) -> None:
    status = rng.choice([b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 Odd"])
    reply.before = (b"HTTP/1.1 " + status + b"\r\nLink: </x>\r\n\r\n") * rng.choice([1, 20])


@noticed
def switching(rng: random.Random, reply: Reply) -> None:
    reply.raw = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@noticed
def other_2xx(rng: random.Random, reply: Reply) -> None:
    reply.status = rng.choice([201, 202, 203, 205, 206, 207, 226, 299])
    if reply.status == 206 or rng.random() < 0.5:
        reply.body = reply.body[: cut(rng, reply.body)]


@noticed
def no_content(rng: random.Random, reply: Reply) -> None:
    reply.become(rng.choice([200, 202, 204, 206, 304]), b"")
    reply.length = None if reply.status in (204, 304) else "right"


@noticed
def redirect(rng: random.Random, reply: Reply) -> None:
    targets = [
        "https://accounts.example.invalid/o/oauth2?x=1",
        "/sticky_auth/login?x=1",
        reply.request.target,
        "/",
        "",
        "::",
    ]
    reply.become(rng.choice([300, 301, 302, 303, 307, 308]), rng.choice([b"", LOGIN]), "text/html")
    reply.set("Location", rng.choice(targets))


@noticed
def login_page(rng: random.Random, reply: Reply) -> None:
    reply.become(200, LOGIN, rng.choice(["text/html; charset=utf-8", reply.header("Content-Type")]))


@noticed
def refused(rng: random.Random, reply: Reply) -> None:
    permission = (
        '{"error": "missing_permission", "data": {"required_permission": "view", "auth_dataset": "d"}}'
    )
    bodies = {
        400: ['{"error": 7}'],
        401: ['{"error": "invalid_token", "message": "Unauthorized"}', '"x"', "", "{}"],
        403: [
            permission,
            '{"error": "missing_permission", "data": null}',
            '{"error": "missing_tos"}',
            "[]",
            "null",
        ],
        404: ["null", '{"message": ["x"]}', "<html>nginx</html>"],
        410: ['"gone"'],
        422: ['{"errors": {"a": 1}}'],
    }
    status = rng.choice(list(bodies))
    reply.become(
        status, rng.choice([*bodies[status], '{"error": "missing_tos", "data": {"tos_id": 1}}']).encode()
    )


@noticed
def server_error(rng: random.Random, reply: Reply) -> None:
    bodies = [b"", b"<html><title>x</title></html>", b'"text"', b'{"message": "boom"}', b"[]", b"null", b"\xff\xfe",
              b'{"message": {"a": 1}}', b'{"message": "404 Not Found: x"}', b'{"message": "200 OK"}']  # fmt: skip
    waits = [None, "0", "1", "999999999", "-5", "nan", "inf", "soon", "1e400", "Wed, 99 Foo 2026",
             "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00"]  # fmt: skip
    status = rng.choice([500, 502, 503, 504, 520, 599, 408, 418, 421, 425, 429, 451])
    body = rng.choice([*bodies, b"[" * 100_000])
    reply.become(status, body, rng.choice(["application/json", "text/html", None]))
    reply.set("Retry-After", rng.choice(waits))


@noticed
def odd_content_type(rng: random.Random, reply: Reply) -> None:
    kinds = ["text/plain", "text/html", None, "garbage;;;charset=\"", "application/json; charset=utf-7",
             "application/json; charset=none", "application/octet-stream", "application/json"]  # fmt: skip
    reply.set("Content-Type", rng.choice(kinds))


@noticed
def odd_headers(rng: random.Random, reply: Reply) -> None:
    kind = rng.randrange(4)
    if kind == 0:
        limits = [f"201 - Limited query to {rows} rows" for rows in (5, 0, -1, 10**20)]
        reply.set("Warning", rng.choice(['299 - "hello"', "\xff\xfe", "", "a" * 5000, *limits]))
    elif kind == 1:
        size = rng.choice([10, 1000, 70_000])
        reply.headers += [(f"X-Junk-{n}", "z" * size) for n in range(rng.choice([1, 50, 99, 101, 300]))]
    elif kind == 2:
        reply.set(
            "Date", rng.choice(["Thu, 01 Jan 1970 00:00:00 GMT", "Tue, 19 Jan 2100 03:14:07 GMT", "never"])
        )
    else:
        reply.headers += [
            ("Set-Cookie", "middle_auth_token=other; Path=/"),
            ("Set-Cookie", "a=b; Max-Age=99999999"),
        ]


# -- the bytes of the body -------------------------------------------------------------------------------------------


@noticed
def truncated(rng: random.Random, reply: Reply) -> None:
    reply.body = reply.body[: cut(rng, reply.body)]


@noticed
def gzipped(rng: random.Random, reply: Reply) -> None:
    reply.body = gzip.compress(reply.body, 1)
    reply.set("Content-Encoding", "gzip")


@noticed
def gzip_truncated(rng: random.Random, reply: Reply) -> None:
    gzipped(rng, reply)
    reply.body = reply.body[: cut(rng, reply.body)]


@noticed
def gzip_damaged(rng: random.Random, reply: Reply) -> None:
    gzipped(rng, reply)
    place = cut(rng, reply.body[:-8])
    reply.body = reply.body[:place] + bytes([reply.body[place] ^ 0x55]) + reply.body[place + 1 :]


@noticed
def wrong_encoding(rng: random.Random, reply: Reply) -> None:
    reply.set("Content-Encoding", rng.choice(["gzip", "br", "zstd", "deflate", "x-unknown", "gzip, gzip"]))


@noticed
def gzip_bomb(rng: random.Random, reply: Reply) -> None:
    reply.body = _bomb()
    reply.set("Content-Encoding", "gzip")


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(1 << 25))


@noticed
def other_kind_of_response(rng: random.Random, reply: Reply) -> bool:
    """The response to another request of the client, of another content type."""
    own = reply.header("Content-Type")
    others = [one for one in reply.earlier if one.header("Content-Type") != own and one.body != reply.body]
    return _replaced(rng, reply, others)


@lie
def other_response(rng: random.Random, reply: Reply) -> bool:
    """The response to another request of the client, of the same content type."""
    own = reply.header("Content-Type")
    return _replaced(rng, reply, [one for one in reply.earlier if one.header("Content-Type") == own])


def _replaced(rng: random.Random, reply: Reply, others: list[Reply]) -> bool:
    if not others:
        return False
    other = rng.choice(others)
    reply.status, reply.body, reply.headers = other.status, other.body, list(other.headers)
    return True


@lie
def bit_flips(rng: random.Random, reply: Reply) -> bool:
    if not reply.body:
        return False
    body = bytearray(reply.body)
    for _ in range(rng.choice([1, 3, 30])):
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    reply.body = bytes(body)
    return True


def _binary(fault: Callable[[random.Random, bytes], bytes]) -> Fault:
    @wraps(fault)
    def strike(rng: random.Random, reply: Reply) -> bool:
        if not reply.header("Content-Type").startswith("application/octet-stream") or not reply.body:
            return False
        reply.body = fault(rng, reply.body)
        return True

    return strike


@noticed
@_binary
def binary_short(rng: random.Random, body: bytes) -> bytes:
    return body[: -rng.choice([1, 3, 8])]


@noticed
@_binary
def binary_long(rng: random.Random, body: bytes) -> bytes:
    return body + bytes(rng.choice([1, 3, 8]))


@noticed
@_binary
def binary_zeros(rng: random.Random, body: bytes) -> bytes:
    return bytes(len(body))


# -- JSON ------------------------------------------------------------------------------------------------------------


def _json(fault: Callable[[random.Random, Any], Any]) -> Fault:
    """Edit a document; the fault may return bytes in its place, and does not apply where nothing changes."""

    @wraps(fault)
    def strike(rng: random.Random, reply: Reply) -> bool:
        if "json" not in reply.header("Content-Type") or reply.status != 200:
            return False
        edited = fault(rng, json.loads(reply.body))
        body = edited if isinstance(edited, bytes) else json.dumps(edited).encode()
        changed = body != json.dumps(json.loads(reply.body)).encode()
        reply.body = body
        return changed

    return strike


def _walk(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _walk(one, change) for key, one in value.items()}
    return [_walk(one, change) for one in value] if isinstance(value, list) else change(value)


def _is_id(value: Any) -> bool:
    return type(value) is int and value > 1 << 53


@noticed
@_json
def json_ids_as_text(rng: random.Random, value: Any) -> Any:
    return _walk(value, lambda one: str(one) if _is_id(one) else one)


@noticed
@_json
def json_ids_as_floats(rng: random.Random, value: Any) -> Any:
    return _walk(value, lambda one: float(one) if _is_id(one) else one)


@noticed
@_json
def json_ids_out_of_range(rng: random.Random, value: Any) -> Any:
    wrong = rng.choice([1 << 63, -1, 1 << 64, 10**30])
    return _walk(value, lambda one: wrong if _is_id(one) else one)


@noticed
@_json
def json_shape(rng: random.Random, value: Any) -> bytes:
    shapes = [b"null", b"true", b"0", b'"text"', b"[[]]", b"[null]", b'{"a": {}}', b"NaN", b"1e999", b'[{"a":1}]', b"",
              b"[" * 3000 + b"]" * 3000, b"[" * 200_000, b'{"a":' * 100_000, b"9" * 5000]  # fmt: skip
    return rng.choice(shapes)


@noticed
@_json
def json_extra(rng: random.Random, value: Any) -> Any:
    """Keys that nobody knows: an object may grow with the next release of a service."""
    if not isinstance(value, dict) or _by_number(value):
        return value
    return {**value, "surprise": [1, {"a": None}]}


def _by_number(value: dict[str, Any]) -> bool:
    return not value or any(key.isdecimal() for key in value)


@noticed
@_json
def json_encoding(rng: random.Random, value: Any) -> bytes:
    text = json.dumps(value)
    return rng.choice(
        [b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), text.encode() + b"\x00", text.encode() * 2]
    )


@lie
@_json
def json_empty(rng: random.Random, value: Any) -> bytes:
    return rng.choice([b"[]", b"{}"])


@lie
@_json
def json_nulls(rng: random.Random, value: Any) -> Any:
    other = rng.choice([None, float("nan")])
    return _walk(value, lambda one: other if type(one) in (int, float) and rng.random() < 0.3 else one)


@lie
@_json
def json_keys_missing(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: one for key, one in value.items() if rng.random() < 0.6}
    return value[: len(value) // 2] if isinstance(value, list) else value


@lie
@_json
def json_values(rng: random.Random, value: Any) -> Any:
    def change(one: Any) -> Any:
        return rng.choice([None, 5, "x", [], {}, True, 1.5, -1]) if rng.random() < 0.3 else one

    if isinstance(value, dict):
        return {key: change(one) for key, one in value.items()}
    return [change(one) for one in value] if isinstance(value, list) else change(value)


@lie
@_json
def json_lists_short(rng: random.Random, value: Any) -> Any:
    return _short(value)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    return value[:-1] if isinstance(value, list) and len(value) > 1 else value


# -- Arrow -----------------------------------------------------------------------------------------------------------


def _arrow(fault: Callable[[random.Random, pa.Table], pa.Table | bytes]) -> Fault:
    @wraps(fault)
    def strike(rng: random.Random, reply: Reply) -> bool:
        if not reply.header("Content-Type").startswith("data.arrow") or reply.status != 200:
            return False
        edited = fault(rng, pa.ipc.open_stream(reply.body).read_all())
        body = edited if isinstance(edited, bytes) else _stream(edited)
        changed = body != reply.body
        reply.body = body
        return changed

    return strike


def _stream(table: pa.Table, batches: int = 1, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=max(1, -(-table.num_rows // batches)))
    return sink.getvalue()


def _columns(
    table: pa.Table, change: Callable[[pa.ChunkedArray], Any], likely: Callable[[pa.DataType], bool]
) -> pa.Table:
    for place, column in enumerate(table.schema):
        if likely(column.type):
            table = table.set_column(place, column.name, change(table.column(place)))
    return table


def _is_count(table: pa.Table) -> bool:
    return bool(table.column_names == ["count"])


@noticed
@_arrow
def arrow_without_end(rng: random.Random, table: pa.Table) -> bytes:
    """Whole messages, but not all of them: what a connection leaves that breaks off between two."""
    kept = table.slice(0, rng.choice([0, table.num_rows // 2, table.num_rows]))
    return _stream(kept, rng.choice([1, 4])).removesuffix(END)


@noticed
@_arrow
def arrow_cut(rng: random.Random, table: pa.Table) -> bytes:
    body = _stream(table, 4)
    return body[: cut(rng, body)]


@noticed
@_arrow
def arrow_bad_offsets(rng: random.Random, table: pa.Table) -> pa.Table | bytes:
    """An offset of a text column that points outside."""
    texts = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    if not texts or not table.num_rows:
        return table
    table = table.combine_chunks()
    chunk = table.column(rng.choice(texts)).chunk(0)
    offsets = chunk.buffers()[1].to_pybytes()[4 * chunk.offset :][: 4 * (len(chunk) + 1)]
    body, place = bytearray(_stream(table)), 4 * rng.randrange(1, len(chunk) + 1)
    start = bytes(body).find(offsets)
    if start < 0 or len(set(offsets)) < 2:
        return table
    body[start + place : start + place + 4] = rng.choice([1 << 30, 4000, -(1 << 30)]).to_bytes(
        4, "little", signed=True
    )
    return bytes(body)


@noticed
@_arrow
def arrow_written_otherwise(rng: random.Random, table: pa.Table) -> bytes:
    """The same rows as another writer may send them."""
    how = rng.randrange(4)
    if how == 0:
        return _stream(table, 7)
    if how == 1:
        return _stream(table, compression=rng.choice(["lz4", "zstd"]))
    if how == 2:
        return _stream(table) + b"garbage" * 10
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@noticed
@_arrow
def arrow_dictionary(rng: random.Random, table: pa.Table) -> pa.Table:
    return _columns(table, lambda column: column.dictionary_encode(), lambda kind: rng.random() < 0.7)


@noticed
@_arrow
def arrow_other_text(rng: random.Random, table: pa.Table) -> pa.Table:
    kind = rng.choice([pa.large_string(), pa.string_view()])
    return _columns(table, lambda column: pa.array(column.to_pylist(), kind), pa.types.is_string)


@noticed
@_arrow
def arrow_other_integers(rng: random.Random, table: pa.Table) -> pa.Table:
    kind = rng.choice([pa.uint64(), pa.string(), pa.decimal128(20, 0), pa.float64()])
    return _columns(table, lambda column: column.cast(kind, safe=False), pa.types.is_int64)


@noticed
@_arrow
def arrow_positions_as_floats(rng: random.Random, table: pa.Table) -> pa.Table:
    for place, column in enumerate(table.schema):
        if "position" in column.name and pa.types.is_integer(column.type):
            table = table.set_column(place, column.name, table.column(place).cast(pa.float64()))
    return table


@noticed
@_arrow
def arrow_column_twice(rng: random.Random, table: pa.Table) -> pa.Table:
    place = rng.randrange(table.num_columns)
    return table.append_column(table.schema.field(place).name, table.column(place))


@noticed
@_arrow
def arrow_no_columns(rng: random.Random, table: pa.Table) -> pa.Table:
    return pa.table({})


def _of_tables(fault: Fault) -> Fault:
    """What is noticed in a table, where every row has an id of its own, may be the truth about a view."""

    @wraps(fault)
    def strike(rng: random.Random, reply: Reply) -> bool | None:
        return False if "/views/" in reply.request.path else fault(rng, reply)

    return strike


@noticed
@_of_tables
@_arrow
def arrow_ids_missing(rng: random.Random, table: pa.Table) -> pa.Table:
    return table.drop_columns(["id"]) if "id" in table.column_names else table


@noticed
@_of_tables
@_arrow
def arrow_rows_twice(rng: random.Random, table: pa.Table) -> pa.Table:
    twice = "id" in table.column_names and table.num_rows
    return pa.concat_tables([table, table.slice(0, max(1, table.num_rows // 3))]) if twice else table


@noticed
@_arrow
def count_odd(rng: random.Random, table: pa.Table) -> pa.Table:
    odd: list[Any] = [
        ["12"],
        [1.5],
        [None],
        [1, 2],
        [],
        [-1],
        ["many"],
        [float("nan")],
        [float("inf")],
        [1e300],
        [True],
    ]
    return pa.table({rng.choice(["count", "count", "n"]): rng.choice(odd)}) if _is_count(table) else table


@noticed
@_arrow
def arrow_nested(rng: random.Random, table: pa.Table) -> pa.Table:
    """A column of a type that no table of CAVE has."""
    if not table.num_rows:
        return table
    place = rng.randrange(table.num_columns)
    value = rng.choice([[[1, 2]], [{"a": 1}], [b"\xff"]]) * table.num_rows
    return table.set_column(place, table.schema.field(place).name, pa.array(value))


@lie
@_arrow
def count_off(rng: random.Random, table: pa.Table) -> pa.Table:
    if not _is_count(table):
        return table
    return pa.table({"count": [table.column(0)[0].as_py() + rng.choice([-1, 1, 10**6, -(10**6), 2**62])]})


@lie
@_arrow
def arrow_more_columns(rng: random.Random, table: pa.Table) -> pa.Table:
    return table.append_column("surprise", pa.array(["x"] * table.num_rows)).add_column(
        0, "other", pa.nulls(table.num_rows)
    )


@lie
@_arrow
def arrow_columns_in_other_order(rng: random.Random, table: pa.Table) -> pa.Table:
    return table.select(rng.sample(table.column_names, table.num_columns))


@lie
@_arrow
def arrow_rows_in_other_order(rng: random.Random, table: pa.Table) -> pa.Table:
    return table.take(pa.array(rng.sample(range(table.num_rows), table.num_rows), pa.int64()))


@lie
@_arrow
def arrow_column_missing(rng: random.Random, table: pa.Table) -> pa.Table:
    return table.drop_columns([rng.choice(table.column_names)])


@lie
@_arrow
def arrow_nulls(rng: random.Random, table: pa.Table) -> pa.Table:
    if rng.random() < 0.5:
        return _columns(
            table, lambda column: pa.nulls(len(column), column.type), lambda kind: rng.random() < 0.3
        )
    return _columns(
        table,
        lambda column: pa.array(
            [None if rng.random() < 0.2 else one for one in column.to_pylist()], column.type
        ),
        lambda kind: rng.random() < 0.3,
    )


@lie
@_arrow
def arrow_row_missing(rng: random.Random, table: pa.Table) -> pa.Table:
    return table if _is_count(table) else table.slice(0, max(0, table.num_rows - 1))


@lie
def expired(rng: random.Random, reply: Reply) -> bool:
    """What the materialization service says of a version that ran out."""
    if "/version/" not in reply.request.path:
        return False
    message = "404 Not Found: version 3 not found in sandbox"
    reply.become(500, json.dumps({"code": 500, "message": message, "traceback": []}).encode())
    return True
