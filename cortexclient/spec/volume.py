"""`VolumeSpec`: what several datasets of one brain share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from cortexclient.spec.checks import layers_in_order
from cortexclient.spec.fields import FrozenDict, Text, VoxelSize, frozen, without_nulls
from cortexclient.spec.sections import DepthRange, LayerSpec, Section, SourceSpec
from cortexclient.spec.transform import TransformField

__all__ = ["VolumeSpec"]


class VolumeSpec(Section):
    """What several datasets of one brain share: written once in ``volumes/<name>.yaml``, used by ``volume: <name>``."""

    title: Text | None = None
    """One line for people."""
    species: Text | None = None
    """Whose brain: Mus musculus."""
    region: Text | None = None
    """Which part of it: primary visual cortex."""
    voxel_resolution: VoxelSize | None = None
    """Size in nm of the voxels in which the server gives positions."""
    transform: TransformField | None = None
    """From positions in nm to depth below the pia: a name of standard_transform, or a map."""
    layers: Annotated[tuple[LayerSpec, ...], AfterValidator(layers_in_order)] = ()
    """Layers of cortex from the pia down, in um."""
    depth_range_um: DepthRange | None = None
    """Range of depths that figures show, in um below the pia."""
    sources: Annotated[Mapping[str, SourceSpec], BeforeValidator(without_nulls), AfterValidator(frozen)] = (
        Field(default_factory=FrozenDict)
    )
    """Where single facts are from, by their dotted path."""
