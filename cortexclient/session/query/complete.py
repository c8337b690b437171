"""Complete results from a service that truncates its responses.

A server returns at most so many rows (200,000 or 500,000, or whatever a deployment says) and mentions it in a header of
an HTTP 200. There is no order, so paging by offset repeats and loses rows. What is safe: split the query into pieces
that cannot overlap, along a list of ids or along ranges of the table's id, until no piece is truncated; then compare
the number of rows with a count, where the service can count.

It goes in rounds: all pieces are requested concurrently, those that were truncated are counted and split, and the
smaller ones are requested in the next round. So the requests depend on responses alone and not on their timing, and a
run without a network needs nothing but what a run with one has cached. Where the service cannot count, the number of
rows is estimated; only the number of requests depends on that.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortexclient.errors import (
    IncompleteResultError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from cortexclient.session.query.frames import combine, free_memory, require_once_each, with_valid
from cortexclient.session.query.tables import column_kinds
from cortexclient.session.query.wire import Reply, request_count, request_rows
from cortexclient.session.workers import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session.query.query import Follow, Query
    from cortexclient.session.session import Session
    from cortexclient.session.workers import ProgressBar

__all__ = ["fetch_all"]

_LIST_SIZE = 5000
"""Most values of a list in one request."""

_FILL = 0.85
"""How full a piece should be of what the server returns at most, so that uneven pieces still fit."""

_MOST_PIECES = 64
"""Most pieces that one truncated response is split into: a wrong count must not start a thousand requests."""

_ROUNDS = 100
_SPLITS_OF_WEAK = 3
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a query, requested by itself: a piece of its list, or a range of its key (else the id)."""

    number: int  # of the query that it belongs to
    query: Query
    low: int | None = None
    high: int | None = None
    key: tuple[str, str] | None = None
    counted: bool = False  # its rows are part of a number that the service counted
    guessed: bool = False  # made to fit: if it is truncated all the same, it is a little too large
    splits: int = 0  # made for a server that is too weak
    refusals: int = 0  # by a server that gets too many requests

    @property
    def single(self) -> bool:
        """Whether its range holds one value of the key."""
        return self.low is not None and self.high is not None and self.high - self.low <= 1

    @property
    def key_name(self) -> str:
        """Name that the key has in the responses."""
        return self.query.key_name if self.key is None else self.key[1]

    def narrowed(self) -> Query:
        """Return the query with the range written into its filters, beside the user's own bounds."""
        query = self.query
        table, column = self.key or (query.name, "id")
        for kind, bound, tighter in (("greater_equal", self.low, max), ("less", self.high, min)):
            if bound is not None:
                theirs = query.filters.get(kind, {}).get(table, {}).get(column)
                query = query.where(kind, table, column, bound if theirs is None else tighter(bound, theirs))
        return query

    def ranges(self, cuts: Sequence[int], **changes: Any) -> list[_Piece]:
        """Split the range at these values; those outside are left out."""
        low, high = self.low, self.high
        inner = {cut for cut in cuts if (low is None or cut > low) and (high is None or cut < high)}
        edges = itertools.pairwise([low, *sorted(inner), high])
        return [dataclasses.replace(self, low=a, high=b, **changes) for a, b in edges]


def fetch_all(
    session: Session, queries: Sequence[Query], *, following: Sequence[Follow] = (), description: str = ""
) -> list[Reply]:
    """Run planned queries, and those that follow from their rows, until every result is complete.

    A query's ``most`` is the user's own limit: a result of that size is complete. One progress bar is for all requests,
    if any of the queries wants one. The replies are in the order of the queries, then of those that follow.

    Raises
    ------
    IncompleteResultError
        If the service truncates a response that cannot be split any finer, or the rows do not add up to its count.
    ServiceError
        If a request fails; a `ProtocolError` if an id of a table came twice.
    """
    first = [
        _Piece(number, part)
        for number, query in enumerate(queries)
        for part in _slices(query, min(_LIST_SIZE, query.batch or _LIST_SIZE))
    ]
    every = [*queries, *(follow.query for follow in following)]
    description = description or ", ".join(dict.fromkeys(query.name for query in queries))
    show = any(query.progress for query in every)
    with progress_bar(len(first), description, show=True) if show else nullcontext() as bar:
        fetch = _Fetch(session, every, bar)
        fetch.run(first)
        if following:
            fetch.follow(following, after=len(queries))
    return [fetch.result(number, query) for number, query in enumerate(every)]


