"""Live queries over HTTP."""

from __future__ import annotations

from starlette.responses import Response

from cortexclient.sandbox.routes.materialize_body import LIVE, checked_body, query_arguments
from cortexclient.sandbox.routes.materialize_response import OLD_WAY, frame_response
from cortexclient.sandbox.routes.materialize_service import Ask, parsed_body
from cortexclient.sandbox.routes.table_access import check_reader
from cortexclient.sandbox.stores.tables_live import live_rows

__all__ = ["live_query"]


def live_query(ask: Ask) -> Response:
    """``POST query``: a table at any time."""
    body = checked_body(parsed_body(ask.body), LIVE)
    arguments = query_arguments(ask.request.query_params)
    check_reader(ask.world, ask.request, body["table"])
    found = live_rows(ask.store, body, arguments)
    warnings = found.warnings + ([] if arguments["direct_sql_pandas"] else [OLD_WAY, OLD_WAY])
    return frame_response(
        ask.request,
        found.frame,
        warnings=warnings,
        resolution=found.resolution,
        names=found.names,
        arguments=arguments,
    )
