"""Types of arrays, for annotations; shapes stand where a name is explained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bools", "Floats", "Ids", "Ints"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = Ints  # supervoxels, level-2 ids, roots, ids of rows
