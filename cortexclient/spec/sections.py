"""The sections of a spec: each a frozen model of one noun, refusing keys that it does not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from cortexclient.spec.dump import plain
from cortexclient.spec.fields import (
    DOI,
    Bool,
    CloudPath,
    ColumnKind,
    ColumnName,
    DatasetName,
    Day,
    Finding,
    FrozenDict,
    FrozenMap,
    Id,
    Number,
    PointName,
    SchemaName,
    TableName,
    Text,
    TimeStamp,
    Url,
    Vector,
    VersionNumber,
    VoxelSize,
    Written,
    raise_findings,
    refuse,
)
from cortexclient.spec.table_schemas import TableField, fields_of

__all__ = [
    "AccessSpec",
    "CapabilitiesSpec",
    "CellIdsSpec",
    "CitationSpec",
    "DeprecationSpec",
    "DepthRange",
    "ExampleIdsSpec",
    "ExportsSpec",
    "LayerSpec",
    "LicenseSpec",
    "RotationSpec",
    "Section",
    "SourceSpec",
    "SynapsesSpec",
    "TableFacts",
    "TableSpec",
    "TransformField",
    "TransformSpec",
    "TransformStep",
    "VersionSpec",
    "layers_in_order",
    "versions_in_order",
]


class Section(BaseModel):
    """Base of every section: frozen, strict about keys, with room for private ``x-`` keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=True, use_attribute_docstrings=True
    )

    _private: FrozenDict[str, Any] | None = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _set_private_keys_and_nulls_apart(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        private = {key: value for key, value in data.items() if isinstance(key, str) and key.startswith("x-")}
        # null clears what was inherited, so a known key with null is one that was not written; unknown keys stay
        # unknown, whatever their value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        section = handler(
            {
                key: value
                for key, value in data.items()
                if key not in private and not (value is None and key in known)
            }
        )
        if private:
            section._private = FrozenDict(private)
        return section

    @property
    def private(self) -> Mapping[str, Any]:
        """The private keys (``x-...``) of this section, as they were written."""
        return self._private or FrozenDict()

    def as_dict(self) -> dict[str, Any]:
        """Everything that was set, private keys included, as plain JSON-like values (ids as strings)."""
        return plain(self)


class SourceSpec(Section):
    """Where one fact is from, and whether it was verified."""

    source: Text | None = None
    """Where the fact was found: an address, a paper, a person."""
    checked: Day | None = None
    """Day on which somebody last compared it with the source."""
    verified: Bool = True
    """False for a fact that was neither seen on the live server nor published by the owners."""
    note: Text | None = None
    """One sentence: what is uncertain, or conflicting."""


class CellIdsSpec(Section):
    """The tables that tie stable cell ids (nucleus ids) to root ids."""

    lookup_view: TableName | None = None
    """View or table that gives the root id of every cell id."""
    kind: Literal["view", "table"] = "view"
    """Whether `lookup_view` is a view or a table on the server."""
    main_table: TableName | None = None
    """Table of nuclei whose ids are the cell ids."""
    alternative_tables: tuple[TableName, ...] = ()
    """Reference tables with other points for nuclei that miss the segmentation, tried in this order."""


class TableFacts(Section):
    """What is known about the rows of a table, whatever role it plays."""

    position_prefix: PointName | None = None
    """Point that represents a row: ``pt`` means columns ``pt_position``."""

    schema_name: SchemaName | None = Field(default=None, alias="schema")
    """Its schema, by the name that EMAnnotationSchemas gives it: func_unit_ext_coreg."""
    columns: FrozenMap[ColumnName, ColumnKind] = Field(default_factory=FrozenDict)
    """Columns beside those of the schema (of a view: all of them), or more exact than there, and their types: bool,
    int, float, text, id, point, bound_point, ``float|null`` where one may be missing, or a list of possible values."""
    units: Literal["voxel", "nm"] = "voxel"
    """Unit in which the server stores positions."""
    voxel_resolution: VoxelSize | None = None
    """Size of the table's voxels in nm, where it differs from the dataset's."""

    @property
    def declared_fields(self) -> tuple[TableField, ...]:
        """Fields that the spec declares: those of the schema, then the further columns."""
        return fields_of(self.schema_name, self.columns)

    @property
    def unit(self) -> tuple[float, float, float] | None:
        """Size in nm of one unit of its positions, if declared."""
        return (1.0, 1.0, 1.0) if self.units == "nm" else self.voxel_resolution


class SynapsesSpec(TableFacts):
    """How the rows of the synapse table are to be read."""

    position_prefix: PointName = "ctr_pt"
    """Point that represents the synapse in annotations, depths and figures: ``ctr_pt`` means columns
    ``ctr_pt_position``."""
    size_column: TableName | None = None
    """Column with the size of the synapse, in the table's own unit."""
    score_column: TableName | None = None
    """Column with the detector's confidence (``score``, ``cleft_score``)."""


