"""From a table with one row per root id to Neuroglancer's segment properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.ids import as_ids

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["segment_properties_of"]

_ID_COLUMNS = ("pt_root_id", "root_id")


def segment_properties_of(table: pd.DataFrame) -> dict[str, Any]:
    """Make the JSON of ``neuroglancer_segment_properties`` from a table.

    Parameters
    ----------
    table : pandas.DataFrame
        One row for each root id, which stands in the column ``pt_root_id`` or ``root_id``.

    Returns
    -------
    dict
        Fractions become numbers of 32 bits, whole numbers such of 32 bits or, where they are larger (ids), texts with
        every digit; all else becomes texts, where nothing is written for a missing value.

    Raises
    ------
    TypeError
        If the root ids are floats.
    ValueError
        If there is no column of root ids, one of them is missing, repeats or stands for no root, or a number is
        missing: Neuroglancer has no way to say so.
    """
    import pandas as pd
    from nglui.segmentprops import SegmentProperties

    column = next((name for name in _ID_COLUMNS if name in table.columns), None)
    if column is None:
        raise ValueError(
            f"segment properties need a column pt_root_id or root_id; the table has {list(table.columns)}"
        )
    ids = pd.Series(as_ids(table[column], column))
    if (ids <= 0).any() or ids.duplicated().any():
        wrong = ids[(ids <= 0) | ids.duplicated()]
        raise ValueError(
            f"segment properties need one row for each root id; {column} holds {wrong.iloc[0]} "
            f"{'twice' if wrong.iloc[0] > 0 else 'which is none'} ({len(wrong)} such rows): drop them"
        )
    values = {name: _property(table[name], str(name)) for name in table.columns if name != column}
    numbers = [name for name, each in values.items() if each.dtype.kind in "fi"]
    made: dict[str, Any] = SegmentProperties.from_dataframe(
        pd.DataFrame({column: ids, **values}),
        id_col=column,
        number_cols=numbers,
        string_cols=[name for name in values if name not in numbers],
    ).to_dict()
    return made


def _property(given: pd.Series, name: str) -> pd.Series:
    """Bring a column into a form that nglui passes on unchanged."""
    import numpy as np

    given = given.reset_index(drop=True)
    if given.dtype.kind in "iuf":
        if given.isna().any():
            raise ValueError(
                f"column {name!r} lacks {int(given.isna().sum())} numbers, which segment properties cannot say; fill "
                "them (fillna) or drop those rows"
            )
        if given.dtype.kind == "f":
            return given.astype(np.float32)
        small = np.iinfo(np.int32)
        if given.between(small.min, small.max).all():
            return given.astype(np.int32)
    return given.astype(object).where(given.notna(), "").map(str)
