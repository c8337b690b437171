"""Rows of reference tables about synapses: matched by target id, one row per synapse, unique names."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import InvalidQueryError
from cortexclient.session import Follow, Query, as_number, fetch_replies, triples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from cortexclient.session import Moment, Reply, Session
    from cortexclient.types import IdArray

__all__ = ["Reference", "ask_about", "attach", "find_references", "to_follow"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """A table about synapses: its column of synapse ids, and the suffix of columns whose names other tables have."""

    name: str
    key: str
    suffix: str


def find_references(
    session: Session,
    synapse_table: str,
    names: str | Sequence[str] | None,
    suffixes: Mapping[str, str] | None,
) -> list[Reference]:
    """Work out how tables refer to synapses.

    Raises
    ------
    ValueError
        If a table refers to another one than the synapse table, or a suffix is given for another table.
    UnknownTableError
        If there is no such table.
    """
    listed = [] if names is None else [names] if isinstance(names, str) else list(dict.fromkeys(names))
    unused = set(suffixes or ()) - set(listed)
    if unused:
        raise ValueError(f"suffixes are given for tables that are not asked: {', '.join(sorted(unused))}")
    found = []
    for name in listed:
        info = session.table_info(name)
        if info.reference_table not in (None, synapse_table):
            raise ValueError(
                f"{name!r} refers to {info.reference_table!r}, not to {synapse_table!r}; merge it with a "
                "query of its own"
            )
        key = "target_id" if info.reference_table else "id"
        found.append(Reference(name, key, (suffixes or {}).get(name, f"_{name}")))
    return found


def ask_about(
    session: Session,
    synapse_ids: list[int],
    references: Sequence[Reference],
    *,
    moment: Moment,
    resolution: Sequence[float] | None,
    batch_size: int,
) -> list[Reply]:
    """Query reference tables about synapses that are known already; one reply for each table."""
    queries = [
        dataclasses.replace(
            follow.query,
            filters={"in": {follow.query.name: {follow.column: synapse_ids}}},
            batch=follow.size,
        )
        for follow in to_follow(
            references, moment=moment, resolution=resolution, batch_size=batch_size, progress=False
        )
    ]
    return fetch_replies(session, queries, description="reference tables")


def to_follow(
    references: Sequence[Reference],
    *,
    moment: Moment,
    resolution: Sequence[float] | None,
    batch_size: int,
    progress: bool,
    pick: Callable[[int, Any], IdArray] | None = None,
) -> list[Follow]:
    """Return the queries of reference tables that follow from the rows of synapses.

    Parameters
    ----------
    pick : callable
        Takes the number of a query of synapses and some of its rows; returns the ids of synapses to look up, each
        once. Default: all of the reply.
    """
    return [
        Follow(
            Query(
                reference.name,
                merge_reference=False,
                resolution=resolution,
                split_positions=True,
                moment=moment,
                progress=progress,
            ),
            column=reference.key,
            size=as_number(batch_size, "ref_batch_size", least=1) or 1,
            pick=pick or (lambda _, rows: rows.column("id").to_numpy()),
        )
        for reference in references
    ]


def attach(
    synapses: pd.DataFrame, references: Sequence[Reference], replies: Sequence[Reply], *, duplicates: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Add the columns of reference tables to synapses.

    Returns
    -------
    pandas.DataFrame
        The synapses with further columns, of nullable types.
    dict
        Notes for ``df.attrs``.
    """
    frames = {
        reference.name: _one_frame(reply, reference)
        for reference, reply in zip(references, replies, strict=True)
    }
    renamed = _told_apart(synapses, frames, references)
    several: dict[str, int] = {}
    result = synapses
    for reference in references:
        result, many = _merge(result, renamed[reference.name], reference, duplicates)
        if many:
            several[reference.name] = many
    return result, {
        "reference_tables": [reference.name for reference in references],
        "several_reference_rows": several,
    }


