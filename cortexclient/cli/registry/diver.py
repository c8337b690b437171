"""Reading configurations of cave-diver, the CAVE project's web viewer: one file per datastack and volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.cli.registry.text import SpecText
from cortexclient.registry.layers import NAME

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["convert"]

_TRANSFORMS = {"minnie_nm": "minnie65", "v1dd_nm": "v1dd"}
_READ = {
    "live_mode",
    "cell_id_lookup",
    "root_id_lookup_main_table",
    "root_id_lookup_alt_tables",
    "synapse",
    "spatial",
    "decoration_warmup",
}


def convert(file: Path, *, name: str | None = None, server: str, volume: Path | None = None) -> str:
    """Write a spec for a datastack file of cave-diver.

    Parameters
    ----------
    file : pathlib.Path
        ``config/datastacks/<datastack>.yaml``; its stem is the datastack.
    name : str, optional
        Name of the dataset; by default the datastack's.
    server : str
        The global server, which cave-diver takes from its environment.
    volume : pathlib.Path, optional
        The file of the aligned volume, for transform, layers and synapse columns.

    Returns
    -------
    str
        Valid YAML; what has no counterpart is named in a comment.

    Raises
    ------
    SpecError
        If the file cannot be read, or its values do not make a spec.
    """
    values = _plain(file)
    shared = _plain(volume) if volume is not None else {}
    datastack = file.stem
    text = SpecText(name or (datastack if NAME.fullmatch(datastack) else "renamed_dataset"))
    text.comment(f"Made from cave-diver's {file.name}.")
    text.add("title", datastack, "One line for people.")
    text.add("server_address", server, "cave-diver takes the server from its environment; check it.")
    text.add("datastack", datastack)
    spatial = {**_map(shared, "spatial"), **_map(values, "spatial")}
    _write_space(text, spatial)
    synapse = {**_map(shared, "synapse"), **_map(values, "synapse")}
    if synapse.get("position_prefix"):
        text.add("synapses", {"position_prefix": synapse["position_prefix"]})
    text.add("cell_ids", _cell_ids(values))
    if values.get("live_mode") is True:
        text.add("capabilities", {"live": True})
    elif values.get("live_mode") is False:
        text.comment(
            "cave-diver asks it at versions only (live_mode: false). If its server refuses other moments:"
        )
        text.comment("capabilities: {live: false}")
    warmed = _map(values, "decoration_warmup")
    tables = warmed.get("tables") or warmed.get("cell_type_tables") or []
    if tables:
        text.comment(
            f"Tables that cave-diver shows beside cells, without saying which is what: {', '.join(map(str, tables))}"
        )
        text.comment("tables: {cell_types: {name: ..., kind: table}}")
    rest = sorted(set(values) - _READ)
    if rest:
        text.comment(f"Without a counterpart here: {', '.join(rest)}")
    _check(str(text), file)
    return text.finished()


def _plain(file: Path) -> dict[str, Any]:
    from cortexclient.spec.nodes import to_plain
    from cortexclient.spec.problems import raise_problems
    from cortexclient.spec.yaml_reader import read_bytes, read_nodes

    content, problems = read_bytes(file, str(file))
    root = None
    if not problems:
        root, problems = read_nodes(content, str(file))
        problems = [
            problem for problem in problems if problem.code != "CX108"
        ]  # an empty file is a valid one of theirs
    raise_problems(problems)
    return dict(to_plain(root)) if root is not None else {}


def _map(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else {}


def _cell_ids(values: dict[str, Any]) -> dict[str, Any] | None:
    lookup = _map(values, "cell_id_lookup")
    found = {
        "lookup_view": lookup.get("name"),
        "kind": lookup.get("kind"),
        "main_table": values.get("root_id_lookup_main_table"),
        "alternative_tables": values.get("root_id_lookup_alt_tables"),
    }
    return {key: value for key, value in found.items() if value} or None


def _write_space(text: SpecText, spatial: dict[str, Any]) -> None:
    transform = spatial.get("transform")
    if isinstance(transform, str):
        text.add("transform", _TRANSFORMS.get(transform, transform.removesuffix("_nm")))
    elif transform is not None:
        text.comment("transform: its matrix mixes steps; write it as rotation, translation and scaling")
    if spatial.get("depth_range"):
        text.add("depth_range_um", spatial["depth_range"])
    names, bounds = spatial.get("layer_names") or [], [0, *(spatial.get("layer_boundaries") or [])]
    layers = [
        {"name": name, "top_um": top, "bottom_um": bottom}
        for name, top, bottom in zip(names, bounds, bounds[1:], strict=False)
    ]
    if layers:
        text.add("layers", layers)


def _check(text: str, file: Path) -> None:
    from cortexclient.spec.problems import raise_problems
    from cortexclient.spec.reading import validate_nodes
    from cortexclient.spec.yaml_reader import read_nodes

    root, problems = read_nodes(text.encode(), f"<from {file.name}>")
    if root is not None:
        problems += validate_nodes(root)[1]
    raise_problems(problems)
