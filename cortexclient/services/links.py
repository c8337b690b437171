"""Neuroglancer links and viewer states at the client's moment, and the segment properties that they show."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from cortexclient.errors import CortexError, ProtocolError
from cortexclient.ids import as_ids
from cortexclient.services import BaseService
from cortexclient.services.annotation_layers import annotation_layers
from cortexclient.services.space import as_pandas, voxel_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from nglui.statebuilder import ViewerState
    from numpy.typing import NDArray

    from cortexclient.services.annotation_layers import Annotations, Colors, PointLayer
    from cortexclient.session import Moment, Session
    from cortexclient.types import Ids


__all__ = ["MOST_TAGS", "LinksService", "segment_properties_of"]

log = logging.getLogger(__name__)

SEGMENTATION = "segmentation"
# dialect of the spec's viewer_target -> its well-known site, and how nglui calls what it can show
DIALECTS: dict[str, tuple[str | None, str | None]] = {
    "spelunker": ("https://spelunker.cave-explorer.org/", "spelunker"),
    "cave-explorer": ("https://spelunker.cave-explorer.org/", "spelunker"),
    "mainline": ("https://neuroglancer-demo.appspot.com/", "main"),
    "seunglab": (None, None),
}
# the 3d view's zoom in nglui's own default suits a cubic millimetre; a small volume would be a dot in it
LARGEST_ZOOM = 50_000.0


class LinksService(BaseService):
    """Neuroglancer links of one dataset."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._plain: dict[Moment, str] = {}

    def known_link(self) -> str | None:
        """Return the link to the dataset without neurons or points, if it was made already."""
        return self._plain.get(self._session.moment)

    def neuroglancer_viewer(
        self,
        root_ids: Ids | None = None,
        seg_prop: Mapping[str, Any] | pd.DataFrame | None = None,
        *,
        annotations: Annotations | None = None,
        position: Sequence[float] | NDArray[Any] | None = None,
        resolution: Sequence[float] | None = None,
        target_url: str | None = None,
        colors: Colors | None = None,
    ) -> ViewerState:
        """Build an nglui viewer state of the dataset: imagery, segmentation at the client's moment, annotations.

        Parameters
        ----------
        root_ids : int or sequence of int, optional
            Neurons to select.
        seg_prop : dict or pandas.DataFrame, optional
            Segment properties: the JSON of ``neuroglancer_segment_properties``, or a table with one row per root id
            (column ``pt_root_id`` or ``root_id``), whose columns become numbers, texts, and tags of truth values,
            categories and texts of at most 100 different values. They are uploaded to the state service.
        annotations : pandas.DataFrame, array of shape (n, 3), or dict of them, optional
            Points to show. A dict makes one layer of each entry, under the entry's name and in a colour of its own. A
            single table of synapses is split into pre- and postsynaptic sites of ``root_ids``. Rows without a position
            are left out, and counted in a warning of the log.
        position : sequence of three floats, optional
            Centre of the view. Default: the middle of all points that are shown (the median along each axis), else
            the centre of the volume.
        resolution : sequence of three floats, optional
            Size in nm of one unit of ``position`` and ``annotations``. Default: nm, or the unit that a queried table
            states (one of polars cannot).
        target_url : str, optional
            Neuroglancer site. Default: the sandbox's own, else the spec's, else that of the info service.
        colors : color, sequence of colors, or dict of layer names to colors, optional
            Colours of the annotation layers, each ``"#rrggbb"``, a CSS colour name or three fractions. A sequence goes
            by the order of the layers and is repeated if it is too short. Default: the layers of a dict take the
            colours of a cycle that colour-blind readers can tell apart.

        Returns
        -------
        nglui.statebuilder.ViewerState
            More layers can be added to it; ``to_url()`` makes the link. The state's resolution is the viewer
            resolution of the info service.

        Raises
        ------
        ValueError
            If annotations or position are not points, a root id stands for no root, segment properties lack ids or
            numbers, a colour is unknown, or the site is no address.
        TypeError
            If ids are floats, or ``target_url`` is no text.
        ServiceError
            If the info or the state service refuses.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.neuroglancer_viewer().layer_names
        ['imagery', 'segmentation']
        """
        roots = _root_list(root_ids)
        site = _checked_site(target_url)
        layers = (
            []
            if annotations is None
            else annotation_layers(
                annotations,
                root_ids=roots,
                resolution=resolution,
                prefer=self._session.spec.synapse_position_column,
                colors=colors,
            )
        )
        session = self._session
        dialect = None if target_url else self._dialect()
        with session.guard("info"):
            viewer = _viewer_class()(
                target_url=site or self._viewer_site(),
                client=session.cave,
                infer_coordinates=False,
                capabilities=None if dialect is None else DIALECTS[dialect][1],
            )
            viewer.stored_as = dialect
            viewer.add_layers_from_client(imagery="imagery", segmentation=SEGMENTATION)
        segmentation = viewer.layers[SEGMENTATION]
        timestamp = session.timestamp
        if timestamp is not None:
            # ms since 1970; mainline viewers skip the key, Spelunker shows and follows that moment of the graph
            segmentation.extra = {"timestamp": round(timestamp.timestamp() * 1000)}
        if roots:
            viewer.add_segments(roots, name=SEGMENTATION)
        if seg_prop is not None:
            segmentation.add_source(self._upload_properties(seg_prop))
        voxel = np.asarray(viewer.dimensions.resolution, dtype=np.float64)
        if voxel.shape != (3,) or not (np.isfinite(voxel) & (voxel > 0)).all():
            raise self._session.error(
                ProtocolError,
                "info",
                f"the info service names a viewer resolution of {voxel.tolist()} nm; try again",
            )
        for layer in layers:
            _add_layer(viewer, layer)
        viewer.position = self._centre(position, resolution, layers, voxel)
        viewer.scale_3d = min(LARGEST_ZOOM, float(self._volume_nm()[1].max() / voxel.min()))
        return cast("ViewerState", viewer)

    def neuroglancer_url(
        self,
        target_url: str | None = None,
        clipboard: bool = False,
        shorten: bool | Literal["if_long"] = False,
        root_ids: Ids | None = None,
        seg_prop: Mapping[str, Any] | pd.DataFrame | None = None,
        *,
        annotations: Annotations | None = None,
        position: Sequence[float] | NDArray[Any] | None = None,
        resolution: Sequence[float] | None = None,
        colors: Colors | None = None,
    ) -> str:
        """Make a Neuroglancer link to the dataset at the client's moment.

        Parameters
        ----------
        target_url : str, optional
            Neuroglancer site. Default: the sandbox's own, else the spec's, else that of the info service.
        clipboard : bool
            Whether to copy the link to the clipboard too.
        shorten : bool or "if_long"
            Whether to store the state in the state service and link to it there. A state that no browser would take
            in an address (more than 1.75 million characters) is always stored there.
        root_ids, seg_prop, annotations, position, resolution, colors
            As in `neuroglancer_viewer`.

        Returns
        -------
        str
            The link.

        Raises
        ------
        ValueError
            As for `neuroglancer_viewer`, or if ``shorten`` is something else.
        CortexError
            If ``clipboard`` and this machine has none.
        ServiceError
            If the info or the state service refuses.
        TypeError
            As for `neuroglancer_viewer`.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.neuroglancer_url().partition("#!")[1]
        '#!'
        """
        if shorten not in {True, False, "if_long"}:
            raise ValueError(f"shorten must be True, False or 'if_long', not {shorten!r}")
        viewer = self.neuroglancer_viewer(
            root_ids,
            seg_prop,
            annotations=annotations,
            position=position,
            resolution=resolution,
            target_url=target_url,
            colors=colors,
        )
        with self._session.guard("state"):
            url = str(viewer.to_url(shorten=shorten or "if_long"))
        if all(given is None for given in (target_url, root_ids, seg_prop, annotations, position)):
            self._plain[self._session.moment] = url
        if clipboard:
            _copy(url)
        return url

    def _viewer_site(self) -> str | None:
        """Return the viewer's site: the launched server's, else the spec's, the info service's, its dialect's own.

        A server that stands in for the spec's own (the sandbox, a test deployment) goes before the spec, so that
        no link leads from it to the internet.
        """
        session = self._session
        endpoint = session.endpoint
        if endpoint is not None and endpoint.viewer_site:
            return str(endpoint.viewer_site)
        written, dialect = session.spec.viewer_site, self._dialect()
        if written and self._on_own_server():
            return str(written)
        known = None if dialect is None else DIALECTS[dialect][0]
        return session.info().get("viewer_site") or written or known

    def _on_own_server(self) -> bool:
        session = self._session
        return session.server_address.rstrip("/") == session.spec.server_address.rstrip("/")

    def _dialect(self) -> str | None:
        """Return the dialect of the spec's viewer; None where it names none, or another server's viewer replaces it."""
        endpoint = self._session.endpoint
        stands_in = (endpoint is not None and endpoint.viewer_site) or not self._on_own_server()
        return None if stands_in else self._session.spec.viewer_target

    def _volume_nm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower corner and size of the segmentation in nm."""
        scale = self._session.segmentation_info()["scales"][0]
        voxel = np.asarray(scale["resolution"], dtype=np.float64)
        corner = np.asarray(scale.get("voxel_offset", (0, 0, 0)), dtype=np.float64)
        return corner * voxel, np.asarray(scale["size"], dtype=np.float64) * voxel

    def _centre(
        self,
        position: Sequence[float] | NDArray[Any] | None,
        resolution: Sequence[float] | None,
        layers: Sequence[PointLayer],
        voxel: NDArray[np.float64],
    ) -> list[float]:
        """Return the centre of the view in voxels of the viewer."""
        points = [layer.points * np.asarray(layer.resolution) for layer in layers if len(layer.points)]
        if position is not None:
            centre = np.asarray(position, dtype=np.float64)
            if centre.shape != (3,):
                raise ValueError(f"position has the shape {centre.shape}; expected three numbers")
            if not np.isfinite(centre).all():
                raise ValueError(f"position is {centre.tolist()}; expected three numbers, none missing")
            centre = centre * np.asarray(voxel_size(resolution if resolution is not None else (1, 1, 1)))
        elif points:
            centre = np.median(np.concatenate(points), axis=0)
        else:
            corner, size = self._volume_nm()
            centre = corner + size / 2
        return [float(value) for value in centre / voxel]

    def _upload_properties(self, properties: Mapping[str, Any] | pd.DataFrame) -> str:
        """Store segment properties in the state service; their address as a Neuroglancer source."""
        if not isinstance(properties, Mapping):
            table = as_pandas(properties)
            if not hasattr(table, "columns"):
                kind = type(table).__name__
                raise TypeError(f"seg_prop is a table of one row per root id, or their JSON, not {kind}")
            properties = segment_properties_of(table)
        state = self._session.cave.state
        with self._session.guard("state"):
            number = state.upload_property_json(dict(properties))
            # naming the dialect keeps caveclient from requesting the version of the viewer's site
            return plain_http(
                state.build_neuroglancer_url(number, target_site="spelunker", format_properties=True)
            )


def plain_http(text: str) -> str:
    """Take the log-in scheme off plain http addresses: viewers know ``middleauth+https`` only."""
    return text.replace("middleauth+http://", "http://")


def _root_list(root_ids: Ids | None) -> list[int]:
    """Return the root ids as Python integers, in order, each once."""
    if root_ids is None:
        return []
    roots = list(dict.fromkeys(as_ids(root_ids, "root_ids").tolist()))
    if any(root <= 0 for root in roots):
        raise ValueError(
            f"root_ids holds {min(roots)}, which is no segment (0 lies outside all, -1 marks a lookup without "
            "a result); leave it out, as in root_ids[root_ids > 0]"
        )
    return roots


def _checked_site(target_url: str | None) -> str | None:
    if target_url is not None and not isinstance(target_url, str):
        raise TypeError(
            f"target_url must be the address of a Neuroglancer site, not {target_url!r}; root ids go into root_ids="
        )
    if target_url is not None and not target_url.startswith(("http://", "https://")):
        raise ValueError(
            f"target_url must be the address of a Neuroglancer site, https://..., not {target_url!r}"
        )
    return target_url


def _add_layer(viewer: Any, layer: PointLayer) -> None:
    import pandas as pd

    if layer.name in viewer.layer_names:
        raise ValueError(f"two layers would be called {layer.name!r}; give the annotations another name")
    viewer.add_annotation_layer(name=layer.name, color=_hexadecimal(layer))
    added = viewer.layers[layer.name]
    # by default nglui moves the view to the first point of each layer, whatever the viewer's own position is
    added.set_position = False
    # stepping from point to point selects the segments of each: without segments it would hide the neurons shown
    added.swap_visible_segments_on_move = any(layer.segments)
    if not len(layer.points):
        return
    table = pd.DataFrame(layer.points, columns=["x", "y", "z"])
    described = any(layer.descriptions)
    linked = any(layer.segments)
    if described:
        table["description"] = layer.descriptions
    if linked:
        table["segments"] = pd.Series([*layer.segments], dtype=object)
    added.add_points(
        table,
        point_column=["x", "y", "z"],
        description_column="description" if described else None,
        segment_column="segments" if linked else None,
        data_resolution=list(layer.resolution),
    )


def _hexadecimal(layer: PointLayer) -> str:
    """Write the colour of a layer as Neuroglancer does."""
    from nglui.statebuilder.utils import parse_color

    try:
        return str(parse_color(layer.color))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the colour {layer.color!r} of the layer {layer.name!r} is unknown; write it as '#e69f00', as a CSS "
            "colour name or as three fractions"
        ) from error


def _copy(url: str) -> None:
    import pyperclip

    try:
        pyperclip.copy(url)
    except pyperclip.PyperclipException as error:
        raise CortexError(
            "this machine has no clipboard that Python can reach (on Linux, install xclip, xsel or wl-clipboard); "
            "leave out clipboard=True and copy the link that is returned"
        ) from error


@functools.cache
def _viewer_class() -> Any:
    """Return nglui's ViewerState for plain http servers. A function, because importing nglui takes a second."""
    from nglui.statebuilder import ViewerState

    class LinkState(ViewerState):  # type: ignore[misc] # nglui ships no types
        """A viewer state whose links also work on plain http, and are never shortened by way of the internet."""

        stored_as: str | None = None

        def __repr__(self) -> str:
            return f"ViewerState(layers={self.layer_names}); .to_url() returns the link"

        def to_neuroglancer_state(self) -> Any:
            viewer = super().to_neuroglancer_state()
            with viewer.txn() as state:
                for layer in state.layers:
                    # annotations kept in the state itself have no address
                    for source in getattr(layer.layer, "source", None) or ():
                        if isinstance(source.url, str):
                            source.url = plain_http(source.url)
            return viewer

        def to_link_shortener(
            self, client: Any = None, target_url: str | None = None, target_site: str | None = None
        ) -> str:
            client = client or self._client
            site = target_url or self._target_url
            number = client.state.upload_state_json(self._state_for_target(site).to_json())
            log.info("the viewer state was stored as number %s", number)
            return plain_http(
                client.state.build_neuroglancer_url(
                    number, site, target_site=target_site or self.stored_as or "spelunker"
                )
            )

    return LinkState