class TableSpec(TableFacts):
    """A table or view that plays a role, and the versions in which it exists."""

    name: TableName
    """Name on the server."""
    kind: Literal["table", "view"] = "table"
    """Table (annotations) or view (a query stored on the server)."""
    since: VersionNumber | None = None
    """First version that has it; left out: as far back as is known."""
    until: VersionNumber | None = None
    """Last version that has it; left out: still there."""
    replaced_by: TableName | None = None
    """Name of its successor after `until`."""
    earlier: tuple[TableSpec, ...] = ()
    """What played this role before, each with its own `since` and `until`."""
    references: TableName | None = None
    """Table that ``target_id`` refers to; left out: the table of nuclei (`cell_ids.main_table`)."""
    description: Text | None = None
    """One sentence for people."""

    @model_validator(mode="after")
    def _lifetime_makes_sense(self) -> Self:
        if self.since is not None and self.until is not None and self.until < self.since:
            refuse(
                "CX304",
                f"{self.name} ends (until {self.until}) before it begins (since {self.since})",
                "swap the two numbers",
            )
        if self.replaced_by is not None and self.until is None:
            refuse(
                "CX304",
                f"{self.name} is replaced by {self.replaced_by}, but never ends",
                "add its last version: until",
            )
        for table in self.earlier:
            if table.earlier:
                refuse("CX304", "an earlier table has earlier ones itself", "list all of them at one level")
        return self

    def history(self) -> Iterator[TableSpec]:
        """Yield all tables that ever played this role, oldest first: earlier ones, this one, its successor."""
        yield from sorted(self.earlier, key=lambda table: table.since or 0)
        yield self
        if self.replaced_by is not None and self.until is not None:
            changes = {"since": self.until + 1, "until": None, "replaced_by": None, "earlier": ()}
            yield self.model_copy(update={"name": self.replaced_by, **changes})

    def exists_at(self, version: int) -> bool:
        """Whether this very table exists at a version (its predecessors and successors apart)."""
        return (self.since is None or self.since <= version) and (self.until is None or version <= self.until)

    @property
    def lifetime(self) -> str:
        """The versions that have it, as text."""
        if self.since is None and self.until is None:
            return "every version"
        if self.until is None:
            return f"versions from {self.since} on"
        if self.since is None:
            return f"versions up to {self.until}"
        return f"versions {self.since} to {self.until}"


class VersionSpec(Section):
    """One materialization: a frozen state of all tables."""

    version: VersionNumber
    """Number of the materialization."""
    timestamp: TimeStamp | None = None
    """Moment that it froze, in UTC, as the server's version metadata give it (to the microsecond)."""
    status: Literal["major", "available", "expiring", "expired"] = "available"
    """major: kept for good; available; expiring: its end is announced; expired: no longer on the server."""
    expires: Day | None = None
    """Day on which it goes, where that is announced."""
    note: Text | None = None
    """One sentence for people."""


def versions_in_order(versions: tuple[VersionSpec, ...]) -> tuple[VersionSpec, ...]:
    """Refuse a version that is listed twice, and one that is older than a lower-numbered one."""
    first = {item.version: index for index, item in reversed([*enumerate(versions)])}
    findings = [
        Finding((index, "version"), "CX303", f"version {item.version} is listed twice", "keep one of them")
        for index, item in enumerate(versions)
        if first[item.version] != index
    ]
    dated = sorted((item.version, item.timestamp, i) for i, item in enumerate(versions) if item.timestamp)
    findings += [
        Finding(
            (index, "timestamp"),
            "CX303",
            f"version {later} ({its_stamp:%Y-%m-%d %H:%M}) would be older than version {version} "
            f"({stamp:%Y-%m-%d %H:%M})",
            "take both timestamps from the server's own version metadata",
        )
        for (version, stamp, _), (later, its_stamp, index) in pairwise(dated)
        if its_stamp <= stamp and later != version
    ]
    raise_findings(findings)
    return versions


Layout = Annotated[
    str,
    Written(
        r".*\{version\}.*\{table\}.*",
        "a layout",
        "name {version} and, behind it, {table}, as in v{version}/{table}",
    ),
]


class ExportsSpec(Section):
    """Where static dumps of the tables lie; independent of the datastack's name."""

    path: CloudPath
    """Folder that holds one folder per version (``v1300/``): gs://, s3://, https:// or file://."""
    format: Literal["csv-gz", "parquet", "delta"] | None = None
    """csv-gz (gzipped CSV without a header row beside a ``_header.csv``), parquet (a file or folder per table) or delta
    (Delta Lake tables as CAVE's exporter writes them). Left out: whatever lies there."""
    layout: Layout | None = None
    """Where a table lies below the path, for example ``{datastack}/v{version}/{table}/{copy}``, of which ``{version}``
    and ``{table}`` are needed. Left out: as CAVE's exporters write them."""
    mirrors: tuple[CloudPath, ...] = ()
    """Other places with the same files, tried in this order."""


