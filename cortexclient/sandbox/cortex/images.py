"""An image volume that looks like electron microscopy, around one cell body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cortexclient.sandbox.arrays import Ints
from cortexclient.sandbox.cortex.anatomy import random_for
from cortexclient.sandbox.cortex.files import write_json, write_provenance
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import SEGMENTATION_NM

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

# image voxels per voxel of the segmentation, along each axis
_FINER = 2
_FILE = (64, 64, 64)


def write_image(
    place: Path, seed: int, segmentation: Segmentation, cell: int, extent: tuple[int, int, int]
) -> None:
    """Write a volume with two scales around the soma of a cell; its extent is in voxels of the segmentation."""
    place.mkdir(parents=True, exist_ok=True)
    soma_nm = segmentation.frame.to_nm(segmentation.cells[cell].soma_um[None])
    centre = segmentation.grid.of_nm(soma_nm)[0]
    low = centre - np.asarray(extent) // 2
    labels = _labels(segmentation, low, extent)
    image = _render(random_for(seed, 12), labels, centre - low, segmentation.cells[cell].soma_radius_um)
    begin = (segmentation.grid.offset + low) * _FINER
    scales = []
    for scale in (1, 2):
        resolution = [nm * scale // _FINER for nm in SEGMENTATION_NM]
        key = "_".join(str(nm) for nm in resolution)
        scales.append(
            {
                "chunk_sizes": [list(_FILE)],
                "encoding": "raw",
                "key": key,
                "resolution": resolution,
                "size": list(image.shape),
                "voxel_offset": [int(v) for v in begin],
            }
        )
        _write_scale(place / key, image, begin)
        image = _halve(image)
        begin = begin // 2
    info = {
        "@type": "neuroglancer_multiscale_volume",
        "data_type": "uint8",
        "num_channels": 1,
        "scales": scales,
        "type": "image",
    }
    write_json(place / "info", info)
    write_provenance(place, "Invented.")


def _labels(segmentation: Segmentation, low: Ints, extent: tuple[int, int, int]) -> npt.NDArray[np.int32]:
    """Cell (plus one) of each voxel of a box, 0 where nothing is."""
    labels = np.zeros(extent, dtype=np.int32)
    first, last = low[1], low[1] + extent[1]
    layer = int(segmentation.grid.strides[1])
    for unit, voxels in enumerate(segmentation.voxels):
        a, b = np.searchsorted(voxels.linear, [first * layer, last * layer])
        at = segmentation.grid.voxels(voxels.linear[a:b]) - low
        at = at[((at >= 0) & (at < np.asarray(extent))).all(axis=1)]
        labels[tuple(at.T)] = unit + 1
    return labels


def _render(
    random: np.random.Generator, labels: npt.NDArray[np.int32], centre: Ints, soma_radius_um: float
) -> Bytes:
    """Grey values: light cytoplasm, dark membranes, a nucleus with a darker rim, and neuropil around the cells."""
    fine = labels
    for axis in range(3):
        fine = np.repeat(fine, _FINER, axis=axis)
    shape = fine.shape
    inside = fine > 0
    # the neuropil that was not segmented: patches between lines where a smooth noise changes its sign
    patches = np.asarray(ndimage.gaussian_filter(random.standard_normal(shape, dtype=np.float32), 4.0))
    patches /= patches.std()
    lines = np.exp(-((patches / 0.16) ** 2))
    grain = np.asarray(ndimage.gaussian_filter(random.standard_normal(shape, dtype=np.float32), 0.8))
    grain /= grain.std()
    grey = 158.0 + 14.0 * np.tanh(patches)
    grey -= 88.0 * lines
    grey[inside] = 176.0
    membrane = np.zeros(shape, dtype=bool)
    for axis in range(3):
        change = np.diff(fine, axis=axis) != 0
        front = [slice(None)] * 3
        front[axis] = slice(0, -1)
        membrane[tuple(front)] |= change
    grey[membrane] = 62.0
    box, nucleus = _nucleus(shape, centre, soma_radius_um)
    cell = grey[box]
    core, rim = nucleus < 0.93, (nucleus >= 0.93) & (nucleus < 1.0)
    cell[core & inside[box]] = (150.0 - 12.0 * np.tanh(patches[box]))[core & inside[box]]
    cell[rim & inside[box]] = 78.0
    image: Bytes = np.clip(grey + 11.0 * grain, 0, 255).astype(np.uint8)
    return image


def _nucleus(shape: tuple[int, ...], centre: Ints, soma_radius_um: float) -> tuple[tuple[slice, ...], Floats]:
    """Box around the nucleus of the soma, and the distance from its centre in radii."""
    radius = 620.0 * soma_radius_um
    box, squares = [], []
    for axis, size in enumerate(shape):
        step = SEGMENTATION_NM[axis] / _FINER
        offset = (np.arange(size) + 0.5) * step - (centre[axis] + 0.5) * SEGMENTATION_NM[axis]
        square = (offset / radius) ** 2
        near = np.flatnonzero(square < 1.0)
        box.append(slice(near[0], near[-1] + 1) if len(near) else slice(0))
        squares.append(square[box[-1]])
    total = squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
    distance: Floats = np.sqrt(total).astype(np.float32)
    return tuple(box), distance


def _halve(image: Bytes) -> Bytes:
    """Mean of blocks of two voxels along each axis."""
    x, y, z = (size // 2 for size in image.shape)
    blocks = image.reshape(x, 2, y, 2, z, 2).astype(np.uint16)
    means: Bytes = (blocks.sum(axis=(1, 3, 5)) // 8).astype(np.uint8)
    return means


def _write_scale(place: Path, image: Bytes, begin: Ints) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for x in range(0, image.shape[0], _FILE[0]):
        for y in range(0, image.shape[1], _FILE[1]):
            for z in range(0, image.shape[2], _FILE[2]):
                block = image[x : x + _FILE[0], y : y + _FILE[1], z : z + _FILE[2]]
                low = begin + np.array([x, y, z])
                high = low + block.shape
                name = "_".join(f"{a}-{b}" for a, b in zip(low.tolist(), high.tolist(), strict=True))
                (place / name).write_bytes(block.tobytes(order="F"))
