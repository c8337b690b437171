"""The sections of a spec: each a frozen model of one noun, refusing keys that it does not know."""

from __future__ import annotations

from collections.abc import Mapping
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
    WithJsonSchema,
    model_validator,
)

from cortexclient.spec.addresses import CloudPath, Url
from cortexclient.spec.fields import (
    DOI,
    Bool,
    DatasetName,
    Day,
    FrozenDict,
    Id,
    Number,
    TableName,
    Text,
    TimeStamp,
    VersionNumber,
    VoxelSize,
    frozen,
    refuse,
    without_nulls,
)
from cortexclient.spec.problems import close_names
from cortexclient.spec.table_schemas import COLUMN_TYPES, TableField, fields_of, schema_names, table_field

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
    "Section",
    "SourceSpec",
    "SynapsesSpec",
    "TableFacts",
    "TableSpec",
    "VersionSpec",
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
        for key, value in data.items():
            if value is None or str(key).startswith("x-"):
                break
        else:  # nearly always
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
            section._private = frozen(private)
        return section

    @property
    def private(self) -> Mapping[str, Any]:
        """The private keys (``x-...``) of this section, as they were written."""
        return self._private or FrozenDict()

    def as_dict(self) -> dict[str, Any]:
        """Everything that was set, private keys included, as plain JSON-like values (ids as strings)."""
        return _plain(self)


def _plain(section: Section) -> dict[str, Any]:
    from cortexclient.spec.dump import plain

    return plain(section)


class SourceSpec(Section):
    """Where one fact is from, and whether it was verified."""

    source: Text | None = None
    """Where the fact was found: an address, a paper, a person."""
    checked: Day | None = None
    """Day on which somebody last compared it with the source."""
    verified: Bool = True
    """False for a fact that was never seen on the live server or in the owner's own words."""
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


def _schema_name(value: str) -> str:
    known = schema_names()
    if value not in known:
        guesses = close_names(value, known)
        advice = f"did you mean {' or '.join(guesses)}?" if guesses else f"there are {', '.join(known)}"
        refuse("CX206", f"{value[:60]!r} is not a schema of EMAnnotationSchemas", advice)
    return value


def _column_type(value: object) -> object:
    try:
        table_field("", value)
    except ValueError as error:
        advice = "write bool, int, float, text, id, point or bound_point, with |null behind it where it may be missing"
        refuse("CX206", str(error), f"{advice}; or the list of values that the column may have")
    return tuple(value) if isinstance(value, list) else value


ColumnName = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
ColumnKind = Annotated[
    str | tuple[str | int | None, ...],
    BeforeValidator(_column_type),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": rf"^({'|'.join(COLUMN_TYPES)})(\s*\|\s*null)?$",
                },
                {"type": "array", "items": {"type": ["string", "integer", "null"]}, "minItems": 1},
            ]
        }
    ),
]


class TableFacts(Section):
    """What is known about the rows of a table, whatever role it plays."""

    schema_name: Annotated[str, Field(strict=True), AfterValidator(_schema_name)] | None = Field(
        default=None, alias="schema"
    )
    """Its schema, by the name that EMAnnotationSchemas gives it: func_unit_ext_coreg."""
    columns: Annotated[
        Mapping[ColumnName, ColumnKind], BeforeValidator(without_nulls), AfterValidator(frozen)
    ] = Field(default_factory=FrozenDict)
    """Columns beside those of the schema (of a view: all of them) and their types: bool, int, float, text, id, point,
    bound_point, ``float|null`` where values may be missing, or the list of values that there are."""
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
        """Size in nm of one unit of its positions, where the spec says so."""
        return (1.0, 1.0, 1.0) if self.units == "nm" else self.voxel_resolution


class SynapsesSpec(TableFacts):
    """How the rows of the synapse table are to be read."""

    position_prefix: Annotated[str, Field(strict=True, pattern="^[a-z][a-z0-9_]*$")] = "ctr_pt"
    """Point that stands for the synapse in annotations, depths and figures: ``ctr_pt`` means columns
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
    position_prefix: Annotated[str, Field(strict=True, pattern="^[a-z][a-z0-9_]*$")] | None = None
    """Point that stands for a row: ``pt`` means columns ``pt_position``."""
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

    def exists_at(self, version: int) -> bool:
        """Whether this very table exists at a version (its predecessors and successors apart)."""
        return (self.since is None or self.since <= version) and (self.until is None or version <= self.until)

    @property
    def lifetime(self) -> str:
        """The versions that have it, in words."""
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


class ExportsSpec(Section):
    """Where static dumps of the tables lie; independent of the datastack's name."""

    path: CloudPath
    """Folder that holds one folder per version (``v1300/``): gs://, s3://, https:// or file://."""
    format: Literal["csv-gz"] = "csv-gz"
    """csv-gz, the only format that is read: gzipped CSV without a header row beside a ``_header.csv``."""
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


class DeprecationSpec(Section):
    """The end of an entry in three steps: warn, refuse, gone."""

    since: Day | None = None
    """From this day on, loading warns; left out: it warns already."""
    refused_from: Day | None = None
    """From this day on, loading raises unless CORTEXCLIENT_ALLOW_DEPRECATED=1 is set."""
    removed_from: Day | None = None
    """From this day on, the name is gone."""
    replaced_by: DatasetName | None = None
    """Name of the dataset to use instead."""
    message: Text | None = None
    """One sentence: why."""

    @model_validator(mode="after")
    def _steps_in_order(self) -> Self:
        days = [
            (name, day)
            for name in ("since", "refused_from", "removed_from")
            if (day := getattr(self, name)) is not None
        ]
        for (first, day), (second, later) in pairwise(days):
            if later < day:
                refuse(
                    "CX311",
                    f"{second} ({later}) comes before {first} ({day})",
                    "warn first, then refuse, then remove",
                )
        return self


def _depth_range(value: tuple[float, float]) -> tuple[float, float]:
    if value[1] <= value[0]:
        refuse("CX208", f"{list(value)} is not a range", "write the smaller depth first: [0, 775]")
    return value


DepthRange = Annotated[
    tuple[Number, Number],
    AfterValidator(_depth_range),
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
]
