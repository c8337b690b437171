"""JSON schemas of the annotation tables, in the shape in which the schema service answers them."""

from __future__ import annotations

from typing import Any

__all__ = ["ALL_NAMES", "SCHEMAS"]

_POINT = {
    "required": ["position"],
    "properties": {"position": {"type": "array"}},
    "type": "object",
    "additionalProperties": False,
}
_BOUND_POINT = {
    "required": ["position"],
    "properties": {
        "position": {"type": "array"},
        "root_id": {"type": "integer"},
        "supervoxel_id": {"type": "integer"},
    },
    "type": "object",
    "additionalProperties": False,
}
_VALID = {
    "title": "valid",
    "type": ["boolean", "null"],
    "default": False,
    "description": "is this annotation valid",
}
_TARGET = {"type": "integer"}


def _point(description: str, *, bound: bool = True, **more: Any) -> dict[str, Any]:
    kind = "BoundSpatialPoint" if bound else "SpatialPoint"
    return {"type": "object", "$ref": f"#/definitions/{kind}", "description": description, **more}


def _text(title: str, description: str) -> dict[str, Any]:
    return {"title": title, "type": "string", "description": description}


def _float(title: str, description: str) -> dict[str, Any]:
    return {"title": title, "type": ["number", "null"], "format": "float", "description": description}


def _flag(title: str, description: str) -> dict[str, Any]:
    return {"title": title, "type": "boolean", "description": description}


def _schema(
    name: str, required: list[str], properties: dict[str, Any], *, points: tuple[str, ...] = ()
) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    if "SpatialPoint" in points:
        definitions["SpatialPoint"] = _POINT
    if "BoundSpatialPoint" in points:
        definitions["BoundSpatialPoint"] = _BOUND_POINT
    definitions[name] = {
        "required": sorted(required),
        "properties": dict(sorted((properties | {"valid": _VALID}).items())),
        "type": "object",
        "additionalProperties": True,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": definitions,
        "$ref": f"#/definitions/{name}",
    }


_BOTH = ("SpatialPoint", "BoundSpatialPoint")
_BOUND = ("BoundSpatialPoint",)

SCHEMAS: dict[str, dict[str, Any]] = {
    "synapse": _schema(
        "SynapseSchema",
        ["ctr_pt", "post_pt", "pre_pt"],
        {
            "pre_pt": _point("a nearby point located in the presynaptic compartment of the synapse", order=0),
            "ctr_pt": _point("central point", bound=False, order=1),
            "post_pt": _point(
                "a nearby point located in the postsynaptic compartment of the synapse", order=2
            ),
            "size": _float("size", "size of synapse"),
        },
        points=_BOTH,
    ),
    "nucleus_detection": _schema(
        "NucleusDetection",
        ["pt"],
        {
            "pt": _point("the centroid of the nucleus, to be linked to the segmentation"),
            "bb_start": _point("low corner of the bounding box", bound=False),
            "bb_end": _point("high corner of the bounding box", bound=False),
            "volume": _float("volume", "the volume of the nucleus detected in um^3"),
        },
        points=_BOTH,
    ),
    "reference_point": _schema(
        "ReferencePoint",
        ["pt", "target_id"],
        {"target_id": _TARGET, "pt": _point("another point for the referenced annotation")},
        points=_BOUND,
    ),
    "cell_type_reference": _schema(
        "CellTypeReference",
        ["cell_type", "classification_system", "target_id"],
        {
            "target_id": _TARGET,
            "classification_system": _text("classification_system", "Classification system followed"),
            "cell_type": _text("cell_type", "Cell type name"),
        },
    ),
    "reference_tag": _schema(
        "ReferenceTagAnnotation",
        ["tag", "target_id"],
        {"target_id": _TARGET, "tag": _text("tag", "Arbitrary text tag")},
    ),
    "compartment_proofread_status_strategy": _schema(
        "CompartmentProofreadStatusStrategySchema",
        ["pt", "status_axon", "status_dendrite", "strategy_axon", "strategy_dendrite", "valid_id"],
        {
            "pt": _point("a point on the cell body"),
            "valid_id": {
                "title": "valid_id",
                "type": "integer",
                "description": "root id when the status was given",
            },
            "status_dendrite": _flag("status_dendrite", "whether the dendrites are proofread"),
            "status_axon": _flag("status_axon", "whether the axon is proofread"),
            "strategy_dendrite": _text("strategy_dendrite", "how the dendrites were proofread"),
            "strategy_axon": _text("strategy_axon", "how the axon was proofread"),
        },
        points=_BOUND,
    ),
    "bound_tag": _schema(
        "BoundTagAnnotation",
        ["pt", "tag"],
        {"pt": _point("Location associated with the tag"), "tag": _text("tag", "Arbitrary text tag")},
        points=_BOUND,
    ),
}

# the schema service knows many more than any one datastack uses
ALL_NAMES = sorted(
    {
        *SCHEMAS,
        "bound_double_tag",
        "bound_tag_bool",
        "bound_tag_user",
        "cell_match",
        "cell_similarity",
        "cell_type_local",
        "contact",
        "func_unit_ext_coreg",
        "proofread_status",
        "reference_integer",
        "reference_simple_group",
        "reference_synapse_valid",
        "reference_tag_float",
        "representative_point",
        "simple_reference",
    }
)