class CapabilitiesSpec(Section):
    """What the servers of this dataset offer; left out: unknown, so it is tried."""

    live: Bool | None = None
    """Queries of tables at any moment. false: at versions only; another moment raises, and a client without one looks
    at each neuron's synapses in the newest version that has it. `version_fallback=True` is honoured all the same."""
    versions: Bool | None = None
    """Materialized versions. false: no tables, views, synapses and cells; roots, level-2 ids, meshes and skeletons
    without synapses work."""
    l2cache: Bool | None = None
    """Attributes of level-2 ids. false: neither they nor what is made of them (properties of skeletons)."""
    skeletons: Bool | None = None
    """The skeleton service. false: skeletons only where they are computed here (`fallback="compute"`)."""
    exports: Bool | None = None
    """Static dumps of tables. false: none, unless a place for them is given to the client."""


class AccessSpec(Section):
    """Who may read the dataset, and how to become one of them."""

    level: Literal["public", "login", "group"] = "login"
    """public: anybody; login: an account and accepted terms; group: membership."""
    terms_url: Url | None = None
    """Where the terms of service are accepted."""
    note: Text | None = None
    """One sentence on how to get access, and whom to ask."""


class CitationSpec(Section):
    """What to cite in a paper that uses the dataset."""

    doi: DOI | None = None
    """The DOI, bare: 10.1038/s41586-025-08790-w."""
    text: Text | None = None
    """The reference as one line."""
    bibtex: Text | None = None
    """The reference as BibTeX."""
    also: tuple[DOI, ...] = ()
    """Further DOIs that the owners ask for."""
    policy_url: Url | None = None
    """The owners' page on how to cite."""
    note: Text | None = None
    """One sentence for people."""


class LicenseSpec(Section):
    """Under which terms the data may be used."""

    name: Text
    """SPDX name such as CC-BY-4.0, or ``unverified``."""
    url: Url | None = None
    """Text of the licence, or the owners' page about it."""
    checked: Day | None = None
    """Day on which somebody last read it there."""
    note: Text | None = None
    """One sentence: conflicting statements, say."""


class ExampleIdsSpec(Section):
    """Ids that exist, for documentation and checks."""

    cell_id: Id | None = None
    """A cell with a root."""
    root_id: Id | None = None
    """A root id that is valid at `version`."""
    version: VersionNumber | None = None
    """Version at which the ids belong together."""


class LayerSpec(Section):
    """A layer of cortex between two depths below the pia."""

    name: Text
    """Name as used in figures: L2/3."""
    top_um: Number
    """Depth of its upper boundary in um."""
    bottom_um: Number
    """Depth of its lower boundary in um."""

    @model_validator(mode="after")
    def _goes_down(self) -> Self:
        if self.bottom_um <= self.top_um:
            refuse(
                "CX208",
                f"layer {self.name} ends above its beginning",
                "depths grow downwards: top_um < bottom_um",
            )
        return self


def layers_in_order(layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    """Refuse layers of cortex that overlap or are not listed from the pia down."""
    raise_findings(
        Finding(
            (index,),
            "CX208",
            f"layer {lower.name} begins above the end of {upper.name}",
            "list them from the pia down",
        )
        for index, (upper, lower) in enumerate(pairwise(layers), start=1)
        if lower.top_um < upper.bottom_um
    )
    return layers


class DeprecationSpec(Section):
    """Why a dataset should not be used any more, and what to use instead: loading it warns."""

    since: Day | None = None
    """Day from which loading warns; left out: it warns already."""
    replaced_by: DatasetName | None = None
    """Name of the dataset to use instead."""
    message: Text | None = None
    """One sentence: why."""


def _depth_range(value: tuple[float, float]) -> tuple[float, float]:
    if value[1] <= value[0]:
        refuse("CX208", f"{list(value)} is not a range", "write the smaller depth first: [0, 775]")
    return value


DepthRange = Annotated[tuple[Number, Number], AfterValidator(_depth_range)]


# ----------------------------------------------------------------------------------------------------------- transform
Matrix = tuple[Vector, Vector, Vector]


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
            BeforeValidator(_one_factor_for_all, json_schema_input_type=Number | Vector),
            AfterValidator(_factors),
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


StandardName = Annotated[
    str,
    Written(
        "[A-Za-z][A-Za-z0-9_]*",
        "a dataset of standard_transform",
        "use a name that it knows, as in minnie65",
    ),
]
Release = Annotated[str, Written(r"[0-9]+(\.[0-9]+)*", "a version", 'write a version in quotes, as "1.4"')]


class TransformSpec(Section):
    """Positions in nm to um with the pia at y = 0 and depth along y."""

    dataset: StandardName | None = None
    """Name of a dataset in standard_transform (minnie65, v1dd)."""
    version: Release | None = None
    """Pinned version of its transform, quoted: "1.4"; left out: the newest installed."""
    streamline_version: Release | None = None
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
