"""Write annotations: they are staged and checked first, and no batch is sent twice unless the service refused it."""

from __future__ import annotations

import difflib
import re
import time
from typing import TYPE_CHECKING, Any

from cortexclient.errors import (
    AuthenticationError,
    CortexError,
    InvalidQueryError,
    ProtocolError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
    UnknownTableError,
)
from cortexclient.ids import as_ids
from cortexclient.services import BaseService
from cortexclient.session import as_number, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["AnnotationsService"]

_DUPLICATE = re.compile(r"UniqueViolation|duplicate key")
_ROLLED_BACK = re.compile(r"transaction has been rolled back|InFailedSqlTransaction|transaction is aborted")


class AnnotationsService(BaseService):
    """Stage and upload annotations."""

    def stage_annotations(
        self,
        table_name: str | None = None,
        schema_name: str | None = None,
        update: bool = False,
        id_field: bool = False,
        table_resolution: Sequence[float] | None = None,
        annotation_resolution: Sequence[float] | None = None,
    ) -> Any:
        """Make a stage that checks annotations against a table's schema as they are added.

        Parameters
        ----------
        table_name : str, optional
            Table to add to.
        schema_name : str, optional
            Schema, where there is no table yet.
        update : bool
            Stage changes to existing annotations; they need an id.
        id_field : bool
            Annotations carry their own id.
        table_resolution, annotation_resolution : sequence of float, optional
            nm of one unit of the table's points, and of those that will be added. Points are scaled between them.

        Returns
        -------
        caveclient.tools.stage.StagedAnnotations
            Call ``.add(...)`` on it, then `upload_staged_annotations`.

        Raises
        ------
        UnknownTableError
            If there is no such table or schema.
        ValueError
            If neither a table nor a schema is given.
        ServiceError
            If the service fails.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> stage = client.stage_annotations(schema_name="bound_tag")
        >>> "pt_position" in stage.fields
        True
        """
        table, added = (
            None if unit is None else list(unit) for unit in (table_resolution, annotation_resolution)
        )
        try:
            with self._session.guard("annotation"):
                return self._session.cave.annotation.stage_annotations(
                    table_name=table_name,
                    schema_name=schema_name,
                    update=update,
                    id_field=id_field,
                    table_resolution=table,
                    annotation_resolution=added,
                )
        except ServiceError as error:
            raise self._unknown(table_name, schema_name, error) from None

    def upload_staged_annotations(
        self,
        staged_annos: Any,
        *,
        aligned_volume_name: str | None = None,
        batch_size: int = 10_000,
        progress: bool = False,
        retries: int = 3,
    ) -> Any:
        """Send staged annotations to their table, but for those that an earlier call has written.

        Parameters
        ----------
        staged_annos : caveclient.tools.stage.StagedAnnotations
            From `stage_annotations`.
        aligned_volume_name : str, optional
            Aligned volume of the table. Default: that of the datastack.
        batch_size : int
            Most annotations of one request.
        progress : bool
            Show a progress bar.
        retries : int
            How often a batch is sent again after the service reported that it wrote nothing, because the database had
            rolled back its transaction.

        Returns
        -------
        list of int or dict
            New ids in the order of the annotations that were sent; for an update old id (as text) -> new id.

        Raises
        ------
        ValueError
            If the stage belongs to no table.
        UnknownTableError
            If the table does not exist.
        InvalidQueryError
            If an annotation carries an id that the table has already.
        ServiceError
            If the service refuses or fails. A batch is not sent again after any other failure: whether a batch whose
            response was lost was written can only be seen in the table. Another call sends it and those after it.

        Examples
        --------
        >>> stage = client.stage_annotations("proofreading_status_and_strategy")
        >>> client.upload_staged_annotations(stage)
        []
        """
        table = staged_annos.table_name
        if table is None:
            raise ValueError(
                "these annotations are staged for no table; stage them with table_name=, or set staged.table_name"
            )
        size = as_number(batch_size, "batch_size", least=1) or 1
        repeats = as_number(retries, "retries") or 0
        session = self._session
        volume = aligned_volume_name or session.info()["aligned_volume"]["name"]
        url = f"{session.local_server}/annotation/api/v2/aligned_volume/{volume}/table/{table}/annotations"
        rows = staged_annos.annotation_list_nonuploaded
        ids: list[int] = []
        changed: dict[str, int] = {}
        # caveclient notes what was sent, and offers no public way to do that
        batches = staged_annos._annotation_batches(size)
        with progress_bar(len(batches), "annotations", show=progress) as bar:
            for number, batch in enumerate(batches):
                start = number * size
                part = rows[start : start + size]
                try:
                    written = self._write(url, part, table, repeats, update=staged_annos.is_update)
                except CortexError as error:
                    if start:
                        error.add_note(
                            f"the first {start} of {len(rows)} annotations had been written before"
                        )
                    raise
                staged_annos._apply_upload_result(batch, written)
                if staged_annos.is_update:
                    changed.update(written)
                else:
                    ids.extend(written)
                bar.step()
        return changed if staged_annos.is_update else ids

    def _write(self, url: str, rows: Sequence[Any], table: str, retries: int, *, update: bool) -> Any:
        """Send one batch, again where the database had rolled back its transaction, and return the new ids."""
        http, wait = self._session.http, 0.25
        while True:
            try:
                response = http.send(
                    "annotation", "PUT" if update else "POST", url, body={"annotations": [*rows]}
                )
                written = http.read_json("annotation", response)
                try:
                    return _new_ids(written, rows, update=update)
                except (KeyError, TypeError, ValueError):
                    raise self._session.error(
                        ProtocolError,
                        "annotation",
                        f"the annotation service did not return an id for each of {len(rows)} annotations; look "
                        f"whether they are in {table!r} before you send them again",
                        status=response.status_code,
                    ) from None
            except ServiceError as error:
                rolled_back = _ROLLED_BACK.search(str(error))
                if not (rolled_back and retries):
                    raise (_refusal(table, error) or self._unknown(table, None, error)) from None
            time.sleep(wait)
            retries, wait = retries - 1, min(8.0, 2 * wait)

    def _unknown(self, table: str | None, schema: str | None, error: ServiceError) -> ServiceError:
        """Return the error for a table or schema that does not exist; the same where it has another reason."""
        trouble = (AuthenticationError, ServiceUnavailableError, ServiceTimeoutError, ProtocolError)
        if isinstance(error, trouble):
            return error
        cave = self._session.cave
        kind, name = ("schema", schema) if table is None else ("table", table)
        try:
            with self._session.guard("annotation" if table else "schema"):
                known = cave.annotation.get_tables() if table else cave.schema.get_schemas()
        except CortexError:
            return error
        if name in known:
            return error
        close = difflib.get_close_matches(str(name), known, n=4, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(close)}?"
            if close
            else f"there are {', '.join(sorted(known)[:30]) or 'none'}"
        )
        return error.of_kind(
            UnknownTableError, f"{self._session.spec.name} has no annotation {kind} {name!r}; {hint}"
        )


