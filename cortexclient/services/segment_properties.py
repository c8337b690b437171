"""Segment properties of Neuroglancer, made from a table: numbers, texts and tags of each root."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.ids import as_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

__all__ = ["MOST_TAGS", "segment_properties_of"]

MOST_TAGS = 100
"""Different values of a column of texts that still become tags; a list of more is no help to choose from."""

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
        Fractions become float32, whole numbers int32 or, if one is larger (ids), text with every digit. Truth values,
        categories and texts of at most `MOST_TAGS` different values become tags: True the name of its column, a
        category or text itself, what is missing none. Everything else becomes text, empty for a missing value.

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
    others = {str(name): table[name].reset_index(drop=True) for name in table.columns if name != column}
    tagged = {name: tags for name, given in others.items() if (tags := _tags_of(given, name)) is not None}
    values = {name: _property(given, name) for name, given in others.items() if name not in tagged}
    numbers = [name for name, each in values.items() if each.dtype.kind in "fi"]
    made: dict[str, Any] = SegmentProperties.from_dataframe(
        pd.DataFrame({column: ids, **values}),
        id_col=column,
        number_cols=numbers,
        string_cols=[name for name in values if name not in numbers],
    ).to_dict()
    if tagged:
        made["inline"]["properties"].append(_tag_property(tagged, len(ids)))
    return made


def _property(given: pd.Series, name: str) -> pd.Series:
    """Bring a column into a form that nglui passes on unchanged."""
    import numpy as np

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


def _tags_of(given: pd.Series, name: str) -> pd.Series | None:
    """Return the tag of each row, empty for none, as a category in the order of display; None for another column."""
    import pandas as pd

    kind = pd.api.types.infer_dtype(given, skipna=True)
    if kind == "boolean":
        yes = given.astype(object).where(given.notna(), other=False).astype(bool)
        return pd.Series(pd.Categorical(yes.map({True: _tag(name), False: ""}), categories=[_tag(name), ""]))
    if not isinstance(given.dtype, pd.CategoricalDtype) and (kind != "string" or given.nunique() > MOST_TAGS):
        return None
    if isinstance(given.dtype, pd.CategoricalDtype):
        known = [_tag(value) for value in given.cat.categories]
    else:
        known = sorted({_tag(value) for value in given.dropna()})
    texts = given.astype(object).where(given.notna(), "").map(_tag)
    return pd.Series(pd.Categorical(texts, categories=list(dict.fromkeys([*known, ""]))))


def _tag(value: Any) -> str:
    """Write a value as a tag: without spaces, so that it can be searched, and not led by the sign of a search."""
    return "_".join(str(value).split()).lstrip("#")


def _tag_property(columns: Mapping[str, pd.Series], count: int) -> dict[str, Any]:
    """Make the one property of tags that Neuroglancer knows; equal tags of two columns are named after their column."""
    used = {
        name: [tag for tag in tags.cat.categories if tag and (tags == tag).any()]
        for name, tags in columns.items()
    }
    every = [tag for tags in used.values() for tag in tags]
    tags: list[str] = []
    values: list[list[int]] = [[] for _ in range(count)]
    for name, rows in columns.items():
        number_of = {}
        for tag in used[name]:
            number_of[tag] = len(tags)
            tags.append(tag if every.count(tag) == 1 else f"{_tag(name)}:{tag}")
        for row, tag in enumerate(rows.tolist()):
            if tag:
                values[row].append(number_of[tag])
    return {"id": "tags", "type": "tags", "tags": tags, "values": values}