# -- segment properties ----------------------------------------------------------------------------------------


MOST_TAGS = 100
"""Different values of a column of texts that still become tags; a list of more is no help to choose from."""

_ID_COLUMNS = ("pt_root_id", "root_id")


def segment_properties_of(table: pd.DataFrame) -> dict[str, Any]:
    """Make the JSON of ``neuroglancer_segment_properties`` from a table.

    Parameters
    ----------
    table : pandas.DataFrame
        One row for each root id, which stands in the column ``pt_root_id`` or ``root_id``.

    Returns
    -------
    dict
        Fractions become float32, whole numbers int32 or, if one is larger (ids), text with every digit. Truth values,
        categories and texts of at most `MOST_TAGS` different values become tags: True the name of its column, a
        category or text itself, what is missing none. Everything else becomes text, empty for a missing value.

    Raises
    ------
    TypeError
        If the root ids are floats.
    ValueError
        If there is no column of root ids, one of them is missing, repeats or stands for no root, two columns have one
        name, or a number is missing or infinite: Neuroglancer cannot show that.
    """
    import pandas as pd
    from nglui.segmentprops import SegmentProperties

    column = next((name for name in _ID_COLUMNS if name in table.columns), None)
    if column is None:
        raise ValueError(
            f"segment properties need a column pt_root_id or root_id; the table has {list(table.columns)}"
        )
    ids = pd.Series(as_ids(table[column], column))
    if (ids <= 0).any() or ids.duplicated().any():
        wrong = ids[(ids <= 0) | ids.duplicated()]
        raise ValueError(
            f"segment properties need one row for each root id; {column} holds {wrong.iloc[0]} "
            f"{'twice' if wrong.iloc[0] > 0 else 'which is none'} ({len(wrong)} such rows): drop them"
        )
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"segment properties need a name for each column, and {twice!r} is that of several")
    others = {str(name): table[name].reset_index(drop=True) for name in table.columns if name != column}
    tagged = {name: tags for name, given in others.items() if (tags := _tags_of(given, name)) is not None}
    values = {name: _property(given, name) for name, given in others.items() if name not in tagged}
    # of no rows nglui would make floats, which it then refuses as whole numbers
    numbers = [name for name, each in values.items() if each.dtype.kind in "fi" and len(ids)]
    made: dict[str, Any] = SegmentProperties.from_dataframe(
        pd.DataFrame({column: ids, **values}),
        id_col=column,
        number_cols=numbers,
        string_cols=[name for name in values if name not in numbers],
    ).to_dict()
    if tagged:
        name = "tags"
        while name in values:
            name += "_"
        made["inline"]["properties"].append(_tag_property(name, tagged, len(ids)))
    return made


