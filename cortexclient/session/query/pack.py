"""How to put the values of a list into requests that fill what a server gives at once, and no more.

Values differ: one neuron has ten times the synapses of another. What is known of them is kept in
`cortexclient.session.query.pool`.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from cortexclient.session.query.divide import Outcome, Part

__all__ = ["Sample", "cap_of", "counts_of", "pack", "part_of", "rows_of", "sample_of", "values_of"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What an answer that was cut short tells about the values that were asked.

    Parameters
    ----------
    values : sequence
        What was asked.
    seen : mapping
        Value -> rows of it that came.
    cap : int
        Rows at which the server stopped: the values have at least as many.
    last : optional
        The value that it was about to give when it stopped, if it gave all rows of one value after those of another:
        of those before it, all have come.
    """

    values: Sequence[Any]
    seen: Mapping[Any, int]
    cap: int
    last: Any = None


def pack(weights: Mapping[Any, float], room: float, *, most: int) -> list[list[Any]]:
    """Distribute values over as few groups as will do, about equally heavy ones.

    Parameters
    ----------
    weights : mapping
        Value -> expected rows.
    room : float
        Most rows of one group. A value that has more is a group of its own.
    most : int
        Most values of one group.

    Returns
    -------
    list of list
        Every value once; groups and their values in the order of ``weights``.
    """
    place = {value: number for number, value in enumerate(weights)}
    groups = [[value] for value, weight in weights.items() if weight >= room]
    light = sorted(
        (value for value, weight in weights.items() if weight < room), key=lambda v: (-weights[v], place[v])
    )
    number = max(
        math.ceil(sum(weights[value] for value in light) / room), math.ceil(len(light) / max(1, most)), 1
    )
    number = min(number, len(light))
    if light:
        groups += _distributed(light, weights, number, room, max(1, most))
    for group in groups:
        group.sort(key=place.__getitem__)
    return sorted(groups, key=lambda group: place[group[0]])


def _distributed(
    light: list[Any], weights: Mapping[Any, float], number: int, room: float, most: int
) -> list[list[Any]]:
    """Give each value, heaviest first, to the group that is lightest so far; a further group where none has room."""
    heap: list[tuple[float, int]] = [(0.0, group) for group in range(number)]
    groups: list[list[Any]] = [[] for _ in range(number)]
    for value in light:
        weight, group = heap[0]
        if groups[group] and weight + weights[value] > room:
            heapq.heappush(heap, (weights[value], len(groups)))
            groups.append([value])
            continue
        groups[group].append(value)
        if len(groups[group]) < most:
            heapq.heapreplace(heap, (weight + weights[value], group))
        else:
            heapq.heappop(heap)
            if not heap:
                heapq.heappush(heap, (0.0, len(groups)))
                groups.append([])
    return [group for group in groups if group]


def values_of(part: Part) -> list[Any]:
    """Values of the list that a part holds a piece of; none where it does not."""
    if part.listed is None:
        return []
    table, column = part.listed
    values: list[Any] = part.question.filters["in"][table][column]
    return values


def rows_of(outcome: Outcome) -> int:
    """Number of rows that came."""
    return 0 if outcome.reply is None else int(outcome.reply.table.num_rows)


def cap_of(outcome: Outcome) -> int:
    """Rows at which the server stopped."""
    reply = outcome.reply
    return 1 if reply is None else reply.cap or reply.table.num_rows


def counts_of(rows: pa.Table, column: str) -> dict[Any, int]:
    """Count the rows of each value of a column."""
    import pyarrow.compute as pc

    found = pc.value_counts(rows.column(column))
    return dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))


def sample_of(outcome: Outcome) -> Sample:
    """What an answer that was cut short tells about the values of its part."""
    table = None if outcome.reply is None else outcome.reply.table
    column = outcome.part.listed[1] if outcome.part.listed else ""
    if table is None or column not in table.column_names:
        return Sample(values_of(outcome.part), {}, cap_of(outcome))
    seen = counts_of(table, column)
    last = _last_of(table.column(column), len(seen))
    return Sample(values_of(outcome.part), seen, cap_of(outcome), last)


def _last_of(column: pa.ChunkedArray, distinct: int) -> Any:
    """Give the last value of a column in which equal values stand together; None where they do not."""
    import pyarrow.compute as pc

    if len(column) < 2:
        return None
    changes = pc.sum(pc.not_equal(column[1:], column[:-1])).as_py()
    return column[-1].as_py() if changes == distinct - 1 else None


def part_of(part: Part, values: list[Any], cap: int, *, depth: int) -> Part:
    """Give a part that asks about values of the same list, chosen to fit."""
    table, column = part.listed or ("", "")
    question = part.question.where("in", table, column, values)
    return dataclasses.replace(
        part, question=question, cap=cap, packed=True, depth=depth, lighter=0, refusals=0
    )
