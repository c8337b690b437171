"""Which level-2 id lies at a position: voxels from the segmentation, then their ancestors from the chunkedgraph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.session import roots_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cortexclient.session import Session
    from cortexclient.types import IdArray

__all__ = ["level2_at"]


def level2_at(session: Session, root: int, points: NDArray[np.float64]) -> IdArray:
    """Look up the level-2 id at many positions, each voxel once.

    Parameters
    ----------
    session : Session
    root : int
        The neuron in question: level-2 ids are those at the last time it was valid.
    points : ndarray of float64, shape (N, 3)
        Positions in nm.

    Returns
    -------
    ndarray of int64, shape (N,)
        0 outside of the volume and of every segment.
    """
    import numpy as np

    from cortexclient.services.roots import RootsService

    volume = session.segmentation_cloudvolume()
    mip = int(getattr(volume.meta, "cv_mip", 0) or 0)
    resolution = np.asarray(volume.meta.resolution(mip), dtype=np.float64)
    bounds = volume.meta.bounds(mip)
    low, high = np.asarray(bounds.minpt), np.asarray(bounds.maxpt)
    voxels = np.floor(points / resolution).astype(np.int64)
    within = ((voxels >= low) & (voxels < high)).all(axis=1)
    result = np.zeros(len(points), dtype=np.int64)
    if not within.any():
        return result
    distinct, where = np.unique(voxels[within], axis=0, return_inverse=True)
    with session.guard("segmentation"):
        found = volume.image.download_points({tuple(voxel) for voxel in distinct.tolist()}, mip)
    supervoxels = np.array(
        [int(np.ravel(found[tuple(voxel)])[0]) for voxel in distinct.tolist()], dtype=np.int64
    )
    at = RootsService(session).latest_valid_timestamp([root])[0]
    level2 = np.zeros(len(distinct), dtype=np.int64)
    present = supervoxels != 0
    level2[present] = roots_of(session, supervoxels[present], at=at, stop_layer=2)
    result[within] = level2[where.reshape(-1)]
    return result