def _property(given: pd.Series, name: str) -> pd.Series:
    """Bring a column into a form that nglui passes on unchanged."""
    if given.dtype.kind in "iuf":
        if given.isna().any():
            raise ValueError(
                f"column {name!r} lacks {int(given.isna().sum())} numbers, which segment properties cannot hold; fill "
                "them (fillna) or drop those rows"
            )
        if given.dtype.kind == "f":
            with np.errstate(over="ignore"):
                numbers = given.astype(np.float32)
            if not np.isfinite(numbers).all():
                raise ValueError(
                    f"column {name!r} holds numbers too large for float32: {given[~np.isfinite(numbers)].iloc[0]}"
                )
            return numbers
        small = np.iinfo(np.int32)
        if given.between(small.min, small.max).all():
            return given.astype(np.int32)
    return given.astype(object).where(given.notna(), "").map(str)


def _tags_of(given: pd.Series, name: str) -> pd.Series | None:
    """Return the tag of each row, empty for none, as a category in the order of display; None for another column."""
    import pandas as pd

    kind = pd.api.types.infer_dtype(given, skipna=True)
    if kind == "boolean":
        yes = given.astype(object).where(given.notna(), other=False).astype(bool)
        return pd.Series(pd.Categorical(yes.map({True: _tag(name), False: ""}), categories=[_tag(name), ""]))
    if not isinstance(given.dtype, pd.CategoricalDtype) and (kind != "string" or given.nunique() > MOST_TAGS):
        return None
    if isinstance(given.dtype, pd.CategoricalDtype):
        known = [_tag(value) for value in given.cat.categories]
    else:
        known = sorted({_tag(value) for value in given.dropna()})
    texts = given.astype(object).where(given.notna(), "").map(_tag)
    return pd.Series(pd.Categorical(texts, categories=list(dict.fromkeys([*known, ""]))))


def _tag(value: Any) -> str:
    """Write a value as a tag: without spaces, so that it can be searched, and not led by the sign of a search."""
    return "_".join(str(value).split()).lstrip("#")


def _tag_property(property_id: str, columns: Mapping[str, pd.Series], count: int) -> dict[str, Any]:
    """Make the one property of tags that Neuroglancer knows; equal tags of two columns are named after their column."""
    used = {
        name: [tag for tag in tags.cat.categories if tag and (tags == tag).any()]
        for name, tags in columns.items()
    }
    every = [tag for tags in used.values() for tag in tags]
    tags: list[str] = []
    values: list[list[int]] = [[] for _ in range(count)]
    for name, rows in columns.items():
        number_of = {}
        for tag in used[name]:
            number_of[tag] = len(tags)
            tags.append(tag if every.count(tag) == 1 else f"{_tag(name)}:{tag}")
        for row, tag in enumerate(rows.tolist()):
            if tag:
                values[row].append(number_of[tag])
    return {"id": property_id, "type": "tags", "tags": tags, "values": values}
