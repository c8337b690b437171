"""Loading of neurons: requests for some of them concurrently, and batches of many."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from cortexclient.errors import (
    AuthenticationError,
    CortexError,
    IncompleteResultError,
    MissingDataError,
    OfflineError,
    ProtocolError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from cortexclient.ids import in_batches
from cortexclient.services.roots import no_root
from cortexclient.services.skeletons.shapes import VOLUME, shape_of, tree_of
from cortexclient.services.skeletons.source import (
    compute_skeleton,
    fetch_stored,
    generate_skeletons,
    level2_graph,
    of_each,
    result_or_error,
)
from cortexclient.services.skeletons.synapses import RootMoment, moments_of, synapses_of
from cortexclient.session import Prefetch, is_below_roots, within_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cortexclient.services.space import Space
    from cortexclient.session import Session
    from cortexclient.types import TransformName

__all__ = ["Output", "SkeletonBatches", "SkeletonLoader"]

_OF_SOME = (
    IncompleteResultError,
    OfflineError,
    ProtocolError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
"""Errors of a batch that some of its neurons may cause alone, or that may pass."""

Output: TypeAlias = Literal["meshwork", "cell", "navis", "dict", "swc"]


@dataclass
class SkeletonLoader:
    """Loads neurons, with the options of `get_skeletons`, checked; ``space`` is needed for a transform."""

    session: Session
    version: int
    synapses: bool = True
    restore_graph: bool = False
    restore_properties: bool = True
    references: Mapping[str, Sequence[str]] = field(default_factory=dict)
    transform: TransformName | None = None
    output: Output = "meshwork"
    generate: bool = True
    deadline: float = 600.0
    compute: bool = False
    progress: bool = False
    space: Space | None = None
    queued: set[int] = field(default_factory=set)
    """Roots that were queued: a batch that fails is read in parts, and nothing is queued twice."""

    def load(self, roots: list[int]) -> dict[int, Callable[[], Any]]:
        """Fetch skeletons and synapses concurrently; return functions that build neurons or errors."""
        # 0 and -1, which cell_id_to_root_id returns for cells without a root, make the services fail for all roots
        found = self._load([root for root in roots if root > 0]) if max(roots) > 0 else {}
        return {root: found[root] if root > 0 else partial(no_root, self.session, root) for root in roots}

    def _load(self, roots: list[int]) -> dict[int, Callable[[], Any]]:
        if self.output in {"dict", "swc"}:
            skeletons = self._skeletons(roots)
            return {root: partial(self._built, self._plain, skeletons[root]) for root in roots}
        session = self.session
        session.info()  # once, because every job needs it
        jobs: list[Callable[[], Any]] = [partial(self._shapes, roots), partial(self._synapses, roots)]
        (skeletons, attributes, graphs), (moments, synapses) = session.run_all(jobs)
        builders: dict[str, Callable[..., Any]] = {"cell": self._cell, "navis": self._navis}
        build = builders.get(self.output, self._meshwork)
        return {
            root: partial(
                self._built,
                build,
                root,
                moments[root],
                skeletons[root],
                attributes,
                graphs.get(root),
                synapses.get(root, {}),
            )
            for root in roots
        }

    def _built(self, build: Callable[..., Any], *parts: Any) -> Any:
        """Build one neuron, or return the error of what it needs, or its own."""
        failure = next((part for part in parts if isinstance(part, CortexError)), None)
        return result_or_error(build, *parts) if failure is None else failure

    # -- fetching ------------------------------------------------------------------------------------------------

    def _skeletons(self, roots: list[int]) -> dict[int, dict[str, Any] | CortexError]:
        session = self.session
        if session.spec.denies("skeletons"):
            return of_each(session, self._computed, roots)
        found = fetch_stored(session, roots, self.version)
        missing = [root for root in roots if root not in found]
        cache = session.connection.cache
        if missing and cache is not None and cache.offline:
            url = session.connection.url_of("skeleton")
            found |= {
                root: cache.offline_error(f"the skeleton of {root}", service="skeleton", url=url)
                for root in missing
            }
        elif missing and self.generate:
            found |= generate_skeletons(
                session,
                missing,
                self.version,
                deadline=self.deadline,
                queued=self.queued,
                progress=self.progress,
            )
        else:
            found |= {root: _absent(session, root) for root in missing}
        if self.compute:
            lacking = [root for root in roots if _may_be_computed(found[root])]
            found |= of_each(session, self._computed, lacking)
        return found

    def _computed(self, root: int) -> dict[str, Any]:
        if is_below_roots(self.session, root):
            raise no_root(self.session, root)
        return compute_skeleton(self.session, root)

    def _shapes(self, roots: list[int]) -> tuple[Any, Any, Any]:
        graph = self.restore_graph and self.output != "navis"
        skeletons, graphs = self.session.run_all(
            [
                partial(self._skeletons, roots),
                partial(of_each, self.session, partial(level2_graph, self.session), roots if graph else []),
            ]
        )
        return skeletons, self._attributes(skeletons), graphs

    def _attributes(self, skeletons: Mapping[int, Any]) -> Any:
        """Fetch attributes of all level-2 ids: a frame for cells, else the cache's own dict."""
        from cortexclient.services.level2 import Level2Service
        from cortexclient.services.skeletons.build import PROPERTIES

        if self.output == "navis":
            return {}
        cells = self.output == "cell"
        names = [*(PROPERTIES if self.restore_properties else ())]
        names += ["rep_coord_nm"] if self.restore_graph or cells else []
        lists = [
            data["lvl2_ids"]
            for data in skeletons.values()
            if not isinstance(data, CortexError) and data.get("lvl2_ids") is not None
        ]
        if not names or not lists:
            return {}
        ids = np.unique(np.concatenate(lists))
        everything = cells and self.restore_properties
        return Level2Service(self.session).get_l2data(ids, None if everything else names, as_dataframe=cells)

    def _synapses(self, roots: list[int]) -> tuple[Any, Any]:
        moments = moments_of(self.session, roots, tables=self.synapses)
        if not self.synapses:
            return moments, {}
        valid = {root: when for root, when in moments.items() if isinstance(when, RootMoment)}
        return moments, synapses_of(self.session, valid, references=self.references) if valid else {}

    # -- building --------------------------------------------------------------------------------------

    @property
    def _target(self) -> str:
        """Space of the neurons."""
        return self.transform or VOLUME

    def _mover(self, data: Mapping[str, Any]) -> Any:
        if self.transform is None or self.space is None:
            return None
        return self.space.mover(self.transform, anchor=data["vertices"][data["root"]])

    def _meshwork(
        self, root: int, _: RootMoment, data: Mapping[str, Any], attributes: Any, graph: Any, synapses: Any
    ) -> Any:
        from cortexclient.services.skeletons import build

        address = self.session.connection.url_of
        neuron = build.make_meshwork(root, data, edges=graph, points=attributes, url=address("skeleton"))
        position = self.session.spec.synapse_position_column or "ctr_pt_position"
        build.add_synapses(neuron, data["lvl2_ids"], synapses, position=position)
        if self.restore_properties:
            build.add_properties(neuron, data["lvl2_ids"], attributes, url=address("l2cache"))
        move = self._mover(data)
        return neuron if move is None else neuron.moved(move, "um", self._target)

    def _cell(
        self, root: int, when: RootMoment, data: Mapping[str, Any], attributes: Any, graph: Any, synapses: Any
    ) -> Any:
        from cortexclient.services.skeletons.build import make_cell

        return make_cell(
            self.session,
            root,
            data,
            at=when.at,
            attributes=attributes,
            edges=graph,
            synapses=synapses,
            move=self._mover(data),
            space=self._target,
        )

    def _navis(self, root: int, _: RootMoment, data: Mapping[str, Any], *parts: Any) -> Any:
        from cortexclient.services.navis_neurons import make_tree_neuron

        return make_tree_neuron(
            root,
            data,
            parents=tree_of(len(data["vertices"]), data["edges"], int(data["root"]))[1],
            synapses=parts[-1],
            position=self.session.spec.synapse_position_column or "ctr_pt_position",
            move=self._mover(data),
            space=self._target,
        )

    def _plain(self, data: dict[str, Any]) -> Any:
        move = self._mover(data)
        if move is not None:
            data["vertices"] = move(data["vertices"])
        data |= {"unit": "nm" if move is None else "um", "space": self._target}
        return data if self.output == "dict" else shape_of(data).to_swc()


