"""Specs: what a dataset is, as a frozen model that is read from one YAML file.

Nothing here needs numpy, pandas or a network.
"""

from __future__ import annotations

from cortexclient.spec.dataset import DatasetSpec, default_class_name, read_spec, spec_from_mapping
from cortexclient.spec.problems import Problem
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
    RotationSpec,
    SourceSpec,
    SynapsesSpec,
    TableFacts,
    TableSpec,
    TransformSpec,
    TransformStep,
    VersionSpec,
)
from cortexclient.spec.table_schemas import TableField, table_schemas

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
    "default_class_name",
    "read_spec",
    "spec_from_mapping",
    "table_schemas",
]
