"""How positions become depth below the pia: a dataset of standard_transform, or steps written down in the spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from cortexclient.spec.fields import Number, Vector, refuse
from cortexclient.spec.sections import Section

__all__ = ["RotationSpec", "TransformField", "TransformSpec", "TransformStep"]

Matrix = Annotated[
    tuple[Vector, Vector, Vector],
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
            "minItems": 3,
            "maxItems": 3,
        }
    ),
]


class RotationSpec(Section):
    """A rotation: an axis and an angle, or a 3x3 matrix."""

    axis: Literal["x", "y", "z"] | None = None
    """Axis to turn around."""
    degrees: Number | None = None
    """Angle, counter-clockwise when the axis points at the reader."""
    matrix: Matrix | None = None
    """Three rows; applied as ``matrix @ point``. Writing the rows directly under ``rotation`` does the same."""

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if self.matrix is None:
            if self.axis is None or self.degrees is None:
                refuse(
                    "CX308", "a rotation needs axis and degrees, or a matrix", "write {axis: z, degrees: 5}"
                )
            return self
        if self.axis is not None or self.degrees is not None:
            refuse("CX308", "the rotation is given twice", "keep either the matrix, or axis and degrees")
        rows = self.matrix
        for i in range(3):
            for j in range(i, 3):
                product = sum(rows[i][k] * rows[j][k] for k in range(3))
                if abs(product - (i == j)) > 1e-3:
                    refuse(
                        "CX308",
                        "the matrix stretches or shears, so it is no rotation",
                        "its rows must have length 1 and stand at right angles; put lengths into a scaling step",
                    )
        return self


def _rows_are_a_matrix(value: Any) -> Any:
    return {"matrix": value} if isinstance(value, list | tuple) else value


def _one_factor_for_all(value: Any) -> Any:
    return [value] * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value


def _factors(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if 0 in value:
        refuse("CX308", "a scaling by zero flattens the brain", "use factors other than 0")
    return value


class TransformStep(Section):
    """One step; exactly one of the three."""

    rotation: (
        Annotated[
            RotationSpec, BeforeValidator(_rows_are_a_matrix, json_schema_input_type=RotationSpec | Matrix)
        ]
        | None
    ) = None
    """Rotation about the origin."""
    translation: Vector | None = None
    """Shift, in the unit that holds at this step (nm at first)."""
    scaling: (
        Annotated[
            Vector,
            BeforeValidator(_one_factor_for_all),
            AfterValidator(_factors),
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "number"},
                        {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
                    ]
                }
            ),
        ]
        | None
    ) = None
    """Factor for all axes, or one per axis (0.001 makes um of nm)."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("rotation", "translation", "scaling") if getattr(self, name) is not None]
        if len(given) != 1:
            refuse(
                "CX308",
                f"a step must be one thing, this one is {' and '.join(given) or 'nothing'}",
                "write each of rotation, translation and scaling as a list item of its own",
            )
        return self


class TransformSpec(Section):
    """Positions in nm to um with the pia at y = 0 and depth along y."""

    dataset: Annotated[str, Field(strict=True, pattern="^[A-Za-z][A-Za-z0-9_]*$")] | None = None
    """Name of a dataset in standard_transform (minnie65, v1dd)."""
    version: Annotated[str, Field(strict=True, pattern=r"^[0-9]+(\.[0-9]+)*$")] | None = None
    """Pinned version of its transform, quoted: "1.4"; left out: the newest installed."""
    streamline_version: Annotated[str, Field(strict=True, pattern=r"^[0-9]+(\.[0-9]+)*$")] | None = None
    """Pinned version of its streamlines, quoted: "2.0"; left out: the newest installed."""
    steps: Annotated[tuple[TransformStep, ...], Field(max_length=100)] = ()
    """Steps from nm to um for a brain that standard_transform does not know, applied in this order."""
    streamline_points: Annotated[tuple[Vector, ...], Field(max_length=10_000)] = ()
    """Points along one streamline from pia to white matter, in transformed um, ordered by depth."""

    @model_validator(mode="after")
    def _named_or_declared(self) -> Self:
        if self.dataset is None and not self.steps:
            refuse("CX308", "the transform neither names a dataset nor has steps", "add dataset: or steps:")
        if self.dataset is not None and (self.steps or self.streamline_points):
            refuse(
                "CX308",
                "the transform both names a dataset and declares its own",
                "keep dataset (with version, streamline_version) or steps (with streamline_points)",
            )
        if self.dataset is None and (self.version is not None or self.streamline_version is not None):
            refuse("CX308", "versions belong to a standard_transform dataset, not to steps", "remove them")
        if len(self.streamline_points) == 1:
            refuse("CX308", "one point is not a streamline", "give two or more streamline_points")
        return self


def _name_is_a_dataset(value: Any) -> Any:
    return {"dataset": value} if isinstance(value, str) else value


TransformField = Annotated[
    TransformSpec, BeforeValidator(_name_is_a_dataset, json_schema_input_type=str | TransformSpec)
]
