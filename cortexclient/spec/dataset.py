"""`DatasetSpec`: everything that a client needs to know about one dataset, as its YAML file says it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, WithJsonSchema, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from cortexclient.errors import NotConfiguredError, UnknownTableError
from cortexclient.spec.dump import fingerprint
from cortexclient.spec.fields import (
    DatasetName,
    Datastack,
    FrozenDict,
    ServerAddress,
    TableName,
    Text,
    Url,
    VoxelSize,
    frozen,
    refuse,
)
from cortexclient.spec.sections import (
    AccessSpec,
    CapabilitiesSpec,
    CellIdsSpec,
    CitationSpec,
    DeprecationSpec,
    DepthRange,
    ExampleIdsSpec,
    ExportsSpec,
    LayerSpec,
    LicenseSpec,
    Section,
    SourceSpec,
    SynapsesSpec,
    TableSpec,
    VersionSpec,
)
from cortexclient.spec.transform import TransformField

__all__ = ["CURRENT_SCHEMA", "DatasetSpec", "VolumeSpec", "default_class_name"]

CURRENT_SCHEMA = 1


def _several(findings: list[tuple[tuple[str | int, ...], str, str, str]]) -> None:
    """Raise all findings of a validator at once, each at its own place.

    Raises
    ------
    pydantic_core.ValidationError
        If there are any.
    """
    if findings:
        raise ValidationError.from_exception_data(
            "spec",
            [
                InitErrorDetails(
                    type=PydanticCustomError(code, "{what}", {"what": what, "advice": advice}),
                    loc=place,
                    input=None,
                )
                for place, code, what, advice in findings
            ],
        )


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    _several(
        [
            ((index,), "CX302", f"{value!r} stands here twice", "keep one of them")
            for index, value in enumerate(values)
            if value in values[:index]
        ]
    )
    return values


def _versions_in_order(versions: tuple[VersionSpec, ...]) -> tuple[VersionSpec, ...]:
    findings: list[tuple[tuple[str | int, ...], str, str, str]] = []
    seen: set[int] = set()
    for index, item in enumerate(versions):
        if item.version in seen:
            findings.append(
                ((index, "version"), "CX303", f"version {item.version} is listed twice", "keep one of them")
            )
        seen.add(item.version)
    dated = sorted(
        (item.version, item.timestamp, i) for i, item in enumerate(versions) if item.timestamp is not None
    )
    for (version, stamp, _), (later, its_stamp, index) in zip(dated, dated[1:], strict=False):
        if its_stamp <= stamp and later != version:
            findings.append(
                (
                    (index, "timestamp"),
                    "CX303",
                    f"version {later} would be older ({its_stamp:%Y-%m-%d %H:%M}) than version {version} "
                    f"({stamp:%Y-%m-%d %H:%M})",
                    "take both timestamps from the server's own version metadata",
                )
            )
    _several(findings)
    return versions


def _layers_in_order(layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    _several(
        [
            (
                (index,),
                "CX208",
                f"layer {lower.name} begins above the end of {upper.name}",
                "list layers from pia down",
            )
            for index, (upper, lower) in enumerate(zip(layers, layers[1:], strict=False), start=1)
            if lower.top_um < upper.bottom_um
        ]
    )
    return layers


def _latest_or_number(value: object) -> object:
    if value == "latest" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9):
        return value
    return refuse(
        "CX206", f"{value!r} is not a version", "write latest, or the number of a version without quotes"
    )


DefaultVersion = Annotated[
    int | Literal["latest"],
    BeforeValidator(_latest_or_number),
    WithJsonSchema({"anyOf": [{"const": "latest"}, {"type": "integer", "minimum": 1}]}),
]
ClassName = Annotated[str, Field(strict=True, pattern=r"^[A-Z][A-Za-z0-9]{0,62}$")]
Role = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class VolumeSpec(Section):
    """What several datasets of one brain share: written once in ``volumes/<name>.yaml``, used by ``volume: <name>``."""

    title: Text | None = None
    """One line for people."""
    species: Text | None = None
    """Whose brain: Mus musculus."""
    region: Text | None = None
    """Which part of it: primary visual cortex."""
    voxel_resolution: VoxelSize | None = None
    """Size in nm of the voxels in which the server gives positions."""
    transform: TransformField | None = None
    """From positions in nm to depth below the pia."""
    layers: Annotated[tuple[LayerSpec, ...], AfterValidator(_layers_in_order)] = ()
    """Layers of cortex from the pia down, in um."""
    depth_range_um: DepthRange | None = None
    """Range of depths that figures show, in um below the pia."""
    sources: Annotated[Mapping[str, SourceSpec], AfterValidator(frozen)] = Field(default_factory=FrozenDict)
    """Where single facts are from, by their dotted path."""


class DatasetSpec(VolumeSpec):
    """One dataset: where it is, what its tables are called, how its space is oriented, who may use it.

    Frozen: copies with other values come from `with_overrides`. Two specs with equal values are equal and share a
    `fingerprint`.

    Examples
    --------
    >>> spec = DatasetSpec(name="my_brain", title="My brain", server_address="https://cave.my.lab", datastack="brain_1")
    >>> spec.class_name_or_default
    'MyBrainClient'
    """

    schema_version: Annotated[int, Field(strict=True)] = CURRENT_SCHEMA
    """Version of this file format; older ones are brought up to date with a warning."""
    name: DatasetName
    """Name to load it by; equals the stem of the file."""
    title: Text
    """One line for people."""
    description: Text | None = None
    """A few sentences for people."""
    aliases: Annotated[tuple[DatasetName, ...], AfterValidator(_distinct)] = ()
    """Other names to load it by."""
    class_name: ClassName | None = None
    """Name of its client class; left out: the name in CamelCase with Client behind."""
    extends: DatasetName | None = None
    """Another dataset whose values hold wherever this file is silent."""
    volume: DatasetName | None = None
    """A shared volume whose values hold wherever this file is silent."""
    server_address: ServerAddress
    """The global CAVE server."""
    datastack: Datastack
    """The server's name for the dataset."""
    viewer_site: Url | None = None
    """Neuroglancer site for links; left out: what the info service says."""
    viewer_target: Annotated[str, Field(strict=True, pattern="^[a-z][a-z0-9-]*$")] | None = None
    """Dialect of that site, as nglui calls it: spelunker, cave-explorer, seunglab, ..."""
    synapse_table: TableName | None = None
    """Table of synapses; left out: what the info service says."""
    synapses: SynapsesSpec | None = None
    """How the rows of the synapse table are to be read."""
    cell_ids: CellIdsSpec | None = None
    """Tables that tie stable cell ids to root ids."""
    skeleton_version: Annotated[int, Field(strict=True, ge=-1, le=1000)] | None = None
    """Version of the skeleton service's skeletons; left out: the server's default."""
    exports: ExportsSpec | None = None
    """Static dumps of the tables."""
    tables: Annotated[Mapping[Role, TableSpec], AfterValidator(frozen)] = Field(default_factory=FrozenDict)
    """Tables and views by the role that they play (proofreading, cell_types, edges, coregistration, ...)."""
    versions: Annotated[tuple[VersionSpec, ...], AfterValidator(_versions_in_order)] = ()
    """Materialized versions that are worth knowing offline."""
    default_version: DefaultVersion = "latest"
    """Version that a client without one uses: latest, or a number."""
    capabilities: CapabilitiesSpec | None = None
    """What the servers offer."""
    access: AccessSpec | None = None
    """Who may read it, and how to become one of them."""
    citation: CitationSpec | None = None
    """What to cite."""
    license: LicenseSpec | None = None
    """Terms of use."""
    documentation: Url | None = None
    """The owners' documentation."""
    example_ids: ExampleIdsSpec | None = None
    """Ids that exist, for documentation and checks."""
    deprecation: DeprecationSpec | None = None
    """The end of this entry: warn, refuse, gone."""

    _origin: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        findings: list[tuple[tuple[str | int, ...], str, str, str]] = []
        if self.schema_version != CURRENT_SCHEMA:
            what = f"schema version {self.schema_version} is not known here"
            findings.append(
                (("schema_version",), "CX310", what, f"write {CURRENT_SCHEMA}, or update cortexclient")
            )
        if self.name in self.aliases:
            place = ("aliases", self.aliases.index(self.name))
            findings.append((place, "CX302", f"{self.name!r} is the dataset's own name", "remove it"))
        if isinstance(self.default_version, int) and self.versions:
            known = {item.version: item for item in self.versions}
            item = known.get(self.default_version)
            if item is None or item.status == "expired":
                what = f"version {self.default_version} is {'expired' if item else 'not among the versions'}"
                findings.append((("default_version",), "CX305", what, "choose another, or write latest"))
        if self.deprecation and self.deprecation.replaced_by == self.name:
            place = ("deprecation", "replaced_by")
            findings.append((place, "CX311", "a dataset cannot replace itself", "name its successor"))
        for path in self.sources:
            if not _exists(self, path):
                what = f"there is no value at {path!r}"
                findings.append(
                    (("sources", path), "CX309", what, "name a value of this file by its dotted path")
                )
        _several(findings)
        return self

    # ------------------------------------------------------------------------------------------------ identity
    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when any value does."""
        return fingerprint(self)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def origin(self) -> str | None:
        """File that the spec was read from; None for one made in Python."""
        return self._origin

    @property
    def class_name_or_default(self) -> str:
        """Name of the client class: `class_name`, or one made from `name`."""
        return self.class_name or default_class_name(self.name)

    @property
    def host(self) -> str:
        """Host name of the server; for launchers such as ``sandbox://small`` the empty string."""
        parts = urlsplit(self.server_address)
        return (parts.hostname or "") if parts.scheme in {"http", "https"} else ""

    def with_overrides(self, overrides: Mapping[str, Any]) -> DatasetSpec:
        """Return a copy in which some values are others, merged field by field and checked like a file.

        Parameters
        ----------
        overrides : mapping
            Nested like the YAML; maps merge by key, lists replace, None clears.

        Raises
        ------
        SpecError
            If the result is not a valid spec.
        """
        from cortexclient.spec.reading import spec_from_mapping

        copy = spec_from_mapping(overrides, onto=self.as_dict(), label=f"<overrides of {self.name}>")
        copy._origin = self._origin
        return copy

    # -------------------------------------------------------------------------------------------------- lookups
    def require(self, path: str, *, feature: str | None = None) -> Any:
        """Return the value at a dotted path, or say which YAML key to add.

        Parameters
        ----------
        path : str
            For example ``"exports.path"``.
        feature : str, optional
            What needs it, for the message.

        Raises
        ------
        NotConfiguredError
            If the spec has no such value.
        """
        value: Any = self
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
            if value is None or value == ():
                where = f" (it was read from {self.origin})" if self.origin else ""
                raise NotConfiguredError(
                    f"{feature or 'this'} needs `{path}`, which the spec of {self.name} does not have; add `{path}` to its "
                    f"YAML file{where}, or load the dataset with an own copy of it"
                )
        return value

    def table_for(self, role: str, version: int | None = None) -> TableSpec:
        """Return the table or view that plays a role at a version.

        Parameters
        ----------
        role : str
            Key of `tables`; ``"synapses"`` falls back to `synapse_table`.
        version : int, optional
            Materialized version; by default the newest state of things.

        Returns
        -------
        TableSpec

        Raises
        ------
        NotConfiguredError
            If the spec names no table for that role.
        UnknownTableError
            If it does, but not for that version; the message says which versions have one.
        """
        entry = self.tables.get(role)
        if entry is None and role == "synapses" and self.synapse_table is not None:
            entry = TableSpec(name=self.synapse_table)
        if entry is None:
            known = ", ".join(self.tables) or "none"
            raise NotConfiguredError(
                f"the spec of {self.name} names no table for the role {role!r} (it has: {known}); add `tables.{role}` to it"
            )
        candidates = list(_lives(entry))
        if version is None:
            if candidates[-1].until is None:
                return candidates[-1]
        else:
            for table in reversed(candidates):
                if table.exists_at(version):
                    return table
        lives = "; ".join(f"{table.name}: {table.lifetime}" for table in candidates)
        when = "today" if version is None else f"in version {version}"
        raise UnknownTableError(
            f"{self.name} has no table for {role!r} {when} ({lives}); pin another version"
        )

    def version_info(self, version: int) -> VersionSpec | None:
        """What the spec knows about a version, or None."""
        return next((item for item in self.versions if item.version == version), None)

    def timestamp_of(self, version: int) -> datetime | None:
        """The moment that a version froze, as far as the spec knows (UTC)."""
        item = self.version_info(version)
        return item.timestamp if item else None

    def cite(self) -> str:
        """What to cite, as text for people; the same that ``cortexclient cite`` prints."""
        from cortexclient.spec.citing import citation_text

        return citation_text(self)


def _lives(entry: TableSpec) -> Iterator[TableSpec]:
    """All tables that ever played a role, oldest first."""
    yield from sorted(entry.earlier, key=lambda table: table.since or 0)
    yield entry
    if entry.replaced_by is not None and entry.until is not None:
        yield entry.model_copy(
            update={
                "name": entry.replaced_by,
                "since": entry.until + 1,
                "until": None,
                "replaced_by": None,
                "earlier": (),
            }
        )


def _exists(spec: Section, path: str) -> bool:
    value: Any = spec
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, Section):
            value = getattr(value, part, None) if part in type(value).model_fields else None
        elif isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, tuple) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False
        if value is None:
            return False
    return True


def default_class_name(name: str) -> str:
    """Name of the client class of a dataset: ``minnie_public`` -> ``MinniePublicClient``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Client"