def _may_be_computed(found: Any) -> bool:
    return isinstance(found, ServiceError) and not isinstance(found, AuthenticationError)


def _absent(session: Session, root: int) -> CortexError:
    if is_below_roots(session, root):
        return no_root(session, root)
    return MissingDataError(
        f"the skeleton service of {session.label} has no skeleton of {root} yet; generate=True requests one",
        service="skeleton",
        url=f"{session.local_server}/skeletoncache",
    )


# -- batches of many ---------------------------------------------------------------------------------------------------


@dataclass(repr=False, eq=False)
class SkeletonBatches:
    """Iterates over ``(root_id, neuron)``, and prefetches a batch of neurons while the one before it is used.

    Parameters
    ----------
    root_ids : list of int
    load : callable
        Returns for each of some roots a function that builds its neuron or returns the error.
    batch_size : int
    collect : bool
        Collect failures instead of raising the first. A batch that fails is split and read in halves, so that what
        causes the failure fails alone, unless so many parts in a row fail that the service must be down; if all of two
        batches in a row fail, the error is raised.
    progress : bool
        Show a progress bar.
    workers : int
        Largest number of threads that prefetch the next batch; with 1 it is fetched when it is needed.

    Attributes
    ----------
    failures : dict
        Root id -> error, of the neurons that the last iteration reached and that failed.
    """

    root_ids: list[int]
    load: Callable[[list[int]], dict[int, Callable[[], Any]]]
    batch_size: int
    _: KW_ONLY
    collect: bool
    progress: bool
    workers: int = 1
    failures: dict[int, CortexError] = field(default_factory=dict, init=False)
    _lost: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self.root_ids)

    def __repr__(self) -> str:
        return f"SkeletonBatches({len(self)} neurons, {len(self.failures)} failed so far)"

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        from tqdm import tqdm

        self._lost = False
        self.failures.clear()  # of an iteration before this one
        size = self.batch_size
        batches = in_batches(self.root_ids, size)
        following: Prefetch[dict[int, Callable[[], Any]]] | None = None
        try:
            with tqdm(total=len(self), desc="skeletons", disable=not self.progress) as bar:
                for number, batch in enumerate(batches):
                    found = self._read(batch) if following is None else following.result()
                    following = None
                    for place, root in enumerate(batch):
                        if (
                            place == 1
                            and number + 1 < len(batches)
                            and self.workers > 1
                            and not within_worker()
                        ):
                            # not with the first one: a caller that stops there needs no further batch
                            following = Prefetch(
                                partial(self._read, batches[number + 1]), workers=self.workers
                            )
                            following.start()
                        neuron = found.pop(root)()  # frees what a returned neuron needed
                        bar.update()
                        if not isinstance(neuron, CortexError):
                            yield root, neuron
                        elif self.collect:
                            self.failures[root] = neuron
                        else:
                            raise neuron
        finally:
            if following is not None:
                following.cancel()

    def _read(self, batch: list[int]) -> dict[int, Callable[[], Any]]:
        try:
            found = self.load(batch)
        except CortexError as error:
            if not self.collect or not _may_be_of_some(error):
                raise
            found, failed = self._read_parts(batch, error)
            lost = len(failed) == len(batch)
            if lost and self._lost and not isinstance(error, OfflineError):
                raise
            self._lost = lost
            return found | {root: partial(_itself, failure) for root, failure in failed.items()}
        self._lost = False
        return found

    def _read_parts(
        self, batch: list[int], failure: CortexError
    ) -> tuple[dict[int, Callable[[], Any]], dict[int, CortexError]]:
        """Read a batch that failed in parts; return what was read, and the errors of the rest.

        A service is down that fails for every part on the way to a single neuron: then the rest is not tried.
        """
        found: dict[int, Callable[[], Any]] = {}
        failed: dict[int, CortexError] = {}
        offline = isinstance(failure, OfflineError)
        hopeless, in_a_row = 2 * len(batch).bit_length(), 1
        left = [(batch, failure)]
        while left:
            part, error = left.pop()
            if len(part) == 1 or (in_a_row >= hopeless and not offline):
                failed |= dict.fromkeys(part, error)
                continue
            # offline, one by one: the cache costs no request
            for piece in in_batches(part, 1 if offline else -(-len(part) // 2)):
                try:
                    found |= self.load(piece)
                    in_a_row = 0
                except CortexError as next_error:
                    if not _may_be_of_some(next_error):
                        raise
                    in_a_row += 1
                    left.append((piece, next_error))
        return found, failed

    def to_dict(self) -> dict[int, Any]:
        """Read all: root id -> neuron, without the failures."""
        return dict(self)

    def to_navis(self) -> Any:
        """Read all into a ``navis.NeuronList``, without the failures; of ``output="navis"`` only."""
        from cortexclient.services.navis_neurons import require_navis

        navis = require_navis()
        neurons = [neuron for _, neuron in self]
        if not all(isinstance(neuron, navis.TreeNeuron) for neuron in neurons):
            raise TypeError(
                "these neurons are none of navis; get them with get_skeletons(..., output='navis')"
            )
        return navis.NeuronList(neurons)


def _itself(error: CortexError) -> CortexError:
    return error


def _may_be_of_some(error: CortexError) -> bool:
    return isinstance(error, _OF_SOME) or type(error) is ServiceError
