"""Which level-2 id each vertex of a mesh belongs to.

A chunked graph cuts a neuron into level-2 objects at the faces of a regular grid, and the mesh is made of those
objects' meshes, but it does not say which vertex came from which. :func:`label_vertices` works it out from the chunk
grid, the mesh's connectivity and one representative point for each level-2 id. It needs no server.
"""

from __future__ import annotations

from cortexclient.services.vertex_labels.label import Decision, Labels, label_vertices

__all__ = ["Decision", "Labels", "label_vertices"]
