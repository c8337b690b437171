"""Under which names a spec's sandbox serves the tables of the synthetic cortex."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["LABEL_TABLES", "Spares", "default_names", "needed_spares"]

# tables whose content suits any role that is not known: labels of nuclei
LABEL_TABLES = (
    "cell_types",
    "cell_types_fine",
    "cell_types_coarse",
    "cell_types_manual",
    "cortical_layers",
    "neuron_prediction",
    "functional_matches",
    "functional_properties",
)
_TABLES = (
    "synapses",
    "nucleus_detection",
    "nucleus_alternative_points",
    "proofreading_status_and_strategy",
    "synapse_tags",
    "synapse_targets",
    *LABEL_TABLES,
)
_VIEWS = ("cell_info", "soma_counts", "single_neurons", "synapse_degrees", "connections_with_nuclei")
_ALL_VIEWS = ("nucleus_lookup", *_VIEWS)

# words in a role that say what its table holds: (word, table, view)
_ROLES: tuple[tuple[str, str | None, str | None], ...] = (
    ("proofread", "proofreading_status_and_strategy", None),
    ("synapse_target", "synapse_targets", None),
    ("synapse_tag", "synapse_tags", None),
    ("spine", "synapse_tags", None),
    ("edge", None, "connections_with_nuclei"),
    ("connection", None, "connections_with_nuclei"),
    ("degree", None, "synapse_degrees"),
    ("soma_count", None, "soma_counts"),
    ("single_neuron", None, "single_neurons"),
    ("cell_info", None, "cell_info"),
    ("coregistration", "functional_matches", None),
    ("functional_prop", "functional_properties", None),
    ("digital_twin", "functional_properties", None),
    ("coarse", "cell_types_coarse", None),
    ("manual", "cell_types_manual", None),
    ("column", "cell_types_manual", None),
    ("fine", "cell_types_fine", None),
    ("m_type", "cell_types_fine", None),
    ("mtype", "cell_types_fine", None),
    ("morph", "cell_types_fine", None),
    ("layer", "cortical_layers", None),
    ("area", "cortical_layers", None),
    ("neuron", "neuron_prediction", None),
    ("cell_type", "cell_types", "cell_info"),
)


@dataclass(frozen=True)
class Spares:
    """Copies that a spec needs beyond what every cortex has.

    Parameters
    ----------
    labels, alternatives, views : int
        Number of further label tables, tables of alternative points, and views of cells.
    """

    labels: int = 0
    alternatives: int = 0
    views: int = 0

    def label_names(self) -> list[str]:
        """Names in the folder of the further label tables."""
        return [f"more_labels_{number}" for number in range(1, self.labels + 1)]

    def alternative_names(self) -> list[str]:
        """Names in the folder of the further tables of alternative points."""
        return [f"more_alternative_points_{number}" for number in range(1, self.alternatives + 1)]

    def view_names(self) -> list[str]:
        """Names in the folder of the further views."""
        return [f"more_cell_info_{number}" for number in range(1, self.views + 1)]


def default_names(spec: Any) -> dict[str, str]:
    """Name in the folder -> name that a spec declares, for tables and views.

    Every name that the spec needs stands in it once. A role that is not known gets a table of labels, or a view.

    Parameters
    ----------
    spec : DatasetSpec or None

    Returns
    -------
    dict of str to str
        Empty without a spec: everything keeps its own name.
    """
    return _assign(spec)[0]


def needed_spares(spec: Any) -> Spares:
    """Copies that must be built into the folder for `default_names` to hold."""
    return _assign(spec)[1]


def _assign(spec: Any) -> tuple[dict[str, str], Spares]:
    names: dict[str, str] = {}
    if spec is None:
        return names, Spares()
    if getattr(spec, "synapse_table", None):
        names["synapses"] = spec.synapse_table
    alternatives = _assign_cells(spec, names)
    labels = views = 0
    for role, name, kind in _roles(spec):
        if name in names.values():
            continue
        # a name that the folder itself uses must not mean another table
        pool = [name] if name in (_TABLES if kind == "table" else _ALL_VIEWS) else []
        pool += _known(role, name, kind)
        pool += list(LABEL_TABLES if kind == "table" else _VIEWS)
        free = next((table for table in pool if table not in names), None)
        if free is None and kind == "table":
            labels += 1
            free = Spares(labels=labels).label_names()[-1]
        elif free is None:
            views += 1
            free = Spares(views=views).view_names()[-1]
        names[free] = name
    return names, Spares(labels, alternatives, views)


def _assign_cells(spec: Any, names: dict[str, str]) -> int:
    """Names of the tables of nuclei; returns how many further tables of alternative points there must be."""
    cells = getattr(spec, "cell_ids", None)
    if cells is None:
        return 0
    if cells.main_table:
        names["nucleus_detection"] = cells.main_table
    if cells.lookup_view and cells.lookup_view not in names.values():
        # a dataset without a view looks cells up in a plain table of nuclei
        table = getattr(cells, "kind", "view") == "table"
        names["nucleus_detection" if table and "nucleus_detection" not in names else "nucleus_lookup"] = (
            cells.lookup_view
        )
    others = [name for name in cells.alternative_tables if name not in names.values()]
    tables = ["nucleus_alternative_points", *Spares(alternatives=len(others)).alternative_names()]
    names.update(zip(tables, others, strict=False))
    return max(0, len(others) - 1)


def _roles(spec: Any) -> Iterator[tuple[str, str, str]]:
    """(role, name, kind) of every table that plays or played a role."""
    for role, table in dict(getattr(spec, "tables", None) or {}).items():
        for each in (table, *getattr(table, "earlier", ())):
            yield role, each.name, each.kind
            if getattr(each, "replaced_by", None):
                yield role, each.replaced_by, each.kind


def _known(role: str, name: str, kind: str) -> list[str]:
    """Tables or views of the folder that a role, or else a name, speaks of; tags may stand in for each other."""
    found = []
    for text in (role, name):
        for word, table, view in _ROLES:
            content = table if kind == "table" else view
            if word in text and content:
                found.append(content)
                if content == "synapse_targets":
                    found.append("synapse_tags")
    return found
