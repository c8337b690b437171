"""Skeletons of neurons, with their synapses and the properties of their level-2 ids.

::

    service.py     the public methods: get_skeleton, get_skeletons, save_swc, skeletons_exist
    load.py        requests everything that some neurons need, and iterates over many neurons in batches
    source.py      skeletons that the service has stored or generates, and those computed from the level-2 graph
    synapses.py    the synapses of each neuron at its own moment
    build.py       a Meshwork or an ossify Cell from the responses, and the properties of its segments
    neuron.py      the Meshwork that is returned: it knows its unit and space, and can be copied and pickled
    shapes.py      the arrays, unit and space of a neuron in any form, for figures and files; reads and writes SWC text
"""

from __future__ import annotations

from cortexclient.services.skeletons.load import SkeletonBatches
from cortexclient.services.skeletons.service import SkeletonsService

__all__ = ["SkeletonBatches", "SkeletonsService"]
