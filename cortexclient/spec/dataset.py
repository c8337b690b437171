"""`DatasetSpec`: everything that a client needs to know about one dataset, as its YAML file says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, WithJsonSchema, model_validator

from cortexclient.errors import NotConfiguredError
from cortexclient.spec import checks
from cortexclient.spec.addresses import ServerAddress, Url
from cortexclient.spec.dump import fingerprint
from cortexclient.spec.fields import (
    DatasetName,
    Datastack,
    FrozenDict,
    TableName,
    Text,
    frozen,
    refuse,
    without_nulls,
)
from cortexclient.spec.lifetimes import lives, table_at
from cortexclient.spec.migrate import CURRENT_SCHEMA
from cortexclient.spec.sections import (
    AccessSpec,
    CapabilitiesSpec,
    CellIdsSpec,
    CitationSpec,
    DeprecationSpec,
    ExampleIdsSpec,
    ExportsSpec,
    LicenseSpec,
    SynapsesSpec,
    TableFacts,
    TableSpec,
    VersionSpec,
)
from cortexclient.spec.volume import VolumeSpec

__all__ = ["DatasetSpec", "default_class_name"]


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
ClassName = Annotated[str, Field(strict=True, pattern=r"^[A-Z][A-Za-z0-9]{0,62}$")]
Role = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9_]{0,62}$")]


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
    aliases: Annotated[tuple[DatasetName, ...], Field(max_length=100), AfterValidator(checks.distinct)] = ()
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
    viewer_target: Literal["spelunker", "cave-explorer", "mainline", "seunglab"] | None = None
    """Dialect of that site: how stored states are linked and annotation tags written. Where nothing
    names a site, it also chooses one: spelunker and cave-explorer are Spelunker, mainline is Google's demo."""
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
    tables: Annotated[Mapping[Role, TableSpec], BeforeValidator(without_nulls), AfterValidator(frozen)] = (
        Field(default_factory=FrozenDict)
    )
    """Tables and views by the role that they play (proofreading, cell_types, edges, coregistration, ...)."""
    versions: Annotated[tuple[VersionSpec, ...], AfterValidator(checks.versions_in_order)] = ()
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
        checks.raise_findings(checks.fits_together(self, CURRENT_SCHEMA))
        return self

    # ------------------------------------------------------------------------------------------------ identity
    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when any value does."""
        return fingerprint(self)

    def __eq__(self, other: object) -> bool:
        # where a spec was read from is no part of what it says
        return self is other or (isinstance(other, DatasetSpec) and self.fingerprint == other.fingerprint)

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
                    f"{feature or 'this'} needs `{path}`, which the spec of {self.name} does not have; "
                    f"add `{path}` to its YAML file{where}, or load an own copy that has it"
                )
        return value

    def denies(self, capability: str) -> bool:
        """Whether ``capabilities.<capability>`` is false; left out means unknown, so it is tried."""
        return self.capabilities is not None and getattr(self.capabilities, capability) is False

    def require_capability(self, name: str, *, feature: str, instead: str = "") -> None:
        """Say that the servers of this dataset do not offer something, where the spec declares so.

        Parameters
        ----------
        name : str
            Field of `CapabilitiesSpec`.
        feature : str
            What needs it, for the message.
        instead : str
            What can be done without it, for the message.

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
        """Whether nothing in `sources` calls a fact unverified; the closest of its sources counts.

        Parameters
        ----------
        path : str
            Dotted path such as ``"tables.cell_types.units"``.
        """
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            source = self.sources.get(".".join(parts[:end]))
            if source is not None:
                return source.verified
        return True

    def table_facts(self, name: str, *, synapse_table: str | None = None) -> TableFacts | None:
        """Return what the spec declares about a table or view: its schema, further columns and unit.

        Parameters
        ----------
        name : str
            Name on the server: the synapse table, or a table of `tables`, earlier and later ones included.
        synapse_table : str, optional
            The synapse table, where only the server names it.

        Returns
        -------
        SynapsesSpec, TableSpec or None
            None where the spec does not mention the table.
        """
        found = self._facts(name, synapse_table)
        return None if found is None else found[1]

    def _facts(self, name: str, synapse_table: str | None) -> tuple[str, TableFacts] | None:
        if self.synapses is not None and name == (synapse_table or self.synapse_table):
            return "synapses", self.synapses
        for role, entry in self.tables.items():
            for table in lives(entry):
                if table.name == name:
                    return f"tables.{role}", table
        return None

    def table_unit(
        self, name: str, *, synapse_table: str | None = None, unverified: bool = False
    ) -> tuple[float, float, float] | None:
        """Return the size in nm of one unit of a table's positions, or None to believe the server's own metadata.

        Parameters
        ----------
        name, synapse_table : str
            As for `table_facts`.
        unverified : bool
            Whether a unit counts that `sources` calls unverified. By default the server knows better.
        """
        found = self._facts(name, synapse_table)
        if found is None or found[1].unit is None:
            return None
        path, facts = found
        field = "units" if facts.units == "nm" else "voxel_resolution"
        return facts.unit if unverified or self.is_verified(f"{path}.{field}") else None

    @property
    def synapse_position_column(self) -> str | None:
        """Column that says where a synapse is (``ctr_pt_position``); None where the spec is silent on synapses."""
        return None if self.synapses is None else f"{self.synapses.position_prefix}_position"

    def position_prefix_of(self, table: str, *, synapse_table: str | None = None) -> str | None:
        """Point that stands for a row of a table (``pt`` for columns ``pt_position``), or None where nothing says so.

        Parameters
        ----------
        table : str
            Name on the server: the synapse table, or one that plays a role.
        synapse_table : str, optional
            The synapse table, where only the server names it.
        """
        if self.synapses is not None and table == (synapse_table or self.synapse_table):
            return self.synapses.position_prefix
        for entry in self.tables.values():
            for life in lives(entry):
                if life.name == table and life.position_prefix is not None:
                    return life.position_prefix
        return None

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
        return table_at(self, role, version)

    def cite(self) -> str:
        """Say what to cite, as text for people; the same that ``cortexclient cite`` prints."""
        from cortexclient.spec.citing import citation_text

        return citation_text(self)


def default_class_name(name: str) -> str:
    """Name of the client class of a dataset: ``minnie_public`` -> ``MinniePublicClient``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Client"
