"""The answer to a query: an Arrow stream or JSON records, with the headers that carry the rest."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["OLD_WAY", "frame_response", "gzipped", "header_text"]

OLD_WAY = (
    "Query was executed using streaming via CSV, which can mangle types.\n"
    "Please upgrade to caveclient > 8.0.0 to avoid type mangling.\n"
    "Because you may have been affected by mangled types, this change is breaking, but it should provide an improved "
    "experience."
)
_OLD_FORMAT = (
    "Response is in pyarrow IPC format. If you encounter a parsing error, "
    "please upgrade CAVEClient to >=5.9.0 with: pip install --upgrade caveclient. "
    "To suppress this warning, pass arrow_format=True in your query parameters."
)


def frame_response(
    request: Request,
    frame: pd.DataFrame | pa.RecordBatch,
    *,
    warnings: list[str],
    resolution: list[float] | None,
    names: dict[str, dict[str, str]],
    arguments: dict[str, Any],
) -> Response:
    """Answer a frame as the service does.

    Parameters
    ----------
    frame : pandas.DataFrame or pyarrow.RecordBatch
        The rows; a batch, notes for pandas included, only where Arrow is asked for.
    warnings : list of str
        One ``Warning`` header each.
    resolution : list of float
        nm per voxel of the positions, one header for each axis.
    names : mapping
        Table -> column -> name in the frame; its Python repr is a header.
    """
    accepted = request.headers.get("accept-encoding", "")
    headers: list[tuple[str, str]] = []
    if arguments["return_pyarrow"]:
        if not arguments["arrow_format"]:
            warnings = [_OLD_FORMAT]  # the service lets this one replace the others
        body, kind = _arrow(frame, accepted, compress=arguments["ipc_compress"]), "data.arrow"
        headers.append(("cache-control", "no-cache"))
    else:
        body, kind = frame.to_json(orient="records").encode(), "application/json"
    headers += [("warning", header_text(text)) for text in warnings]
    headers += [("dataframe_resolution", str(float(value))) for value in resolution or ()]
    headers.append(("column_names", str(names)))
    return gzipped(request, body, kind, headers)


def header_text(text: str) -> str:
    """Text that a header can hold: one line, in Latin-1."""
    return " ".join(text.splitlines()).strip().encode("latin-1", "replace").decode("latin-1")


def gzipped(request: Request, body: bytes, kind: str, headers: list[tuple[str, str]]) -> Response:
    """Response whose body is compressed for clients that accept it."""
    if "gzip" in request.headers.get("accept-encoding", "").lower():
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers = [*headers, ("content-encoding", "gzip"), ("vary", "Accept-Encoding")]
    response = Response(body, headers={"content-type": kind})
    for name, value in headers:
        response.raw_headers.append((name.encode(), value.encode("latin-1", "replace")))
    return response


def _arrow(frame: pd.DataFrame | pa.RecordBatch, accepted: str, *, compress: bool) -> bytes:
    codec = None
    if compress:
        codec = "lz4" if "lz4" in accepted else "zstd" if "zstd" in accepted else None
    batch = frame if isinstance(frame, pa.RecordBatch) else pa.RecordBatch.from_pandas(frame)
    sink = pa.BufferOutputStream()
    # a batch is small: threads for its columns take longer than they save
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    answer: bytes = sink.getvalue().to_pybytes()
    return answer
