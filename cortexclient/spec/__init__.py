"""Specs: what a dataset is, as a frozen model that is read from one YAML file.

Nothing here needs numpy, pandas or a network.
"""

from __future__ import annotations

from cortexclient.spec.dataset import DatasetSpec, default_class_name
from cortexclient.spec.problems import Problem
from cortexclient.spec.reading import read_spec, spec_from_mapping
from cortexclient.spec.sections import (
    AccessSpec,
    CapabilitiesSpec,
    CellIdsSpec,
    CitationSpec,
    DeprecationSpec,
    ExampleIdsSpec,
    ExportsSpec,
    LayerSpec,
    LicenseSpec,
    SourceSpec,
    SynapsesSpec,
    TableFacts,
    TableSpec,
    VersionSpec,
)
from cortexclient.spec.table_schemas import TableField, table_schemas
from cortexclient.spec.transform import RotationSpec, TransformSpec, TransformStep
from cortexclient.spec.volume import VolumeSpec

__all__ = [
    "AccessSpec",
    "CapabilitiesSpec",
    "CellIdsSpec",
    "CitationSpec",
    "DatasetSpec",
    "DeprecationSpec",
    "ExampleIdsSpec",
    "ExportsSpec",
    "LayerSpec",
    "LicenseSpec",
    "Problem",
    "RotationSpec",
    "SourceSpec",
    "SynapsesSpec",
    "TableFacts",
    "TableField",
    "TableSpec",
    "TransformSpec",
    "TransformStep",
    "VersionSpec",
    "VolumeSpec",
    "default_class_name",
    "read_spec",
    "spec_from_mapping",
    "table_schemas",
]
