"""`DatasetSpec`: everything that a client needs to know about one dataset, as its YAML file states it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, WithJsonSchema, model_validator

from cortexclient.errors import NotConfiguredError, UnknownTableError
from cortexclient.spec.dump import fingerprint, summary
from cortexclient.spec.fields import (
    DatasetName,
    Datastack,
    Finding,
    FrozenDict,
    FrozenMap,
    Role,
    ServerAddress,
    TableName,
    Text,
    Url,
    VoxelSize,
    Written,
    distinct,
    raise_findings,
    refuse,
)
from cortexclient.spec.nodes import parts_of
from cortexclient.spec.problems import raise_problems, without_repeats
from cortexclient.spec.reading import load_nodes, nodes_of_mapping, validate_nodes
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
    TableFacts,
    TableSpec,
    TransformField,
    VersionSpec,
    layers_in_order,
    versions_in_order,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CURRENT_SCHEMA", "DatasetSpec", "default_class_name", "read_spec", "spec_from_mapping"]

CURRENT_SCHEMA = 1


def _latest_or_number(value: object) -> object:
    if value == "latest" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9):
        return value
    return refuse(
        "CX206",
        f"{str(value)[:60]!r} is not a version",
        "write latest, or the number of a version without quotes",
    )


DefaultVersion = Annotated[
    int | Literal["latest"],
    BeforeValidator(_latest_or_number),
    WithJsonSchema({"anyOf": [{"const": "latest"}, {"type": "integer", "minimum": 1}]}),
]
ClassName = Annotated[
    str,
    Written(
        "[A-Z][A-Za-z0-9]{0,62}",
        "the name of a class",
        "use letters and digits, beginning with a capital, as in MyBrainClient",
    ),
]


class DatasetSpec(Section):
    """One dataset: where it is, what its tables are called, how its space is oriented, who may use it.

    Frozen: copies with other values come from `with_overrides`. Two specs with equal values are equal and share a
    `fingerprint`.

    Examples
    --------
    >>> server = "https://cave.my.lab"
    >>> spec = DatasetSpec(name="my_brain", title="My brain", server_address=server, datastack="brain")
    >>> spec.class_name_or_default
    'MyBrainClient'
    """

    schema_version: Annotated[int, Field(strict=True)] = CURRENT_SCHEMA
    """Version of this file format."""
    name: DatasetName
    """Name to load it by; equals the stem of the file."""
    title: Text
    """One line for people."""
    description: Text | None = None
    """A few sentences for people."""
    species: Text | None = None
    """Whose brain: Mus musculus."""
    region: Text | None = None
    """Which part of it: primary visual cortex."""
    aliases: Annotated[tuple[DatasetName, ...], Field(max_length=100), AfterValidator(distinct)] = ()
    """Other names to load it by."""
    class_name: ClassName | None = None
    """Name of its client class; left out: the name in CamelCase with Client behind."""
    extends: DatasetName | None = None
    """Another dataset whose values are used wherever this file gives none."""
    server_address: ServerAddress
    """The global CAVE server."""
    datastack: Datastack
    """The server's name for the dataset."""
    viewer_site: Url | None = None
    """Neuroglancer site for links; left out: the one that the info service names."""
    viewer_target: Literal["spelunker", "cave-explorer", "mainline", "seunglab"] | None = None
    """Dialect of that site: how stored states are linked and annotation tags written. Where nothing
    names a site, it also chooses one: spelunker and cave-explorer are Spelunker, mainline is Google's demo."""
    voxel_resolution: VoxelSize | None = None
    """Size in nm of the voxels in which the server gives positions."""
    transform: TransformField | None = None
    """From positions in nm to depth below the pia: a name of standard_transform, or a map."""
    layers: Annotated[tuple[LayerSpec, ...], AfterValidator(layers_in_order)] = ()
    """Layers of cortex from the pia down, in um."""
    depth_range_um: DepthRange | None = None
    """Range of depths that figures show, in um below the pia."""
    synapse_table: TableName | None = None
    """Table of synapses; left out: the one that the info service names."""
    synapses: SynapsesSpec | None = None
    """How the rows of the synapse table are to be read."""
    cell_ids: CellIdsSpec | None = None
    """Tables that tie stable cell ids to root ids."""
    skeleton_version: Annotated[int, Field(strict=True, ge=-1, le=1000)] | None = None
    """Version of the skeleton service's skeletons; left out: the server's default."""
    exports: ExportsSpec | None = None
    """Static dumps of the tables."""
    tables: FrozenMap[Role, TableSpec] = Field(default_factory=FrozenDict)
    """Tables and views by the role that they play (proofreading, cell_types, edges, coregistration, ...)."""
    versions: Annotated[tuple[VersionSpec, ...], AfterValidator(versions_in_order)] = ()
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
    """Why another entry should be used instead; loading warns."""
    sources: FrozenMap[str, SourceSpec] = Field(default_factory=FrozenDict)
    """Where single facts come from, by dotted path, and whether they are verified."""

    _origin: str | None = PrivateAttr(default=None)
    _fingerprint: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        raise_findings(_fits_together(self))
        return self

    # ------------------------------------------------------------------------------------------------ identity
    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when any value does; computed once, which takes milliseconds."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self)
        return self._fingerprint

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with other values for some fields; they are not checked (`with_overrides` checks them)."""
        copied = super().model_copy(update=update, deep=deep)
        copied._fingerprint = None
        return copied

    def __eq__(self, other: object) -> bool:
        # the file that a spec was read from is not part of its value
        return self is other or (isinstance(other, DatasetSpec) and self.fingerprint == other.fingerprint)

    def __repr__(self) -> str:
        return summary(self)

    __str__ = __repr__

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

        ``overrides`` is nested like the YAML; maps merge by key, lists replace, None clears.

        Raises
        ------
        SpecError
            If the result is not a valid spec.
        """
        copy = spec_from_mapping(overrides, onto=self.as_dict(), label=f"<overrides of {self.name}>")
        copy._origin = self._origin
        return copy

    # -------------------------------------------------------------------------------------------------- lookups
    def require(self, path: str, *, feature: str | None = None) -> Any:
        """Return the value at a dotted path; the error names the YAML key to add.

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
        value = _value_at(self, path)
        if value is None or value == ():
            where = f" (it was read from {self.origin})" if self.origin else ""
            raise NotConfiguredError(
                f"{feature or 'this'} needs `{path}`, which the spec of {self.name} does not have; "
                f"add `{path}` to its YAML file{where}, or load an own copy that has it"
            )
        return value

    def denies(self, capability: str) -> bool:
        """Whether ``capabilities.<capability>`` is false; left out means unknown, so it is tried."""
        return self.capabilities is not None and getattr(self.capabilities, capability) is False

    def require_capability(self, name: str, *, feature: str, instead: str = "") -> None:
        """Raise if the spec declares that the servers of this dataset do not offer something.

        ``name`` is a field of `CapabilitiesSpec`; ``feature``, what needs it, and ``instead``, what can be done without
        it, are for the message.

        Raises
        ------
        NotConfiguredError
            If ``capabilities.<name>`` is false.
        """
        if self.denies(name):
            other = f"; {instead}" if instead else ""
            raise NotConfiguredError(
                f"{feature}: not offered by the servers of {self.name}, as its spec says (`capabilities.{name}: false`)"
                f"{other}. If they do offer it, correct the YAML file, or "
                f'load(..., overrides={{"capabilities": {{"{name}": True}}}})'
            )

    def is_verified(self, path: str) -> bool:
        """Whether the fact at a dotted path (``"tables.cell_types.units"``) is verified.

        The most specific entry of `sources` for it decides.
        """
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            source = self.sources.get(".".join(parts[:end]))
            if source is not None:
                return source.verified
        return True

    def table_facts(self, name: str, *, synapse_table: str | None = None) -> TableFacts | None:
        """Return what the spec declares about a table or view (schema, further columns, unit), or None.

        ``name`` is that on the server: the synapse table (``synapse_table`` where only the server names it), or a table
        of `tables`, earlier and later ones included.
        """
        found = self._facts(name, synapse_table)
        return None if found is None else found[1]

    def _facts(self, name: str, synapse_table: str | None) -> tuple[str, TableFacts] | None:
        if self.synapses is not None and name == (synapse_table or self.synapse_table):
            return "synapses", self.synapses
        for role, entry in self.tables.items():
            for table in entry.history():
                if table.name == name:
                    return f"tables.{role}", table
        return None

    def table_unit(
        self, name: str, *, synapse_table: str | None = None, unverified: bool = False
    ) -> tuple[float, float, float] | None:
        """Return the size in nm of one unit of a table's positions, or None to believe the server's own metadata.

        A unit that `sources` calls unverified counts only with ``unverified``: by default the server knows better.
        """
        found = self._facts(name, synapse_table)
        if found is None or found[1].unit is None:
            return None
        path, facts = found
        field = "units" if facts.units == "nm" else "voxel_resolution"
        return facts.unit if unverified or self.is_verified(f"{path}.{field}") else None

    @property
    def synapse_position_column(self) -> str | None:
        """Column with the position of a synapse (``ctr_pt_position``); None if the spec has no `synapses`."""
        return None if self.synapses is None else f"{self.synapses.position_prefix}_position"

    def position_prefix_of(self, table: str, *, synapse_table: str | None = None) -> str | None:
        """Return the point that represents a row of a table (``pt`` for ``pt_position``), or None if undeclared."""
        facts = self.table_facts(table, synapse_table=synapse_table)
        return facts.position_prefix if facts is not None else None

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
                f"the spec of {self.name} names no table for the role {role!r} (it has: {known}); "
                f"add `tables.{role}` to it"
            )
        tables = list(entry.history())
        if version is None:
            # versions only grow, so the newest state of things has what has not ended
            fitting = [table for table in tables if table.until is None]
        else:
            fitting = [table for table in tables if table.exists_at(version)]
        if fitting:
            return fitting[-1]
        history = "; ".join(f"{table.name}: {table.lifetime}" for table in tables)
        when = "any more" if version is None else f"in version {version}"
        raise UnknownTableError(
            f"{self.name} has no table for {role!r} {when} ({history}); pin another version",
            service="materialize",
            url=self.server_address,
        )

    def cite(self) -> str:
        """Return what to cite, as text; the same that ``cortexclient cite`` prints."""
        lines = [self.title, ""]
        citation = self.citation
        if citation is None:
            lines.append("Citation: not recorded; ask the owners of the dataset.")
        else:
            if citation.text:
                lines.append(f"Citation: {citation.text}")
            if citation.doi:
                lines.append(f"DOI: https://doi.org/{citation.doi}")
            lines.extend(f"Also: https://doi.org/{doi}" for doi in citation.also)
            if citation.policy_url:
                lines.append(f"How the owners want to be cited: {citation.policy_url}")
            if citation.note:
                lines.append(citation.note)
        if self.license is not None:
            address = f" ({self.license.url})" if self.license.url else ""
            lines.append(f"Licence: {self.license.name}{address}")
            if self.license.note:
                lines.append(self.license.note)
        if citation is not None and citation.bibtex:
            lines += ["", citation.bibtex.strip()]
        return "\n".join(lines)


def default_class_name(name: str) -> str:
    """Name of the client class of a dataset: ``minnie_public`` -> ``MinniePublicClient``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Client"


