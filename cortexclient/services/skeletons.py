"""Skeletons of neurons with their synapses and properties, at the client's moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from cortexclient.errors import CortexError
from cortexclient.ids import as_id, as_ids
from cortexclient.services.skeleton_source import fetch_skeletons, stored_skeletons
from cortexclient.services.skeleton_synapses import RootMoment, moments_of, synapses_of
from cortexclient.session.graph import graph_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cortexclient.services.skeleton_batch import SkeletonBatches
    from cortexclient.services.space import Space
    from cortexclient.session import Session
    from cortexclient.types import IdArray, Ids, TransformName

__all__ = ["SkeletonsService"]

_TRANSFORMS = ("rigid", "streamline", None)


@dataclass(frozen=True)
class Wanted:
    """What a skeleton is asked for with."""

    version: int
    synapses: bool = True
    restore_graph: bool = False
    restore_properties: bool = True
    references: Mapping[str, Sequence[str]] = field(default_factory=dict)
    transform: TransformName | None = None
    generate: bool = True


class SkeletonsService:
    """Methods about skeletons.

    Parameters
    ----------
    session : Session
        Where to ask, and the moment that holds for synapses.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._space: Space | None = None

    def get_skeleton(
        self,
        root_id: int,
        synapses: bool = True,
        restore_graph: bool = False,
        restore_properties: bool = True,
        synapse_reference_tables: Mapping[str, str | Sequence[str]] | None = None,
        skeleton_version: int | None = None,
        transform: TransformName | None = None,
    ) -> Any:
        """Get a neuron: its skeleton, with compartments, synapses and the properties of its level-2 ids.

        Parameters
        ----------
        root_id : int
            The neuron.
        synapses : bool
            Add all synapses as ``anno.pre_syn`` and ``anno.post_syn``, without those of the neuron with itself.
        restore_graph : bool
            Also restore the level-2 graph in ``mesh``; without it only its vertices, at their skeleton vertices.
        restore_properties : bool
            Add ``anno.vol_prop`` (volume, area, distance transform of each level-2 id) and ``anno.segment_properties``
            (length, effective radius, Strahler number of each unbranched segment).
        synapse_reference_tables : dict, optional
            ``"pre"``, ``"post"`` -> reference table or tables whose columns are added to those synapses.
        skeleton_version : int, optional
            Version of the service's skeletons; default the spec's, or 4.
        transform : {"rigid", "streamline"}, optional
            Move the neuron into cortical space (um, pia at y = 0): skeleton, mesh and every synapse position alike.
            ``streamline`` measures from the root and straightens the course of neurites. ``radius`` and the properties
            stay in nm.

        Returns
        -------
        meshparty.meshwork.Meshwork
            ``skeleton`` in nm (um if transformed), ``anno.lvl2_ids``, ``anno.compartment`` (1 soma, 2 axon, 3 dendrite)
            and ``anno.is_axon`` where the service knows compartments. Ids are int64.

        Raises
        ------
        ValueError
            If the transform, the version or a key of the reference tables is unknown.
        StaleRootError
            If the id is no root, or was not valid at a pinned client's moment. A floating client looks at the synapses
            of an older root at the last time it was valid.
        MissingDataError
            If the service refuses to make a skeleton of this root.
        IncompleteResultError
            If synapses are cut short by the server and cannot be completed.

        Examples
        --------
        >>> neuron = client.get_skeleton(root_id, transform="rigid")   # doctest: +SKIP
        >>> neuron.anno.pre_syn.df                                     # doctest: +SKIP
        """
        root = as_id(root_id, "root_id")
        wanted = self._wanted(
            synapses=synapses,
            restore_graph=restore_graph,
            restore_properties=restore_properties,
            synapse_reference_tables=synapse_reference_tables,
            skeleton_version=skeleton_version,
            transform=transform,
        )
        found = self._load([root], wanted)[root]
        if isinstance(found, CortexError):
            raise found
        return found

    def get_skeletons(
        self,
        root_ids: Ids,
        *,
        synapses: bool = True,
        restore_graph: bool = False,
        restore_properties: bool = True,
        synapse_reference_tables: Mapping[str, str | Sequence[str]] | None = None,
        skeleton_version: int | None = None,
        transform: TransformName | None = None,
        output: Literal["meshwork", "dict", "swc"] = "meshwork",
        generate: bool = True,
        errors: Literal["raise", "collect"] = "collect",
        batch_size: int = 50,
        progress: bool = True,
    ) -> SkeletonBatches:
        """Get many neurons, a batch at a time, so that they need not all be in memory.

        Parameters
        ----------
        root_ids : int or sequence of int
            Duplicates are read once.
        synapses, restore_graph, restore_properties, synapse_reference_tables, skeleton_version, transform
            As for `get_skeleton`.
        output : {"meshwork", "dict", "swc"}
            Meshworks; or the service's skeletons as dicts of arrays; or texts in SWC (um). The last two carry neither
            synapses nor properties, and may be transformed.
        generate : bool
            Wait for skeletons that the service has not made yet; without it they are failures.
        errors : {"raise", "collect"}
            Raise the first failure, or go on and keep failures in ``.failures``.
        batch_size : int
            Neurons asked for at a time; at most 500.
        progress : bool
            Show a progress bar.

        Returns
        -------
        SkeletonBatches
            Iterates over ``(root_id, neuron)`` in the order given; ``.failures`` is a dict root -> error that fills as
            the iteration goes; ``.to_dict()`` reads all. Nothing is asked before the first step.

        Examples
        --------
        >>> for root_id, neuron in client.get_skeletons(root_ids):   # doctest: +SKIP
        ...     print(root_id, neuron.skeleton.path_length())
        """
        from cortexclient.services.skeleton_batch import SkeletonBatches

        if errors not in {"raise", "collect"}:
            raise ValueError(f"errors must be 'raise' or 'collect', not {errors!r}")
        if output not in {"meshwork", "dict", "swc"}:
            raise ValueError(f"output must be 'meshwork', 'dict' or 'swc', not {output!r}")
        plain = output != "meshwork"
        wanted = self._wanted(
            synapses=synapses and not plain,
            restore_graph=restore_graph and not plain,
            restore_properties=restore_properties and not plain,
            synapse_reference_tables=synapse_reference_tables,
            skeleton_version=skeleton_version,
            transform=transform,
            generate=generate,
        )
        load = partial(self._load_plain, output=output) if plain else self._load
        ids = list(dict.fromkeys(as_ids(root_ids, "root_ids").tolist()))
        size = max(1, min(int(batch_size), 500))
        return SkeletonBatches(
            ids, partial(_swap, load, wanted), size, collect=errors == "collect", progress=progress
        )

    def skeletons_exist(
        self,
        skeleton_version: int | None = None,
        root_ids: Ids = 0,
        log_warning: bool = True,
        verbose_level: int | None = 0,
    ) -> bool | dict[int, bool]:
        """Say which neurons have a skeleton in the service's cache.

        Parameters
        ----------
        skeleton_version : int, optional
            Version of the skeletons. Default: the spec's, or 4.
        root_ids : int or sequence of int
            Roots; any number, asked in batches.
        log_warning, verbose_level
            As in caveclient.

        Returns
        -------
        bool or dict
            For a single id True or False, else id -> bool for each distinct id.
        """
        one = isinstance(root_ids, str) or not hasattr(root_ids, "__len__")
        ids = list(dict.fromkeys(as_ids(root_ids, "root_ids").tolist()))
        version = skeleton_version or self._session.spec.skeleton_version or 4
        found = stored_skeletons(
            self._session, ids, version, log_warning=log_warning, verbose_level=verbose_level
        )
        return found[ids[0]] if one else found

    # -- what is wanted ----------------------------------------------------------------------------------------

    def _wanted(
        self,
        *,
        synapse_reference_tables: Mapping[str, str | Sequence[str]] | None,
        skeleton_version: int | None,
        transform: TransformName | None,
        **options: Any,
    ) -> Wanted:
        if transform not in _TRANSFORMS:
            raise ValueError(f"transform must be 'rigid', 'streamline' or None, not {transform!r}")
        given = dict(synapse_reference_tables or {})
        if set(given) - {"pre", "post"}:
            raise ValueError(f"synapse_reference_tables has the keys 'pre' and 'post', not {sorted(given)}")
        references = {
            side: [names] if isinstance(names, str) else list(names) for side, names in given.items()
        }
        version = (
            skeleton_version if skeleton_version is not None else self._session.spec.skeleton_version or 4
        )
        if transform is not None:
            self._in_space()  # a dataset without a transform is told before anything is asked
        return Wanted(version=int(version), references=references, transform=transform, **options)

    def _in_space(self) -> Space:
        from cortexclient.services.space import Space

        if self._space is None:
            self._space = Space(self._session)
        return self._space

    # -- asking ------------------------------------------------------------------------------------------------

    def _load(self, roots: list[int], wanted: Wanted) -> dict[int, Any]:
        """Meshwork or error of each root; shapes and synapses are asked for side by side."""
        session = self._session
        session.info()  # every job needs it
        jobs: list[Callable[[], Any]] = [
            partial(self._shapes, roots, wanted),
            partial(self._synapses, roots, wanted),
        ]
        (skeletons, attributes, graphs), (moments, synapses) = session.map(_run, jobs)
        result: dict[int, Any] = {}
        for root in roots:
            when, data = moments[root], skeletons[root]
            failure = when if isinstance(when, CortexError) else data
            if isinstance(failure, CortexError):
                result[root] = failure
                continue
            try:
                result[root] = self._build(
                    root, data, wanted, attributes, graphs.get(root), synapses.get(root, {})
                )
            except CortexError as error:
                result[root] = error
        return result

    def _shapes(self, roots: list[int], wanted: Wanted) -> tuple[Any, Any, Any]:
        session = self._session
        jobs: list[Callable[[], Any]] = [
            partial(fetch_skeletons, session, roots, wanted.version, generate=wanted.generate)
        ]
        if wanted.restore_graph:
            jobs.append(lambda: dict(zip(roots, session.map(self._graph, roots), strict=True)))
        found = session.map(_run, jobs)
        graphs = found[1] if wanted.restore_graph else {}
        return found[0], self._attributes(found[0], wanted), graphs

    def _graph(self, root: int) -> IdArray | CortexError:
        import numpy as np

        try:
            url = graph_url(self._session, f"node/{root}/lvl2_graph")
            answer = self._session.http.get_json("chunkedgraph", url)
        except CortexError as error:
            return error
        return np.asarray(answer["edge_graph"], dtype=np.int64).reshape(-1, 2)

    def _attributes(self, skeletons: Mapping[int, Any], wanted: Wanted) -> Mapping[str, Any]:
        import numpy as np

        from cortexclient.services.level2 import Level2Service
        from cortexclient.services.skeleton_build import PROPERTIES

        names = [*(PROPERTIES if wanted.restore_properties else ())]
        names += ["rep_coord_nm"] if wanted.restore_graph else []
        lists = [
            data["lvl2_ids"]
            for data in skeletons.values()
            if not isinstance(data, CortexError) and data.get("lvl2_ids") is not None
        ]
        if not names or not lists:
            return {}
        found: Any = Level2Service(self._session).get_l2data(np.concatenate(lists), names, as_dataframe=False)
        return dict(found)

    def _synapses(self, roots: list[int], wanted: Wanted) -> tuple[Any, Any]:
        moments = moments_of(self._session, roots)
        if not wanted.synapses:
            return moments, {}
        valid = {root: when for root, when in moments.items() if isinstance(when, RootMoment)}
        return moments, synapses_of(self._session, valid, references=wanted.references) if valid else {}

    def _build(
        self, root: int, data: Mapping[str, Any], wanted: Wanted, attributes: Any, graph: Any, synapses: Any
    ) -> Any:
        from cortexclient.services import skeleton_build as build

        if isinstance(graph, CortexError):
            raise graph
        neuron = build.make_meshwork(root, data, edges=graph, points=attributes)
        build.add_synapses(neuron, data["lvl2_ids"], synapses)
        if wanted.restore_properties:
            build.add_properties(neuron, data["lvl2_ids"], attributes)
        if wanted.transform is not None:
            anchor = data["vertices"][data["root"]]
            build.move_meshwork(neuron, self._in_space().mover(wanted.transform, anchor=anchor))
        return neuron

    def _load_plain(self, roots: list[int], wanted: Wanted, *, output: str) -> dict[int, Any]:
        from cortexclient.services.skeleton_swc import to_swc

        found: dict[int, Any] = {}
        for root, data in fetch_skeletons(
            self._session, roots, wanted.version, generate=wanted.generate
        ).items():
            if not isinstance(data, CortexError) and wanted.transform is not None:
                anchor = data["vertices"][data["root"]]
                data["vertices"] = self._in_space().mover(wanted.transform, anchor=anchor)(data["vertices"])
            if isinstance(data, CortexError) or output == "dict":
                found[root] = data
            else:
                found[root] = to_swc(data, in_um=wanted.transform is not None)
        return found


def _run(job: Callable[[], Any]) -> Any:
    return job()


def _swap(load: Callable[..., dict[int, Any]], wanted: Wanted, roots: list[int]) -> dict[int, Any]:
    return load(roots, wanted)