def _slices(query: Query, size: int) -> list[Query]:
    """Split the longest list of a query into about equal pieces of at most so many values."""
    longest = query.longest_list()
    if longest is None or len(longest[2]) <= size:
        return [query]
    table, column, values = longest
    step = math.ceil(len(values) / math.ceil(len(values) / size))
    return [query.where("in", table, column, values[at : at + step]) for at in range(0, len(values), step)]


class _Fetch:
    """All requests that some queries need."""

    def __init__(self, session: Session, queries: Sequence[Query], bar: ProgressBar | None) -> None:
        self._session, self._queries, self._bar = session, queries, bar
        self._replies: list[list[Reply]] = [[] for _ in queries]
        self._requests: Counter[int] = Counter()
        self._expected: dict[int, int] = {}
        self._got: Counter[int] = Counter()
        self._row_limit = 0
        self._allowed = session.max_workers

    def run(self, pieces: list[_Piece]) -> None:
        """Request pieces, and smaller ones of those that are truncated, until all are complete."""
        for _ in range(_ROUNDS):
            now = [piece for piece in pieces if piece.query.most is None]
            if pieces and not now:
                now = self._wanted(pieces)
            if not now:
                break
            chosen = set(map(id, now))
            pieces = [piece for piece in pieces if id(piece) not in chosen] + self._round(now)
        else:
            raise IncompleteResultError(_cannot(pieces[0].query))
        self._compare_counts()

    def _round(self, pieces: list[_Piece]) -> list[_Piece]:
        """Request pieces; return those to request next."""
        later: list[_Piece] = []
        truncated = []
        for piece, found in zip(pieces, self._request_all(pieces), strict=True):
            self._requests[piece.number] += 1
            if isinstance(found, list):
                later += found
            elif found.row_limit is None or _is_complete(piece, found):
                self._keep(piece, found)
            else:
                truncated.append((piece, found))
        return later + self._split(truncated) if truncated else later

    def follow(self, following: Sequence[Follow], *, after: int) -> None:
        """Run the queries about ids that the rows of the first queries contain."""
        pieces = []
        for number, follow in enumerate(following, start=after):
            ids = [
                value
                for main in range(after)
                for reply in self._replies[main]
                for value in follow.pick(main, reply.table).tolist()
            ]
            query = follow.query.where("in", follow.query.name, follow.column, ids)
            if not ids:  # sent all the same, for the columns
                query = follow.query.where("equal", follow.query.name, "id", -1)
            size = min(follow.size, max(1, int(_FILL * self._row_limit))) if self._row_limit else follow.size
            pieces += [_Piece(number, part) for part in _slices(query, size)]
        self._grow_bar(len(pieces))
        self.run(pieces)

    def result(self, number: int, query: Query) -> Reply:
        """Return all rows of a query as one reply."""
        parts = self._replies[number]
        tables = [part.table for part in parts]
        if query.live and query.base is None and query.columns is None:
            tables = [with_valid(table) for table in tables]
        resolution, url = parts[0].resolution, parts[0].url
        parts.clear()
        table = combine(tables, lambda: column_kinds(self._session, query.described), url=url)
        del tables
        free_memory(table.num_rows)
        reply = Reply(table, None, resolution, self._requests[number], url)
        require_once_each(query, reply)
        return reply

    # -- requests ------------------------------------------------------------------------------------------------------

    def _wanted(self, pieces: list[_Piece]) -> list[_Piece]:
        """Return the pieces of queries with a limit of the user's that are needed to fill it, as far as is known."""
        wanted: list[_Piece] = []
        for piece in pieces:
            replies = self._replies[piece.number]
            missing = (piece.query.most or 0) - sum(reply.table.num_rows for reply in replies)
            under_way = sum(one.number == piece.number for one in wanted)
            if under_way * max(1, self._row_limit) < missing or not (replies or under_way):
                wanted.append(piece)
        return wanted

    def _request_all(self, pieces: list[_Piece]) -> list[Reply | list[_Piece]]:
        found: list[Reply | list[_Piece]] = []
        while len(found) < len(pieces):
            room = len(pieces) if self._allowed == self._session.max_workers else self._allowed
            found += self._session.map(self._request, pieces[len(found) :][:room])
            if any(isinstance(one, list) and one[0].refusals for one in found):
                self._allowed = max(1, self._allowed // 2)
        return found

    def _request(self, piece: _Piece) -> Reply | list[_Piece]:
        """Request one piece; return smaller ones, or the same for later, if the server cannot serve it."""
        try:
            return request_rows(self._session, piece.narrowed())
        except (ServiceTimeoutError, ServiceUnavailableError) as error:
            if instead := _instead_of(piece, error):
                return instead
            raise
        finally:
            if self._bar is not None:
                self._bar.step()

    def _grow_bar(self, pieces: int) -> None:
        if self._bar is not None:
            self._bar.grow(pieces)

    def _keep(self, piece: _Piece, reply: Reply) -> None:
        self._replies[piece.number].append(reply)
        self._got[piece.number] += reply.table.num_rows * piece.counted

    # -- splitting -----------------------------------------------------------------------------------------------------

    def _split(self, truncated: list[tuple[_Piece, Reply]]) -> list[_Piece]:
        """Return smaller pieces for those that were truncated, unless a count shows that they were complete."""
        self._row_limit = max(self._row_limit, *(reply.row_limit or 0 for _, reply in truncated))
        prepared = [(*_prepared(piece, reply), reply) for piece, reply in truncated]
        counters = [count for _, counts, _ in prepared for count in counts]
        totals = iter(self._session.map(lambda query: request_count(self._session, query.nearly()), counters))
        pieces: list[_Piece] = []
        for piece, counts, reply in prepared:
            found = [next(totals) for _ in counts]
            self._requests[piece.number] += sum(number is not None for number in found)
            total, rows = found[0] if found else None, reply.table.num_rows
            if total is not None and piece.query.countable and piece.query.most is None:
                # the second count is of rows beyond all those that were sent
                elsewhere = (found[1] or 0) if len(found) > 1 else 0
                if not piece.counted:
                    self._expected[piece.number] = self._expected.get(piece.number, 0) + total
                    piece = dataclasses.replace(piece, counted=True)  # noqa: PLW2901 - the same, with its count
                elif self._got[piece.number] + total > self._expected[piece.number]:
                    elsewhere = total
                if total - elsewhere < rows:
                    raise IncompleteResultError(
                        f"the server counts {total} rows of {piece.query.name!r}, which is at odds with its other "
                        "counts and with the rows that it sent; try again"
                    )
                if total == rows:
                    # exactly as many rows as the server returns at most: it warns, but there is nothing more
                    self._keep(piece, reply)
                    continue
            by_list = piece.query.longest_list() is not None
            pieces += _split_list(piece, reply, total) if by_list else _split_range(piece, reply, found)
        self._grow_bar(len(pieces))
        return pieces

    def _compare_counts(self) -> None:
        """Raise if there are more or fewer rows than the server counted."""
        for number, expected in self._expected.items():
            if (got := self._got[number]) != expected:
                raise IncompleteResultError(
                    f"the server counts {expected} rows of {self._queries[number].name!r} but sent {got}; rows without "
                    "the column that the query was split by cannot be asked for, or the table is being changed. Try "
                    "again, or filter the query so that it has fewer rows"
                )


def _instead_of(piece: _Piece, error: ServiceError) -> list[_Piece]:
    """Return what to request instead of a piece that the server could not serve; nothing where that would not help."""
    if error.status == 429 and piece.refusals < _PATIENCE:
        # the transport has waited and retried already: the same later, with fewer requests at a time
        return [dataclasses.replace(piece, refusals=piece.refusals + 1)]
    heavy = isinstance(error, ServiceTimeoutError) or error.status in {502, 503, 504}
    longest = piece.query.longest_list()
    if not heavy or longest is None or piece.splits >= _SPLITS_OF_WEAK:
        return []
    # smaller pieces, but not for ever, as the server may just be down
    parts = _slices(piece.query, max(1, math.ceil(len(longest[2]) / 4)))
    return [dataclasses.replace(piece, query=part, splits=piece.splits + 1) for part in parts]


def _is_complete(piece: _Piece, reply: Reply) -> bool:
    """Return whether a response at the row limit is complete: one id has one row, a user's limit is none."""
    query, rows = piece.query, reply.table.num_rows
    if piece.single and piece.key is None and query.kind == "table" and rows <= 1:
        return True
    # a live response is filtered once more after it was truncated, and so may hold less than its limit
    most = query.most
    return most is not None and (reply.row_limit or 0) >= most and (not query.live or rows >= most)


def _prepared(piece: _Piece, reply: Reply) -> tuple[_Piece, list[Query]]:
    """Return a piece with the key that splits it, and what to count: its rows, and those beyond the last key seen."""
    by_list = piece.query.longest_list() is not None
    if not by_list and piece.single and piece.key is not None:
        # one value of a view's column has more rows than fit: from here on another column splits them
        piece = dataclasses.replace(
            piece, query=piece.narrowed(), low=None, high=None, key=None, guessed=False
        )
    if not by_list and not piece.single:
        piece = dataclasses.replace(piece, key=_key_of(piece, reply))
    if piece.guessed:
        return piece, []
    counter = dataclasses.replace(piece, query=dataclasses.replace(piece.query, most=None))
    seen = [] if by_list else _seen(piece, reply)
    beyond = [dataclasses.replace(counter, low=seen[-1] + 1).narrowed()] if seen else []
    return piece, [counter.narrowed(), *beyond]


def _key_of(piece: _Piece, reply: Reply) -> tuple[str, str] | None:
    """Choose the column along which a range is split: the id, or in a view without one a column of many values."""
    import pyarrow as pa

    table = reply.table
    if piece.key is not None or piece.query.key_name in table.column_names:
        return piece.key
    whole = {
        name: len(column.unique())
        for name, column in zip(table.column_names, table.columns, strict=True)
        if pa.types.is_integer(column.type) and not column.null_count and name[-2:] not in {"_x", "_y", "_z"}
    }
    best = max(whole, key=lambda name: whole[name], default=None)
    return None if best is None or whole[best] < 2 else (piece.query.name, best)


def _seen(piece: _Piece, reply: Reply) -> list[int]:
    """Return the distinct keys of a response, sorted."""
    if piece.key_name not in reply.table.column_names:
        return []
    column = reply.table.column(piece.key_name).unique().to_pylist()
    return sorted(value for value in column if isinstance(value, int))


def _split_list(piece: _Piece, reply: Reply, total: int | None) -> list[_Piece]:
    """Split the values of a list, in turn, over as many pieces as its rows fill."""
    table, column, values = piece.query.longest_list() or ("", "", [])
    rows, room = reply.table.num_rows, _FILL * (reply.row_limit or 1)
    # of pieces that were made to fit only a little is left, of others nobody knows
    number = math.ceil(max(rows + 1, total or rows * (1 if piece.guessed else 4)) / room)
    number = min(max(2, number), len(values), _MOST_PIECES)
    lists = [piece.query.where("in", table, column, values[place::number]) for place in range(number)]
    return [dataclasses.replace(piece, query=query, guessed=total is not None) for query in lists]


# -- ranges ------------------------------------------------------------------------------------------------------------


def _split_range(piece: _Piece, reply: Reply, found: list[int | None]) -> list[_Piece]:
    """Split the range of a key at values that the response and the counts suggest."""
    query, seen = piece.query, _seen(piece, reply)
    total, above = (found[0], found[1]) if len(found) > 1 else (None, None)
    if query.live and query.allow_invalid_root_ids:
        # such a query takes every filter for one of root ids, those of id ranges too
        raise IncompleteResultError(_cannot(query))
    if piece.single or not seen:
        return _split_unseen(piece, reply)
    if len(seen) == 1 and piece.key is not None:
        return piece.ranges([seen[0], seen[0] + 1], guessed=False)
    near = [seen[len(seen) // 2], seen[-1] + 1]
    # under a limit of the user's, no more pieces are requested than are needed
    most = _MOST_PIECES if query.most is None else 64 * _MOST_PIECES
    cuts = near if piece.guessed else _cuts(seen, reply.row_limit or 1, total, above, most)
    pieces = piece.ranges(cuts, guessed=not piece.guessed and total is not None)
    if len(pieces) == 1:
        open_end = piece.low is None or piece.high is None
        middle = seen[len(seen) // 2] if open_end else ((piece.low or 0) + (piece.high or 0)) // 2
        # a key at the lower bound is no cut, the value after it is
        pieces = piece.ranges([middle + (middle == piece.low)], guessed=False)
    if len(pieces) == 1:
        raise IncompleteResultError(_cannot(query))
    return pieces


def _cuts(seen: list[int], row_limit: int, total: int | None, above: int | None, most: int) -> list[int]:
    """Choose where to split a range of keys, from the keys of a truncated response.

    Among the keys seen they are quantiles; beyond them they are steps as dense as what was seen, or doubling ones where
    nothing can be counted.
    """
    low, high = seen[0], seen[-1]
    room = max(1, int(row_limit * _FILL))
    if total is None or above is None:
        doubling = [high + 1 + max(1, high - low) * (2**step - 1) for step in range(1, 7)]
        return [seen[len(seen) // 2], high + 1, *doubling]
    inside = max(1, total - above)
    pieces = min(most, math.ceil(inside / room))
    beyond = min(most, math.ceil(max(0, above) / room))
    step = max(1, math.ceil((high - low + 1) / inside * room))
    return [
        *(seen[(len(seen) * number) // pieces] for number in range(1, pieces)),
        high + 1,
        *(high + 1 + step * number for number in range(1, beyond + 1)),
    ]


def _split_unseen(piece: _Piece, reply: Reply) -> list[_Piece]:
    """Split a piece whose response shows no rows: a live response is truncated first and filtered afterwards."""
    query = piece.query
    if piece.single or not query.live or reply.table.num_rows:
        raise IncompleteResultError(_cannot(query))
    low = piece.low or 0
    if piece.high is None:
        # annotation ids count from 1, but they may be anything that 63 bits hold
        cuts = [low, *(low + 2**power for power in range(10, 40, 4)), low + 2**48]
    else:
        low = min(low, piece.high - 1)
        cuts = [low + (piece.high - low) * step // 8 for step in range(8)]
    pieces = piece.ranges(cuts, guessed=False)
    return pieces if len(pieces) > 1 else piece.ranges([(low + (piece.high or low + 2)) // 2], guessed=False)


def _cannot(query: Query) -> str:
    return (
        f"the server truncates its response about {query.name!r} and it cannot be completed: there is nothing left to "
        "split it by. Ask for less at a time (filters, or ids in pieces), or pass limit= if a part is enough"
    )
