"""What an answer that was cut short holds whole, if the server gave all rows of one value after those of another.

Databases that look values up in an index answer so. It is taken for true as long as it cannot be told, and thrown away
unless the rows of all parts add up to what the server counts: no part can have too many, so that none has too few.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cortexclient.session.query.divide import Outcome
from cortexclient.session.query.pack import cap_of, part_of

if TYPE_CHECKING:
    from cortexclient.session.query.pack import Sample

__all__ = ["split_early"]


def split_early(outcome: Outcome, sample: Sample) -> tuple[Outcome | None, Sample]:
    """Split an answer that was cut short into what seems whole and what is left to ask.

    Parameters
    ----------
    outcome : Outcome
        The answer.
    sample : Sample
        What it tells.

    Returns
    -------
    early : Outcome or None
        The rows of all values before the last one that came; None where there is no order, or no such value.
    rest : Sample
        What is known of the others.
    """
    reply, last = outcome.reply, sample.last
    if reply is None or last is None:
        return None, sample
    early = [value for value in sample.values if value in sample.seen and value != last]
    rest = [value for value in sample.values if value not in sample.seen or value == last]
    if not early or len(early) + 1 != len(sample.seen):
        return None, sample
    rows = reply.table.num_rows - sample.seen[last]
    part = part_of(outcome.part, early, cap_of(outcome), depth=outcome.part.depth)
    whole = Outcome(part, dataclasses.replace(reply, table=reply.table.slice(0, rows), cap=None), [], 0)
    return whole, dataclasses.replace(sample, values=rest, seen={last: sample.seen[last]})