def spec_from_mapping(
    values: Mapping[str, Any], *, onto: Mapping[str, Any] | None = None, label: str = "<mapping>"
) -> DatasetSpec:
    """Make a spec of a mapping that is nested like the YAML.

    With ``onto``, the values are merged onto another mapping: maps by key, lists replace, None clears. ``label`` is
    what messages call it in place of a file name.

    Raises
    ------
    SpecError
        With all problems.
    """
    root, found = nodes_of_mapping(values, label, onto=onto)
    spec, problems = validate_nodes(root, DatasetSpec)
    raise_problems([*found, *without_repeats(found, problems)])
    return cast("DatasetSpec", spec)


def read_spec(path: str | Path) -> DatasetSpec:
    """Read one self-contained spec file; the registry also follows ``extends``.

    Raises
    ------
    SpecError
        With all problems of the file.
    """
    root, problems = load_nodes(Path(path))
    spec: DatasetSpec | None = None
    if root is not None:
        spec, more = validate_nodes(root, DatasetSpec)
        problems += without_repeats(problems, more)
    raise_problems(problems)
    result = cast("DatasetSpec", spec)
    result._origin = str(path)
    return result


def _fits_together(spec: DatasetSpec) -> Iterator[Finding]:
    """Find what is wrong between the sections of a spec."""
    if spec.schema_version != CURRENT_SCHEMA:
        what = f"schema version {spec.schema_version} is not known here"
        yield Finding(("schema_version",), "CX310", what, f"write {CURRENT_SCHEMA}, or update cortexclient")
    if spec.name in spec.aliases:
        where = ("aliases", spec.aliases.index(spec.name))
        yield Finding(where, "CX302", f"{spec.name!r} is the dataset's own name", "remove it")
    if isinstance(spec.default_version, int) and spec.versions:
        known = {item.version: item.status for item in spec.versions}
        status = known.get(spec.default_version)
        if status in {None, "expired"}:
            what = f"version {spec.default_version} is {status or 'not among the versions'}"
            yield Finding(("default_version",), "CX305", what, "choose another, or write latest")
    if spec.deprecation and spec.deprecation.replaced_by == spec.name:
        place = ("deprecation", "replaced_by")
        yield Finding(place, "CX311", "a dataset cannot replace itself", "name its successor")
    yield from _contradictions(spec)
    for path in spec.sources:
        if _value_at(spec, path) is None:
            advice = "name a value of this file by its dotted path"
            yield Finding(("sources", path), "CX309", f"there is no value at {path[:80]!r}", advice)


def _contradictions(spec: DatasetSpec) -> Iterator[Finding]:
    """Find values about a service that the capabilities deny."""
    used = {
        "exports": [("exports", spec.exports is not None)],
        "skeletons": [("skeleton_version", spec.skeleton_version is not None)],
        "versions": [
            ("versions", bool(spec.versions)),
            ("default_version", spec.default_version != "latest"),
        ],
    }
    for capability, keys in used.items():
        given = [key for key, present in keys if present]
        if given and spec.denies(capability):
            what = f"the capability is false, but {' and '.join(given)} {'are' if len(given) > 1 else 'is'} given"
            cleared = ", ".join(f"{key}: null" for key in given)
            advice = f"remove one of them; what a parent gave is cleared by {cleared}"
            yield Finding(("capabilities", capability), "CX312", what, advice)


def _value_at(value: Any, path: str) -> Any:
    """Return the value at a dotted path; None where there is none."""
    for part in parts_of(path):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, tuple):
            value = value[int(part)] if part.isdecimal() and int(part) < len(value) else None
        else:
            fields = getattr(type(value), "model_fields", {})
            name = next((name for name, field in fields.items() if part == (field.alias or name)), None)
            value = getattr(value, name) if name is not None else None
    return value
