"""Figures of neurons in cortex, ready for a paper: units on the axes, pia on top, colours for colour-blind readers.

::

    plot_neuron(neuron)              a neuron in cortical depth: compartments, pre- and postsynaptic sites, layers
    plot_synapse_depths(pre, post)   histogram of synapses over depth, on the same axis
    plot_connectivity(synapses)      matrix of synapse numbers between neurons
    plot_mesh(mesh)                  a mesh in relief, coloured by any value of its vertices
    connectivity_matrix(synapses)    the numbers behind the matrix

Every function takes plain arrays, a MeshParty Meshwork or a DataFrame, draws into ``ax`` (a new figure if none is
given) and returns the Axes. Matplotlib is imported when something is drawn; it comes with
``python -m pip install "cortexclient[plot]"``.
"""

from __future__ import annotations

from cortexclient.plotting.connectivity import connectivity_matrix, plot_connectivity
from cortexclient.plotting.depths import plot_synapse_depths
from cortexclient.plotting.meshes import plot_mesh
from cortexclient.plotting.neurons import plot_neuron
from cortexclient.plotting.style import COMPARTMENTS, PALETTE

__all__ = [
    "COMPARTMENTS",
    "PALETTE",
    "connectivity_matrix",
    "plot_connectivity",
    "plot_mesh",
    "plot_neuron",
    "plot_synapse_depths",
]
