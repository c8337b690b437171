"""Read ids as 64-bit integers from whatever a user holds, and refuse values that have lost digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.types import IdArray, Ids

__all__ = ["as_id", "as_ids", "in_batches", "is_one"]


def as_ids(values: Ids, name: str = "ids") -> IdArray:
    """Return ids as a flat int64 array, shape (n,), in their order, duplicates kept.

    They are one id (n is 1), or a sequence, array, Series or Index of them: whole numbers, unsigned and nullable ones
    too, or texts of digits. ``name`` is that of the argument, for the message.

    Raise `TypeError` if a value is not a whole number, above all if it is a float (a float holds 53 bits, an id needs
    63), and `ValueError` if one is missing (None, NA, masked) or does not fit an int64.

    Examples
    --------
    >>> as_ids(["864691135336055529", 12])
    array([864691135336055529,                 12])
    """
    import numpy as np

    if hasattr(values, "columns"):
        raise TypeError(
            f"{name} is a table; pass its column of ids, such as table['id'] or table['pt_root_id']"
        )
    if is_one(values):
        return np.array([as_id(values, name)], dtype=np.int64)
    return _as_array(values, name)


def _as_array(values: Any, name: str) -> IdArray:
    import numpy as np

    if hasattr(values, "to_pylist"):  # Arrow's
        values = values.to_pylist()
    elif not hasattr(values, "__len__"):
        values = list(values)
    elif isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            raise ValueError(f"{name} holds masked values; drop them first (for example with .compressed())")
        values = values.data
    kind = getattr(getattr(values, "dtype", None), "kind", "O")
    if kind in "iu":
        return _as_int64(values, name)
    if isinstance(values, np.ndarray):
        values = values.ravel()
    if kind == "f" and len(values):
        raise TypeError(_float_message(name, next(iter(values))))
    return np.fromiter((as_id(value, name) for value in values), dtype=np.int64)


def _as_int64(values: Any, name: str) -> IdArray:
    """Return an array or a column of integers, signed or not, nullable or not, as int64."""
    import numpy as np

    if hasattr(values, "isna") and values.isna().any():
        raise ValueError(f"{name} holds missing values; drop them first (for example with .dropna())")
    array = np.asarray(values).ravel()
    if array.dtype.kind == "O":
        array = np.asarray(array.tolist())
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} holds {int(array.max())}, which is too large for an id")
    return array.astype(np.int64)


def is_one(values: Any) -> bool:
    """Return whether an argument is one id rather than several."""
    if isinstance(values, str | bytes | bytearray):
        return True
    dimensions = getattr(values, "ndim", None)
    return dimensions == 0 if dimensions is not None else not hasattr(values, "__iter__")


def as_id(value: Any, name: str = "id") -> int:
    """Return one id as a plain int.

    Raise `TypeError` for no whole number, `ValueError` for a missing one and one beyond int64.
    """
    if hasattr(value, "as_py"):
        value = value.as_py()
    if type(value) is int:  # nearly always, and there may be millions
        number = value
    elif not is_one(value):
        raise TypeError(f"{name} must be one id, not several ({type(value).__name__})")
    elif isinstance(value, str):
        text = value.strip()
        if not text.removeprefix("-").isdecimal():
            raise TypeError(f"{name} holds {value!r}, which is not an id; an id is a whole number")
        number = int(text)
    elif value is None or type(value).__name__ in {"NAType", "NaTType"}:
        raise ValueError(f"{name} holds a missing value; drop it first (for example with .dropna())")
    elif (
        isinstance(value, bool)
        or str(getattr(value, "dtype", "")) == "bool"
        or not hasattr(value, "__index__")
    ):
        raise TypeError(_float_message(name, value))
    elif getattr(value, "mask", False) is not False and bool(value.mask):
        raise ValueError(f"{name} holds masked values; drop them first (for example with .compressed())")
    else:
        number = value.__index__()
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} holds {number}, which does not fit an id of 64 bits")
    return int(number)


def in_batches(values: IdArray | Sequence[int], size: int) -> list[Any]:
    """Split ids into batches of at most ``size``, in order, each of the type of all: an array or a list.

    Examples
    --------
    >>> in_batches([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4], [5]]
    """
    return [values[start : start + size] for start in range(0, len(values), size)]


def _float_message(name: str, value: Any) -> str:
    if type(value).__name__.startswith("float"):
        return (
            f"{name} holds the float {float(value)}: floats lose the last digits of an id. Keep ids as integers "
            "(in pandas, dtype 'Int64' where values are missing)"
        )
    return f"{name} holds {value!r} ({type(value).__name__}), which is not an id; an id is a whole number"