def _one_frame(reply: Reply, reference: Reference) -> pd.DataFrame:
    url, frame = reply.url, reply.frame()
    if reference.key not in frame.columns:
        raise InvalidQueryError(
            f"{reference.name!r} has no column {reference.key!r} that could refer to synapses; it has "
            f"{', '.join(frame.columns)}",
            service="materialize",
            url=url,
        )
    return frame.convert_dtypes(
        infer_objects=False, convert_string=False, convert_floating=False
    )  # rows may be missing for a synapse, so every type must have room for it, with or without such rows


def _told_apart(
    synapses: pd.DataFrame, frames: Mapping[str, pd.DataFrame], references: Sequence[Reference]
) -> dict[str, pd.DataFrame]:
    """Rename columns that two tables have: the rule depends on names only, so the order of tables does not matter."""
    uses = Counter(synapses.columns)
    for reference in references:
        uses.update(set(frames[reference.name].columns) - {reference.key})
    renamed = {}
    for reference in references:
        frame = frames[reference.name]
        names = {
            name: _before_axis(name, reference.suffix)
            for name in frame.columns
            if name != reference.key and uses[name] > 1
        }
        renamed[reference.name] = frame.rename(columns=names)
    taken = Counter(synapses.columns)
    for reference in references:
        taken.update(set(renamed[reference.name].columns) - {reference.key})
    clash = sorted(name for name, number in taken.items() if number > 1)
    if clash:
        raise ValueError(
            f"columns {', '.join(clash)} would come from several tables; give each reference table its own suffix with "
            "suffixes={table: suffix}"
        )
    return renamed


def _before_axis(name: str, suffix: str) -> str:
    """Add a suffix, before the axis of a split position, so that the three still belong together."""
    if name.endswith(("_position_x", "_position_y", "_position_z")):
        return f"{name[:-2]}{suffix}{name[-2:]}"
    return f"{name}{suffix}"


def _merge(
    synapses: pd.DataFrame, rows: pd.DataFrame, reference: Reference, duplicates: str
) -> tuple[pd.DataFrame, int]:
    import pandas as pd

    keys = rows[reference.key].to_numpy(dtype=np.int64)
    # the rows of one synapse keep the order of their ids
    order = np.argsort(keys, kind="stable")
    distinct, first, times = np.unique(keys[order], return_index=True, return_counts=True)
    many = int((times > 1).sum())
    if many and duplicates == "raise":
        repeated = np.isin(keys, distinct[times > 1])
        raise ValueError(
            f"{reference.name!r} has several rows for {many} synapses (the first is {keys[repeated.argmax()]}); pass "
            "duplicates='first' or duplicates='all'"
        )
    if many and duplicates == "first":
        log.info(
            "%s has several rows for %d synapses; those of the smallest ids are taken", reference.name, many
        )
    wanted = synapses["id"].to_numpy(dtype=np.int64)
    place = np.searchsorted(distinct, wanted)
    found = np.append(distinct, -1)[place] == wanted
    if many and duplicates == "all":
        repeats = np.where(found, np.append(times, 1)[place], 1)
        begins = np.repeat(np.cumsum(repeats) - repeats, repeats)
        further = np.arange(len(begins)) - begins
        synapses = synapses.take(np.repeat(np.arange(len(wanted)), repeats)).reset_index(drop=True)
        place, found = np.repeat(place, repeats), np.repeat(found, repeats)
    else:
        further = np.zeros(len(wanted), dtype=np.int64)
    where = np.full(len(place), -1, dtype=np.intp)
    where[found] = order[first[place[found]] + further[found]]
    added = {
        name: rows[name].array.take(where, allow_fill=True) for name in rows.columns if name != reference.key
    }
    for columns in triples(list(added)).values():
        # a synapse may be without a row, and so its point be missing, in any units
        added |= {name: added[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in columns}
    # the columns of the synapses are not copied
    return pd.concat([synapses, pd.DataFrame(added, index=synapses.index)], axis=1), many
