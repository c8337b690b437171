"""`ListedSpec`: the few values of a spec that the list of datasets shows, for reading thousands of files quickly."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from cortexclient.spec.checks import distinct
from cortexclient.spec.fields import DatasetName, Text
from cortexclient.spec.sections import AccessSpec, DeprecationSpec, Section

__all__ = ["LISTED", "ListedSpec"]


class ListedSpec(Section):
    """What the list says about a dataset; the fields are those of `DatasetSpec`."""

    title: Text
    aliases: Annotated[tuple[DatasetName, ...], Field(max_length=100), AfterValidator(distinct)] = ()
    access: AccessSpec | None = None
    deprecation: DeprecationSpec | None = None


LISTED = frozenset(ListedSpec.model_fields)
