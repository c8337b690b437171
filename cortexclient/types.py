"""Names for the kinds of values that the public functions accept and return."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Ids: TypeAlias = "int | np.integer | str | Sequence[int] | NDArray[np.integer] | pd.Series | pd.Index"
    IdArray: TypeAlias = NDArray[np.int64]
    FloatArray: TypeAlias = NDArray[np.float64]

PathLike: TypeAlias = str | Path
Timestamp: TypeAlias = datetime | str
TransformName: TypeAlias = Literal["rigid", "streamline"]
