"""The Meshwork that ``get_skeleton`` returns. Importing this module imports MeshParty, which takes seconds."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from meshparty.meshwork import Meshwork
from meshparty.meshwork.utils import decompress_mesh_data
from meshparty.skeleton import Skeleton
from meshparty.trimesh_io import Mesh

from cortexclient.services.skeletons.shapes import state_unit, stated_unit
from cortexclient.services.space import stack_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cortexclient.services.skeletons.shapes import Unit

__all__ = ["Neuron"]


class Neuron(Meshwork):  # type: ignore[misc]  # MeshParty has no types
    """A MeshParty Meshwork that knows the unit and space of its positions, and that can be copied and pickled.

    All of its positions are in one unit and space: ``skeleton.vertices``, ``mesh.vertices`` and those of every
    annotation; ``skeleton.radius`` and the properties stay in nm. One's own points are given in that unit, too:
    ``neuron.add_annotations(name, frame, point_column="pt")`` anchors them to the nearest vertex.
    """

    def __repr__(self) -> str:
        rows = ", ".join(f"{name}: {len(self.anno[name])}" for name in sorted(self.anno.table_names))
        return (
            f"Neuron({self.seg_id}, {len(self.skeleton.vertices)} vertices, unit={self.unit!r}, space={self.space!r}, "
            f"rows of anno: {{{rows}}})"
        )

    @property
    def unit(self) -> str | None:
        """Unit of all positions: ``"nm"``, or ``"um"`` of a neuron that was transformed."""
        return stated_unit(self.skeleton)[0]

    @property
    def space(self) -> str | None:
        """Space of all positions: ``"volume"``, ``"rigid"`` or ``"streamline"``."""
        return stated_unit(self.skeleton)[1]

    def moved(self, move: Callable[[Any], NDArray[np.float64]], unit: Unit, space: str) -> Neuron:
        """Return this neuron in another space: skeleton, mesh and every position of every annotation moved alike.

        ``move`` takes and returns positions of shape (N, 3).
        """
        # made anew, because annotations are anchored to a search tree of the mesh's first vertices
        parts = self._parts()
        parts["mesh"]["vertices"] = move(parts["mesh"]["vertices"])
        parts["skeleton"]["vertices"] = move(parts["skeleton"]["vertices"])
        for options in parts["tables"].values():
            frame = options["data"] = options["data"].copy()
            for column in [name for name in frame.columns if "_position" in str(name)]:
                frame.attrs |= {"unit": unit, "space": space}
                if len(frame):
                    frame[column] = pd.Series(list(move(stack_points(frame[column]))), index=frame.index)
        neuron = _restored(parts)
        state_unit(neuron.skeleton, unit, space)
        return neuron

    def _parts(self) -> dict[str, Any]:
        """Return everything but MeshParty's index classes, which are made for each object and cannot be pickled."""
        mesh = {"vertices": self.mesh.vertices, "faces": self.mesh.faces, "link_edges": self.mesh.link_edges}
        if self._original_mesh_data is not None:  # a mask is applied, and this is the mesh without it
            mesh = dict(zip(mesh, decompress_mesh_data(*self._original_mesh_data)[:3], strict=True))
        rooted = self.skeleton.reset_mask()
        return {
            "seg_id": self.seg_id,
            "voxel_resolution": self.anno.voxel_resolution,
            "mesh": {name: np.array(values) for name, values in mesh.items()},
            "skeleton": {
                "vertices": rooted.vertices,
                "edges": rooted.edges,
                "root": int(rooted.root),
                "radius": rooted.radius,
                "mesh_to_skel_map": rooted.mesh_to_skel_map,
                "mesh_index": rooted.mesh_index,
                "remove_zero_length_edges": False,
                "meta": asdict(self.skeleton.meta),
            },
            "tables": {name: _table(self.anno[name]) for name in self.anno.table_names},
            "masks": (np.array(self.mesh_mask), np.array(self.skeleton.node_mask)),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._parts(),)

    def __copy__(self) -> Neuron:
        return _restored(self._parts())

    def __deepcopy__(self, memo: Any) -> Neuron:
        return _restored(deepcopy(self._parts(), memo))


def _table(table: Any) -> dict[str, Any]:
    """Return the arguments that add an annotation once more."""
    return {
        "data": table.data_original,
        "anchored": table.anchored,
        "point_column": table.point_column,
        "max_distance": table._max_distance,
        "index_column": table.index_column_original if table._defined_index else None,
        "voxel_resolution": table.voxel_resolution,
    }


def _restored(parts: dict[str, Any]) -> Neuron:
    neuron = Neuron(
        mesh=Mesh(**parts["mesh"]),
        skeleton=Skeleton(**parts["skeleton"]),
        seg_id=parts["seg_id"],
        voxel_resolution=parts["voxel_resolution"],
    )
    for name, options in parts["tables"].items():
        neuron.anno.add_annotations(name, **options)
    mesh_mask, skeleton_mask = parts["masks"]
    if not mesh_mask.all():
        neuron.apply_mask(mesh_mask)
    if not np.array_equal(neuron.skeleton.node_mask, skeleton_mask):
        neuron.skeleton.apply_mask(skeleton_mask, in_place=True)
    return neuron