def _new_ids(written: Any, rows: Sequence[Any], *, update: bool) -> list[int] | dict[str, int]:
    """Return the ids that a response gives to some rows; raise if it does not give one to each."""
    old = [str(row["id"]) for row in rows] if update else []
    found = [written[name] for name in old] if update else written
    if not isinstance(found, list) or len(found) != len(rows):
        raise TypeError("no list of as many ids")
    ids = as_ids(found)
    if (ids <= 0).any():
        raise ValueError("ids begin at 1")
    return dict(zip(old, ids.tolist(), strict=True)) if update else ids.tolist()


def _refusal(table: str, error: ServiceError) -> ServiceError | None:
    """Return why the database wrote nothing; None where the failure has another reason."""
    message = str(error)
    if _ROLLED_BACK.search(message):
        return error.of_kind(
            ServiceUnavailableError,
            "the annotation service cannot write now: an earlier failure has left its database connection in a "
            "rolled-back transaction. Nothing of this batch was written; try again later",
        )
    if _DUPLICATE.search(message):
        known = re.search(r"Key \(id\)=\((\d+)\)", message)
        which = f"the id {known[1]}" if known else "one of these ids"
        return error.of_kind(
            InvalidQueryError,
            f"table {table!r} has an annotation with {which} already, so nothing of this batch was written; leave the "
            "ids out, or stage with update=True to change existing annotations",
        )
    return None
