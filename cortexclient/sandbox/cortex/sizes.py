"""How big a synthetic cortex is, and the constants that every part of it agrees on."""

from __future__ import annotations

from dataclasses import dataclass

# part of the cache key: raise it whenever the same seed would give other files
GENERATOR_VERSION = 8


# nm; coarse enough that a whole column fits into a few million voxels, fine enough that an axon is three voxels wide
SEGMENTATION_NM = (192, 192, 240)
# voxels of a chunk of the graph, which is also one file of the segmentation
CHUNK = (32, 32, 32)
# does not divide the chunk: border vertices get rounded, as on the real datasets
DRACO_GRID_NM = 21

# compartments, in the numbers that SWC files and the skeleton service use
SOMA, AXON, DENDRITE = 1, 2, 3


@dataclass(frozen=True)
class Size:
    """What is built."""

    name: str
    excitatory: int  # number of neurons of each class
    inhibitory: int
    orphans: int  # pieces of axon that belong to no cell body
    half_width_um: float  # half the width of the column in which the somata lie
    extent: float  # length of dendrites, as a share of a full-grown neuron's
    contacts: int  # places at which each axon runs along a dendrite of another cell
    synapse_spacing_voxels: int = 4  # edge of the blocks that hold one synapse for each pair of neighbours
    stretch_points: int = 4  # points of a dendrite, 2 um apart, along which an axon runs at each contact
    giant_contacts: int = 0  # contacts of one neuron that is far larger than the rest; 0 for none
    off_segmentation: int = 3  # nuclei whose point misses the segmentation and that have an alternative point

    @property
    def neurons(self) -> int:
        """Number of cells with a soma."""
        return self.excitatory + self.inhibitory


SIZES: dict[str, Size] = {
    "tiny": Size("tiny", 7, 3, 6, 40.0, 0.45, 8, off_segmentation=2),
    "small": Size("small", 26, 8, 10, 75.0, 0.65, 11),
    "large": Size("large", 250, 60, 40, 170.0, 0.7, 45, 2, 9, giant_contacts=1100, off_segmentation=8),
}
