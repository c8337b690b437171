"""Writing annotations: staged and checked here first, sent once, never twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.errors import CortexError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session import Session

__all__ = ["AnnotationsService"]

_BATCH = 10_000


class AnnotationsService:
    """Methods about annotations.

    Parameters
    ----------
    session : Session
        Where to ask.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

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
            Stage changes to annotations that exist; they need an id.
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
        """
        with self._session.guard("annotation"):
            return self._session.cave.annotation.stage_annotations(
                table_name=table_name,
                schema_name=schema_name,
                update=update,
                id_field=id_field,
                table_resolution=None if table_resolution is None else list(table_resolution),
                annotation_resolution=None if annotation_resolution is None else list(annotation_resolution),
            )

    def upload_staged_annotations(self, staged_annos: Any) -> Any:
        """Send staged annotations to their table.

        Parameters
        ----------
        staged_annos : caveclient.tools.stage.StagedAnnotations
            From `stage_annotations`.

        Returns
        -------
        list of int or dict
            New ids in the order of the annotations; for an update old id (as text) -> new id.

        Raises
        ------
        ValueError
            If the stage belongs to no table.
        ServiceError
            If the service refuses or fails. A batch is never sent twice: whether a batch whose answer was lost has
            arrived can only be seen in the table.
        """
        table = staged_annos.table_name
        if table is None:
            raise ValueError(
                "these annotations are staged for no table; stage them with table_name=, or set staged.table_name"
            )
        session = self._session
        volume = session.info()["aligned_volume"]["name"]
        url = f"{session.local_server}/annotation/api/v2/aligned_volume/{volume}/table/{table}/annotations"
        rows = staged_annos.annotation_list
        method = "PUT" if staged_annos.is_update else "POST"
        ids: list[int] = []
        changed: dict[str, int] = {}
        for start in range(0, len(rows), _BATCH):
            body = {"annotations": rows[start : start + _BATCH]}
            try:
                answer = session.http.read_json(
                    "annotation", session.http.send("annotation", method, url, body=body)
                )
            except CortexError as error:
                if start:
                    error.add_note(f"the first {start} of {len(rows)} annotations had been written before")
                raise
            if staged_annos.is_update:
                changed.update(answer)
            else:
                ids.extend(answer)
        return changed if staged_annos.is_update else ids
