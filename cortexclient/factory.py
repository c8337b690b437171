"""Load a dataset: from a name, file or spec, and options, to a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cortexclient.client import DatasetClient
    from cortexclient.spec import DatasetSpec
    from cortexclient.types import PathLike, Timestamp

__all__ = ["load"]


def load(
    name_or_path_or_spec: PathLike | DatasetSpec,
    *,
    version: int | None = None,
    timestamp: Timestamp | None = None,
    server_address: str | None = None,
    auth_token: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    **options: Any,
) -> DatasetClient:
    """Build the client of a dataset. Makes no request: the first one is made when data are needed.

    Parameters
    ----------
    name_or_path_or_spec : str, pathlib.Path or DatasetSpec
        A registered name or alias (``"v1dd"``), a name with a version (``"minnie_public@1300"``), the path of a YAML
        file, a spec, or the path of a snapshot that :meth:`DatasetClient.save_snapshot` wrote.
    version : int, optional
        Materialization version that every service of the client uses. Default: the spec's ``default_version``.
    timestamp : datetime.datetime or str, optional
        Moment that every service uses, instead of a version. A naive one is taken as UTC.
    server_address : str, optional
        Ask this global server instead of the spec's.
    auth_token : str, optional
        Use this token instead of the one stored for the server. It is kept in memory only.
    overrides : mapping, optional
        Other values of the spec, nested like the YAML and checked like a file: maps merge by key, lists replace, None
        clears (``{"cell_ids": {"lookup_view": "my_view"}}``). They win over every place that specs come from.
    **options
        Further options of :class:`cortexclient.session.Session`: ``cache=True`` (or a folder) caches responses that can
        never change, ``offline=True`` answers from the cache alone; ``source="store"`` or ``"auto"`` reads tables that
        :meth:`DatasetClient.store` has pulled, from ``store=`` or the usual folder, and ``"auto"`` uses those and the
        cache while a service is down; ``max_workers``, ``timeout``, ...

    Returns
    -------
    DatasetClient
        An instance of the dataset's own subclass (``V1ddClient`` for ``v1dd``).

    Raises
    ------
    UnknownDatasetError
        No dataset of that name; the message lists close names and the places searched.
    SpecError
        The spec cannot be used; the message lists every problem with file, line and column.
    ValueError
        ``version`` and ``timestamp`` are both given, or the version contradicts the one in the name.

    Examples
    --------
    >>> import cortexclient
    >>> client = cortexclient.load("sandbox", version=3)
    >>> client
    SandboxClient(dataset='sandbox', datastack='sandbox', version=3)
    """
    from cortexclient import registry
    from cortexclient.client import client_class
    from cortexclient.services.snapshots import is_snapshot
    from cortexclient.session import as_version

    if is_snapshot(name_or_path_or_spec):
        return _load_snapshot(
            str(name_or_path_or_spec),
            version=version,
            timestamp=timestamp,
            server_address=server_address,
            auth_token=auth_token,
            overrides=overrides,
            **options,
        )
    spec, named_version = registry.resolve(name_or_path_or_spec)
    if overrides:
        spec = registry.resolve(spec.with_overrides(overrides))[0]
    if named_version is not None:
        if version is not None and as_version(version) != named_version:
            raise ValueError(
                f"{name_or_path_or_spec!s} names version {named_version}, but version={version} was given; "
                "give one of them"
            )
        version = named_version
    return client_class(spec)(
        spec,
        version=version,
        timestamp=timestamp,
        server_address=server_address,
        auth_token=auth_token,
        **options,
    )


def _load_snapshot(
    path: str,
    *,
    version: int | None,
    timestamp: Timestamp | None,
    **options: Any,
) -> DatasetClient:
    """Build the client of a snapshot: at its moment unless another is given, and never with a network."""
    from cortexclient.client import client_class
    from cortexclient.services.snapshots import read_manifest
    from cortexclient.settings import expanded

    for name in ("server_address", "auth_token", "overrides", "cache"):
        if options.pop(name, None) is not None:
            raise ValueError(
                f"a snapshot is answered from its file alone, so {name}= has no meaning for {path}"
            )
    if options.pop("offline", True) is False:
        raise ValueError(
            f"{path} is a snapshot, which has no server; load the dataset by its name to go online"
        )
    file = expanded(path)
    manifest = read_manifest(file)
    if version is None and timestamp is None:
        version, timestamp = manifest.version, manifest.timestamp
    return client_class(manifest.spec)(
        manifest.spec,
        version=version,
        timestamp=timestamp,
        server_address=manifest.server,
        cache=file,
        offline=True,
        **options,
    )
